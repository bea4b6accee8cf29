//! Where the fixtures are, and how near is near enough. Tolerances stand here and nowhere else.

use std::{collections::HashMap, path::PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

/// Relative error in the 2-norm of a component in float32 on the CPU.
pub const COMPONENT: f64 = 1e-4;

/// A finished picture in float32: how far any channel of any pixel may be off, and all of them on average, of 255.
pub const PIXEL_WORST: u8 = 2;
pub const PIXEL_MEAN: f64 = 0.05;

pub fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(path)
}

/// The checkpoint `edit` under another transformer config: `zero_cond_t` changes no tensor, so none is stored twice.
pub fn zero_cond_checkpoint() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let link = |from: PathBuf, to: PathBuf| std::os::unix::fs::symlink(from, to).unwrap();
    let copy = |from: &str, into: PathBuf, except: &str| {
        for entry in std::fs::read_dir(golden(from)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != *except {
                link(entry.path(), into.join(entry.file_name()));
            }
        }
    };
    let transformer = folder.path().join("transformer");
    std::fs::create_dir(&transformer).unwrap();
    copy("checkpoints/edit", folder.path().to_owned(), "transformer");
    copy("checkpoints/edit/transformer", transformer.clone(), "config.json");
    link(golden("checkpoints/edit-zero-cond/transformer/config.json"), transformer.join("config.json"));
    folder
}

/// What the fixture's script wrote beside the tensors.
pub fn notes(name: &str) -> Value {
    let bytes = std::fs::read(golden(&format!("tensors/{name}.safetensors"))).unwrap();
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let header: Value = serde_json::from_slice(&rest[..u64::from_le_bytes(*length) as usize]).unwrap();
    serde_json::from_str(header["__metadata__"]["notes"].as_str().unwrap()).unwrap()
}

pub fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(&format!("tensors/{name}.safetensors")), &Device::Cpu).unwrap()
}

/// `|found - expected| / |expected|`.
pub fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims(), "shapes differ");
    let norm = |x: &Tensor| -> f64 {
        let x = x.to_dtype(DType::F64).unwrap();
        x.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
    };
    norm(&(found - expected).unwrap()) / norm(expected)
}

#[track_caller]
pub fn assert_close(what: &str, found: &Tensor, expected: &Tensor, bar: f64) {
    let error = relative_error(found, expected);
    println!("{what}: relative error {error:.2e} (bar {bar:.0e})");
    assert!(error <= bar, "{what}: relative error {error:.2e} is above {bar:.0e}");
}
