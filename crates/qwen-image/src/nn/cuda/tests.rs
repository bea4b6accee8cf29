//! Compares the GPU's kernels with plain candle expressions on the CPU, at odd sizes and on views into wider tensors.
//!
//! Without a GPU nothing is tested, and every test says so on stderr, which the test harness does not capture.

#![allow(clippy::print_stderr, reason = "if a tolerance is missed, the measured errors help")]

use std::io::Write;

use candle_core::{DType, Device, Result, Tensor};

use super::super::{
    AttentionMask, Conv2d, Linear, Padding, QkvPart, RmsNorm, Rotation, attention, gated_add, gated_norm,
    joint_attention_qkv, layer_norm_modulate, rms_normalize_silu, rotate_half, swiglu, upsample_nearest_2x,
};

fn gpu() -> Option<Device> {
    if !std::path::Path::new("/dev/nvidiactl").exists() {
        std::io::stderr().write_all(b"SKIPPED the GPU's kernels: this machine has no NVIDIA GPU\n").unwrap();
        return None;
    }
    Some(super::open(0).unwrap())
}

/// Numbers without a pattern that could hide a wrong kernel, rounded to bfloat16 so that both formats represent them.
fn values(shape: &[usize], seed: usize) -> Tensor {
    let count: usize = shape.iter().product();
    let data: Vec<f32> =
        (0..count).map(|i| (((i * 7919 + seed * 104_729) % 1_000_003) as f32 * 0.618_034).sin() * 1.7).collect();
    let exact = Tensor::from_vec(data, shape, &Device::Cpu).unwrap();
    exact.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap()
}

/// Compares `run` on the GPU, in both formats, with `run` on the CPU in float32.
#[track_caller]
fn check(what: &str, inputs: &[Tensor], run: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>) {
    check_to(6e-3, what, inputs, run);
}

/// Like [`check`], with another tolerance for bfloat16, because rounding matters more where sums cancel.
#[track_caller]
fn check_to(bar: f64, what: &str, inputs: &[Tensor], run: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>) {
    let Some(device) = gpu() else { return };
    let expected = run(inputs).unwrap();
    for (dtype, bar) in [(DType::F32, 1e-5), (DType::BF16, bar)] {
        let moved: Vec<_> = inputs.iter().map(|x| x.to_dtype(dtype).unwrap().to_device(&device).unwrap()).collect();
        let found = run(&moved).unwrap_or_else(|error| panic!("{what} {dtype:?}: {error}"));
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.dims(), expected.dims(), "{what} {dtype:?} {index}");
            let found = found.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
            let error = norm(&(found - expected).unwrap()) / norm(expected);
            eprintln!("{what} {dtype:?} {index}: {error:.2e}");
            assert!(error < bar, "{what} {dtype:?} {index}: relative error {error:e}");
        }
    }
}

fn norm(x: &Tensor) -> f64 {
    x.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
}

/// Tables are always float32.
fn rotation(angles: &Tensor) -> Result<Rotation> {
    let angles = angles.to_dtype(DType::F32)?;
    Ok(Rotation { cos: angles.cos()?, sin: angles.sin()? })
}

#[test]
fn linear_with_bias_gelu_and_views() {
    for (rows, inner, outer) in [(1, 37, 130), (5, 33, 20), (301, 40, 65), (1, 3072, 512), (257, 3072, 96)] {
        let inputs = [values(&[1, rows, inner + 11], 1), values(&[outer, inner], 2), values(&[outer], 3)];
        check(&format!("linear {rows} {inner} {outer}"), &inputs, |x| {
            let view = x[0].narrow(2, 5, inner)?;
            let small = (&x[1] * 0.1)?;
            let (plain, biased) = (Linear::new(&small, None)?, Linear::new(&small, Some(x[2].clone()))?);
            Ok(vec![plain.forward(&view)?, biased.forward(&view)?, biased.forward_gelu(&view)?])
        });
    }
}

