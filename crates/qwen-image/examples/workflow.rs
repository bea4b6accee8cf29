//! Splits a picture into layers, edits one of them, and composites the result:
//!
//! ```sh
//! cargo run --release -p qwen-image --example workflow -- \
//!     models/layered-nano models/edit-nano examples/scene.png new.png
//! ```

use std::{env, error::Error};

use qwen_image::{CpuOffload, DecomposeOptions, EditOptions, PipelineOptions, QwenImagePipeline, hub::ModelRef};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [model, edit_model, picture, out] = args.as_slice() else {
        return Err("usage: workflow MODEL EDIT_MODEL PICTURE OUT".into());
    };

    let options = PipelineOptions {
        edit_model: Some(ModelRef::parse(edit_model)?),
        // On a GPU, models that are not needed may move to host memory.
        cpu_offload: CpuOffload::Auto,
        ..PipelineOptions::default()
    };
    let mut pipe = QwenImagePipeline::from_pretrained(model, options)?;
    let picture = image::open(picture)?.to_rgba8();

    let options = DecomposeOptions { seed: Some(7), ..DecomposeOptions::default() };
    let mut layers = pipe.decompose(&picture, options)?.images;
    if !pipe.has_edit_model() {
        pipe.load_edit_model()?;
    }
    let edited =
        pipe.edit_layer(&layers[3], "Make it green", EditOptions { seed: Some(7), ..EditOptions::default() })?;
    layers[3] = edited.image;
    pipe.composite(&layers[1..])?.save(out)?;
    println!("{out}");
    Ok(())
}
