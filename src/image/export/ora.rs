//! OpenRaster, the open exchange format of Krita, GIMP and MyPaint: a ZIP with a description in XML, a PNG for each
//! layer, the merged picture and a thumbnail (<https://www.openraster.org/baseline/>).
//! GIMP blends such layers in linear light, which the format cannot prevent; in a PSD it blends them as we do.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{Seek, Write},
};

use ::image::RgbaImage;

use super::{ExportError, Merged, Stack, StackStep, attribute, steps, zip::Archive};
use qwen_image::image_processor::lanczos;

use crate::image::{encode_png, is_plain};

/// The longest side of the thumbnail, in pixels; the format's own limit.
const THUMBNAIL: u32 = 256;
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// `mimetype` comes first and is not compressed, so that it is at a fixed position in the file.
pub(super) fn write<W: Write + Seek>(stack: &Stack, merged: &Merged, out: W) -> Result<W, ExportError> {
    let mut archive = Archive::new(out);
    archive.add("mimetype", b"image/openraster")?;
    archive.add("stack.xml", description(stack, merged.size()).as_bytes())?;
    for (index, sheet) in stack.sheets.iter().enumerate() {
        // A folder may contain anything with a name that ends in .png. Programs show the pixels of a layer as they are
        // stored, so a picture that must be turned or converted is written anew.
        let png = match sheet.png.starts_with(PNG_SIGNATURE) && is_plain(&sheet.png) {
            true => Cow::Borrowed(&sheet.png),
            false => Cow::Owned(encode_png(&merged.layer(sheet)?)?),
        };
        archive.add(&source(index), &png)?;
    }
    archive.add("mergedimage.png", &encode_png(&merged.whole)?)?;
    archive.add("Thumbnails/thumbnail.png", &encode_png(&thumbnail(&merged.whole))?)?;
    archive.finish()
}

/// `stack.xml`; its first layer is the topmost.
fn description(stack: &Stack, (width, height): (u32, u32)) -> String {
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <image version=\"0.0.3\" w=\"{width}\" h=\"{height}\" xres=\"72\" yres=\"72\">\n  <stack>\n"
    );
    // Writing to a String does not fail.
    let mut depth = 2;
    for step in steps(&stack.sheets).into_iter().rev() {
        let (index, sheet) = match step {
            StackStep::Layer(index, sheet) => (index, sheet),
            // The stack is written from its top.
            StackStep::Close(group) => {
                let (indent, name) = ("  ".repeat(depth), attribute(&group.shown_name()));
                let _ = writeln!(
                    xml,
                    "{indent}<stack name=\"{name}\" opacity=\"1\" visibility=\"visible\" composite-op=\"svg:src-over\" \
                     isolation=\"isolate\">"
                );
                depth += 1;
                continue;
            }
            StackStep::Open => {
                depth -= 1;
                let _ = writeln!(xml, "{}</stack>", "  ".repeat(depth));
                continue;
            }
        };
        let indent = "  ".repeat(depth);
        let (name, src, opacity) = (attribute(&sheet.shown_name(index)), source(index), sheet.opacity);
        let (x, y) = sheet.corner();
        let visibility = if sheet.visible { "visible" } else { "hidden" };
        let _ = writeln!(
            xml,
            "{indent}<layer name=\"{name}\" src=\"{src}\" x=\"{x}\" y=\"{y}\" opacity=\"{opacity}\" \
             visibility=\"{visibility}\" composite-op=\"svg:src-over\"/>"
        );
    }
    xml.push_str("  </stack>\n</image>\n");
    xml
}

fn source(index: usize) -> String {
    format!("data/layer-{:02}.png", index + 1)
}

fn thumbnail(whole: &RgbaImage) -> RgbaImage {
    let longest = whole.width().max(whole.height());
    if longest <= THUMBNAIL {
        return whole.clone();
    }
    let scaled = |side: u32| (u64::from(side) * u64::from(THUMBNAIL) / u64::from(longest)).max(1) as u32;
    lanczos(whole, scaled(whole.width()), scaled(whole.height()))
}
