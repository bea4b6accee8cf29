//! Whole pipelines: the same checkpoint, picture, parameters and seed give diffusers' pictures.

use std::path::Path;

use ::image::{DynamicImage, RgbaImage};
use acetate::{
    image::rgb_of,
    job::{DecomposeParams, EditParams, OutputSize},
    pipeline::{Control, DecomposePipeline, EditPipeline},
};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use crate::bars::{PIXEL_MEAN, PIXEL_WORST, golden, relative_error, tensors, zero_cond_checkpoint};

#[derive(Deserialize)]
struct Case {
    name: String,
    kind: String,
    checkpoint: String,
    inputs: Vec<String>,
    params: serde_json::Value,
    text_positions: String,
    size: [u32; 2],
    outputs: Vec<String>,
    tensors: String,
    caption: Option<String>,
    caption_ids: Option<Vec<u32>>,
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

/// Says how the latents compare after every step that the reference kept, so that a failure shows where it began.
fn compare_latents(case: &Case, latents: &[Tensor]) {
    for (name, expected) in tensors(&case.tensors) {
        let Some(step) = name.strip_prefix("latents_").and_then(|step| step.parse::<usize>().ok()) else { continue };
        if let Some(found) = step.checked_sub(1).and_then(|index| latents.get(index)) {
            println!("{} step {step}: relative error {:.2e}", case.name, relative_error(found, &expected));
        }
    }
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
    let pipeline = DecomposePipeline::load(&golden("checkpoints/layered"), &Device::Cpu, DType::F32).unwrap();
    for case in cases("decompose") {
        assert_eq!(case.checkpoint, "layered");
        let params: DecomposeParams = serde_json::from_value(case.params.clone()).unwrap();
        let mut latents = Vec::new();
        let mut ignore = |_, _, _| ();
        let mut control = Control::new(&mut ignore, &|| false);
        let made = pipeline
            .run(&picture(&case.inputs[0]), &params, params.seed.unwrap(), &mut control, |_, x| latents.push(x.clone()))
            .unwrap();
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
    let pipeline = EditPipeline::load(folder, &Device::Cpu, DType::F32).unwrap();
    let params: EditParams = serde_json::from_value(case.params.clone()).unwrap();
    let params = EditParams { output_size: OutputSize::Model, ..params };
    let inputs: Vec<_> = case.inputs.iter().map(|path| picture(path)).collect();
    let mut latents = Vec::new();
    let mut ignore = |_, _, _| ();
    let mut control = Control::new(&mut ignore, &|| false);
    let image =
        pipeline.run(&inputs, &params, params.seed.unwrap(), &mut control, |_, x| latents.push(x.clone())).unwrap();
    compare_latents(case, &latents);
    assert_eq!([image.width(), image.height()], case.size);
    // The reference gives RGB; alpha goes around the model.
    let expected = rgb_of(&picture(&case.outputs[0]));
    compare_pictures(&case.name, &DynamicImage::from(rgb_of(&image)), &DynamicImage::from(expected));
}

#[test]
fn edit_with_one_and_two_pictures_and_zero_cond_t() {
    for case in cases("edit") {
        let folder = match case.checkpoint.as_str() {
            "edit" => multimodal_checkpoint(case.text_positions == "multimodal"),
            "edit-zero-cond" => zero_cond_checkpoint(),
            other => panic!("unknown checkpoint {other}"),
        };
        edit(&case, folder.path());
    }
}

/// The checkpoint `edit`, with multimodal text positions asked for in its `acetate.json` or not.
fn multimodal_checkpoint(multimodal: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("checkpoints/edit")).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    if multimodal {
        let path = folder.path().join("acetate.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json["text_positions"] = "multimodal".into();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, json.to_string()).unwrap();
    }
    folder
}
