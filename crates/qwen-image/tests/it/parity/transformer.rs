use std::path::Path;

use candle_core::{DType, Device, Tensor};
use qwen_image::models::transformer::{Frame, Transformer};

use super::bars::{COMPONENT, assert_close, golden, tensors, zero_cond_checkpoint};

fn check(folder: &Path, reference: &str) {
    let device = Device::Cpu;
    let model = Transformer::load(folder, &device, DType::F32).unwrap();
    let tensors = tensors(reference);
    let frames: Vec<Frame> = tensors["img_shapes"]
        .to_vec2::<i64>()
        .unwrap()
        .into_iter()
        .map(|shape| Frame { height: shape[1] as usize, width: shape[2] as usize })
        .collect();
    let hidden = &tensors["hidden_states"];
    let text = model.project_text(&tensors["encoder_hidden_states"]).unwrap();
    let timestep = tensors["timestep"].to_vec1::<f32>().unwrap()[0];
    let modulations = model.modulations(timestep, &device).unwrap();
    let rotations = model.rotations(&frames, text.dim(1).unwrap(), &device).unwrap();
    let run = |targets: usize| -> Tensor { model.forward(hidden, &text, &modulations, &rotations, targets).unwrap() };

    let all = hidden.dim(1).unwrap();
    assert_close(reference, &run(all), &tensors["output"], COMPONENT);
    // The pipelines ask only for the first frames: the rest must not be missed.
    let first = frames[0].patches();
    let expected = tensors["output"].narrow(1, 0, first).unwrap();
    assert_close(&format!("{reference}, first frame only"), &run(first), &expected, COMPONENT);
}

#[test]
fn layered_with_condition_flag_and_layer_rope() {
    check(&golden("checkpoints/layered/transformer"), "transformer_layered");
}

#[test]
fn edit_without_flags() {
    check(&golden("checkpoints/edit/transformer"), "transformer_edit");
}

#[test]
fn edit_with_zero_cond_t() {
    let checkpoint = zero_cond_checkpoint();
    check(&checkpoint.path().join("transformer"), "transformer_zero_cond");
}
