//! Decompresses one strip or tile of a TIFF.

use std::io::Read;

use flate2::read::ZlibDecoder;
use weezl::{BitOrder, decode::Decoder as Lzw};

use super::{
    fax,
    layout::{Compression, Layout, Photometric},
};
use crate::image::{
    jpeg::{self, ColorOf},
    pixels::{Pixels, Samples},
};

/// The bytes of a chunk; more if it covers pixels outside the picture.
pub(super) enum Chunk {
    /// Rows of `stride` bytes as the layout says.
    Raw(Vec<u8>),
    /// 8-bit samples of a picture that a codec has already made RGB, gray or CMYK.
    Picture(Pixels),
}

/// `size` is the chunk's size in pixels, `wanted` its bytes when decompressed. Returns fewer bytes if the data end
/// early; the error is a codec's reason.
pub(super) fn decompress(
    stored: &[u8],
    layout: &Layout,
    tables: Option<&[u8]>,
    size: (u32, u32),
    wanted: usize,
) -> Result<Chunk, String> {
    let mirrored: Vec<u8>;
    let picture = matches!(layout.compression, Compression::Jpeg | Compression::OldJpeg | Compression::WebP);
    let stored = if layout.reversed && !picture {
        mirrored = stored.iter().map(|byte| byte.reverse_bits()).collect();
        &mirrored
    } else {
        stored
    };
    let raw = match layout.compression {
        Compression::None => stored[..stored.len().min(wanted)].to_vec(),
        Compression::PackBits => pack_bits(stored, wanted),
        Compression::Lzw => lzw(stored, wanted),
        Compression::Deflate => up_to(ZlibDecoder::new(stored), wanted),
        Compression::Zstd => up_to(zstd::Decoder::with_buffer(stored).map_err(|error| error.to_string())?, wanted),
        Compression::FaxRuns | Compression::Fax3 { .. } | Compression::Fax4 => {
            let width = u16::try_from(size.0).map_err(|_| "a row is too long for fax compression".to_owned())?;
            fax::decode(stored, layout.compression, width, size.1 as usize)
        }
        Compression::WebP => return webp(stored, wanted),
        Compression::Jpeg | Compression::OldJpeg => return jpeg(stored, layout, tables, wanted),
    };
    Ok(Chunk::Raw(raw))
}

/// Reads at most `wanted` bytes; an error ends it, and the caller sees what is missing.
fn up_to(reader: impl Read, wanted: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let _ = reader.take(wanted as u64).read_to_end(&mut out);
    out
}

fn pack_bits(mut stored: &[u8], wanted: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(wanted.min(1 << 24));
    while let Some((count, rest)) = stored.split_first().filter(|_| out.len() < wanted) {
        let count = usize::from(*count);
        if count < 128 {
            let taken = rest.len().min(count + 1);
            out.extend_from_slice(&rest[..taken]);
            stored = &rest[taken..];
        } else if count == 128 {
            stored = rest;
        } else {
            let Some((value, after)) = rest.split_first() else { break };
            out.extend(std::iter::repeat_n(*value, 257 - count));
            stored = after;
        }
    }
    out.truncate(wanted);
    out
}

fn lzw(stored: &[u8], wanted: usize) -> Vec<u8> {
    // Programs before TIFF 6.0 wrote the bits from the other end; the first code, which clears the table, shows it.
    let old = stored.first() == Some(&0) && stored.get(1).is_some_and(|byte| byte & 1 == 1);
    let mut decoder = if old { Lzw::new(BitOrder::Lsb, 8) } else { Lzw::with_tiff_size_switch(BitOrder::Msb, 8) };
    let mut out = vec![0; wanted];
    let (mut read, mut written) = (0, 0);
    while written < wanted {
        let step = decoder.decode_bytes(&stored[read..], &mut out[written..]);
        read += step.consumed_in;
        written += step.consumed_out;
        match step.status {
            Ok(weezl::LzwStatus::Ok) if step.consumed_in + step.consumed_out > 0 => {}
            Ok(_) | Err(_) => break,
        }
    }
    out.truncate(written);
    out
}

fn webp(stored: &[u8], wanted: usize) -> Result<Chunk, String> {
    let size = webp_size(stored).ok_or("it is not WebP")?;
    if u64::from(size.0) * u64::from(size.1) > wanted as u64 {
        return Err("it is larger than its tile".to_owned());
    }
    let picture = ::image::load_from_memory_with_format(stored, ::image::ImageFormat::WebP);
    let picture = Pixels::try_from(picture.map_err(|error| error.to_string())?)?;
    Ok(Chunk::Picture(picture))
}

fn webp_size(stored: &[u8]) -> Option<(u32, u32)> {
    use ::image::ImageDecoder;
    let decoder = ::image::codecs::webp::WebPDecoder::new(std::io::Cursor::new(stored)).ok()?;
    Some(decoder.dimensions())
}

/// A stream without its tables, which all strips share.
fn jpeg(stored: &[u8], layout: &Layout, tables: Option<&[u8]>, wanted: usize) -> Result<Chunk, String> {
    let joined: Vec<u8>;
    let shared = tables.and_then(|tables| tables.strip_prefix(b"\xff\xd8"));
    let stream = match (shared, stored.strip_prefix(b"\xff\xd8")) {
        (Some(shared), Some(own)) => {
            let shared = shared.strip_suffix(b"\xff\xd9").unwrap_or(shared);
            joined = [b"\xff\xd8".as_slice(), shared, own].concat();
            &joined
        }
        _ => stored,
    };
    let header = jpeg::JpegHeader::read(stream, 0).ok_or("it is not JPEG")?;
    header.check()?;
    let (width, height) = header.size();
    if width as usize * height as usize > wanted {
        return Err("it is larger than its strip or tile".to_owned());
    }
    // The directory, not the stream, says what the components are.
    let color = match layout.color {
        Photometric::Rgb => Some(ColorOf::Rgb),
        Photometric::YCbCr => Some(ColorOf::YCbCr),
        _ => None,
    };
    let opened = jpeg::decode(stream, &header, color, wanted.saturating_mul(8).max(1 << 20))?;
    let mut pixels = opened.pixels;
    // Fewer components than the layout's, as for a plane, are taken as they are.
    if let Samples::Eight(samples) = &mut pixels.samples
        && layout.color == Photometric::Cmyk
        && header.is_adobe()
    {
        samples.iter_mut().for_each(|sample| *sample = 255 - *sample);
    }
    Ok(Chunk::Picture(pixels))
}
