//! Compiles every Rust block of `docs/library.md`. Each is copied below, and a test checks that the copies are equal.

#![allow(
    dead_code,
    unused_variables,
    unused_assignments,
    unused_mut,
    reason = "shown to be read; `examples/` are what runs"
)]

use std::{
    error::Error as StdError,
    sync::atomic::{AtomicBool, Ordering},
};

use qwen_image::{
    AlphaMode, Callbacks, CpuOffload, DecomposeOptions, DeviceChoice, EditOptions, Error, PipelineOptions,
    QwenImagePipeline, hub::ModelRef,
};
use qwen_image::{Conditioning, EditInputs, ImageProcessorBackend, Lora, TextPositions};

fn load() -> Result<(), Box<dyn StdError>> {
    let mut pipe = QwenImagePipeline::from_pretrained(
        "/path/to/Qwen_Qwen-Image-Layered",
        PipelineOptions {
            device: DeviceChoice::Cuda(0),
            cpu_offload: CpuOffload::Auto,
            edit_model: Some(ModelRef::parse("/path/to/Qwen_Qwen-Image-Edit-2509")?),
            ..PipelineOptions::default()
        },
    )?;

    let options = PipelineOptions {
        device: DeviceChoice::Cuda(0),
        cfg_parallel_device: Some(DeviceChoice::Cuda(1)),
        ..PipelineOptions::default()
    };

    let input_image = image::open("scene.png")?.to_rgba8();
    let layers = pipe
        .decompose(
            &input_image,
            DecomposeOptions {
                prompt: "A cheerful scene with a house and garden".into(),
                layers: 4,
                ..Default::default()
            },
        )?
        .images;

    let edited_layer = pipe.edit_layer(
        &layers[1],
        "Change the house color to blue",
        EditOptions { num_inference_steps: 50, cfg_scale: 4.0, ..Default::default() },
    )?;
    edited_layer.image.save("edited_layer.png")?;

    let edited_layer =
        pipe.edit_layer(&layers[2], "Add a sunset glow effect", EditOptions { seed: Some(42), ..Default::default() })?;

    let shadowed =
        pipe.edit_layer(&layers[2], "Add a shadow", EditOptions { alpha: AlphaMode::Grow, ..Default::default() })?;

    let mut pipe = QwenImagePipeline::from_pretrained(
        "/path/to/Qwen_Qwen-Image-Layered",
        PipelineOptions { load_edit_model: true, ..Default::default() },
    )?;

    let mut pipe = QwenImagePipeline::from_pretrained("...", PipelineOptions::default())?;
    pipe.load_edit_model()?;

    let options = PipelineOptions {
        conditioning: Conditioning {
            image_processor: Some(ImageProcessorBackend::Pil),
            text_positions: Some(TextPositions::Sequential),
        },
        ..PipelineOptions::default()
    };

    let picture = pipe.composite(&layers[1..])?;

    let layer = layers[1].clone();
    if !pipe.has_edit_model() {
        pipe.load_edit_model()?;
    }

    match pipe.edit_layer(&layer, "instruction", EditOptions::default()) {
        Ok(edited) => edited.image.save("edited.png")?,
        Err(Error::Hub(error)) => eprintln!("the download failed: {error}"),
        Err(error @ Error::OutOfMemory { .. }) => eprintln!("{error}"),
        Err(Error::Invalid { field, reason }) => eprintln!("{field}: {reason}"),
        Err(error) => eprintln!("Edit failed: {error}"),
    }

    let (stop, options) = (AtomicBool::new(false), DecomposeOptions::default());
    let mut callbacks = Callbacks::default()
        .on_progress(|stage, step, steps| eprintln!("{}: {step} of {steps}", stage.as_str()))
        .cancelled_by(|| stop.load(Ordering::Relaxed))
        .on_step_end(|step, latents| Ok(()));
    let (output, used) = pipe.decompose_with(&input_image, &options, &mut callbacks)?;
    println!("{} on {}, {:?}", used.model.id, used.device, callbacks.timings());

    let inputs = EditInputs { image: &layer, references: &[], mask: None };
    let options = EditOptions {
        loras: Some(vec![Lora::parse("ink.safetensors=0.8")?, Lora::parse("ORG/NAME:FILE.safetensors")?]),
        ..EditOptions::default()
    };
    let (edited, used) = pipe.edit_with(inputs, "Make it an ink drawing", &options, &mut callbacks)?;
    println!("{:?}", used.model.loras);
    Ok(())
}

fn source_size(
    pipe: &mut qwen_image::QwenImagePipeline,
    photo: image::RgbaImage,
    options: DecomposeOptions,
) -> Result<(), Box<dyn StdError>> {
    use qwen_image::source_size::{at_source_size, fidelity};

    let made = pipe.decompose(&photo, options)?.images;
    println!("{:?}", fidelity(&photo, &made[1..])?);
    let layers = at_source_size(&photo, &made[1..])?;
    Ok(())
}

#[test]
fn every_rust_block_of_the_document_is_compiled_here() {
    let document = include_str!("../../../../docs/library.md");
    let code = squeezed(include_str!("library_doc.rs"));
    let blocks: Vec<_> = document.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 8, "{} blocks", blocks.len());
    for block in blocks {
        for part in block.split("\n\n") {
            assert!(code.contains(&squeezed(part)), "not compiled in library_doc.rs:\n{part}");
        }
    }
}

/// Removes comments, blanks and trailing commas, which rustfmt may place differently.
fn squeezed(text: &str) -> String {
    let lines = text.lines().map(|line| line.split(" // ").next().unwrap_or_default());
    let text: String = lines.flat_map(str::chars).filter(|c| !c.is_whitespace()).collect();
    text.replace(",)", ")").replace(",}", "}")
}
