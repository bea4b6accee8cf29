use candle_core::{DType, Device, Tensor};
use qwen_image::{
    models::vae::{Tiling, Vae},
    nn::upsample_nearest_2x,
};

use super::bars::{COMPONENT, assert_close, golden, relative_error, tensors};

fn load(checkpoint: &str, tiling: Tiling) -> Vae {
    Vae::load(&golden(checkpoint).join("vae"), &Device::Cpu, DType::F32, tiling).unwrap()
}

/// `(1, c, 1, h, w)` -> `(1, h, w, c)`.
fn channels_last(x: &Tensor) -> Tensor {
    x.squeeze(2).unwrap().permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
}

/// The stored latents are the VAE's own; ours are normalized as the transformer takes them.
fn normalize(latent: &Tensor, checkpoint: &str) -> Tensor {
    let text = std::fs::read_to_string(golden(checkpoint).join("vae/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    let row = |name: &str| -> Tensor {
        let values: Vec<f32> = config[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        Tensor::new(values, &Device::Cpu).unwrap()
    };
    latent.broadcast_sub(&row("latents_mean")).unwrap().broadcast_div(&row("latents_std")).unwrap()
}

fn check(checkpoint: &str, reference: &str) {
    let vae = load(checkpoint, Tiling::default());
    let tensors = tensors(reference);
    let latents = vae.encode(&channels_last(&tensors["image"])).unwrap();
    let expected = normalize(&channels_last(&tensors["latent"]), checkpoint);
    assert_close(&format!("{reference} encode"), &latents, &expected, COMPONENT);
    let given = normalize(&channels_last(&tensors["given_latent"]), checkpoint);
    let picture = vae.decode(&given).unwrap();
    assert_close(&format!("{reference} decode"), &picture, &channels_last(&tensors["decoded"]), COMPONENT);
}

#[test]
fn layered_with_four_channels() {
    check("checkpoints/layered", "vae_layered");
}

#[test]
fn edit_with_three_channels() {
    check("checkpoints/edit", "vae_edit");
}

/// Where tiles meet the picture jumps no more than it does elsewhere. (The pixels themselves differ from those of the
/// whole picture: the attention at the lowest resolution sees a tile at a time.)
#[test]
fn tiles_are_clamped_and_seamless() {
    let whole = load("checkpoints/layered", Tiling::default());
    let tiled = load("checkpoints/layered", Tiling { threshold: 0, tile: 12, overlap: 6 });
    let (h, w) = (20_usize, 28_usize);
    let wave: Vec<f32> = (0..h * w * 16)
        .map(|i| {
            let (pixel, channel) = (i / 16, i % 16);
            let (y, x) = ((pixel / w) as f32, (pixel % w) as f32);
            (0.21 * x + 0.4 * channel as f32).sin() + (0.17 * y - 0.3 * channel as f32).cos()
        })
        .collect();
    let latents = Tensor::from_vec(wave, (1, h, w, 16), &Device::Cpu).unwrap();
    let (a, b) = (whole.decode(&latents).unwrap(), tiled.decode(&latents).unwrap());
    assert_eq!(a.dims(), &[1, h * 8, w * 8, 4]);
    println!("tiled decode against whole: {:.3}", relative_error(&b, &a));
    let values: Vec<f32> = b.flatten_all().unwrap().to_vec1().unwrap();
    assert!(values.iter().all(|v| (-1.0..=1.0).contains(v)), "not clamped");

    // Mean absolute step between neighboring columns, at every column.
    let steps = |x: &Tensor| -> Vec<f32> {
        let width = x.dim(2).unwrap();
        let left = x.narrow(2, 0, width - 1).unwrap();
        let right = x.narrow(2, 1, width - 1).unwrap();
        (right - left).unwrap().abs().unwrap().mean((0, 1, 3)).unwrap().to_vec1().unwrap()
    };
    let (whole_steps, tiled_steps) = (steps(&a), steps(&b));
    let worst = whole_steps.iter().copied().fold(0.0_f32, f32::max);
    let seam = tiled_steps.iter().copied().fold(0.0_f32, f32::max);
    println!("largest column step: whole {worst:.4}, tiled {seam:.4}");
    assert!(seam <= 1.1 * worst, "a seam of {seam:.4} where the whole picture steps by {worst:.4} at most");
}

/// With a stand-in for the network that looks at one latent at a time, tiling must change nothing at all.
#[test]
fn tiles_of_a_local_function_join_exactly() {
    let tiling = Tiling { threshold: 0, tile: 7, overlap: 3 };
    for (h, w) in [(20, 28), (7, 40), (5, 9), (8, 8)] {
        let values: Vec<f32> = (0..h * w * 2).map(|i| (i as f32 * 0.37).sin()).collect();
        let x = Tensor::from_vec(values, (1, h, w, 2), &Device::Cpu).unwrap();
        let grown = upsample_nearest_2x(&x).unwrap();
        let joined = tiling.decode(&x, 2, upsample_nearest_2x).unwrap();
        assert_close(&format!("decode {h}x{w}"), &joined, &grown, 1e-6);
        let shrink = |x: &Tensor| {
            let (_, h, w, c) = x.dims4()?;
            x.reshape((1, h / 2, 2, w / 2, 2, c))?.mean((2, 4))
        };
        assert_close(&format!("encode {h}x{w}"), &tiling.encode(&grown, 2, shrink).unwrap(), &x, 1e-6);
    }
}
