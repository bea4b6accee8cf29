//! The scales of GGUF's blocks.

use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

/// The bytes of a block, and where its scales and offsets are: half-precision numbers, as ggml's `block_*` have them.
fn scales_of(format: GgmlDType) -> Option<(usize, &'static [usize])> {
    Some(match format {
        GgmlDType::Q4_0 => (18, &[0]),
        GgmlDType::Q4_1 => (20, &[0, 2]),
        GgmlDType::Q5_0 => (22, &[0]),
        GgmlDType::Q5_1 => (24, &[0, 2]),
        GgmlDType::Q8_0 => (34, &[0]),
        GgmlDType::Q2K => (84, &[80, 82]),
        GgmlDType::Q3K => (110, &[108]),
        GgmlDType::Q4K => (144, &[0, 2]),
        GgmlDType::Q5K => (176, &[0, 2]),
        GgmlDType::Q6K => (210, &[208]),
        _ => return None,
    })
}

/// The first block with a scale that is not a finite number.
pub(super) fn not_finite(bytes: &[u8], format: GgmlDType) -> Option<usize> {
    const EXPONENT: u16 = 0x7c00;
    let (size, places) = scales_of(format)?;
    bytes.par_chunks_exact(size).position_first(|block| {
        places.iter().any(|at| u16::from_le_bytes([block[*at], block[at + 1]]) & EXPONENT == EXPONENT)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::quantize_blocks;

    #[test]
    fn a_scale_that_is_not_a_number_is_found_in_every_format() {
        let numbers: Vec<f32> = (0..1024).map(|index| (index as f32).sin()).collect();
        for format in [
            GgmlDType::Q4_0,
            GgmlDType::Q4_1,
            GgmlDType::Q5_0,
            GgmlDType::Q5_1,
            GgmlDType::Q8_0,
            GgmlDType::Q2K,
            GgmlDType::Q3K,
            GgmlDType::Q4K,
            GgmlDType::Q5K,
            GgmlDType::Q6K,
        ] {
            let (size, places) = scales_of(format).unwrap();
            assert_eq!(size, format.type_size());
            let bytes = quantize_blocks(&numbers, format).unwrap();
            assert_eq!(not_finite(&bytes, format), None, "{format:?}");
            for at in places {
                let mut broken = bytes.clone();
                broken[2 * size + at..2 * size + at + 2].copy_from_slice(&0x7e00_u16.to_le_bytes());
                assert_eq!(not_finite(&broken, format), Some(2), "{format:?}");
                // It is the scale that the numbers are made of.
                broken.truncate(3 * size);
                let blocks = candle_core::Tensor::from_slice(&broken, broken.len(), &candle_core::Device::Cpu).unwrap();
                let count = 3 * format.block_size();
                let weight = crate::nn::QuantizedWeight::new(blocks, format, (1, count)).unwrap();
                let found = weight.dequantize(candle_core::DType::F32).unwrap().flatten_all().unwrap();
                let found = found.to_vec1::<f32>().unwrap();
                assert!(found[2 * format.block_size()].is_nan() && found[0].is_finite(), "{format:?}");
            }
        }
    }
}
