//! PSD, version 1, according to Adobe's "Photoshop File Formats Specification": 8-bit RGB, sRGB, one layer with four
//! channels per sheet, and the merged picture. All numbers are big-endian.
//!
//! A layer is stored without its transparent border, as in Photoshop, so the color under that border is not in the
//! file; an empty layer has no pixels at all. The color of transparent pixels inside is kept.

use std::io::{Seek, SeekFrom, Write};

use ::image::RgbaImage;

use super::{
    ExportError, Merged, Sheet, Stack, StackStep, merged::VisibleRect, packbits::pack, srgb, steps, too_large,
};
use qwen_image::image_processor::on_white;

/// The maximum side in pixels; larger pictures need a different version of the format (PSB).
const LONGEST_SIDE: u32 = 30_000;
const RLE: u16 = 1;
const RAW: u16 = 0;
/// The number of the alpha channel; red, green and blue are 0 to 2.
const ALPHA: i16 = -1;
/// Channel numbers in their stored order, and their positions in an RGBA pixel.
const CHANNELS: [(i16, usize); 4] = [(ALPHA, 3), (0, 0), (1, 1), (2, 2)];
const HIDDEN: u8 = 1 << 1;
/// Marks the bits above as those of Photoshop 5 and later.
const MODERN: u8 = 1 << 3;
/// The pixels do not matter to what the document looks like.
const NO_PIXELS: u8 = 1 << 4;
/// The kinds of records that bound a group.
const OPEN_FOLDER: u32 = 1;
const END_OF_GROUP: u32 = 3;

pub(super) fn write<W: Write + Seek>(stack: &Stack, merged: &Merged, out: W) -> Result<W, ExportError> {
    let (width, height) = merged.size();
    if width > LONGEST_SIDE || height > LONGEST_SIDE {
        return Err(too_large(&format!("{width}x{height} pixels; a PSD has at most {LONGEST_SIDE} per side")));
    }
    let opaque = merged.is_opaque();
    let mut file = Writer { out };
    file.header(width, height, if opaque { 3 } else { 4 })?;
    file.u32(0)?; // the palette, which RGB pictures do not have
    file.resources()?;
    let all = file.open()?;
    file.layers(stack, merged, opaque)?;
    file.u32(0)?; // the mask of all layers
    file.close(all, 1)?;
    file.merged_picture(&merged.whole, opaque)?;
    Ok(file.out)
}

/// A length field that is filled in after its contents are written.
struct OpenLength {
    at: u64,
}

struct Writer<W: Write + Seek> {
    out: W,
}

impl<W: Write + Seek> Writer<W> {
    fn header(&mut self, width: u32, height: u32, channels: u16) -> Result<(), ExportError> {
        const RGB: u16 = 3;
        self.bytes(b"8BPS")?;
        self.u16(1)?;
        self.bytes(&[0; 6])?;
        self.u16(channels)?;
        self.u32(height)?;
        self.u32(width)?;
        self.u16(8)?;
        self.u16(RGB)
    }

    /// The print size, the color profile, and a flag that the merged picture is valid.
    fn resources(&mut self) -> Result<(), ExportError> {
        const RESOLUTION: u16 = 1005;
        const ICC_PROFILE: u16 = 1039;
        const VERSION: u16 = 1057;
        // 72 pixels per inch as 16.16, its unit (1: inch) and the display unit of widths (2: cm), twice.
        let dpi = [0, 72, 0, 0, 0, 1, 0, 2];
        let all = self.open()?;
        self.resource(RESOLUTION, &[dpi, dpi].concat())?;
        if let Some(profile) = srgb::profile() {
            self.resource(ICC_PROFILE, &profile)?;
        }
        let name = utf16("acetate");
        self.resource(VERSION, &[&[0, 0, 0, 1, 1], name.as_slice(), name.as_slice(), &[0, 0, 0, 1]].concat())?;
        self.close(all, 1)
    }

    fn resource(&mut self, id: u16, data: &[u8]) -> Result<(), ExportError> {
        self.bytes(b"8BIM")?;
        self.u16(id)?;
        self.u16(0)?; // no name
        self.u32(length(data.len())?)?;
        self.bytes(data)?;
        self.bytes(&[0][..data.len() % 2])
    }

