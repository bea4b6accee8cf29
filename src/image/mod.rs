//! Pictures: decoded under limits, resized as the reference does it, split from and joined with alpha, composited,
//! written as PNG, exported as one file. Everything is a pure function of bytes and pixels; files and addresses are somebody else's.
//!
//! The pixel type is [`::image::RgbaImage`] throughout: 8 bits, sRGB, straight (not premultiplied) alpha.

mod container;
mod decode;
mod export;
mod icc;
mod png;
mod sheet;
mod thumbnail;

pub use decode::{Decoded, Limits, Look, decode, look};
pub use export::{ExportError, ExportFormat, Sheet, Stack};
pub use png::encode_png;
pub use sheet::contact_sheet;
pub use thumbnail::thumbnail;
