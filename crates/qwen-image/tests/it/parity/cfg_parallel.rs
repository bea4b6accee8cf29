//! CFG parallelism gives the same pictures, byte for byte, with the transformer's passes on two devices.
//!
//! Two CPUs are one; so these tests show which transformer computes what, and a machine with two GPUs the time.

#![allow(clippy::result_large_err, reason = "an error is made once in a call that takes seconds")]

use std::ops::ControlFlow;

use ::image::RgbaImage;
use candle_core::{DType, Device, Tensor};
use qwen_image::{
    Callbacks, DecomposeOptions, DeviceChoice, EditInputs, EditOptions, Error, Lora, PipelineOptions,
    QwenImagePipeline,
    hub::{LoraSource, ModelRef},
    models::{BlockPlacement, LoadContext},
    pipeline::{CfgParallelOptions, ComponentPlacement, LoadOptions, QwenImageLayeredPipeline},
};

use super::bars::{golden, zero_cond_checkpoint};

fn pipelines(layered: &str, edit: &str) -> [QwenImagePipeline; 2] {
    [None, Some(DeviceChoice::Cpu)].map(|cfg_parallel_device| {
        let options = PipelineOptions {
            edit_model: Some(ModelRef::Folder(edit.into())),
            cfg_parallel_device,
            ..PipelineOptions::default()
        };
        QwenImagePipeline::lazy(ModelRef::Folder(golden(layered)), options).unwrap()
    })
}

fn picture(path: &str) -> RgbaImage {
    ::image::open(golden(path)).unwrap().to_rgba8()
}

fn house(num_inference_steps: u32) -> DecomposeOptions {
    DecomposeOptions {
        prompt: "A house.".to_owned(),
        layers: 2,
        num_inference_steps,
        seed: Some(7),
        ..DecomposeOptions::default()
    }
}

#[test]
fn decompose_gives_the_same_pictures_and_counts_the_passes_of_both_devices() {
    let [mut serial, mut parallel] = pipelines("checkpoints/layered", "unused");
    let lora = Lora { strength: 0.8, ..Lora::new(LoraSource::File(golden("loras/layered-peft.safetensors"))) };
    let scene = picture("pictures/house.png");
    for (what, options, passes) in [
        ("guidance", house(4), (8, 4)),
        ("normalized", DecomposeOptions { cfg_normalize: true, ..house(2) }, (4, 2)),
        ("part of the steps", DecomposeOptions { cfg_until: 0.5, ..house(4) }, (6, 2)),
        ("no guidance", DecomposeOptions { cfg_scale: 1.0, ..house(2) }, (2, 0)),
        ("a LoRA", DecomposeOptions { loras: Some(vec![lora]), ..house(2) }, (4, 2)),
        ("none again", DecomposeOptions { loras: Some(Vec::new()), ..house(2) }, (4, 2)),
    ] {
        let run = |pipeline: &mut QwenImagePipeline| {
            pipeline.decompose_with(&scene, &options, &mut Callbacks::default()).unwrap()
        };
        let ((one, used), (two, used_two)) = (run(&mut serial), run(&mut parallel));
        assert!(one.images == two.images, "{what}");
        assert_eq!((two.sampling.passes, two.sampling.parallel_passes), passes, "{what}");
        assert_eq!((one.sampling.passes, one.sampling.parallel_passes), (passes.0, 0), "{what}");
        assert_eq!(used.device, "cpu f32 cpu-blocked");
        assert_eq!(used_two.device, "cpu f32 cpu-blocked; negative branch on cpu");
    }
}

#[test]
fn two_seeds_give_the_same_pictures() {
    let [serial, parallel] = pipelines("checkpoints/layered", "unused").map(|mut pipeline| {
        let mut made = Vec::new();
        let each = |output| {
            made.push(output);
            ControlFlow::Continue(())
        };
        let scene = picture("pictures/house.png");
        pipeline.decompose_seeds(&scene, &house(2), &[3, 4], &mut Callbacks::default(), each).unwrap();
        made
    });
    assert_eq!(serial.len(), 2);
    for (one, two) in serial.iter().zip(&parallel) {
        assert!(one.images == two.images, "seed {}", one.seed);
        assert_eq!((two.sampling.passes, two.sampling.parallel_passes), (4, 2));
    }
}

