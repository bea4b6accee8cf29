//! Measures how true layers are that are brought to their picture's size: true layers are shrunk to a model's size with
//! the noise that a decoder leaves, and brought back. It prints the tables of docs/fidelity.md.
//!
//! `cargo run --release -p qwen-image --example source_size [EXAMPLES]`

mod scenes;

use std::{env, error::Error, fs, path::PathBuf, time::Instant};

use image::{Rgb, RgbImage, RgbaImage};
use qwen_image::{
    image_processor::{bicubic_rgb, composite, lanczos},
    source_size::{CompositeFidelity, at_source_size, fidelity},
};

use crate::scenes::{Random, Scene};

/// The standard deviation of the noise on colors and alpha, of 255.
const NOISE: f64 = 3.0;
/// The size of the picture whose time and memory are measured, and of the model.
const LARGE: (u32, u32) = (6000, 4000);
const MODEL: (u32, u32) = (784, 528);

fn main() -> Result<(), Box<dyn Error>> {
    let examples = env::args().nth(1).map_or_else(|| PathBuf::from("examples"), PathBuf::from);
    let scenes = scenes::all(&examples)?;
    println!("| scene | model's size | resized | recomposed | largest error | edges | edges, cleaned | alpha |");
    println!("|---|---|---|---|---|---|---|---|");
    for Scene { name, layers } in &scenes {
        for shrink in [2, 4, 8] {
            let row = measure(layers, shrink)?;
            println!("| {name} | 1/{shrink} | {row} |");
        }
    }
    large(&scenes[0])
}

/// A row of the table.
fn measure(truth: &[RgbaImage], shrink: u32) -> Result<String, Box<dyn Error>> {
    let source = composite(truth)?;
    let (width, height) = source.dimensions();
    let small = degraded(truth, (width / shrink, height / shrink));
    let resized: Vec<_> = small.iter().map(|layer| lanczos(layer, width, height)).collect();
    let made = at_source_size(&source, &small)?;
    let before = fidelity(&source, &resized)?;
    let CompositeFidelity { psnr, max_error } = fidelity(&source, &made)?;
    let alphas = |layers: &[RgbaImage]| layers.iter().skip(1).map(alpha).collect::<Vec<_>>();
    let bicubic: Vec<_> = small.iter().skip(1).map(|layer| bicubic_alpha(layer, width, height)).collect();
    let cleaned: Vec<Vec<f64>> = bicubic.iter().map(|alpha| alpha.iter().copied().map(clean).collect()).collect();
    let (truth, made) = (alphas(truth), alphas(&made));
    let ratio = |error: fn(&[f64], &[f64], usize) -> f64, to: &[Vec<f64>]| {
        let sum =
            |found: &[Vec<f64>]| -> f64 { truth.iter().zip(found).map(|(a, b)| error(a, b, width as usize)).sum() };
        sum(&made) / sum(to)
    };
    Ok(format!(
        "{} | {} | {max_error} | {:.2} | {:.2} | {:.2}",
        decibels(before.psnr),
        decibels(psnr),
        ratio(gradient_error, &bicubic),
        ratio(gradient_error, &cleaned),
        ratio(absolute_error, &bicubic)
    ))
}

fn decibels(psnr: Option<f64>) -> String {
    psnr.map_or("exact".to_owned(), |psnr| format!("{psnr:.1} dB"))
}

/// Layers as a model of another size would give them.
fn degraded(layers: &[RgbaImage], (width, height): (u32, u32)) -> Vec<RgbaImage> {
    let mut random = Random(1);
    let mut degrade = |layer: &RgbaImage| {
        let mut small = lanczos(layer, width, height);
        small.iter_mut().for_each(|byte| *byte = (f64::from(*byte) + random.normal() * NOISE).round() as u8);
        small
    };
    layers.iter().map(&mut degrade).collect()
}

fn alpha(layer: &RgbaImage) -> Vec<f64> {
    layer.pixels().map(|pixel| f64::from(pixel[3])).collect()
}

fn bicubic_alpha(layer: &RgbaImage, width: u32, height: u32) -> Vec<f64> {
    let gray = RgbImage::from_fn(layer.width(), layer.height(), |x, y| Rgb([layer.get_pixel(x, y)[3]; 3]));
    bicubic_rgb(&gray, width, height).pixels().map(|pixel| f64::from(pixel[0])).collect()
}

/// Alpha without the noise of almost clear and almost opaque pixels.
fn clean(alpha: f64) -> f64 {
    match alpha / 255.0 {
        share if share < 0.02 => 0.0,
        share if share > 0.98 => 255.0,
        _ => alpha,
    }
}

/// The sum of absolute differences.
fn absolute_error(truth: &[f64], found: &[f64], _width: usize) -> f64 {
    truth.iter().zip(found).map(|(a, b)| (a - b).abs()).sum()
}

/// The sum of absolute differences of the gradients' lengths.
fn gradient_error(truth: &[f64], found: &[f64], width: usize) -> f64 {
    let gradient =
        |alpha: &[f64], at: usize| (alpha[at + 1] - alpha[at - 1]).hypot(alpha[at + width] - alpha[at - width]) / 2.0;
    let inside = (width..truth.len() - width).filter(|at| (1..width - 1).contains(&(at % width)));
    inside.map(|at| (gradient(truth, at) - gradient(found, at)).abs()).sum()
}

/// Time and memory of a large picture with four layers.
fn large(scene: &Scene) -> Result<(), Box<dyn Error>> {
    let (width, height) = LARGE;
    let small = degraded(&scene.layers[..4], MODEL);
    let source = lanczos(&composite(&scene.layers[..4])?, width, height);
    let before = peak_memory();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let layers = at_source_size(&source, &small)?;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let peak = peak_memory();
    let CompositeFidelity { psnr, max_error } = fidelity(&source, &layers)?;
    println!("\n{width}x{height}, 4 layers from {}x{}: {seconds:.2} s, {cpu:.2} s of processor time", MODEL.0, MODEL.1);
    if let (Some(before), Some(peak)) = (before, peak) {
        println!("peak memory {peak} MiB, {before} MiB before the step (with the picture, {} MiB)", source.len() >> 20);
    }
    println!("recomposed: {}, largest error {max_error}", decibels(psnr));
    Ok(())
}

/// Of all threads; 0 where the system does not say it. Linux counts in hundredths.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// In MiB, where the system says it.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? >> 10)
}
