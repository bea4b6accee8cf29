//! Whole pipelines: the same checkpoint, picture, parameters and seed give the same pictures as in diffusers.

use std::path::Path;

use ::image::{DynamicImage, RgbaImage};
use candle_core::{DType, Device, Tensor};
use qwen_image::{
    Callbacks, Conditioning, DecomposeOptions, EditInputs, EditOptions, ImageProcessorBackend, OutputSize,
    TextPositions,
    image_processor::rgb_of,
    models::LoadContext,
    pipeline::{LoadOptions, QwenImageEditPlusPipeline, QwenImageLayeredPipeline},
};
use serde::Deserialize;

use super::bars::{PIXEL_MEAN, PIXEL_WORST, golden, relative_error, tensors, zero_cond_checkpoint};

#[derive(Deserialize)]
struct Case {
    name: String,
    kind: String,
    checkpoint: String,
    inputs: Vec<String>,
    params: Params,
    image_processor: ImageProcessorBackend,
    text_positions: Option<TextPositions>,
    size: [u32; 2],
    outputs: Vec<String>,
    tensors: String,
    caption: Option<String>,
    caption_ids: Option<Vec<u32>>,
}

impl Case {
    /// Values that are the default are left out, so the cases also test the defaults.
    fn conditioning(&self) -> Conditioning {
        Conditioning {
            text_positions: self.text_positions.filter(|positions| *positions != TextPositions::default()),
            image_processor: Some(self.image_processor).filter(|backend| *backend != ImageProcessorBackend::default()),
        }
    }
}

/// The names of a job's request.
#[derive(Deserialize)]
struct Params {
    #[serde(default)]
    prompt: String,
    #[serde(default)]
    instruction: String,
    layers: Option<u32>,
    resolution: Option<u32>,
    cfg_normalize: Option<bool>,
    sampler: Option<String>,
    steps: u32,
    cfg_scale: f64,
    seed: u64,
    negative_prompt: String,
}

fn cases(kind: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(golden("cases.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    let cases: Vec<_> = cases.into_iter().filter(|case| case.kind == kind).collect();
    assert!(cases.len() >= 4, "{} cases of {kind}", cases.len());
    cases
}

fn picture(path: &str) -> RgbaImage {
    ::image::open(golden("pictures").join(path)).unwrap().to_rgba8()
}

/// Prints how the latents compare after every step that the reference kept, so that a failure shows where it began.
fn compare_latents(case: &Case, latents: &[Tensor]) {
    for (name, expected) in tensors(&case.tensors) {
        let Some(step) = name.strip_prefix("latents_").and_then(|step| step.parse::<usize>().ok()) else { continue };
        if let Some(found) = step.checked_sub(1).and_then(|index| latents.get(index)) {
            println!("{} step {step}: relative error {:.2e}", case.name, relative_error(found, &expected));
        }
    }
}

/// Keeps the latents after every step.
fn keeping(latents: &mut Vec<Tensor>) -> Callbacks<'_> {
    Callbacks::default().on_step_end(|_, tensor: &mut Tensor| {
        latents.push(tensor.clone());
        Ok(())
    })
}

#[track_caller]
fn compare_pictures(name: &str, found: &DynamicImage, expected: &DynamicImage) {
    assert_eq!((found.width(), found.height()), (expected.width(), expected.height()), "{name}: sizes differ");
    assert_eq!(found.color(), expected.color(), "{name}: channels differ");
    let differences: Vec<u8> = found.as_bytes().iter().zip(expected.as_bytes()).map(|(a, b)| a.abs_diff(*b)).collect();
    let worst = differences.iter().copied().max().unwrap();
    let mean = differences.iter().map(|&d| f64::from(d)).sum::<f64>() / differences.len() as f64;
    println!("{name}: worst {worst}/255, mean {mean:.5}/255");
    assert!(worst <= PIXEL_WORST, "{name}: a pixel differs by {worst}/255");
    assert!(mean <= PIXEL_MEAN, "{name}: pixels differ by {mean}/255 on average");
}

#[test]
fn decompose() {
    let pipeline = QwenImageLayeredPipeline::load(&golden("checkpoints/layered"), &Device::Cpu, DType::F32).unwrap();
    for case in cases("decompose") {
        assert_eq!((case.checkpoint.as_str(), case.conditioning()), ("layered", Conditioning::default()));
        let params = &case.params;
        let options = DecomposeOptions {
            prompt: params.prompt.clone(),
            negative_prompt: params.negative_prompt.clone(),
            layers: params.layers.unwrap(),
            resolution: params.resolution,
            num_inference_steps: params.steps,
            cfg_scale: params.cfg_scale,
            cfg_normalize: params.cfg_normalize.unwrap(),
            sampler: params.sampler.as_deref().map(|name| name.parse().unwrap()),
            ..DecomposeOptions::default()
        };
        let mut latents = Vec::new();
        let mut callbacks = keeping(&mut latents);
        let made = pipeline.run(&picture(&case.inputs[0]), &options, params.seed, &mut callbacks).unwrap();
        drop(callbacks);
        assert_eq!(latents.len(), params.steps as usize);
        if let Some(expected) = &case.caption {
            let caption = made.caption.as_ref().unwrap();
            assert_eq!(&caption.text, expected, "{}", case.name);
            assert_eq!(caption.tokens as usize, case.caption_ids.as_ref().unwrap().len());
        } else {
            assert!(made.caption.is_none());
        }
        compare_latents(&case, &latents);
        assert_eq!(made.images.len(), case.outputs.len(), "{}", case.name);
        for (image, output) in made.images.into_iter().zip(&case.outputs) {
            assert_eq!([image.width(), image.height()], case.size);
            compare_pictures(output, &DynamicImage::from(image), &DynamicImage::from(picture(output)));
        }
    }
}

fn edit(case: &Case, folder: &Path) {
    let load = LoadOptions {
        conditioning: case.conditioning(),
        ..LoadOptions::new(LoadContext::new(&Device::Cpu, DType::F32))
    };
    let pipeline = QwenImageEditPlusPipeline::load_with(folder, load).unwrap();
    let params = &case.params;
    let options = EditOptions {
        negative_prompt: params.negative_prompt.clone(),
        output_size: OutputSize::Model,
        num_inference_steps: params.steps,
        cfg_scale: params.cfg_scale,
        sampler: params.sampler.as_deref().map(|name| name.parse().unwrap()),
        ..EditOptions::default()
    };
    let mut references: Vec<_> = case.inputs.iter().map(|path| picture(path)).collect();
    let edited = references.pop().unwrap();
    let inputs = EditInputs { image: &edited, references: &references, mask: None };
    let mut latents = Vec::new();
    let mut callbacks = keeping(&mut latents);
    let image = pipeline.run(inputs, &params.instruction, &options, params.seed, &mut callbacks).unwrap().image;
    drop(callbacks);
    compare_latents(case, &latents);
    assert_eq!([image.width(), image.height()], case.size);
    // The reference returns RGB; alpha bypasses the model.
    let expected = rgb_of(&picture(&case.outputs[0]));
    compare_pictures(&case.name, &DynamicImage::from(rgb_of(&image)), &DynamicImage::from(expected));
}

#[test]
fn edit_with_one_and_two_pictures_and_zero_cond_t() {
    let zero_cond = zero_cond_checkpoint();
    for case in cases("edit") {
        match case.checkpoint.as_str() {
            "edit" => edit(&case, &golden("checkpoints/edit")),
            "edit-zero-cond" => edit(&case, zero_cond.path()),
            other => panic!("unknown checkpoint {other}"),
        }
    }
}
