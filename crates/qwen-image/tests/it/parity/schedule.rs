use candle_core::{Device, Tensor};
use qwen_image::models::{Schedule, Scheduler};

use super::bars::{assert_close, golden, tensors};

const BAR: f64 = 1e-6;

fn compare(scheduler: &Scheduler, prefix: &str) {
    let tensors = tensors("scheduler");
    let mut seen = 0;
    for (name, expected) in &tensors {
        let Some(rest) = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix("_sigmas")) else { continue };
        let parts: Vec<&str> = rest.split('_').collect();
        let [pipeline, steps, tokens] = parts[..] else { continue };
        let (steps, tokens) = (steps.parse().unwrap(), tokens.parse().unwrap());
        let Schedule { sigmas, timesteps } = match pipeline {
            "layered" => scheduler.layered(steps, tokens),
            "edit" => scheduler.edit(steps, tokens),
            _ => continue,
        };
        let tensor = |values: Vec<f32>| Tensor::new(values, &Device::Cpu).unwrap();
        assert_close(name, &tensor(sigmas), expected, BAR);
        let name = name.replace("_sigmas", "_timesteps");
        assert_close(&name, &tensor(timesteps), &tensors[&name], BAR);
        seen += 1;
    }
    assert!(seen >= 1, "no schedules under `{prefix}`");
}

fn with(changes: serde_json::Value) -> Scheduler {
    let text = std::fs::read_to_string(golden("checkpoints/layered/scheduler/scheduler_config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    serde_json::from_value(config).unwrap()
}

#[test]
fn as_configured() {
    compare(&with(serde_json::json!({})), "");
}

#[test]
fn without_terminal_stretch() {
    compare(&with(serde_json::json!({"shift_terminal": null})), "noterminal_");
}

#[test]
fn static_shift() {
    compare(&with(serde_json::json!({"use_dynamic_shifting": false, "shift": 3.0, "shift_terminal": null})), "static_");
}

#[test]
fn one_step_is_finite() {
    let schedule = with(serde_json::json!({})).layered(1, 64);
    assert_eq!(schedule.sigmas, vec![1.0, 0.0]);
    assert_eq!(with(serde_json::json!({})).edit(1, 64).sigmas, vec![1.0, 0.0]);
}
