//! Compares the CPU kernels with plain candle expressions, at odd sizes and on views into wider tensors.

use candle_core::{D, DType, Device, Result, Tensor};

use super::*;

/// Numbers without a pattern that could hide a wrong kernel.
fn values(shape: &[usize], seed: usize) -> Tensor {
    let count: usize = shape.iter().product();
    let data: Vec<f32> = (0..count).map(|i| ((i * 7919 + seed * 104_729) as f32 * 0.618_034).sin() * 1.7).collect();
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

#[track_caller]
fn assert_near(found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims());
    let norm = |x: &Tensor| {
        x.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
    };
    let error = norm(&(found - expected).unwrap()) / norm(expected);
    assert!(error < 2e-6, "relative error {error:e}");
}

#[test]
fn linear_for_one_row_few_rows_and_many() -> Result<()> {
    for (rows, inner, outer) in [(1, 37, 130), (1, 64, 7), (5, 33, 20), (48, 16, 16), (301, 40, 65)] {
        let wide = values(&[1, rows, inner + 11], 1);
        let x = wide.narrow(2, 5, inner)?;
        let (weight, bias) = (values(&[outer, inner], 2), values(&[outer], 3));
        let plain = x.contiguous()?.reshape((rows, inner))?.matmul(&weight.t()?)?.reshape((1, rows, outer))?;
        assert_near(&Linear::new(&weight, None)?.forward(&x)?, &plain);
        let biased = plain.broadcast_add(&bias)?;
        let linear = Linear::new(&weight, Some(bias))?;
        assert_near(&linear.forward(&x)?, &biased);
        let twice = Linear::stacked(&[linear.clone(), linear])?.forward(&x)?;
        assert_near(&twice, &Tensor::cat(&[&biased, &biased], 2)?);
    }
    Ok(())
}

#[test]
fn a_weight_in_blocks_computes_as_what_it_dequantizes_to() -> Result<()> {
    use candle_core::quantized::{GgmlDType, QTensor};

    let (x, bias) = (values(&[1, 9, 64], 1), values(&[10], 3));
    for format in [GgmlDType::Q4_0, GgmlDType::Q8_0] {
        let stored = QTensor::quantize(&values(&[10, 64], 2), format)?;
        let plain = Linear::new(&stored.dequantize(&Device::Cpu)?, Some(bias.clone()))?;
        let bytes = stored.data()?;
        let tensor = |bytes: &[u8]| Tensor::from_slice(bytes, bytes.len(), &Device::Cpu);
        let blocks = QuantizedWeight::new(tensor(&bytes)?, format, (10, 64))?;
        let mut layer = Linear::from_weight(Weight::Quantized(blocks), Some(bias.clone()));
        assert_near(&layer.forward(&x)?, &plain.forward(&x)?);
        let twice = Linear::stacked(&[layer.clone(), layer.clone()])?;
        assert_near(&twice.forward(&x)?, &Linear::stacked(&[plain.clone(), plain])?.forward(&x)?);
        // It is offloaded like any other weight: its bytes are moved away and back.
        let before = layer.forward(&x)?;
        let copy = HostWeights::of(&mut layer, &Device::Cpu)?;
        release(&mut layer)?;
        let buffer = CopyStream::new(&Device::Cpu)?.bring(&copy, &Device::Cpu)?;
        copy.point(&mut layer, &buffer)?;
        assert_near(&layer.forward(&x)?, &before);
        assert!(QuantizedWeight::new(tensor(&bytes[1..])?, format, (10, 64)).is_err());
        assert!(QuantizedWeight::new(tensor(&bytes)?, format, (20, 32 - 1)).is_err());
    }
    Ok(())
}