/// Rounding to fp8 gives an error of about 2.5 percent per product; a wrong kernel gives more.
#[test]
fn linear_in_eight_bits() {
    let Some(device) = gpu() else { return };
    let shapes = [(1, 64, 48), (77, 3072, 96), (77, 12288, 3072), (256, 12288, 3072), (1000, 256, 512)];
    for (rows, inner, outer) in shapes {
        let on_gpu = |x: Tensor| x.to_dtype(DType::BF16).unwrap().to_device(&device).unwrap();
        let x = on_gpu(values(&[1, rows, inner + 16], 1)).narrow(2, 16, inner).unwrap();
        let weight = on_gpu((values(&[outer, inner], 2) * (1.0 / (inner as f64).sqrt())).unwrap());
        let plain = Linear::new(&weight, Some(on_gpu(values(&[outer], 3)))).unwrap();
        let small = plain.clone().into_fp8().unwrap();
        for (what, exact, found) in [
            ("plain", plain.forward(&x).unwrap(), small.forward(&x).unwrap()),
            ("gelu", plain.forward_gelu(&x).unwrap(), small.forward_gelu(&x).unwrap()),
        ] {
            let wide = |x: Tensor| x.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
            let (exact, found) = (wide(exact), wide(found));
            let error = norm(&(found - &exact).unwrap()) / norm(&exact);
            eprintln!("fp8 {what} {rows} {inner} {outer}: {error:.2e}");
            assert!(error < 4e-2, "{what} {rows} {inner} {outer}: relative error {error:e}");
        }
    }
}

#[test]
fn norms_and_gates() {
    for (s, width) in [(77, 60), (5, 37), (33, 3072), (3, 3584), (9, 1280), (2, 5)] {
        for tokens in [1, s] {
            let inputs = [
                values(&[1, s, 3 * width], 1),
                values(&[1, tokens, width], 2),
                values(&[1, tokens, width], 3),
                values(&[1, s, width], 4),
                values(&[width], 5),
            ];
            check(&format!("norms {s} {width} {tokens}"), &inputs, |x| {
                let view = x[0].narrow(2, width, width)?;
                let (sum, normed) = gated_norm(&x[3], &x[1], &view, &x[1], &x[2], 1e-6)?;
                Ok(vec![
                    layer_norm_modulate(&view, &x[1], &x[2], 1e-6)?,
                    gated_add(&x[3], &x[1], &view)?,
                    sum,
                    normed,
                    RmsNorm::new(x[4].clone(), 1e-6).forward(&view)?,
                ])
            });
        }
    }
    for (rows, width) in [(1000, 96), (333, 192), (77, 384), (50, 37), (3, 1000), (1, 8)] {
        let inputs = [values(&[1, rows, 1, width + 8], 1), values(&[width], 2)];
        check(&format!("normalize {rows} {width}"), &inputs, |x| {
            let view = x[0].narrow(3, 8, width)?;
            Ok(vec![rms_normalize_silu(&view, &x[1], false)?, rms_normalize_silu(&view, &x[1], true)?])
        });
    }
}

#[test]
fn joint_queries_keys_and_values() {
    for (heads, d, text, patches) in [(3, 20, 7, 70), (24, 128, 13, 65), (5, 128, 1, 3), (2, 64, 33, 31)] {
        let dim = heads * d;
        let inputs = [
            values(&[1, text, 48], 1),
            values(&[1, patches, 48], 2),
            values(&[3 * dim, 48], 3),
            values(&[3 * dim], 4),
            values(&[3 * dim, 48], 5),
            values(&[3 * dim], 6),
            values(&[d], 7),
            values(&[d], 8),
            values(&[text, d / 2], 9),
            values(&[patches, d / 2], 10),
        ];
        check(&format!("joint {heads} {d} {text} {patches}"), &inputs, |x| {
            let (norm_q, norm_k) = (RmsNorm::new(x[6].clone(), 1e-6), RmsNorm::new(x[7].clone(), 1e-6));
            let layers = [Linear::new(&x[2], Some(x[3].clone()))?, Linear::new(&x[4], Some(x[5].clone()))?];
            let rotations = [rotation(&x[8])?, rotation(&x[9])?];
            let part = |index: usize| QkvPart {
                x: &x[index],
                qkv: &layers[index],
                norm_q: &norm_q,
                norm_k: &norm_k,
                rotation: &rotations[index],
            };
            Ok(joint_attention_qkv(&[part(0), part(1)])?.into_iter().collect())
        });
    }
}

