//! Numbers of 8 bits with an exponent: e4m3 (no infinities) and e5m2.

/// The largest number of e4m3.
pub const E4M3_MAX: f32 = 448.0;

/// All numbers of a format, by their bits.
pub fn table(decode: impl Fn(u8) -> f32) -> [f32; 256] {
    std::array::from_fn(|bits| decode(bits as u8))
}

/// 4 bits of exponent, 3 of mantissa.
pub fn e4m3(bits: u8) -> f32 {
    if bits & 0x7f == 0x7f { f32::NAN } else { decode(bits, 3, 7) }
}

/// 5 bits of exponent, 2 of mantissa.
pub fn e5m2(bits: u8) -> f32 {
    match bits & 0x7f {
        0x7c => {
            if bits >> 7 == 0 {
                f32::INFINITY
            } else {
                f32::NEG_INFINITY
            }
        }
        above if above > 0x7c => f32::NAN,
        _ => decode(bits, 2, 15),
    }
}

fn decode(bits: u8, mantissa_bits: u32, bias: i32) -> f32 {
    let steps = f32::from(1_u16 << mantissa_bits);
    let exponent = i32::from((bits & 0x7f) >> mantissa_bits);
    let mantissa = f32::from(bits & ((1 << mantissa_bits) - 1)) / steps;
    let size = match exponent {
        0 => mantissa * 2.0_f32.powi(1 - bias),
        _ => (1.0 + mantissa) * 2.0_f32.powi(exponent - bias),
    };
    if bits >> 7 == 0 { size } else { -size }
}

/// The nearest e4m3 number; ties go to the even mantissa, and what is too large becomes the largest.
pub fn to_e4m3(x: f32) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let size = x.abs();
    if size.is_nan() {
        return sign | 0x7f;
    }
    if size >= E4M3_MAX {
        return sign | 0x7e;
    }
    // The distance between neighbors; below the smallest normal number it stays the same.
    let exponent = ((size.to_bits() >> 23) as i32 - 127).max(-6);
    let steps = (size / 2.0_f32.powi(exponent - 3)).round_ties_even() as i32;
    // 8 to 16 steps for normal numbers, fewer for subnormal ones. 16 steps carry into the exponent.
    let bits = ((exponent + 7) << 3) + steps - 8;
    sign | bits.clamp(0, 0x7e) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_e4m3_number_survives_and_others_go_to_the_nearest() {
        let numbers = table(e4m3);
        for bits in 0..=255_u8 {
            let number = numbers[usize::from(bits)];
            if number.is_nan() {
                assert!(to_e4m3(number) & 0x7f == 0x7f);
            } else {
                assert_eq!(to_e4m3(number), bits, "{number}");
            }
        }
        assert_eq!((numbers[0x7e], numbers[0x01], numbers[0x08]), (448.0, 2.0_f32.powi(-9), 2.0_f32.powi(-6)));
        for step in 0..4000 {
            let x = 1e-4 * 1.004_f32.powi(step);
            let found = numbers[usize::from(to_e4m3(x))];
            let best = numbers.iter().filter(|n| !n.is_nan()).map(|n| (n - x).abs()).fold(f32::MAX, f32::min);
            assert!((found - x).abs() <= best * 1.000_001, "{x}: {found}");
        }
    }

    #[test]
    fn e5m2_is_the_upper_half_of_a_16_bit_float() {
        assert_eq!((e5m2(0x3c), e5m2(0xbc), e5m2(0x7b), e5m2(0x01)), (1.0, -1.0, 57344.0, 2.0_f32.powi(-16)));
        assert!(e5m2(0x7c).is_infinite() && e5m2(0x7d).is_nan());
    }
}
