//! Short captions in a picture, with a font of 3 x 5 dots that has just what they need.

use ::image::{Rgba, RgbaImage};

/// The side of a dot, and the distance between letters, in pixels.
const DOT: u32 = 2;
/// The height of a line, in pixels.
pub(super) const HEIGHT: u32 = 5 * DOT + 6;
const INK: Rgba<u8> = Rgba([70, 70, 70, 255]);

/// The rows of a letter from the top, the left dot in the highest of three bits.
const LETTERS: [(char, [u8; 5]); 26] = [
    ('0', [0b111, 0b101, 0b101, 0b101, 0b111]),
    ('1', [0b010, 0b110, 0b010, 0b010, 0b111]),
    ('2', [0b111, 0b001, 0b111, 0b100, 0b111]),
    ('3', [0b111, 0b001, 0b111, 0b001, 0b111]),
    ('4', [0b101, 0b101, 0b111, 0b001, 0b001]),
    ('5', [0b111, 0b100, 0b111, 0b001, 0b111]),
    ('6', [0b111, 0b100, 0b111, 0b101, 0b111]),
    ('7', [0b111, 0b001, 0b010, 0b010, 0b010]),
    ('8', [0b111, 0b101, 0b111, 0b101, 0b111]),
    ('9', [0b111, 0b101, 0b111, 0b001, 0b111]),
    ('.', [0b000, 0b000, 0b000, 0b000, 0b010]),
    ('%', [0b101, 0b001, 0b010, 0b100, 0b101]),
    ('A', [0b010, 0b101, 0b111, 0b101, 0b101]),
    ('B', [0b110, 0b101, 0b110, 0b101, 0b110]),
    ('C', [0b011, 0b100, 0b100, 0b100, 0b011]),
    ('D', [0b110, 0b101, 0b101, 0b101, 0b110]),
    ('E', [0b111, 0b100, 0b110, 0b100, 0b111]),
    ('L', [0b100, 0b100, 0b100, 0b100, 0b111]),
    ('M', [0b101, 0b111, 0b111, 0b101, 0b101]),
    ('O', [0b010, 0b101, 0b101, 0b101, 0b010]),
    ('P', [0b110, 0b101, 0b110, 0b100, 0b100]),
    ('S', [0b011, 0b100, 0b010, 0b001, 0b110]),
    ('T', [0b111, 0b010, 0b010, 0b010, 0b010]),
    ('W', [0b101, 0b101, 0b111, 0b111, 0b101]),
    ('X', [0b101, 0b101, 0b010, 0b101, 0b101]),
    ('Y', [0b101, 0b101, 0b010, 0b010, 0b010]),
];

/// The width of a line, in pixels.
pub(super) fn width(text: &str) -> u32 {
    text.chars().count() as u32 * 4 * DOT
}

/// Writes a line, in capitals, with its top left corner at `left`, `top`. Letters that the font lacks are left blank,
/// and what does not fit into the picture is cut off.
pub(super) fn write(picture: &mut RgbaImage, left: u32, top: u32, text: &str) {
    for (index, letter) in (0..).zip(text.to_uppercase().chars()) {
        let Some((_, rows)) = LETTERS.iter().find(|(known, _)| *known == letter) else { continue };
        for (row, dots) in (0..).zip(rows) {
            for column in (0..3).filter(|column| dots & (0b100 >> column) != 0) {
                let (x, y) = (left + (index * 4 + column) * DOT, top + row * DOT);
                for (x, y) in (0..DOT * DOT).map(|at| (x + at % DOT, y + at / DOT)) {
                    if let Some(pixel) = picture.get_pixel_mut_checked(x, y) {
                        *pixel = INK;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_caption_of_a_sheet_can_be_written() {
        for text in ["1234567890 x", "98.7 %", "empty", "exact", "low 31.5 dB"] {
            for letter in text.to_uppercase().chars().filter(|letter| *letter != ' ') {
                assert!(LETTERS.iter().any(|(known, _)| *known == letter), "{letter}");
            }
        }
        let mut picture = RgbaImage::new(14, HEIGHT);
        write(&mut picture, 0, 0, "l1 and the rest is cut off");
        let inked = |x, y| *picture.get_pixel(x, y) == INK;
        assert!(inked(0, 0) && inked(1, 9) && inked(5, 9) && !inked(2, 0) && inked(10, 1) && !inked(8, 0));
    }
}
