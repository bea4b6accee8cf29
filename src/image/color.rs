//! Converts pixels to sRGB with 8 bits, by the color that their file names. 16 bits are rounded after that, once.

use std::borrow::Cow;

use ::image::RgbaImage;
use moxcms::{
    CicpColorPrimaries, CicpProfile, CmsError, ColorProfile, DataColorSpace, Layout, MatrixCoefficients,
    TransferCharacteristics, TransformOptions,
};
use rayon::prelude::*;

use super::pixels::{Model, Pixels, Samples};

/// The most bytes of a profile inside a file; the largest real ones, for printers, have 4 MB.
pub(super) const MOST_PROFILE: usize = 16 << 20;

/// A profile that differs from sRGB by no more than this in any channel is sRGB with another name or rounding.
const SAME: u8 = 2;

/// What a file says about its color. The first of these that is there counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Encoding<'a> {
    /// Numbers of ITU-T H.273 (CICP): primaries, transfer, matrix, full range.
    pub cicp: Option<[u8; 4]>,
    pub profile: Option<Profile<'a>>,
    /// The file says that it is sRGB.
    pub srgb: bool,
    /// EXIF says that it is Adobe RGB.
    pub adobe_rgb: bool,
    /// A gamma or primaries that are not sRGB's, in words.
    pub ignored: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Profile<'a> {
    Bytes(Cow<'a, [u8]>),
    /// Larger than [`MOST_PROFILE`].
    TooLarge,
    Unreadable,
}

/// Converts; `note` is called for everything that the file's user should know.
pub(super) fn to_srgb(mut pixels: Pixels, encoding: &Encoding<'_>, note: &mut impl FnMut(String)) -> RgbaImage {
    if matches!(encoding.cicp, Some([_, _, _, 0])) {
        note("its samples have the range of video (16 to 235 of 255), which was made full".to_owned());
        to_full_range(&mut pixels);
    }
    if matches!(pixels.samples, Samples::Sixteen(_)) {
        note("more than 8 bits per channel, rounded to 8".to_owned());
    }
    if pixels.model == Model::Lab {
        note("CIE Lab, converted to sRGB".to_owned());
        return plain(&pixels);
    }
    let (profile, said) = match source(encoding) {
        Ok(Some(found)) => found,
        other => {
            if pixels.model == Model::Cmyk {
                note("CMYK, converted to RGB without a color profile".to_owned());
            }
            if let Err(why) = other {
                note(why);
            }
            return plain(&pixels);
        }
    };
    match by_profile(&pixels, &profile) {
        Ok(Some(image)) => {
            let inks = if pixels.model == Model::Cmyk { "CMYK, " } else { "" };
            note(format!("{inks}converted from {said} to sRGB"));
            image
        }
        Ok(None) => plain(&pixels),
        Err(why) => {
            if pixels.model == Model::Cmyk {
                note("CMYK, converted to RGB without a color profile".to_owned());
            }
            note(format!("its color profile {why}; the pixels were treated as sRGB"));
            plain(&pixels)
        }
    }
}

/// Black at 16 and white at 235 of 255 become the ends of the range. Alpha has the full one already.
fn to_full_range(pixels: &mut Pixels) {
    const BLACK: u32 = 16;
    const SPAN: u32 = 235 - 16;
    let full = |value: u32, unit: u32, most: u32| {
        let span = SPAN * unit;
        ((value.saturating_sub(BLACK * unit) * most + span / 2) / span).min(most)
    };
    let (channels, colors) = (pixels.channels(), pixels.model.channels());
    match &mut pixels.samples {
        Samples::Eight(samples) => samples.chunks_exact_mut(channels).for_each(|pixel| {
            pixel[..colors].iter_mut().for_each(|value| *value = full((*value).into(), 1, 255) as u8);
        }),
        Samples::Sixteen(samples) => samples.chunks_exact_mut(channels).for_each(|pixel| {
            pixel[..colors].iter_mut().for_each(|value| *value = full((*value).into(), 256, 65535) as u16);
        }),
    }
}

/// The profile to convert from and its name. An error is a note.
fn source(encoding: &Encoding<'_>) -> Result<Option<(ColorProfile, String)>, String> {
    if let Some([primaries, transfer, _, _]) = encoding.cicp {
        return coded(primaries, transfer);
    }
    let kept = |why: &str| Err(format!("its color profile {why}; the pixels were treated as sRGB"));
    match &encoding.profile {
        Some(Profile::Bytes(bytes)) => match ColorProfile::new_from_slice(bytes) {
            Ok(profile) => {
                let said = format!("the color profile {}", title(&profile));
                Ok(Some((profile, said)))
            }
            Err(error) => kept(&format!("cannot be read ({error})")),
        },
        Some(Profile::TooLarge) => kept(&format!("is larger than {} MiB", MOST_PROFILE >> 20)),
        Some(Profile::Unreadable) => kept("cannot be read (it cannot be decompressed)"),
        None if encoding.srgb => Ok(None),
        None if encoding.adobe_rgb => {
            Ok(Some((ColorProfile::new_adobe_rgb(), "Adobe RGB, which its EXIF names,".to_owned())))
        }
        None => encoding.ignored.clone().map_or(Ok(None), Err),
    }
}

