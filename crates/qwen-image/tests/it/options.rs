//! Options and checkpoints that do not fit together give typed errors that name the field or the file.

#![allow(clippy::result_large_err, reason = "an error is made once in a call that takes seconds")]

use std::{fs, ops::ControlFlow};

use ::image::{GrayImage, RgbaImage};
use qwen_image::{
    Callbacks, ComputeDType, CpuOffload, DecomposeOptions, DeviceChoice, EditInputs, EditOptions, Error, Lora,
    PipelineOptions, QwenImagePipeline,
    hub::{LoraSource, ModelRef},
    image_processor::Mask,
    models::ModelError,
};

use super::parity::bars::golden;

fn lazy(options: PipelineOptions) -> Result<QwenImagePipeline, Error> {
    lazy_with(PipelineOptions { edit_model: Some(ModelRef::Folder(golden("checkpoints/edit"))), ..options })
}

fn lazy_with(options: PipelineOptions) -> Result<QwenImagePipeline, Error> {
    QwenImagePipeline::lazy(ModelRef::Folder(golden("checkpoints/layered")), options)
}

fn too_strong() -> Lora {
    Lora { strength: f64::NAN, ..Lora::new(LoraSource::File("style.safetensors".into())) }
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
        (PipelineOptions { loras: vec![too_strong()], ..defaults() }, "loras"),
        (PipelineOptions { edit_loras: vec![too_strong()], ..defaults() }, "edit_loras"),
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
    assert_invalid(nothing.decompose(&RgbaImage::new(3000, 1), DecomposeOptions::default()), "image");
}

#[test]
fn pictures_and_options_of_an_edit_are_checked_against_each_other_before_the_model_is_found() {
    let options = PipelineOptions { edit_model: ModelRef::parse("no/such-model").ok(), ..PipelineOptions::default() };
    let mut nothing = lazy_with(options).unwrap();
    let (image, long) = (RgbaImage::new(32, 32), RgbaImage::new(3000, 1));
    let whole = Mask::from_region((32, 32), [0, 0, 32, 32]);
    let (small, part) = (Mask::from_region((16, 16), [0, 0, 8, 8]), Mask::from_region((32, 32), [0, 0, 8, 8]));
    let none = Mask::new(GrayImage::new(32, 32));
    let defaults = EditOptions::default;
    let many = [image.clone(), image.clone(), image.clone()];
    for (references, mask, options, field) in [
        (&many[..], None, defaults(), "references"),
        (&[long][..], None, defaults(), "image"),
        (&[], Some(&small), defaults(), "mask"),
        (&[], Some(&none), defaults(), "mask"),
        (&[], Some(&part), EditOptions { keep_rest: true, ..defaults() }, "keep_rest"),
        (&[], None, EditOptions { feather: Some(3), ..defaults() }, "feather"),
    ] {
        let inputs = EditInputs { image: &image, references, mask };
        let edited = nothing.edit_with(inputs, "Make it blue.", &options, &mut Callbacks::default());
        assert_invalid(edited.map(drop), field);
        let seeds = nothing.edit_seeds(inputs, "Make it blue.", &options, &[1], &mut Callbacks::default(), |_| {
            ControlFlow::Continue(())
        });
        assert_invalid(seeds.map(drop), field);
    }
    let inputs = EditInputs { image: &image, references: &[], mask: Some(&whole) };
    let right = EditOptions { feather: Some(3), ..defaults() };
    let found = nothing.edit_with(inputs, "Make it blue.", &right, &mut Callbacks::default());
    assert!(matches!(found, Err(Error::Hub(_))), "the model is looked for");
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
