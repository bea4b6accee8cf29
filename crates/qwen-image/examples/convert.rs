//! Writes a transformer in a smaller form, which any pipeline takes as `PipelineOptions::transformer`:
//! `cargo run --release -p qwen-image --example convert -- models/layered-nano q8_0 layered-q8_0.gguf`

use std::{env, error::Error, ops::ControlFlow, path::Path};

use qwen_image::models::{Component, convert};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [model, form, out] = args.as_slice() else { return Err("usage: convert MODEL FORM OUT".into()) };
    let mut go_on = |_done: u64, _total: u64| ControlFlow::Continue(());
    let written = convert(Path::new(model), Component::Transformer, form.parse()?, Path::new(out), &mut go_on)?;
    println!("{}: {} bytes, {} tensors", written.path.display(), written.bytes, written.tensors);
    Ok(())
}