/// A color named by numbers of H.273.
fn coded(primaries: u8, transfer: u8) -> Result<Option<(ColorProfile, String)>, String> {
    if (primaries, transfer) == (1, 13) {
        return Ok(None);
    }
    let said = format!("the color that its CICP numbers name (primaries {primaries}, transfer {transfer})");
    let unknown = || format!("{said} is not known; the pixels were treated as sRGB");
    let (Ok(color_primaries), Ok(characteristics)) =
        (CicpColorPrimaries::try_from(primaries), TransferCharacteristics::try_from(transfer))
    else {
        return Err(unknown());
    };
    if matches!(transfer, 16 | 18) {
        return Err(format!("{said} has a high dynamic range; the pixels were treated as sRGB, so it looks flat"));
    }
    let mut profile = ColorProfile::new_srgb();
    profile.red_trc = None;
    // What it returns does not say whether it did so.
    profile.update_rgb_colorimetry_from_cicp(CicpProfile {
        color_primaries,
        transfer_characteristics: characteristics,
        matrix_coefficients: MatrixCoefficients::Identity,
        full_range: true,
    });
    if profile.red_trc.is_some() { Ok(Some((profile, said))) } else { Err(unknown()) }
}

/// None if the profile is sRGB; the error says what is wrong with it.
fn by_profile(pixels: &Pixels, profile: &ColorProfile) -> Result<Option<RgbaImage>, String> {
    let shape = match (pixels.model, profile.color_space) {
        (Model::Gray, DataColorSpace::Gray) => PixelLayout::GrayAlpha,
        (Model::Gray | Model::Rgb, DataColorSpace::Rgb) => PixelLayout::Rgba,
        (Model::Cmyk, DataColorSpace::Cmyk) => PixelLayout::Cmyk,
        (_, other) => return Err(format!("is for {other:?} pixels, unlike this picture")),
    };
    let unusable = |error: CmsError| format!("cannot be used ({error})");
    let (srgb, options) = (ColorProfile::new_srgb(), TransformOptions::default());
    let eight = profile.create_transform_8bit(shape.from(), &srgb, shape.to(), options).map_err(unusable)?;
    if shape != PixelLayout::Cmyk {
        let probe = colors(shape);
        let mut converted = vec![0; probe.len() / shape.from().channels() * 4];
        eight.transform(&probe, &mut converted).map_err(unusable)?;
        let same = |(before, after): (&[u8], &[u8])| {
            let before =
                if shape == PixelLayout::GrayAlpha { [before[0]; 3] } else { [before[0], before[1], before[2]] };
            before.iter().zip(after).all(|(before, after)| before.abs_diff(*after) <= SAME)
        };
        if probe.chunks_exact(shape.from().channels()).zip(converted.chunks_exact(4)).all(same) {
            return Ok(None);
        }
    }
    let image = match &pixels.samples {
        Samples::Eight(samples) => rows(pixels, samples, shape, |from, to| eight.transform(from, to)),
        Samples::Sixteen(samples) => {
            let deep = profile.create_transform_16bit(shape.from(), &srgb, shape.to(), options).map_err(unusable)?;
            rows(pixels, samples, shape, |from, to| deep.transform(from, to))
        }
    };
    image.map(Some).map_err(unusable)
}

/// How the pixels are passed to the transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PixelLayout {
    GrayAlpha,
    Rgba,
    Cmyk,
}

impl PixelLayout {
    fn from(self) -> Layout {
        match self {
            Self::GrayAlpha => Layout::GrayAlpha,
            // For CMYK, the four channels of this layout are the inks.
            Self::Rgba | Self::Cmyk => Layout::Rgba,
        }
    }

    fn to(self) -> Layout {
        if self == Self::Cmyk { Layout::Rgb } else { Layout::Rgba }
    }
}

trait ChannelValue: Copy + Default + Send + Sync {
    const FULL: Self;
    fn eight(self) -> u8;
    /// From 0 to 1.
    fn part(self) -> f32;
}

impl ChannelValue for u8 {
    const FULL: Self = Self::MAX;
    fn eight(self) -> u8 {
        self
    }
    fn part(self) -> f32 {
        f32::from(self) / 255.0
    }
}

impl ChannelValue for u16 {
    const FULL: Self = Self::MAX;
    fn eight(self) -> u8 {
        ((u32::from(self) + 128) / 257) as u8
    }
    fn part(self) -> f32 {
        f32::from(self) / 65535.0
    }
}