#[test]
fn attention_of_every_kind() {
    let shapes = [
        (1, 1, 1, 1, 8),
        (3, 700, 4, 2, 24),
        (300, 1100, 2, 1, 16),
        (129, 513, 6, 6, 5),
        (1, 777, 28, 4, 128),
        (260, 300, 24, 24, 128),
        (64, 64, 16, 16, 80),
        (50, 50, 1, 1, 384),
    ];
    for (s, t, h, g, d) in shapes {
        let inputs = [values(&[1, s, h, d], 1), values(&[1, t, 2 * g, d], 2), values(&[1, t, g, d], 3)];
        check_to(2e-2, &format!("attention {s} {t} {h} {g} {d}"), &inputs, |x| {
            let k = x[1].narrow(2, g, g)?;
            Ok(vec![
                attention(&x[0], &k, &x[2], 0.1, AttentionMask::All)?,
                attention(&x[0], &k, &x[2], 0.1, AttentionMask::Causal { past: t - s })?,
            ])
        });
    }
    let bounds = [0, 7, 7, 150, 900];
    for d in [8, 80, 200] {
        let inputs = [values(&[1, 900, 2, d], 1), values(&[1, 900, 2, d], 2), values(&[1, 900, 2, d], 3)];
        check_to(2e-2, &format!("segments {d}"), &inputs, |x| {
            Ok(vec![attention(&x[0], &x[1], &x[2], 0.1, AttentionMask::Segments(&bounds))?])
        });
    }
}

/// Long enough for the keys to be split between cuDNN and the kernel for the remaining keys.
#[test]
fn attention_to_keys_that_fill_no_tile() {
    let Some(device) = gpu() else { return };
    for (s, t, heads) in [(65, 8192 + 1, 3), (300, 8192 + 44, 2), (17, 8192 + 65, 1), (129, 8320 + 127, 2)] {
        // Also sharp rows, some of which have nearly all their weight in the remaining keys.
        for scale in [0.05, 1.0] {
            let inputs =
                [values(&[1, s, heads, 128], 1), values(&[1, t, 3 * heads, 128], 2), values(&[1, t, heads, 128], 3)];
            let run = |x: &[Tensor]| attention(&x[0], &x[1].narrow(2, heads, heads)?, &x[2], scale, AttentionMask::All);
            let expected = run(&inputs).unwrap();
            let moved: Vec<_> =
                inputs.iter().map(|x| x.to_dtype(DType::BF16).unwrap().to_device(&device).unwrap()).collect();
            let found = run(&moved).unwrap().to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
            let error = norm(&(found - &expected).unwrap()) / norm(&expected);
            eprintln!("tail {s} {t} {heads} {scale}: {error:.2e}");
            // The same tolerance as above, because of cancellation.
            assert!(error < 2e-2, "{s} {t} {heads} {scale}: relative error {error:e}");
        }
    }
}

#[test]
fn rotations_gates_and_pixels() {
    for (s, heads, d) in [(77, 3, 20), (5, 28, 128), (9, 16, 80)] {
        let width = heads * d;
        let inputs = [values(&[1, s, 3 * width], 1), values(&[s, d], 2)];
        check(&format!("halves {s} {heads} {d}"), &inputs, |x| {
            let view = x[0].reshape((1, s, 3 * heads, d))?.narrow(2, heads, heads)?;
            let gate = x[0].narrow(2, 0, width)?;
            let up = x[0].narrow(2, width, width)?;
            Ok(vec![rotate_half(&view, &rotation(&x[1])?)?, swiglu(&gate, &up)?])
        });
    }
    for c in [4, 8, 5] {
        check("upsample", &[values(&[2, 3, 5, c], 1)], |x| Ok(vec![upsample_nearest_2x(&x[0])?]));
    }
}

#[test]
fn convolutions_of_every_kind_the_vae_has() {
    for (kernel, stride, padding) in
        [(3, 1, Padding::SAME), (3, 2, Padding::FAR), (1, 1, Padding::NONE), (3, 1, Padding::NONE)]
    {
        for (n, h, w, c, out) in [(1, 9, 13, 5, 7), (2, 40, 32, 24, 3), (1, 4, 4, 3, 32), (1, 32, 48, 96, 192)] {
            let inputs = [values(&[n, h, w, c], 1), values(&[out, c, kernel, kernel], 2), values(&[out], 3)];
            check(&format!("conv {kernel} {stride} {n} {h} {w} {c} {out}"), &inputs, |x| {
                let conv = Conv2d::new(&x[1], x[2].clone(), stride, padding)?;
                let plain = conv.forward(&x[0])?;
                let residual = (plain.contiguous()?.flip(&[1])? * 0.5)?;
                Ok(vec![plain, conv.forward_add(&x[0], &residual)?])
            });
        }
    }
}

