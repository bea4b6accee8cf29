//! Parts that take turns and streamed blocks give the same numbers bit for bit, wherever the weights are kept.

use std::{cell::Cell, fs, ops::ControlFlow, path::Path};

use ::image::RgbaImage;
use candle_core::{DType, Device, Tensor};
use qwen_image::{
    Callbacks, DecomposeOptions, EditInputs, EditOptions,
    models::{
        BlockPlacement, LoadContext, ModelError, OffloadGroups, Offloadable, check, text_encoder::TextEncoder,
        transformer::*, vae::*,
    },
    pipeline::{ComponentPlacement, DeviceMap, LoadOptions, QwenImageEditPlusPipeline, QwenImageLayeredPipeline},
};

use super::bars::{golden, tensors, zero_cond_checkpoint};

fn picture(path: &str) -> RgbaImage {
    ::image::open(golden("pictures").join(path)).unwrap().to_rgba8()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn placements() -> Vec<DeviceMap> {
    let turns = DeviceMap {
        text_encoder: ComponentPlacement::IN_TURN,
        transformer: ComponentPlacement::IN_TURN,
        vae: ComponentPlacement::IN_TURN,
    };
    let streamed = |resident: usize| DeviceMap {
        text_encoder: ComponentPlacement::streamed(resident),
        transformer: ComponentPlacement::streamed(resident),
        ..turns
    };
    vec![turns, streamed(0), streamed(1)]
}

#[test]
fn decompose_gives_the_same_bits_wherever_its_parts_are() {
    let run = |placement: DeviceMap| {
        let loading = LoadContext::new(&Device::Cpu, DType::F32);
        let options = LoadOptions { placement, ..LoadOptions::new(loading) };
        let pipeline = QwenImageLayeredPipeline::load_with(&golden("checkpoints/layered"), options).unwrap();
        // The caption goes through the text encoder token by token.
        let params = DecomposeOptions { layers: 2, num_inference_steps: 3, ..DecomposeOptions::default() };
        let mut latents = Vec::new();
        // Runs twice: parts that were offloaded after the first run come back for the second.
        for _ in 0..2 {
            latents.clear();
            let mut callbacks = Callbacks::default().on_step_end(|_, tensor: &mut Tensor| {
                latents.push(bits(tensor));
                Ok(())
            });
            let made = pipeline.run(&picture("house.png"), &params, 7, &mut callbacks).unwrap();
            assert_eq!(made.images.len(), 3);
        }
        latents
    };
    let kept = run(DeviceMap::KEPT);
    assert_eq!(kept.len(), 3);
    for placement in placements() {
        assert!(run(placement) == kept, "{placement:?}");
    }
}

#[test]
fn edit_gives_the_same_bits_wherever_its_parts_are() {
    let folder = zero_cond_checkpoint();
    let run = |placement: DeviceMap| {
        let loading = LoadContext::new(&Device::Cpu, DType::F32);
        let options = LoadOptions { placement, ..LoadOptions::new(loading) };
        let pipeline = QwenImageEditPlusPipeline::load_with(folder.path(), options).unwrap();
        let options = EditOptions { num_inference_steps: 2, ..EditOptions::default() };
        let inputs = EditInputs { image: &picture("badge.png"), references: &[], mask: None };
        let made = pipeline.run(inputs, "Make it blue.", &options, 7, &mut Callbacks::default()).unwrap();
        made.image.into_raw()
    };
    let kept = run(DeviceMap::KEPT);
    for placement in placements() {
        assert!(run(placement) == kept, "{placement:?}");
    }
}

/// A pass that fails halfway leaves transfers that are ahead of the next pass.
#[test]
fn a_pass_after_a_failed_one_is_right() {
    let folder = golden("checkpoints/layered/transformer");
    let load =
        |place| Transformer::load_with(&folder, LoadContext::new(&Device::Cpu, DType::F32), place, false).unwrap();
    let (whole, streamed) = (load(BlockPlacement::OnDevice), load(BlockPlacement::Streamed { resident: 0 }));
    let given = tensors("transformer_layered");
    let frames: Vec<Frame> = given["img_shapes"]
        .to_vec2::<i64>()
        .unwrap()
        .into_iter()
        .map(|shape| Frame { height: shape[1] as usize, width: shape[2] as usize })
        .collect();
    let hidden = &given["hidden_states"];
    let text = whole.project_text(&given["encoder_hidden_states"]).unwrap();
    let rotations = whole.rotations(&frames, text.dim(1).unwrap(), &Device::Cpu).unwrap();
    let wrong = whole.rotations(&frames[..1], text.dim(1).unwrap(), &Device::Cpu).unwrap();
    let all = hidden.dim(1).unwrap();
    let expected =
        whole.forward(hidden, &text, &whole.modulations(0.5, &Device::Cpu).unwrap(), &rotations, all).unwrap();
    for _ in 0..3 {
        let modulations = streamed.modulations(0.5, &Device::Cpu).unwrap();
        assert!(streamed.forward(hidden, &text, &modulations, &wrong, all).is_err());
        let found = streamed.forward(hidden, &text, &modulations, &rotations, all).unwrap();
        assert!(bits(&found) == bits(&expected));
        let branches = [Branch { text: &text, rotations: &rotations }; 2];
        for found in streamed.forward_branches(hidden, &branches, &modulations, all).unwrap() {
            assert!(bits(&found) == bits(&expected));
        }
    }
}

#[test]
fn what_is_away_takes_nothing_and_comes_back_whole() {
    fn check<T: OffloadGroups>(model: T) {
        let part = Offloadable::new(model, &Device::Cpu);
        let whole = part.bytes_on_device().unwrap();
        assert!(whole > 0);
        for _ in 0..2 {
            part.leave().unwrap();
            assert_eq!(part.bytes_on_device().unwrap(), 0);
            drop(part.enter().unwrap());
            assert_eq!(part.bytes_on_device().unwrap(), whole);
        }
    }
    let folder = golden("checkpoints/layered");
    check(Transformer::load(&folder.join("transformer"), &Device::Cpu, DType::F32).unwrap());
    check(TextEncoder::load(&folder, &Device::Cpu, DType::F32, true).unwrap());
    check(Vae::load(&folder.join("vae"), &Device::Cpu, DType::F32, Tiling::default()).unwrap());
}

/// A truncated file is detected before any of it is read as a weight.
#[test]
fn a_truncated_file_is_told_and_a_watched_load_tells_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let from = golden("checkpoints/layered/transformer");
    for entry in fs::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let load = |folder: &Path, watch: &dyn Fn(u64) -> ControlFlow<()>| {
        let loading = LoadContext { watch: Some(watch), ..LoadContext::new(&Device::Cpu, DType::F32) };
        Transformer::load_with(folder, loading, BlockPlacement::Streamed { resident: 1 }, false).map(|_| ())
    };
    let bytes = Cell::new(0);
    load(folder.path(), &|count| {
        bytes.set(bytes.get() + count);
        ControlFlow::Continue(())
    })
    .unwrap();
    let path = folder.path().join("diffusion_pytorch_model.safetensors");
    let length = fs::metadata(&path).unwrap().len();
    let parts = check(&golden("checkpoints/layered")).unwrap().components;
    let parameters: u64 = parts.iter().filter(|part| part.name == "transformer").map(|part| part.parameters).sum();
    // Weights of the last block that are not needed are not read.
    assert!((parameters * 3..=parameters * 4).contains(&bytes.get()), "{} of {parameters} numbers", bytes.get());
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
    let error = load(folder.path(), &|_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(&error, ModelError::Invalid { .. }) && error.to_string().contains("not complete"), "{error}");
}
