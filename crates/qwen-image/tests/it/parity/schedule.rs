use candle_core::{Device, Tensor};
use qwen_image::{
    Sampler,
    models::{Schedule, Scheduler, Spacing},
};

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
        let Schedule { sigmas, timesteps, .. } = match pipeline {
            "layered" => scheduler.layered(steps, tokens, Spacing::Checkpoint),
            "edit" => scheduler.edit(steps, tokens, Spacing::Checkpoint),
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
    let scheduler = with(serde_json::json!({}));
    for spacing in [Spacing::Checkpoint, Spacing::DenseEnds] {
        assert_eq!(scheduler.layered(1, 64, spacing).sigmas, vec![1.0, 0.0]);
        assert_eq!(scheduler.edit(1, 64, spacing).sigmas, vec![1.0, 0.0]);
    }
}

#[test]
fn dense_ends_fall_from_1_to_0_and_are_closest_there() {
    for changes in [serde_json::json!({}), serde_json::json!({"use_dynamic_shifting": false, "shift": 3.0})] {
        let scheduler = with(changes);
        for schedule in [scheduler.layered(20, 64, Spacing::DenseEnds), scheduler.edit(20, 4096, Spacing::DenseEnds)] {
            let levels: Vec<f64> = schedule.sigmas.iter().copied().map(f64::from).collect();
            assert!(Schedule::check(&levels).is_ok() && levels[0] == 1.0, "{levels:?}");
            let gaps: Vec<f64> = levels.windows(2).map(|pair| pair[0] - pair[1]).collect();
            let widest = gaps.iter().copied().fold(0.0, f64::max);
            assert!(gaps[0] < widest / 2.0 && gaps[19] < widest / 2.0, "{gaps:?}");
        }
    }
    // Half way, for the shift of 64 tokens: 0.5^1.8, shifted by 2.5 e^0.5.
    let middle = with(serde_json::json!({})).layered(20, 64, Spacing::DenseEnds).sigmas[10];
    let (level, shift) = (0.5f64.powf(1.8), 2.5 * 0.5f64.exp());
    assert!((f64::from(middle) - shift * level / (1.0 + (shift - 1.0) * level)).abs() < 1e-6, "{middle}");
}

/// Noise levels, and every step from the same velocities, as in diffusers.
#[test]
fn unipc() {
    let tensors = tensors("unipc");
    let runs: Vec<&str> = tensors.keys().filter_map(|name| name.strip_suffix("_sigmas")).collect();
    assert_eq!(runs.len(), 4);
    for run in runs {
        let parts: Vec<usize> = run.split('_').skip(1).map(|part| part.parse().unwrap()).collect();
        let [steps, tokens] = parts[..] else { panic!("{run}") };
        let schedule = with(serde_json::json!({})).layered(steps, tokens, Spacing::Checkpoint).for_unipc();
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        assert_close(run, &tensor(&schedule.sigmas), &tensors[&format!("{run}_sigmas")], BAR);
        assert_close(run, &tensor(&schedule.timesteps), &tensors[&format!("{run}_timesteps")], BAR);
        let mut solver = Sampler::UniPc.start(&schedule);
        let mut latents = tensors[&format!("{run}_latents_0")].clone();
        for step in 0..steps {
            let velocity = tensors[&format!("{run}_velocity_{}", step + 1)].clone();
            latents = solver.step(latents, velocity, step).unwrap();
            let name = format!("{run}_latents_{}", step + 1);
            assert_close(&name, &latents, &tensors[&name], 1e-5);
        }
    }
}

#[test]
fn the_checkpoint_names_its_sampler() {
    let folder = tempfile::tempdir().unwrap();
    let load = |changes: serde_json::Value| {
        let text = std::fs::read_to_string(golden("checkpoints/layered/scheduler/scheduler_config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        std::fs::write(folder.path().join("scheduler_config.json"), config.to_string()).unwrap();
        Scheduler::load(folder.path()).map_err(|error| error.to_string().split_once(": ").unwrap().1.to_owned())
    };
    assert!(!load(serde_json::json!({})).unwrap().is_unipc());
    let unipc = serde_json::json!({
        "_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": true, "prediction_type": "flow_prediction"
    });
    assert!(load(unipc.clone()).unwrap().is_unipc());
    let mut third_order = unipc.clone();
    third_order["solver_order"] = 3.into();
    insta::assert_snapshot!(load(third_order).unwrap_err(), @"`solver_order` must be 2 in a UniPCMultistepScheduler for flow models");
    let noise = serde_json::json!({"_class_name": "UniPCMultistepScheduler"});
    insta::assert_snapshot!(load(noise).unwrap_err(), @"`use_flow_sigmas` must be true in a UniPCMultistepScheduler for flow models");
    let heun = serde_json::json!({"_class_name": "FlowMatchHeunDiscreteScheduler"});
    insta::assert_snapshot!(load(heun).unwrap_err(), @"`_class_name` is FlowMatchHeunDiscreteScheduler; FlowMatchEulerDiscreteScheduler or UniPCMultistepScheduler is needed");
}

#[test]
fn explicit_noise_levels_are_checked_and_used_as_they_are() {
    let schedule = with(serde_json::json!({})).explicit(&[0.9, 0.25, 0.0]);
    assert_eq!((schedule.sigmas, schedule.timesteps), (vec![0.9, 0.25, 0.0], vec![900.0, 250.0]));
    for bad in [&[][..], &[0.0], &[1.0], &[0.5, 0.6, 0.0], &[0.5, 0.5, 0.0], &[1.0, 0.5], &[1.1, 0.0], &[f64::NAN, 0.0]]
    {
        assert!(Schedule::check(bad).is_err(), "{bad:?}");
    }
    assert!(Schedule::check(&[1.0, f64::NAN, 0.0]).is_err());
}

/// With twice as many steps, the error of a solver of order n is 2^n times smaller: here for `x' = x` from 1 to 0.
#[test]
fn the_solvers_have_their_order() {
    let error = |sampler: Sampler, steps: usize| {
        let sigmas: Vec<f64> = (0..=steps).map(|step| (1.0 - step as f64 / steps as f64).powf(1.3)).collect();
        let schedule = with(serde_json::json!({})).explicit(&sigmas);
        let mut solver = sampler.start(&schedule);
        let mut latents = Tensor::new(&[[[1f32]]], &Device::Cpu).unwrap();
        for step in 0..steps {
            latents = solver.step(latents.clone(), latents, step).unwrap();
        }
        let found = f64::from(latents.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]);
        (found - (-1f64).exp()).abs()
    };
    let ratio = |sampler| error(sampler, 20) / error(sampler, 40);
    assert!((1.8..2.2).contains(&ratio(Sampler::Euler)), "{}", ratio(Sampler::Euler));
    assert!((6.0..10.0).contains(&ratio(Sampler::Abm2)), "{}", ratio(Sampler::Abm2));
    assert!(error(Sampler::Abm2, 20) < error(Sampler::Euler, 20) / 10.0);
}
