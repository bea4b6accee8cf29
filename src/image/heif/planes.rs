//! A decoded picture before it becomes RGB: luma and chroma in separate planes.

use crate::image::pixels::CodecError;

/// How many chroma samples there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chroma {
    /// Gray: there are none.
    None,
    /// 4:2:0, for two columns and two rows.
    Quarter,
    /// 4:2:2, for two columns.
    Half,
    /// 4:4:4.
    Full,
}

impl Chroma {
    /// Columns and rows of luma for one sample.
    pub fn steps(self) -> (usize, usize) {
        match self {
            Self::Quarter => (2, 2),
            Self::Half => (2, 1),
            Self::None | Self::Full => (1, 1),
        }
    }

    fn size(self, (width, height): (usize, usize)) -> (usize, usize) {
        let (across, down) = self.steps();
        if self == Self::None { (0, 0) } else { (width.div_ceil(across), height.div_ceil(down)) }
    }
}

/// The samples of a coded picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlaneFormat {
    /// Bits: 8, 10 or 12.
    pub depth: u8,
    pub chroma: Chroma,
}

/// Numbers of H.273; 2 is "not said".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CodedColor {
    pub primaries: u16,
    pub transfer: u16,
    pub matrix: u16,
    pub full_range: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planes {
    pub width: usize,
    pub height: usize,
    pub format: PlaneFormat,
    /// Rows without gaps; chroma is empty if the picture is gray.
    pub samples: [Vec<u16>; 3],
}

impl Planes {
    /// Width and height of a plane.
    pub fn plane_size(&self, plane: usize) -> (usize, usize) {
        let size = (self.width, self.height);
        if plane == 0 { size } else { self.format.chroma.size(size) }
    }

    /// An empty picture, into which tiles are put.
    pub fn canvas((width, height): (usize, usize), format: PlaneFormat) -> Self {
        let mut canvas = Self { width, height, format, samples: Default::default() };
        for plane in 0..3 {
            let (width, height) = canvas.plane_size(plane);
            canvas.samples[plane] = vec![0; width * height];
        }
        canvas
    }

    /// Puts a tile at a position; what reaches beyond the picture is left out.
    pub fn put(&mut self, tile: &Self, (left, top): (usize, usize)) -> Result<(), CodecError> {
        let (across, down) = self.format.chroma.steps();
        if !left.is_multiple_of(across) || !top.is_multiple_of(down) {
            return Err(CodecError::Unsupported("tiles that divide its chroma samples".to_owned()));
        }
        for plane in 0..3 {
            let (width, height) = self.plane_size(plane);
            let (tile_width, tile_height) = tile.plane_size(plane);
            if width == 0 || tile_width == 0 {
                continue;
            }
            let (left, top) = if plane == 0 { (left, top) } else { (left / across, top / down) };
            let columns = tile_width.min(width.saturating_sub(left));
            let rows = tile_height.min(height.saturating_sub(top));
            let into = self.samples[plane].chunks_exact_mut(width).skip(top).take(rows);
            for (into, row) in into.zip(tile.samples[plane].chunks_exact(tile_width)) {
                into[left..left + columns].copy_from_slice(&row[..columns]);
            }
        }
        Ok(())
    }
}