    /// First a record for every layer, then the pixels of all layers, rearmost first.
    fn layers(&mut self, stack: &Stack, merged: &Merged, opaque: bool) -> Result<(), ExportError> {
        let steps = steps(&stack.sheets);
        let Ok(count) = i16::try_from(steps.len()) else {
            return Err(too_large(&format!("{} layers; a PSD has at most {}", steps.len(), i16::MAX)));
        };
        let all = self.open()?;
        // A negative count means that the fourth channel of the merged picture is its transparency.
        self.i16(if opaque { count } else { -count })?;
        let mut records = Vec::new();
        for step in steps {
            records.push(match step {
                StackStep::Layer(index, sheet) => {
                    let bounds = merged.bounds[index];
                    (Some(sheet), bounds, self.record(index, sheet, bounds)?)
                }
                // A group is what lies between two records without pixels. From the back, its end comes first.
                StackStep::Open => (None, VisibleRect::default(), self.divider("</Layer group>", END_OF_GROUP)?),
                StackStep::Close(group) => {
                    (None, VisibleRect::default(), self.divider(&group.shown_name(), OPEN_FOLDER)?)
                }
            });
        }
        for (sheet, bounds, lengths) in records {
            let layer = sheet.map(|sheet| merged.layer(sheet)).transpose()?.unwrap_or_default();
            for ((_, offset), open) in CHANNELS.into_iter().zip(lengths) {
                let data = channel(&layer, bounds, offset);
                self.bytes(&data)?;
                self.fill(open, length(data.len())?)?;
            }
        }
        self.close(all, 2)
    }

    /// Writes everything about a layer except its pixels; returns the positions of its channel lengths.
    fn record(&mut self, index: usize, sheet: &Sheet, bounds: VisibleRect) -> Result<Vec<OpenLength>, ExportError> {
        let (x, y) = if bounds.is_empty() { (0, 0) } else { sheet.corner() };
        let sides = [y + bounds.top, x + bounds.left, y + bounds.bottom, x + bounds.right];
        let opacity = (sheet.opacity * 255.0).round() as u8;
        let flags = if sheet.visible { MODERN } else { MODERN | HIDDEN };
        self.any_record(sides, opacity, flags, &sheet.shown_name(index), None)
    }

    /// The same for the beginning or the end of a group.
    fn divider(&mut self, name: &str, kind: u32) -> Result<Vec<OpenLength>, ExportError> {
        let flags = if kind == END_OF_GROUP { MODERN | HIDDEN | NO_PIXELS } else { MODERN | NO_PIXELS };
        self.any_record([0; 4], 255, flags, name, Some(kind))
    }

    fn any_record(
        &mut self,
        sides: [u32; 4],
        opacity: u8,
        flags: u8,
        name: &str,
        section: Option<u32>,
    ) -> Result<Vec<OpenLength>, ExportError> {
        for side in sides {
            self.u32(side)?;
        }
        self.u16(CHANNELS.len() as u16)?;
        let mut lengths = Vec::new();
        for (number, _) in CHANNELS {
            self.i16(number)?;
            lengths.push(self.open()?);
        }
        self.bytes(b"8BIMnorm")?;
        self.bytes(&[opacity, 0, flags, 0])?;
        let extra = self.open()?;
        self.u32(0)?; // no mask
        self.u32(0)?; // blended over its whole range
        self.bytes(&short_name(name))?;
        self.bytes(b"8BIMluni")?;
        let unicode = self.open()?;
        self.bytes(&utf16(name))?;
        self.close(unicode, 4)?;
        if let Some(kind) = section {
            self.bytes(b"8BIMlsct")?;
            self.u32(12)?;
            self.u32(kind)?;
            self.bytes(b"8BIMnorm")?;
        }
        self.close(extra, 1)?;
        Ok(lengths)
    }

