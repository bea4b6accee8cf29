//! Pictures: decoding under limits, PNG encoding, thumbnails, contact sheets and export. Everything is a pure function
//! of bytes and pixels, without files or addresses.
//!
//! The pixel type is [`::image::RgbaImage`] throughout: 8 bits, sRGB, straight (not premultiplied) alpha.

mod bounding_box;
mod bytes;
mod caption;
mod color;
mod container;
mod decode;
mod exif;
mod export;
mod fit;
mod heif;
mod jpeg;
mod jxl;
mod limits;
mod mask;
mod pixels;
mod png;
mod png_file;
mod raw;
mod sheet;
mod thumbnail;
mod tiff;
mod trim;

pub use bounding_box::bounding_box;
use decode::is_plain;
pub use decode::{Decoded, PictureInfo, decode, probe};
pub use export::{ExportError, ExportFormat, Exported, Group, Sheet, Stack};
pub use fit::{Background, fitted};
pub use limits::DecodeLimits;
pub use mask::mask_of_transparency;
pub use png::{SHEET_HEAD, encode_png, is_sheet, marked_as_sheet};
pub use sheet::{SHEET_COLUMNS, contact_sheet, shrunk};
pub use thumbnail::thumbnail;
pub use trim::{placed, trimmed};