#[test]
fn a_low_rank_change_is_the_same_merged_and_at_run_time() -> Result<()> {
    let (x, weight) = (values(&[1, 7, 24], 1), values(&[15, 24], 2));
    let change = LowRank { down: values(&[3, 24], 4), up: values(&[15, 3], 5), strength: 0.7 };
    let merged = Linear::new(&change.merge_into(&weight)?, None)?;
    let at_run_time = Linear::new(&weight, None)?.with_adapters(vec![change.clone()]);
    assert_near(&at_run_time.forward(&x)?, &merged.forward(&x)?);
    let nothing = LowRank { strength: 0.0, ..change.clone() };
    assert_eq!(nothing.merge_into(&weight)?.to_vec2::<f32>()?, weight.to_vec2::<f32>()?);
    assert!(change.merge_into(&values(&[15, 23], 2)).is_err());
    Ok(())
}

#[test]
fn attention_over_many_blocks_and_every_mask() -> Result<()> {
    let plain = |q: &Tensor, k: &Tensor, v: &Tensor, bias: &Tensor| -> Result<Tensor> {
        let (_, s, h, d) = q.dims4()?;
        let (_, t, g, _) = k.dims4()?;
        let spread = |x: &Tensor| x.unsqueeze(3)?.expand((1, t, g, h / g, d))?.reshape((1, t, h, d));
        let heads = |x: &Tensor| x.transpose(1, 2)?.contiguous();
        let scores = (heads(q)?.matmul(&heads(&spread(k)?)?.t()?)? * 0.3)?.broadcast_add(bias)?;
        let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
        weights.matmul(&heads(&spread(v)?)?)?.transpose(1, 2)?.reshape((1, s, h * d))
    };
    let bias = |s: usize, t: usize, visible: &dyn Fn(usize, usize) -> bool| {
        let data: Vec<f32> = (0..s * t).map(|i| if visible(i / t, i % t) { 0.0 } else { f32::NEG_INFINITY }).collect();
        Tensor::from_vec(data, (1, 1, s, t), &Device::Cpu).unwrap()
    };
    for (s, t, h, g, d) in [(1, 1, 1, 1, 8), (3, 700, 4, 2, 24), (300, 1100, 2, 1, 16), (129, 513, 6, 6, 5)] {
        let (q, k, v) = (values(&[1, s, h, d], 1), values(&[1, t, g, d], 2), values(&[1, t, g, d], 3));
        let all = attention(&q, &k, &v, 0.3, AttentionMask::All)?;
        assert_near(&all, &plain(&q, &k, &v, &bias(s, t, &|_, _| true))?);
        let past = t - s;
        let causal = attention(&q, &k, &v, 0.3, AttentionMask::Causal { past })?;
        assert_near(&causal, &plain(&q, &k, &v, &bias(s, t, &|row, key| key <= row + past))?);
    }
    let bounds = [0, 7, 7, 150, 900];
    let (q, k, v) = (values(&[1, 900, 2, 8], 1), values(&[1, 900, 2, 8], 2), values(&[1, 900, 2, 8], 3));
    let segment = |row: usize| bounds.iter().filter(|&&bound| bound <= row).count();
    let found = attention(&q, &k, &v, 0.3, AttentionMask::Segments(&bounds))?;
    assert_near(&found, &plain(&q, &k, &v, &bias(900, 900, &|row, key| segment(row) == segment(key)))?);
    Ok(())
}

#[test]
fn convolutions_of_every_kind_the_vae_has() -> Result<()> {
    for (kernel, stride, padding) in
        [(3, 1, Padding::SAME), (3, 2, Padding::FAR), (1, 1, Padding::NONE), (3, 1, Padding::NONE)]
    {
        for (n, h, w, c, out) in [(1, 9, 13, 5, 7), (2, 40, 31, 24, 3), (1, 4, 4, 1, 33)] {
            let x = values(&[n, h, w, c], 1);
            let (weight, bias) = (values(&[out, c, kernel, kernel], 2), values(&[out], 3));
            let plain = x
                .permute((0, 3, 1, 2))?
                .pad_with_zeros(2, padding.top, padding.bottom)?
                .pad_with_zeros(3, padding.left, padding.right)?
                .contiguous()?
                .conv2d(&weight, 0, stride, 1, 1)?
                .permute((0, 2, 3, 1))?
                .broadcast_add(&bias)?;
            assert_near(&Conv2d::new(&weight, bias, stride, padding)?.forward(&x)?, &plain);
        }
    }
    let x = values(&[2, 3, 5, 4], 1);
    let plain = x.permute((0, 3, 1, 2))?.upsample_nearest2d(6, 10)?.permute((0, 2, 3, 1))?;
    assert_near(&upsample_nearest_2x(&x)?, &plain);
    Ok(())
}

