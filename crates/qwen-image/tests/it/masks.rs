//! Edits with masks: what must not change is the source to the last bit, in latents and in pixels.

use ::image::{Rgba, RgbaImage};
use candle_core::{DType, Device, Tensor};
use qwen_image::{
    Callbacks, EditInputs, EditOptions, EditOutput, OutputSize, Sampler,
    image_processor::{Mask, at_model_size, lanczos_rgb, rgb_of},
    models::LoadContext,
    pipeline::{LoadOptions, PipelineError, QwenImageEditPlusPipeline},
};

use super::parity::bars::golden;

fn pipeline() -> QwenImageEditPlusPipeline {
    let load = LoadOptions::new(LoadContext::new(&Device::Cpu, DType::F32));
    QwenImageEditPlusPipeline::load_with(&golden("checkpoints/edit"), load).unwrap()
}

/// A picture with every alpha, also none, and with color under it.
fn source() -> RgbaImage {
    RgbaImage::from_fn(150, 100, |x, y| Rgba([(x + y) as u8, (3 * x) as u8, (2 * y) as u8, (5 * x + 7 * y) as u8]))
}

fn quick() -> EditOptions {
    EditOptions { num_inference_steps: 3, ..EditOptions::default() }
}

struct Run {
    output: EditOutput,
    /// The packed latents after the last step.
    latents: Tensor,
}

fn run(
    pipeline: &QwenImageEditPlusPipeline,
    mask: Option<&Mask>,
    instruction: &str,
    options: &EditOptions,
) -> Result<Run, PipelineError> {
    let mut latents = None;
    let mut callbacks = Callbacks::default().on_step_end(|_, now| {
        latents = Some(now.clone());
        Ok(())
    });
    let inputs = EditInputs { image: &source(), references: &[], mask };
    let output = pipeline.run(inputs, instruction, options, 5, &mut callbacks)?;
    drop(callbacks);
    Ok(Run { output, latents: latents.unwrap() })
}

/// How many pixels inside and outside of a rectangle differ.
fn differing(a: &RgbaImage, b: &RgbaImage, [x, y, w, h]: [u32; 4]) -> [usize; 2] {
    assert_eq!(a.dimensions(), b.dimensions());
    let mut counts = [0; 2];
    for (column, row, pixel) in a.enumerate_pixels() {
        let inside = (x..x + w).contains(&column) && (y..y + h).contains(&row);
        counts[usize::from(!inside)] += usize::from(pixel != b.get_pixel(column, row));
    }
    counts
}

#[test]
fn outside_the_mask_nothing_changes_with_any_sampler_and_with_the_step_cache() {
    let (pipeline, source, region) = (pipeline(), source(), [60, 30, 50, 40]);
    let mask = Mask::from_region(source.dimensions(), region);
    let plain = run(&pipeline, None, "Make it blue.", &quick()).unwrap();
    let of_sampler = |sampler: Sampler| EditOptions { sampler: Some(sampler), ..quick() };
    let cached = EditOptions { num_inference_steps: 12, step_cache: 3, ..of_sampler(Sampler::Abm2) };
    for options in Sampler::ALL.map(of_sampler).into_iter().chain([cached]) {
        let masked = run(&pipeline, Some(&mask), "Make it blue.", &options).unwrap();
        let [inside, outside] = differing(&masked.output.image, &source, region);
        assert!(inside > 1500 && outside == 0, "{options:?}: {inside} inside, {outside} outside");
        let alpha = |image: &RgbaImage| image.pixels().map(|pixel| pixel[3]).collect::<Vec<_>>();
        assert_eq!(alpha(&masked.output.image), alpha(&source));
        assert!((masked.output.changed.unwrap() - 2000.0 / 15000.0).abs() < 1e-9);
        assert_eq!(masked.output.drift, None);
    }
    assert_eq!((plain.output.changed, plain.output.drift), (None, None));

    // Held latents end as the source's, whatever the instruction and the noise levels are; free ones do not.
    let one = run(&pipeline, Some(&mask), "Make it blue.", &quick()).unwrap().latents;
    let levels =
        EditOptions { sigmas: Some(vec![0.9, 0.4, 0.0]), num_inference_steps: 2, ..of_sampler(Sampler::UniPc) };
    let two = run(&pipeline, Some(&mask), "Add a hat.", &levels).unwrap().latents;
    let per_token = |a: &Tensor, b: &Tensor| -> Vec<f32> {
        (a - b).unwrap().abs().unwrap().max(2).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    let between = per_token(&one, &two);
    let held = between.iter().filter(|difference| **difference == 0.0).count();
    assert!(held > between.len() / 2 && held < between.len(), "{held} of {} tokens are held", between.len());
    assert!(per_token(&one, &plain.latents).iter().all(|difference| *difference > 0.0), "the rest is seen");
}

#[test]
fn a_white_mask_is_no_mask() {
    let (pipeline, source) = (pipeline(), source());
    let white = Mask::from_region(source.dimensions(), [0, 0, 150, 100]);
    let [plain, masked] = [None, Some(&white)].map(|mask| run(&pipeline, mask, "Make it blue.", &quick()).unwrap());
    assert_eq!(masked.output.image, plain.output.image);
    assert_eq!(masked.output.changed, None);
}

#[test]
fn at_the_size_of_the_model_the_rest_is_the_resized_source() {
    let (pipeline, source) = (pipeline(), source());
    let mask = Mask::from_region(source.dimensions(), [0, 0, 75, 100]);
    let options = EditOptions { output_size: OutputSize::Model, feather: Some(0), ..quick() };
    let image = run(&pipeline, Some(&mask), "Make it blue.", &options).unwrap().output.image;
    let (width, height) = image.dimensions();
    let resized = at_model_size(&lanczos_rgb(&rgb_of(&source), width, height), &source);
    let right = [width / 2 + 3, 0, width / 2 - 3, height];
    assert_eq!(differing(&image, &resized, right)[0], 0);
    assert!(differing(&image, &resized, right)[1] > 0);
}

#[test]
fn masks_that_cannot_be_used_name_the_field() {
    let pipeline = pipeline();
    let mask = |size, region| Mask::from_region(size, region);
    let whole = (150, 100);
    for (mask, options, wanted) in [
        (mask(whole, [0, 0, 0, 0]), quick(), "mask"),
        (mask((100, 150), [0, 0, 9, 9]), quick(), "mask"),
        (mask(whole, [0, 0, 9, 9]), EditOptions { keep_rest: true, ..quick() }, "keep_rest"),
        (mask(whole, [0, 0, 9, 9]), EditOptions { feather: Some(513), ..quick() }, "feather"),
    ] {
        match run(&pipeline, Some(&mask), "Make it blue.", &options).err() {
            Some(PipelineError::Invalid { field, .. }) => assert_eq!(field, wanted),
            other => panic!("{other:?} instead of an error about {wanted}"),
        }
    }
}
