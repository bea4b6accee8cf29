//! Compiles `kernels/*.cu` to PTX under the `cuda` feature; does nothing otherwise.
//!
//! The targets are the oldest architectures with the number formats; the driver compiles for the GPU it finds.

#![allow(clippy::disallowed_methods, reason = "cargo passes everything to a build script in the environment")]

use std::{env, path::PathBuf, process::Command};

const KERNELS: [(&str, &str); 7] = [
    ("attention", "compute_80"),
    ("attention_tail", "compute_80"),
    ("dequantize", "compute_80"),
    ("fp8", "compute_89"),
    ("norm", "compute_80"),
    ("pointwise", "compute_80"),
    ("rope", "compute_80"),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=kernels");
    let nvcc = match env::var_os("CUDA_HOME") {
        Some(home) => PathBuf::from(home).join("bin/nvcc"),
        None => PathBuf::from("nvcc"),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for (name, target) in KERNELS {
        let status = Command::new(&nvcc)
            .args(["-ptx", "-O3", "-std=c++17", "-arch", target, "-o"])
            .arg(out.join(format!("{name}.ptx")))
            .arg(format!("kernels/{name}.cu"))
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("{} failed on kernels/{name}.cu: {status}", nvcc.display()),
            Err(error) => panic!("{}: {error}; the `cuda` feature needs it, see scripts/cuda-env", nvcc.display()),
        }
    }
}
