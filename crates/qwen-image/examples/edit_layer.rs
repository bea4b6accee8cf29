//! Edits one layer by an instruction and keeps its exact outline:
//!
//! ```sh
//! cargo run --release -p qwen-image --example edit_layer -- \
//!     models/edit-nano out/layers/layer-03.png "Make it green" green.png
//! ```

use std::{env, error::Error};

use qwen_image::{EditOptions, PipelineOptions, QwenImagePipeline, hub::ModelRef};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [model, layer, instruction, out] = args.as_slice() else {
        return Err("usage: edit_layer MODEL LAYER INSTRUCTION OUT".into());
    };

    // There is no decompose here, so only the edit model is loaded, on first use.
    let edit_model = ModelRef::parse(model)?;
    let options = PipelineOptions { edit_model: Some(edit_model.clone()), ..PipelineOptions::default() };
    let mut pipe = QwenImagePipeline::lazy(edit_model, options)?;
    let layer = image::open(layer)?.to_rgba8();
    let edited = pipe.edit_layer(&layer, instruction, EditOptions { seed: Some(42), ..EditOptions::default() })?;
    edited.image.save(out)?;
    println!("{out}, seed {}", edited.seed);
    Ok(())
}