#[test]
fn norms_gates_and_rotations_on_views() -> Result<()> {
    let (s, heads, d) = (77, 3, 20);
    let width = heads * d;
    let wide = values(&[1, s, 3 * width], 1);
    let x = wide.narrow(2, width, width)?;
    let whole = x.contiguous()?;

    let norm = RmsNorm::new(values(&[width], 2), 1e-6);
    let mean = whole.sqr()?.mean_keepdim(D::Minus1)?;
    let plain = whole.broadcast_div(&(mean + 1e-6)?.sqrt()?)?.broadcast_mul(norm.weight())?;
    assert_near(&norm.forward(&x)?, &plain);

    for tokens in [1, s] {
        let (scale, shift) = (values(&[1, tokens, width], 3), values(&[1, tokens, width], 4));
        let centered = whole.broadcast_sub(&whole.mean_keepdim(D::Minus1)?)?;
        let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centered.broadcast_div(&(variance + 1e-6)?.sqrt()?)?;
        let plain = normed.broadcast_mul(&(&scale + 1.0)?)?.broadcast_add(&shift)?;
        assert_near(&layer_norm_modulate(&x, &scale, &shift, 1e-6)?, &plain);
        assert_near(
            &gated_add(&shift.broadcast_as(whole.shape())?.contiguous()?, &scale, &x)?,
            &whole.broadcast_mul(&scale)?.broadcast_add(&shift)?,
        );
    }

    let gamma = values(&[width], 5);
    let length = whole.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    let plain = (whole.broadcast_div(&length)? * (width as f64).sqrt())?.broadcast_mul(&gamma)?;
    assert_near(&rms_normalize_silu(&x, &gamma, false)?, &plain);
    assert_near(&rms_normalize_silu(&x, &gamma, true)?, &plain.silu()?);
    assert_near(&gelu_tanh(&x)?, &whole.gelu()?);
    assert_near(&silu(&x)?, &whole.silu()?);
    assert_near(&swiglu(&x, &wide.narrow(2, 0, width)?)?, &(whole.silu()? * wide.narrow(2, 0, width)?.contiguous()?)?);

    let angles = values(&[s, d / 2], 6);
    let rotation = Rotation { cos: angles.cos()?, sin: angles.sin()? };
    let norm = RmsNorm::new(values(&[d], 7), 1e-6);
    let normed = norm.forward(&whole.reshape((1, s, heads, d))?)?.reshape((1, s, heads, d / 2, 2))?;
    let (re, im) = (normed.narrow(4, 0, 1)?.squeeze(4)?, normed.narrow(4, 1, 1)?.squeeze(4)?);
    let (cos, sin) = (rotation.cos.reshape((1, s, 1, d / 2))?, rotation.sin.reshape((1, s, 1, d / 2))?);
    let transposed =
        [(re.broadcast_mul(&cos)? - im.broadcast_mul(&sin)?)?, (re.broadcast_mul(&sin)? + im.broadcast_mul(&cos)?)?];
    assert_near(&qk_norm_rope(&x, &norm, &rotation)?, &Tensor::stack(&transposed, 4)?.reshape((1, s, heads, d))?);

    let angles = values(&[s, d], 8);
    let rotation = Rotation { cos: angles.cos()?, sin: angles.sin()? };
    let y = whole.reshape((1, s, heads, d))?;
    let half = Tensor::cat(&[y.narrow(3, d / 2, d / 2)?.neg()?, y.narrow(3, 0, d / 2)?], 3)?;
    let (cos, sin) = (rotation.cos.reshape((1, s, 1, d))?, rotation.sin.reshape((1, s, 1, d))?);
    assert_near(&rotate_half(&y, &rotation)?, &(y.broadcast_mul(&cos)? + half.broadcast_mul(&sin)?)?);
    Ok(())
}

