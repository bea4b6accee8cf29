//! Stacks of true layers: painted ones, drawn ones, and pictures with cut-outs whose alpha is known.

use std::{error::Error, f64::consts::TAU, path::Path};

use image::{Rgba, RgbaImage};
use qwen_image::image_processor::lanczos;

pub struct Scene {
    pub name: &'static str,
    /// Back to front, the first opaque.
    pub layers: Vec<RgbaImage>,
}

/// Pseudo-random numbers from 0 to 1, always the same.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / f64::from(1_u32 << 31)
    }

    /// With a standard deviation of 1.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.next().max(1e-12).ln()).sqrt() * (TAU * self.next()).cos()
    }
}

/// All scenes; `examples` is the folder with the sample pictures.
pub fn all(examples: &Path) -> Result<Vec<Scene>, Box<dyn Error>> {
    let open = |name: &str| image::open(examples.join(name)).map(|image| image.to_rgba8());
    let poster = ["1-sky", "2-star", "3-hills", "4-tree", "5-house"].map(|name| open(&format!("poster/{name}.png")));
    let (seaside, still_life) = (open("seaside.jpg")?, open("still-life.jpg")?);
    Ok(vec![
        Scene { name: "poster: painted, hard edges", layers: poster.into_iter().collect::<Result<_, _>>()? },
        Scene { name: "cut-out: a picture on another, with its shadow", layers: cut_out(&seaside, &still_life) },
        Scene { name: "hair: 400 strokes of 1 to 3 pixels on a picture", layers: hair(&seaside) },
        Scene { name: "glass: half transparent, on texture", layers: glass(&still_life) },
    ])
}

/// A soft-edged shape of the second picture over the first, and its shadow.
fn cut_out(back: &RgbaImage, front: &RgbaImage) -> Vec<RgbaImage> {
    let (width, height) = back.dimensions();
    let front = lanczos(front, width, height);
    let inside = |x: f64, y: f64| {
        let (x, y) = (x / f64::from(width) - 0.5, y / f64::from(height) - 0.5);
        let angle = y.atan2(x);
        (0.3 + 0.04 * (7.0 * angle).sin() + 0.02 * (23.0 * angle).cos() - x.hypot(y)) * f64::from(height)
    };
    let mut cut = front;
    let mut shadow = RgbaImage::from_pixel(width, height, Rgba([10, 10, 25, 0]));
    for (x, y, pixel) in cut.enumerate_pixels_mut() {
        pixel[3] = cover(inside(f64::from(x), f64::from(y)) / 1.5 + 0.5, 255.0);
    }
    for (x, y, pixel) in shadow.enumerate_pixels_mut() {
        pixel[3] = cover(inside(f64::from(x) - 14.0, f64::from(y) - 18.0) / 24.0 + 0.5, 120.0);
    }
    vec![back.clone(), shadow, cut]
}

/// Strokes from the top of a disk outward.
fn hair(back: &RgbaImage) -> Vec<RgbaImage> {
    let (width, height) = back.dimensions();
    let mut random = Random(5);
    let mut alpha = vec![0.0_f64; (width * height) as usize];
    let (cx, cy, radius) = (f64::from(width) * 0.5, f64::from(height) * 0.62, f64::from(height) * 0.2);
    for _ in 0..400 {
        let angle = -random.next() * TAU / 2.0;
        let (length, thick, bend) = (radius * (0.5 + random.next()), 0.5 + random.next(), random.next() - 0.5);
        for step in 0..200 {
            let along = f64::from(step) / 200.0;
            let turned = angle + bend * along;
            let (x, y) = (cx + turned.cos() * (radius + along * length), cy + turned.sin() * (radius + along * length));
            splat(&mut alpha, (width, height), (x, y), thick * (1.0 - 0.7 * along));
        }
    }
    let layer = RgbaImage::from_fn(width, height, |x, y| {
        let disk = (radius - (f64::from(x) - cx).hypot(f64::from(y) - cy) + 0.5).clamp(0.0, 1.0);
        let shade = random.next() * 30.0;
        let seen = alpha[(y * width + x) as usize].max(disk);
        Rgba([(70.0 + shade) as u8, (40.0 + shade) as u8, (25.0 + shade * 0.5) as u8, cover(seen, 255.0)])
    });
    vec![back.clone(), layer]
}

fn splat(alpha: &mut [f64], (width, height): (u32, u32), (x, y): (f64, f64), radius: f64) {
    let reach = |at: f64, end: u32| (at - radius - 1.0).max(0.0) as u32..((at + radius + 2.0).max(0.0) as u32).min(end);
    for py in reach(y, height) {
        for px in reach(x, width) {
            let seen = (radius + 0.5 - (f64::from(px) - x).hypot(f64::from(py) - y)).clamp(0.0, 1.0);
            let pixel = &mut alpha[(py * width + px) as usize];
            *pixel = pixel.max(seen);
        }
    }
}

/// Two panes that overlap on a picture.
fn glass(back: &RgbaImage) -> Vec<RgbaImage> {
    let (width, height) = back.dimensions();
    let pane = |left: f64, color: [u8; 3], most: f64| {
        RgbaImage::from_fn(width, height, |x, y| {
            let (u, v) = (f64::from(x) / f64::from(width), f64::from(y) / f64::from(height));
            let slanted = u - 0.15 * v - left;
            let edge = slanted.min(0.45 - slanted).min(v - 0.1).min(0.9 - v) * f64::from(width);
            Rgba([color[0], color[1], color[2], cover(edge, most * (0.8 + 0.2 * v))])
        })
    };
    vec![back.clone(), pane(0.1, [40, 120, 220], 130.0), pane(0.3, [230, 170, 40], 110.0)]
}

fn cover(share: f64, most: f64) -> u8 {
    (share.clamp(0.0, 1.0) * most).round() as u8
}