    /// The picture for programs that do not read layers. Transparent pixels are blended with white, as in Photoshop.
    fn merged_picture(&mut self, whole: &RgbaImage, opaque: bool) -> Result<(), ExportError> {
        let colors = on_white(whole);
        let (mut counts, mut rows) = (Vec::new(), Vec::new());
        for offset in 0..3 {
            let row_bytes = colors.width() as usize * 3;
            for row in colors.chunks_exact(row_bytes) {
                add_row(row.iter().skip(offset).step_by(3).copied(), &mut counts, &mut rows);
            }
        }
        if !opaque {
            for row in whole.chunks_exact(whole.width() as usize * 4) {
                add_row(row.iter().skip(3).step_by(4).copied(), &mut counts, &mut rows);
            }
        }
        self.u16(RLE)?;
        self.bytes(&counts)?;
        self.bytes(&rows)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        Ok(self.out.write_all(bytes)?)
    }

    fn u16(&mut self, value: u16) -> Result<(), ExportError> {
        self.bytes(&value.to_be_bytes())
    }

    fn i16(&mut self, value: i16) -> Result<(), ExportError> {
        self.bytes(&value.to_be_bytes())
    }

    fn u32(&mut self, value: u32) -> Result<(), ExportError> {
        self.bytes(&value.to_be_bytes())
    }

    /// Reserves space for a length.
    fn open(&mut self) -> Result<OpenLength, ExportError> {
        let at = self.out.stream_position()?;
        self.u32(0)?;
        Ok(OpenLength { at })
    }

    /// Pads the data since `open` to a multiple of `to` bytes and writes its length, including the padding.
    fn close(&mut self, open: OpenLength, to: usize) -> Result<(), ExportError> {
        let written = (self.out.stream_position()? - open.at - 4) as usize;
        let padded = written.next_multiple_of(to);
        self.bytes(&[0; 4][..padded - written])?;
        self.fill(open, length(padded)?)
    }

    fn fill(&mut self, open: OpenLength, length: u32) -> Result<(), ExportError> {
        let end = self.out.stream_position()?;
        self.out.seek(SeekFrom::Start(open.at))?;
        self.u32(length)?;
        self.out.seek(SeekFrom::Start(end))?;
        Ok(())
    }
}

/// Writes one channel of a layer: its compression, the packed length of every row, the rows.
fn channel(layer: &RgbaImage, bounds: VisibleRect, offset: usize) -> Vec<u8> {
    if bounds.is_empty() {
        return RAW.to_be_bytes().to_vec();
    }
    let row_bytes = layer.width() as usize * 4;
    let across = bounds.left as usize * 4..bounds.right as usize * 4;
    let (mut counts, mut rows) = (Vec::new(), Vec::new());
    for row in layer.chunks_exact(row_bytes).take(bounds.bottom as usize).skip(bounds.top as usize) {
        add_row(row[across.clone()].iter().skip(offset).step_by(4).copied(), &mut counts, &mut rows);
    }
    [&RLE.to_be_bytes(), counts.as_slice(), rows.as_slice()].concat()
}

/// The length of a packed row fits into 16 bits even for the maximum side, because packing adds at most 1/128.
fn add_row(row: impl Iterator<Item = u8>, counts: &mut Vec<u8>, rows: &mut Vec<u8>) {
    let plain: Vec<u8> = row.collect();
    let packed = pack(&plain, rows) as u16;
    counts.extend(packed.to_be_bytes());
}

/// The name for programs without Unicode: at most 31 ASCII characters, prefixed with the length, padded to a multiple
/// of four.
fn short_name(name: &str) -> Vec<u8> {
    let plain = |c: char| if c.is_ascii() { c as u8 } else { b'?' };
    let mut bytes = vec![0];
    bytes.extend(name.chars().take(31).map(plain));
    bytes[0] = (bytes.len() - 1) as u8;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// UTF-16, prefixed with the number of its units.
fn utf16(text: &str) -> Vec<u8> {
    let units: Vec<u16> = text.encode_utf16().collect();
    let mut bytes = (units.len() as u32).to_be_bytes().to_vec();
    bytes.extend(units.iter().flat_map(|unit| unit.to_be_bytes()));
    bytes
}

fn length(bytes: usize) -> Result<u32, ExportError> {
    // Photoshop opens PSD files of up to 2 GiB.
    u32::try_from(bytes).ok().filter(|length| *length < 1 << 31).ok_or_else(|| too_large("2 GiB of pixels or more"))
}
