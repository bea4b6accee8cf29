//! Compiles `kernels/*.cu` to PTX under the `cuda` feature; does nothing otherwise.
//!
//! The target is the oldest architecture with bfloat16; the driver compiles for the card it finds.

use std::{env, path::PathBuf, process::Command};

const KERNELS: [&str; 4] = ["attention", "norm", "pointwise", "rope"];

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
    for name in KERNELS {
        let status = Command::new(&nvcc)
            .args(["-ptx", "-O3", "-std=c++17", "-arch=compute_80", "-o"])
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
