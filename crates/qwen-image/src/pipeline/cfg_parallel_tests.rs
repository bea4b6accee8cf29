//! What the second transformer computes, shown by changing it.

use std::path::PathBuf;

use ::image::RgbaImage;
use candle_core::{DType, Device};

use super::*;
use crate::{
    Callbacks, DecomposeOptions, Error,
    models::OffloadGroups,
    nn::release,
    pipeline::{LoadOptions, QwenImageLayeredPipeline},
};

fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(path)
}

fn pipeline() -> QwenImageLayeredPipeline {
    let cfg_parallel = Some(CfgParallelOptions { device: &Device::Cpu, placement: ComponentPlacement::KEPT });
    let options = LoadOptions { cfg_parallel, ..LoadOptions::new(LoadContext::new(&Device::Cpu, DType::F32)) };
    QwenImageLayeredPipeline::load_with(&golden("checkpoints/layered"), options).unwrap()
}

/// Replaces the second transformer by one that `change` has changed.
fn with_second(pipeline: &mut QwenImageLayeredPipeline, change: impl FnOnce(&mut Transformer)) {
    let mut second = Transformer::load(&golden("checkpoints/layered/transformer"), &Device::Cpu, DType::F32).unwrap();
    change(&mut second);
    let transformer = Offloadable::new(second, &Device::Cpu);
    pipeline.components_mut().cfg_parallel = Some(CfgParallel { transformer, device: Device::Cpu });
}

fn run(pipeline: &QwenImageLayeredPipeline, cfg_scale: f64, cfg_until: f64) -> Result<Vec<RgbaImage>> {
    let picture = ::image::open(golden("pictures/house.png")).unwrap().to_rgba8();
    let options = DecomposeOptions {
        prompt: "A house.".to_owned(),
        layers: 2,
        num_inference_steps: 4,
        cfg_scale,
        cfg_until,
        ..DecomposeOptions::default()
    };
    pipeline.run(&picture, &options, 7, &mut Callbacks::default()).map(|made| made.images)
}

#[test]
fn the_second_transformer_makes_the_negative_velocity_and_nothing_else() {
    let mut pipeline = pipeline();
    let pictures = |pipeline: &_| (run(pipeline, 4.0, 1.0).unwrap(), run(pipeline, 1.0, 1.0).unwrap());
    let (guided, unguided) = pictures(&pipeline);
    with_second(&mut pipeline, |_| ());
    assert!(pictures(&pipeline) == (guided.clone(), unguided.clone()), "another copy with the same weights");
    with_second(&mut pipeline, |second| {
        for group in second.groups() {
            group
                .tensors(&mut |tensor| {
                    *tensor = (&*tensor * 1.1)?;
                    Ok(())
                })
                .unwrap();
        }
    });
    let (changed, same) = pictures(&pipeline);
    assert!(changed != guided, "the guided picture is made with the second transformer");
    assert!(same == unguided, "the unguided one is not");
}

#[test]
fn a_failure_of_the_second_device_ends_the_run_and_names_it() {
    let mut pipeline = pipeline();
    with_second(&mut pipeline, |second| second.groups().into_iter().for_each(|group| release(group).unwrap()));
    let error = run(&pipeline, 4.0, 1.0).unwrap_err();
    assert!(matches!(&error, PipelineError::NegativeBranch { device, .. } if device == "cpu"), "{error:?}");
    let error = Error::pipeline("m", "cuda:0", "prompt", error);
    assert!(matches!(&error, Error::Device { device, .. } if device == "cpu"), "{error:?}");
    assert!(error.to_string().starts_with("device cpu: in the negative branch: "), "{error}");
    assert!(run(&pipeline, 1.0, 1.0).is_ok() && run(&pipeline, 4.0, 0.0).is_ok(), "only guidance needs it");
}

#[test]
fn memory_that_the_second_device_lacks_is_its_own() {
    let full = Box::new(candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".to_owned()));
    let error = Error::model("m", "cuda:0", ModelError::NegativeBranch { device: "cuda:1".to_owned(), source: full });
    assert!(matches!(&error, Error::OutOfMemory { device, .. } if device == "cuda:1"), "{error:?}");
}
