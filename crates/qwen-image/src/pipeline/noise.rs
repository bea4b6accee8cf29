//! The initial noise, equal to `torch.randn` with `torch.Generator("cpu").manual_seed(seed)`, so that a seed gives the
//! same picture as in diffusers.

use std::f64::consts::PI;

use rand_mt::Mt;

/// `count` standard normal float32 values.
///
/// 16 values or more: 24-bit uniforms, then Box-Muller over blocks of 16 (the first eight give radii, the last eight
/// angles); if the count is not a multiple of 16, the last 16 are drawn again. Fewer: pairs of 53-bit uniforms, one
/// value after the other. Source: ATen's `normal_fill` and `normal_distribution`.
pub fn randn(seed: u64, count: usize) -> Vec<f32> {
    // The generator takes the low 32 bits.
    let mut engine = Mt::new(seed as u32);
    if count < 16 {
        return scalar(&mut engine, count);
    }
    let mut values: Vec<f32> = (0..count).map(|_| uniform24(&mut engine)).collect();
    let whole = count / 16 * 16;
    for block in values[..whole].chunks_exact_mut(16) {
        box_muller(block);
    }
    if whole < count {
        let tail = &mut values[count - 16..];
        tail.fill_with(|| uniform24(&mut engine));
        box_muller(tail);
    }
    values
}

fn uniform24(engine: &mut Mt) -> f32 {
    (engine.next_u32() & 0xff_ffff) as f32 / 16_777_216.0
}

fn box_muller(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(8);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * (1.0 - *a).ln()).sqrt();
        let angle = 2.0 * std::f32::consts::PI * *b;
        (*a, *b) = (radius * angle.cos(), radius * angle.sin());
    }
}

fn scalar(engine: &mut Mt, count: usize) -> Vec<f32> {
    let mut uniform53 = || {
        let (high, low) = (u64::from(engine.next_u32()), u64::from(engine.next_u32()));
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64
    };
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let (u1, u2) = (uniform53(), uniform53());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let angle = 2.0 * PI * u1;
        values.push((radius * angle.cos()) as f32);
        values.push((radius * angle.sin()) as f32);
    }
    values.truncate(count);
    values
}
