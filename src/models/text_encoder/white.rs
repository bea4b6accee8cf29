/// Lays RGBA bytes over white, with Pillow's rounding: what the reference's picture processor does with transparency
/// before anything else. Gives RGB bytes.
///
/// Source: `AlphaComposite.c` in Pillow, with an opaque background.
pub fn rgb_over_white(rgba: &[u8]) -> Vec<u8> {
    /// Extra bits that Pillow carries through the sum.
    const BITS: u32 = 7;
    let mut rgb = Vec::with_capacity(rgba.len() / 4 * 3);
    for pixel in rgba.chunks_exact(4) {
        let over = u32::from(pixel[3]) << BITS;
        let under = (255 << BITS) - over;
        rgb.extend(pixel[..3].iter().map(|&value| {
            let sum = u32::from(value) * over + 255 * under + (128 << BITS);
            // Division by 255 for sums of this size, rounded by the term above.
            (((sum >> 8) + sum) >> (8 + BITS)) as u8
        }));
    }
    rgb
}

#[cfg(test)]
mod tests {
    use super::rgb_over_white;

    #[test]
    fn opaque_stays_and_clear_turns_white() {
        assert_eq!(rgb_over_white(&[10, 20, 30, 255, 10, 20, 30, 0]), [10, 20, 30, 255, 255, 255]);
    }
}
