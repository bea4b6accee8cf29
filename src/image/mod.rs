//! Pictures: decoding under limits, PNG encoding, thumbnails, contact sheets and export. Everything is a pure function
//! of bytes and pixels, without files or addresses.
//!
//! The pixel type is [`::image::RgbaImage`] throughout: 8 bits, sRGB, straight (not premultiplied) alpha.

mod bounding_box;
mod container;
mod decode;
mod export;
mod fit;
mod icc;
mod png;
mod sheet;
mod thumbnail;

pub use bounding_box::bounding_box;
pub use decode::{Decoded, Limits, Look, decode, look};
pub use export::{ExportError, ExportFormat, Sheet, Stack};
pub use fit::{Background, fitted};
pub use png::encode_png;
pub use sheet::contact_sheet;
pub use thumbnail::thumbnail;