/// Converts row by row. Alpha is kept as it is.
fn rows<T: ChannelValue>(
    pixels: &Pixels,
    samples: &[T],
    shape: PixelLayout,
    transform: impl Fn(&[T], &mut [T]) -> Result<(), CmsError> + Sync,
) -> Result<RgbaImage, CmsError> {
    let (channels, colors) = (pixels.channels(), pixels.model.channels());
    let width = pixels.width as usize;
    let mut image = RgbaImage::new(pixels.width, pixels.height);
    image.par_chunks_exact_mut(width * 4).zip(samples.par_chunks_exact(width * channels)).try_for_each(
        |(out, row)| {
            let alpha = |pixel: &[T]| if pixels.alpha { pixel[colors] } else { T::FULL };
            let mut from = Vec::with_capacity(width * 4);
            for pixel in row.chunks_exact(channels) {
                match (shape, pixels.model) {
                    (PixelLayout::GrayAlpha, _) => from.extend([pixel[0], alpha(pixel)]),
                    (PixelLayout::Cmyk, _) => from.extend_from_slice(&pixel[..4]),
                    (PixelLayout::Rgba, Model::Gray) => from.extend([pixel[0], pixel[0], pixel[0], alpha(pixel)]),
                    (PixelLayout::Rgba, _) => from.extend([pixel[0], pixel[1], pixel[2], alpha(pixel)]),
                }
            }
            let step = shape.to().channels();
            let mut to = vec![T::default(); width * step];
            transform(&from, &mut to)?;
            for ((out, to), pixel) in out.chunks_exact_mut(4).zip(to.chunks_exact(step)).zip(row.chunks_exact(channels))
            {
                out.copy_from_slice(&[to[0].eight(), to[1].eight(), to[2].eight(), alpha(pixel).eight()]);
            }
            Ok(())
        },
    )?;
    Ok(image)
}

/// Without a profile.
fn plain(pixels: &Pixels) -> RgbaImage {
    match &pixels.samples {
        Samples::Eight(samples) => plain_rows(pixels, samples),
        Samples::Sixteen(samples) => plain_rows(pixels, samples),
    }
}

fn plain_rows<T: ChannelValue>(pixels: &Pixels, samples: &[T]) -> RgbaImage {
    let (channels, colors) = (pixels.channels(), pixels.model.channels());
    let width = pixels.width as usize;
    let mut image = RgbaImage::new(pixels.width, pixels.height);
    image.par_chunks_exact_mut(width * 4).zip(samples.par_chunks_exact(width * channels)).for_each(|(out, row)| {
        for (out, pixel) in out.chunks_exact_mut(4).zip(row.chunks_exact(channels)) {
            let color = match pixels.model {
                Model::Gray => [pixel[0].eight(); 3],
                Model::Rgb => [pixel[0].eight(), pixel[1].eight(), pixel[2].eight()],
                Model::Cmyk => {
                    let [c, m, y, k] = [0, 1, 2, 3].map(|ink| u32::from(pixel[ink].eight()));
                    [c, m, y].map(|ink| without_black(ink, k))
                }
                Model::Lab => lab(pixel[0].part(), offset(pixel[1].part()), offset(pixel[2].part())),
            };
            out[..3].copy_from_slice(&color);
            out[3] = if pixels.alpha { pixel[colors].eight() } else { 255 };
        }
    });
    image
}

/// A color of an ink and black, as in Pillow: the paper's white less black, less the ink's part of it.
fn without_black(ink: u32, black: u32) -> u8 {
    let white = 255 - black;
    let product = ink * white + 128;
    (white - (((product >> 8) + product) >> 8)) as u8
}

/// a and b of Lab: 8 bits have 128 for 0, 16 bits 32768.
fn offset(part: f32) -> f32 {
    part * 255.0 - 128.0
}

/// CIE Lab under D50, `l` from 0 to 1, to sRGB.
fn lab(l: f32, a: f32, b: f32) -> [u8; 3] {
    /// XYZ under D50 to linear sRGB, by Bradford's adaptation.
    const TO_RGB: [[f32; 3]; 3] =
        [[3.134_136, -1.617_386, -0.490_662], [-0.978_796, 1.916_254, 0.033_443], [0.071_955, -0.228_977, 1.405_386]];
    let y = (l * 100.0 + 16.0) / 116.0;
    let inverse = |t: f32| if t > 6.0 / 29.0 { t * t * t } else { (t - 16.0 / 116.0) * 3.0 * (6.0f32 / 29.0).powi(2) };
    let xyz = [0.9642 * inverse(y + a / 500.0), inverse(y), 0.8249 * inverse(y - b / 200.0)];
    TO_RGB.map(|row| {
        let linear: f32 = row.iter().zip(xyz).map(|(factor, value)| factor * value).sum::<f32>().clamp(0.0, 1.0);
        let coded = if linear <= 0.003_130_8 { 12.92 * linear } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 };
        (coded * 255.0).round() as u8
    })
}

/// A lattice through the color cube (opaque), or only the grays.
fn colors(shape: PixelLayout) -> Vec<u8> {
    let steps = || (0..=255u8).step_by(17);
    if shape == PixelLayout::GrayAlpha {
        return (0..=255u8).flat_map(|value| [value, 255]).collect();
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