/// Blocks of every format, and fp8, as the CPU reads them; and products that read them.
#[test]
fn weights_in_blocks_and_in_fp8() {
    use candle_core::quantized::{GgmlDType as Format, QTensor};

    use super::super::{QuantizedWeight, Weight};
    let Some(device) = gpu() else { return };
    let wide = |x: &Tensor| x.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    let near = |what: String, found: &Tensor, expected: &Tensor, bar: f64| {
        let error = norm(&(wide(found) - expected).unwrap()) / norm(expected);
        eprintln!("{what}: {error:.2e}");
        assert!(error < bar, "{what}: relative error {error:e}");
    };
    let (rows, width) = (48, 768);
    let formats = [
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q2K,
        Format::Q3K,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
        Format::Q8K,
    ];
    let matrix = values(&[rows, width], 1);
    let x = values(&[1, 33, width], 2);
    let bias = values(&[rows], 3);
    let on_gpu = |x: &Tensor| x.to_dtype(DType::BF16).unwrap().to_device(&device).unwrap();
    let mut all = Vec::new();
    for format in formats {
        let stored = QTensor::quantize(&matrix, format).unwrap();
        let expected = stored.dequantize(&Device::Cpu).unwrap();
        let bytes = stored.data().unwrap();
        let blocks = |device: &Device| Tensor::from_slice(&bytes, bytes.len(), device).unwrap();
        let weight = Weight::Quantized(QuantizedWeight::new(blocks(&device), format, (rows, width)).unwrap());
        near(format!("{format:?} f32"), &weight.dequantize(DType::F32).unwrap(), &expected, 1e-6);
        near(format!("{format:?} bf16"), &weight.dequantize(DType::BF16).unwrap(), &expected, 3e-3);
        let (fp8, scales) = weight.to_fp8().unwrap();
        let fp8 = Weight::fp8(fp8, &scales).unwrap();
        near(format!("{format:?} fp8"), &fp8.dequantize(DType::F32).unwrap(), &expected, 4e-2);
        // Blocks that cross rows.
        let crossed = QuantizedWeight::new(blocks(&device), format, (width, rows)).unwrap();
        let reshaped = expected.reshape((width, rows)).unwrap();
        near(format!("{format:?} crossed"), &crossed.dequantize(DType::F32).unwrap(), &reshaped, 1e-6);
        let layer = Linear::from_weight(weight.clone(), Some(on_gpu(&bias)));
        let product = Linear::new(&expected, Some(bias.clone())).unwrap();
        let wanted = product.forward(&x).unwrap();
        near(format!("{format:?} product"), &layer.forward(&on_gpu(&x)).unwrap(), &wanted, 8e-3);
        let gelu = product.forward_gelu(&x).unwrap();
        near(format!("{format:?} gelu"), &layer.forward_gelu(&on_gpu(&x)).unwrap(), &gelu, 1e-2);
        let small = layer.into_fp8().unwrap();
        near(format!("{format:?} fp8 product"), &small.forward(&on_gpu(&x)).unwrap(), &wanted, 5e-2);
        all.push((weight, expected));
    }
    // Rounded on the GPU and on the CPU alike, with their scales, and with one for all rows.
    let gpu_rows = Weight::dense(&on_gpu(&matrix)).unwrap().rounded_to_fp8().unwrap();
    let cpu_rows = Weight::dense(&matrix).unwrap().rounded_to_fp8().unwrap().dequantize(DType::F32).unwrap();
    near("fp8 rows".to_owned(), &gpu_rows.dequantize(DType::F32).unwrap(), &cpu_rows, 1e-3);
    let Weight::Fp8 { rows: numbers, .. } = &gpu_rows else { panic!("not rounded") };
    let one = Weight::fp8(numbers.clone(), &Tensor::new(0.5_f32, &device).unwrap()).unwrap();
    let halves = (Weight::fp8(numbers.clone(), &Tensor::new(1.0_f32, &device).unwrap()).unwrap())
        .dequantize(DType::F32)
        .unwrap();
    near("one scale".to_owned(), &one.dequantize(DType::BF16).unwrap(), &(wide(&halves) * 0.5).unwrap(), 3e-3);
    all.push((gpu_rows, cpu_rows));
    // Several forms in one weight, as files mix them.
    let weights: Vec<_> = all.iter().map(|(weight, _)| weight).collect();
    let expected = Tensor::cat(&all.iter().map(|(_, matrix)| matrix).collect::<Vec<_>>(), 0).unwrap();
    let mixed = Linear::from_weight(Weight::stacked(&weights).unwrap(), None);
    let wanted = Linear::new(&expected, None).unwrap().forward(&x).unwrap();
    near("mixed".to_owned(), &mixed.forward(&on_gpu(&x)).unwrap(), &wanted, 8e-3);
    near("mixed fp8".to_owned(), &mixed.into_fp8().unwrap().forward(&on_gpu(&x)).unwrap(), &wanted, 5e-2);
}