#[test]
fn fp8_rows_keep_their_scales_and_forms_can_be_mixed() -> Result<()> {
    use candle_core::quantized::{GgmlDType, QTensor};

    let bytes: Vec<u8> = (0..6 * 32_u32).map(|i| (i * 37 % 126) as u8 | (i % 2 * 128) as u8).collect();
    let numbers: Vec<f32> = bytes.iter().map(|bits| float8::e4m3(*bits)).collect();
    let rows = Tensor::from_raw_buffer(&bytes, DType::F8E4M3, &[6, 32], &Device::Cpu)?;
    let scales = Tensor::new(&[0.5_f32, 1.0, 2.0, 0.25, 4.0, 1.5], &Device::Cpu)?;
    let matrix = Tensor::from_vec(numbers, (6, 32), &Device::Cpu)?;
    let fp8 = Weight::fp8(rows.clone(), &scales)?;
    assert_near(&fp8.dequantize(DType::F32)?, &matrix.broadcast_mul(&scales.reshape((6, 1))?)?);
    let whole = Weight::fp8(rows.clone(), &Tensor::new(0.5_f32, &Device::Cpu)?)?;
    assert_near(&whole.dequantize(DType::F32)?, &(&matrix * 0.5)?);
    assert!(Weight::fp8(rows, &scales.narrow(0, 0, 4)?).is_err());

    let stored = QTensor::quantize(&values(&[4, 32], 5), GgmlDType::Q5_0)?;
    let bytes = stored.data()?;
    let bytes = Tensor::from_slice(&bytes, bytes.len(), &Device::Cpu)?;
    let blocks = Weight::Quantized(QuantizedWeight::new(bytes, GgmlDType::Q5_0, (4, 32))?);
    let dense = Weight::dense(&values(&[2, 32], 6))?;
    let mixed = Weight::stacked(&[&fp8, &blocks, &dense])?;
    let expected =
        Tensor::cat(&[fp8.dequantize(DType::F32)?, stored.dequantize(&Device::Cpu)?, values(&[2, 32], 6)], 0)?;
    assert_eq!(mixed.shape()?, (12, 32));
    assert_near(&mixed.dequantize(DType::F32)?, &expected);
    for rows in [1, 70] {
        let x = values(&[1, rows, 32], 7);
        let plain = Linear::new(&expected, None)?.forward(&x)?;
        assert_near(&Linear::from_weight(mixed.clone(), None).forward(&x)?, &plain);
    }
    Ok(())
}

#[test]
fn changes_of_stacked_weights_reach_their_own_rows() -> Result<()> {
    use candle_core::quantized::{GgmlDType, QTensor};

    let x = values(&[1, 5, 64], 1);
    let (mut layers, mut apart) = (Vec::new(), Vec::new());
    for (index, rows) in [8, 4, 12].into_iter().enumerate() {
        let stored = QTensor::quantize(&values(&[rows, 64], index), GgmlDType::Q8_0)?;
        let bytes = stored.data()?;
        let bytes = Tensor::from_slice(&bytes, bytes.len(), &Device::Cpu)?;
        let weight = Weight::Quantized(QuantizedWeight::new(bytes, GgmlDType::Q8_0, (rows, 64))?);
        let change = LowRank { down: values(&[2, 64], 10 + index), up: values(&[rows, 2], 20 + index), strength: 0.3 };
        // The second one has none.
        let changes = if index == 1 { Vec::new() } else { vec![change] };
        let layer = Linear::from_weight(weight, None).with_adapters(changes);
        apart.push(layer.forward(&x)?);
        layers.push(layer);
    }
    assert_near(&Linear::stacked(&layers)?.forward(&x)?, &Tensor::cat(&apart, 2)?);
    Ok(())
}
