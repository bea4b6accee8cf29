//! Converts embedded color profiles to sRGB.

use ::image::RgbaImage;
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};
use rayon::prelude::*;

/// The color space of the pixels before they became RGBA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Rgb,
    Gray,
    /// The decoder has already converted the color space (CMYK to RGB), so the profile no longer applies.
    Converted,
}

/// A profile that differs from sRGB by no more than this in any channel is sRGB with another name or rounding.
const SAME: u8 = 2;

/// Converts the pixels in place and keeps alpha. Returns a note, or none if the profile is sRGB.
///
/// If a profile is unusable, the pixels stay unchanged, and the note says so.
pub(super) fn to_srgb(pixels: &mut RgbaImage, source: Source, profile: &[u8]) -> Option<String> {
    if source == Source::Converted {
        return None;
    }
    let kept = |why: String| Some(format!("its color profile {why}; the pixels were treated as sRGB"));
    let profile = match ColorProfile::new_from_slice(profile) {
        Ok(profile) => profile,
        Err(error) => return kept(format!("cannot be read ({error})")),
    };
    let layout = match (source, profile.color_space) {
        (Source::Gray, DataColorSpace::Gray) => Layout::GrayAlpha,
        (_, DataColorSpace::Rgb) => Layout::Rgba,
        (_, other) => return kept(format!("is for {other:?} pixels, unlike this picture")),
    };
    let options = TransformOptions::default();
    let transform = match profile.create_transform_8bit(layout, &ColorProfile::new_srgb(), Layout::Rgba, options) {
        Ok(transform) => transform,
        Err(error) => return kept(format!("cannot be used ({error})")),
    };
    let convert = |from: &[u8], to: &mut [u8]| {
        if layout == Layout::GrayAlpha {
            let gray: Vec<u8> = from.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[3]]).collect();
            transform.transform(&gray, to)
        } else {
            transform.transform(from, to)
        }
    };

    let probe = colors(source);
    let mut converted = vec![0; probe.len()];
    if let Err(error) = convert(&probe, &mut converted) {
        return kept(format!("cannot be used ({error})"));
    }
    if probe.iter().zip(&converted).all(|(before, after)| before.abs_diff(*after) <= SAME) {
        return None;
    }

    let row_bytes = pixels.width() as usize * 4;
    let original = pixels.clone();
    let done = pixels
        .par_chunks_exact_mut(row_bytes)
        .zip(original.par_chunks_exact(row_bytes))
        .try_for_each(|(to, from)| convert(from, to));
    if let Err(error) = done {
        *pixels = original;
        return kept(format!("cannot be used ({error})"));
    }
    for (pixel, before) in pixels.pixels_mut().zip(original.pixels()) {
        pixel.0[3] = before.0[3];
    }
    Some(format!("converted from the color profile {} to sRGB", title(&profile)))
}

/// A lattice through the color cube (RGBA, opaque), or only the grays.
fn colors(source: Source) -> Vec<u8> {
    let steps = || (0..=255u8).step_by(17);
    if source == Source::Gray {
        return (0..=255u8).flat_map(|value| [value, value, value, 255]).collect();
    }
    steps().flat_map(|r| steps().flat_map(move |g| steps().flat_map(move |b| [r, g, b, 255]))).collect()
}

/// The profile's name in quotes, or a remark that it has none.
fn title(profile: &ColorProfile) -> String {
    use moxcms::ProfileText;
    let name = match &profile.description {
        Some(ProfileText::PlainString(text)) => text.clone(),
        Some(ProfileText::Localizable(texts)) => texts.first().map(|text| text.value.clone()).unwrap_or_default(),
        Some(ProfileText::Description(text)) => text.ascii_string.clone(),
        None => String::new(),
    };
    let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    if name.trim().is_empty() { "embedded in it (unnamed)".to_owned() } else { format!("\"{}\"", name.trim()) }
}
