//! PackBits, the run-length code of TIFF and PSD: a count byte `n`, then either `n + 1` literal bytes (0 to 127), or
//! one byte that is repeated `257 - n` times (129 to 255).

/// The most bytes that one count covers.
const LONGEST: usize = 128;

/// Appends the packed `row` and returns its size in bytes.
pub(super) fn pack(row: &[u8], out: &mut Vec<u8>) -> usize {
    let before = out.len();
    let mut rest = row;
    while !rest.is_empty() {
        let same = run(rest);
        let taken = if same > 1 {
            out.extend([(257 - same) as u8, rest[0]]);
            same
        } else {
            let plain = literal(rest);
            out.push((plain - 1) as u8);
            out.extend_from_slice(&rest[..plain]);
            plain
        };
        rest = &rest[taken..];
    }
    out.len() - before
}

/// The length of the first run.
fn run(bytes: &[u8]) -> usize {
    bytes.iter().take(LONGEST).take_while(|byte| **byte == bytes[0]).count()
}

/// The number of bytes before the next run of three; a run of two would not save the count byte of the next literal.
fn literal(bytes: &[u8]) -> usize {
    let end = bytes.windows(3).position(|three| three[0] == three[1] && three[1] == three[2]);
    end.unwrap_or(bytes.len()).clamp(1, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(mut packed: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        while let [count, rest @ ..] = packed {
            let count = usize::from(*count);
            assert_ne!(count, 128, "128 means nothing");
            if count < 128 {
                out.extend_from_slice(&rest[..=count]);
                packed = &rest[count + 1..];
            } else {
                out.extend(std::iter::repeat_n(rest[0], 257 - count));
                packed = &rest[1..];
            }
        }
        out
    }

    #[test]
    fn rows_come_back() {
        let mut state = 7u32;
        let mut noise = |values: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 24) % values) as u8
        };
        let mut rows: Vec<Vec<u8>> = [0, 1, 2, 127, 128, 129, 255, 256, 257, 1000].map(|n| vec![9; n]).to_vec();
        for values in [2, 3, 256] {
            rows.extend([1, 2, 3, 127, 128, 129, 300].map(|n| (0..n).map(|_| noise(values)).collect()));
        }
        rows.push(b"aabbbccddddde".to_vec());
        for row in rows {
            let mut packed = Vec::new();
            let count = pack(&row, &mut packed);
            assert_eq!(count, packed.len());
            assert_eq!(unpack(&packed), row);
            assert!(packed.len() <= row.len() + row.len().div_ceil(LONGEST) + 1, "{} of {}", packed.len(), row.len());
        }
    }

    #[test]
    fn the_example_of_apples_technical_note() {
        // TN1023.
        let unpacked = [
            0xaa, 0xaa, 0xaa, 0x80, 0x00, 0x2a, 0xaa, 0xaa, 0xaa, 0xaa, 0x80, 0x00, 0x2a, 0x22, 0xaa, 0xaa, 0xaa, 0xaa,
            0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa,
        ];
        let packed = [0xfe, 0xaa, 0x02, 0x80, 0x00, 0x2a, 0xfd, 0xaa, 0x03, 0x80, 0x00, 0x2a, 0x22, 0xf7, 0xaa];
        let mut out = Vec::new();
        pack(&unpacked, &mut out);
        assert_eq!(out, packed);
    }
}
