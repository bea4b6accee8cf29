//! Options and checkpoints that do not fit together give typed errors that name the field or the file.

#![allow(clippy::result_large_err, reason = "an error is made once in a call that takes seconds")]

use std::fs;

use ::image::RgbaImage;
use qwen_image::{
    ComputeDType, CpuOffload, DecomposeOptions, DeviceChoice, EditOptions, Error, PipelineOptions, QwenImagePipeline,
    hub::ModelRef, models::ModelError,
};

use super::parity::bars::golden;

fn lazy(options: PipelineOptions) -> Result<QwenImagePipeline, Error> {
    let edit_model = Some(ModelRef::Folder(golden("checkpoints/edit")));
    QwenImagePipeline::lazy(ModelRef::Folder(golden("checkpoints/layered")), PipelineOptions { edit_model, ..options })
}

#[track_caller]
fn assert_invalid<T>(result: Result<T, Error>, wanted: &str) {
    match result {
        Err(Error::Invalid { field, reason }) => assert_eq!(field, wanted, "{reason}"),
        Err(other) => panic!("{other:?} instead of an error about {wanted}"),
        Ok(_) => panic!("no error about {wanted}"),
    }
}

#[test]
fn options_that_contradict_each_other_are_refused_before_anything_is_loaded() {
    let defaults = PipelineOptions::default;
    for (options, field) in [
        (PipelineOptions { dtype: Some(ComputeDType::Fp8), ..defaults() }, "dtype"),
        (PipelineOptions { dtype: Some(ComputeDType::Bf16), ..defaults() }, "dtype"),
        (PipelineOptions { vram_budget: Some(1 << 30), ..defaults() }, "vram_budget"),
        (PipelineOptions { cpu_offload: CpuOffload::Sequential, ..defaults() }, "cpu_offload"),
    ] {
        assert_invalid(lazy(options), field);
    }
    if !cfg!(feature = "cuda") {
        assert_invalid(lazy(PipelineOptions { device: DeviceChoice::Cuda(0), ..defaults() }), "device");
    }
}

#[test]
fn options_of_a_call_that_are_out_of_bounds_name_the_field() {
    let mut pipe = lazy(PipelineOptions::default()).unwrap();
    let picture = RgbaImage::new(32, 32);
    let prompt = || "x".to_owned();
    for (options, field) in [
        (DecomposeOptions { layers: 1, prompt: prompt(), ..DecomposeOptions::default() }, "layers"),
        (DecomposeOptions { resolution: Some(33), prompt: prompt(), ..DecomposeOptions::default() }, "resolution"),
        (DecomposeOptions { resolution: Some(640), prompt: prompt(), ..DecomposeOptions::default() }, "resolution"),
        (DecomposeOptions { num_inference_steps: 0, ..DecomposeOptions::default() }, "num_inference_steps"),
        (DecomposeOptions { cfg_scale: f64::NAN, ..DecomposeOptions::default() }, "cfg_scale"),
        (DecomposeOptions { cfg_until: f64::NAN, ..DecomposeOptions::default() }, "cfg_until"),
        (DecomposeOptions { cfg_until: 1.01, ..DecomposeOptions::default() }, "cfg_until"),
        (DecomposeOptions { step_cache: 11, ..DecomposeOptions::default() }, "step_cache"),
        (DecomposeOptions { sigmas: Some(vec![1.0, 0.5]), ..DecomposeOptions::default() }, "sigmas"),
        (
            DecomposeOptions {
                sigmas: Some(vec![1.0, 0.5, 0.0]),
                num_inference_steps: 3,
                ..DecomposeOptions::default()
            },
            "num_inference_steps",
        ),
        (DecomposeOptions { auto_layers: true, layers: 3, ..DecomposeOptions::default() }, "auto_layers"),
        (DecomposeOptions { lightning: Some(4), ..DecomposeOptions::default() }, "lightning"),
        (DecomposeOptions { cfg_scale: f64::INFINITY, ..DecomposeOptions::default() }, "cfg_scale"),
    ] {
        assert_invalid(pipe.decompose(&picture, options), field);
    }
    assert_invalid(pipe.decompose(&RgbaImage::new(3000, 1), DecomposeOptions::default()), "image");
    assert_invalid(pipe.edit_layer(&picture, " ", EditOptions::default()), "instruction");
    let options = EditOptions { num_inference_steps: 1001, ..EditOptions::default() };
    assert_invalid(pipe.edit_layer(&picture, "Make it blue.", options), "num_inference_steps");
    assert!(matches!(pipe.composite(&[]), Err(Error::Image(_))));
    // Before anything is loaded, or downloaded.
    let mut nothing =
        QwenImagePipeline::lazy(ModelRef::parse("no/such-model").unwrap(), PipelineOptions::default()).unwrap();
    let options = DecomposeOptions { cfg_scale: f64::NAN, ..DecomposeOptions::default() };
    assert_invalid(nothing.decompose(&picture, options), "cfg_scale");
}

#[test]
fn a_checkpoint_of_another_pipeline_is_refused_by_name() {
    let edit = golden("checkpoints/edit").display().to_string();
    let error = QwenImagePipeline::from_pretrained(&edit, PipelineOptions::default()).err().unwrap();
    assert!(matches!(error, Error::Model { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("QwenImageEditPlusPipeline") && text.contains("QwenImageLayeredPipeline"), "{text}");
    let error = QwenImagePipeline::from_pretrained("no such folder", PipelineOptions::default()).err().unwrap();
    assert!(matches!(error, Error::Hub(_)), "{error:?}");
}

#[test]
fn a_folder_that_mixes_forms_is_refused_with_both_files() {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden("checkpoints/layered")).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let transformer = folder.path().join("transformer");
    fs::remove_file(&transformer).unwrap();
    fs::create_dir(&transformer).unwrap();
    for entry in fs::read_dir(golden("checkpoints/layered/transformer")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), transformer.join(entry.file_name())).unwrap();
    }
    let model = folder.path().display().to_string();
    for other in ["model.safetensors", "diffusion_pytorch_model.safetensors.index.json", "qwen-image-Q4_K_M.gguf"] {
        fs::write(transformer.join(other), "{}").unwrap();
        let error = QwenImagePipeline::from_pretrained(&model, PipelineOptions::default()).err().unwrap();
        let Error::Model { source: ModelError::MixedForms { path, forms }, .. } = &error else { panic!("{error:?}") };
        assert!(path.ends_with("transformer") && forms.iter().any(|form| form == other), "{error}");
        fs::remove_file(transformer.join(other)).unwrap();
    }
}