/// With trained weights, because only then a step can be skipped.
#[test]
fn the_step_cache_skips_the_same_steps() {
    let [serial, parallel] = pipelines("../../models/layered-nano", "unused").map(|mut pipeline| {
        let prompt = "A cyan star above a purple house.".to_owned();
        let options = DecomposeOptions { prompt, step_cache: 2, ..house(12) };
        pipeline.decompose(&picture("../../examples/scene.png"), options).unwrap()
    });
    assert!(serial.images == parallel.images);
    let (one, two) = (&serial.sampling, &parallel.sampling);
    assert!(!one.skipped_steps.is_empty() && one.skipped_steps == two.skipped_steps, "{one:?}");
    assert_eq!((two.passes, two.parallel_passes), (one.passes, one.passes / 2));
}

#[test]
fn edit_gives_the_same_picture() {
    let folder = zero_cond_checkpoint();
    let [serial, parallel] = pipelines("unused", &folder.path().display().to_string()).map(|mut pipeline| {
        let (image, reference) = (picture("pictures/badge.png"), picture("pictures/house.png"));
        let inputs = EditInputs { image: &image, references: &[reference], mask: None };
        let options = EditOptions { num_inference_steps: 3, cfg_until: 0.7, seed: Some(7), ..EditOptions::default() };
        pipeline.edit_with(inputs, "Make it blue.", &options, &mut Callbacks::default()).unwrap().0
    });
    assert!(serial.image == parallel.image);
    assert_eq!((parallel.sampling.passes, parallel.sampling.parallel_passes), (5, 2));
}

/// The latents after each step, with the transformers at different places on each device.
#[test]
fn each_device_has_its_own_placement() {
    let run = |main: ComponentPlacement, negative: Option<ComponentPlacement>| {
        let mut options = LoadOptions::new(LoadContext::new(&Device::Cpu, DType::F32));
        options.placement.transformer = main;
        options.cfg_parallel = negative.map(|placement| CfgParallelOptions { device: &Device::Cpu, placement });
        let pipeline = QwenImageLayeredPipeline::load_with(&golden("checkpoints/layered"), options).unwrap();
        let mut latents = Vec::new();
        for _ in 0..2 {
            let mut callbacks = Callbacks::default().on_step_end(|_, tensor: &mut Tensor| {
                latents.push(tensor.flatten_all()?.to_vec1::<f32>()?);
                Ok(())
            });
            pipeline.run(&picture("pictures/house.png"), &house(2), 7, &mut callbacks).unwrap();
        }
        latents
    };
    let streamed = ComponentPlacement { in_turn: true, blocks: BlockPlacement::Streamed { resident: 1 } };
    let kept = run(ComponentPlacement::KEPT, None);
    for (main, negative) in [
        (ComponentPlacement::KEPT, ComponentPlacement::KEPT),
        (ComponentPlacement::IN_TURN, streamed),
        (streamed, ComponentPlacement::KEPT),
    ] {
        assert!(run(main, Some(negative)) == kept, "{main:?}, {negative:?}");
    }
}

#[test]
fn devices_that_cannot_share_the_branches_are_refused_before_anything_is_loaded() {
    let refused = |device: DeviceChoice, second: DeviceChoice| {
        let options = PipelineOptions { device, cfg_parallel_device: Some(second), ..PipelineOptions::default() };
        match options.check() {
            Err(Error::Invalid { field, reason }) => format!("{field}: {reason}"),
            other => panic!("{other:?}"),
        }
    };
    let (cpu, first, second) = (DeviceChoice::Cpu, DeviceChoice::Cuda(0), DeviceChoice::Cuda(1));
    insta::assert_snapshot!(refused(cpu, second), @"cfg_parallel_device: is cuda:1, but device is cpu; both branches need a GPU");
    if cfg!(feature = "cuda") {
        insta::assert_snapshot!(refused(first, cpu), @"cfg_parallel_device: is cpu, but device is cuda:0; both branches need a GPU");
        insta::assert_snapshot!(refused(first, first), @"cfg_parallel_device: is cuda:0, as device is; give another GPU");
    }
}

#[test]
fn the_second_transformer_counts_for_the_memory_budget() {
    let made = [None, Some(DeviceChoice::Cpu)].map(|cfg_parallel_device| {
        let options =
            PipelineOptions { cfg_parallel_device, memory_budget: Some(135 << 20), ..PipelineOptions::default() };
        let model = golden("checkpoints/layered").display().to_string();
        QwenImagePipeline::from_pretrained(&model, options)
    });
    let [Ok(_), Err(Error::TooLarge { reason, .. })] = &made else { panic!("{:?}", made.map(|made| made.err())) };
    assert!(reason.contains("left of memory_budget"), "{reason}");
}
