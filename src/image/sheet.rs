//! A contact sheet: pictures side by side.

use ::image::{Rgba, RgbaImage, imageops};

use super::caption;
use crate::job::JobError;
use qwen_image::image_processor::{composite, lanczos};

/// The longest side of a picture on the sheet, the gap around it and the side of a checkerboard square, in pixels.
const CELL: u32 = 256;
const GAP: u32 = 12;
const SQUARE: u32 = 8;
/// The usual number of pictures per row.
pub const SHEET_COLUMNS: usize = 6;

/// Lays pictures out in rows of `columns` on white, each shrunk to fit its cell, with a checkerboard behind transparent
/// pixels. Below a picture is its caption, if there are `captions`.
///
/// # Errors
/// None in practice; only those of [`composite`].
pub fn contact_sheet(pictures: &[RgbaImage], captions: &[String], columns: usize) -> Result<RgbaImage, JobError> {
    let pictures: Vec<RgbaImage> = pictures.iter().map(|picture| shrunk(picture, CELL)).collect();
    let columns = pictures.len().min(columns).max(1);
    let rows = pictures.len().div_ceil(columns);
    let captions_width = captions.iter().map(|text| caption::width(text)).max().unwrap_or(0);
    let cell_width = pictures.iter().map(RgbaImage::width).max().unwrap_or(CELL).max(captions_width);
    let below = if captions.is_empty() { 0 } else { caption::HEIGHT };
    let cell_height = pictures.iter().map(RgbaImage::height).max().unwrap_or(CELL) + below;
    let side = |cells: usize, cell: u32| cells as u32 * (cell + GAP) + GAP;

    let mut sheet =
        RgbaImage::from_pixel(side(columns, cell_width), side(rows, cell_height), Rgba([255, 255, 255, 255]));
    for (index, picture) in pictures.into_iter().enumerate() {
        let board = checkerboard(picture.width(), picture.height());
        let x = side(index % columns, cell_width) + (cell_width - picture.width()) / 2;
        let y = side(index / columns, cell_height) + (cell_height - below - picture.height()) / 2;
        let bottom = side(index / columns + 1, cell_height) - GAP - caption::HEIGHT;
        if let Some(text) = captions.get(index) {
            caption::write(&mut sheet, x, bottom + 4, text);
        }
        imageops::replace(&mut sheet, &composite(&[board, picture])?, i64::from(x), i64::from(y));
    }
    Ok(sheet)
}

/// Shrinks a picture so that its longest side is at most `longest`; a smaller picture is unchanged.
pub fn shrunk(picture: &RgbaImage, longest: u32) -> RgbaImage {
    let side = picture.width().max(picture.height()).max(1);
    if side <= longest {
        return picture.clone();
    }
    let scaled = |length: u32| (u64::from(length) * u64::from(longest) / u64::from(side)).max(1) as u32;
    lanczos(picture, scaled(picture.width()), scaled(picture.height()))
}

fn checkerboard(width: u32, height: u32) -> RgbaImage {
    RgbaImage::from_fn(width, height, |x, y| {
        let gray = if (x / SQUARE + y / SQUARE).is_multiple_of(2) { 255 } else { 204 };
        Rgba([gray, gray, gray, 255])
    })
}
