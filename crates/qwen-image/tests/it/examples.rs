//! Runs the examples as their first lines say. `cargo test` builds them with this program.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs an example in the root of the repository, and returns what it prints.
fn run(name: &str, args: &[&OsStr]) -> String {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    let output = Command::new(&program).args(args).current_dir(root()).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}; cargo test builds it", program.display()));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn size(path: &Path) -> (u32, u32) {
    image::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).to_rgba8().dimensions()
}

#[test]
fn decompose_then_edit_layer() {
    let folder = tempfile::tempdir().unwrap();
    let (layers, green) = (folder.path().join("layers"), folder.path().join("green.png"));
    let caption = run("decompose", &["models/layered-nano".as_ref(), "examples/scene.png".as_ref(), layers.as_ref()]);
    assert!(caption.contains("house"), "{caption}");
    let layer = layers.join("layer-03.png");
    let said =
        run("edit_layer", &["models/edit-nano".as_ref(), layer.as_ref(), "Make it green".as_ref(), green.as_ref()]);
    assert!(said.contains("seed 42"), "{said}");
    assert_eq!(size(&green), size(&layer));
}

#[test]
fn seeds_and_the_workflow() {
    run("seeds", &["models/layered-nano".as_ref(), "examples/scene.png".as_ref()]);
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("new.png");
    run(
        "workflow",
        &["models/layered-nano".as_ref(), "models/edit-nano".as_ref(), "examples/scene.png".as_ref(), new.as_ref()],
    );
    assert_eq!(size(&new), (128, 128));
}

#[test]
fn a_smaller_form() {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("layered-q8_0.gguf");
    let said = run("convert", &["models/layered-nano".as_ref(), "q8_0".as_ref(), small.as_ref()]);
    let bytes = std::fs::metadata(&small).unwrap().len();
    assert!(said.contains(&format!("{bytes} bytes")), "{said}");
    let dense = root().join("models/layered-nano/transformer/diffusion_pytorch_model.safetensors");
    assert!(bytes * 3 < std::fs::metadata(dense).unwrap().len() * 2, "{bytes} bytes are not smaller");
}
