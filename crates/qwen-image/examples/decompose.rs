//! Splits a picture into layers:
//! `cargo run --release -p qwen-image --example decompose -- models/layered-nano examples/scene.png out/layers`

use std::{env, error::Error, fs, path::Path};

use qwen_image::{Callbacks, DecomposeOptions, PipelineOptions, QwenImagePipeline, Stage};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [model, picture, out] = args.as_slice() else { return Err("usage: decompose MODEL PICTURE FOLDER".into()) };

    let mut pipe = QwenImagePipeline::from_pretrained(model, PipelineOptions::default())?;
    let input_image = image::open(picture)?.to_rgba8();
    let options = DecomposeOptions { layers: 4, seed: Some(7), ..DecomposeOptions::default() };
    let mut callbacks = Callbacks::default().on_progress(|stage, step, steps| {
        if stage == Stage::Denoise {
            eprint!("\rstep {step} of {steps}");
        }
    });
    let (output, used) = pipe.decompose_with(&input_image, &options, &mut callbacks)?;
    eprintln!("\ron {}", used.device);

    fs::create_dir_all(out)?;
    // images[0] is the whole as the model regenerates it; the layers follow, back to front.
    for (index, layer) in output.images.iter().enumerate() {
        layer.save(Path::new(out).join(format!("layer-{index:02}.png")))?;
    }
    if let Some(caption) = output.caption {
        println!("{}", caption.text);
    }
    Ok(())
}
