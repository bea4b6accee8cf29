//! Pixels as a file has them: before their color is converted and before 16 bits become 8.

use ::image::DynamicImage;

/// What the color samples of a pixel mean. All samples use the full range of their type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Model {
    /// One sample; 0 is black.
    Gray,
    Rgb,
    /// The amounts of four inks; 0 is none.
    Cmyk,
    /// CIE L\*a\*b\* under D50: L from 0 to 100, a and b from -128 to 127.
    Lab,
}

impl Model {
    /// Samples per pixel, without alpha.
    pub fn channels(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::Rgb | Self::Lab => 3,
            Self::Cmyk => 4,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Samples {
    Eight(Vec<u8>),
    Sixteen(Vec<u16>),
}

/// A picture in rows from top to bottom, its samples interleaved, alpha last and straight.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pixels {
    pub width: u32,
    pub height: u32,
    pub model: Model,
    pub alpha: bool,
    pub samples: Samples,
}

impl Pixels {
    /// Samples per pixel, including alpha.
    pub fn channels(&self) -> usize {
        self.model.channels() + usize::from(self.alpha)
    }
}

/// Why a codec gave no pixels.
#[derive(Debug)]
pub(super) enum CodecError {
    CutShort,
    TooLarge,
    /// What it has that is not read.
    Unsupported(String),
    /// What the codec says.
    Damaged(String),
}

/// Returns the pixel type's name if it is not one of 8 or 16 bits.
impl TryFrom<DynamicImage> for Pixels {
    type Error = String;

    fn try_from(image: DynamicImage) -> Result<Self, String> {
        let (width, height) = (image.width(), image.height());
        let (model, alpha, samples) = match image {
            DynamicImage::ImageLuma8(image) => (Model::Gray, false, Samples::Eight(image.into_raw())),
            DynamicImage::ImageLumaA8(image) => (Model::Gray, true, Samples::Eight(image.into_raw())),
            DynamicImage::ImageRgb8(image) => (Model::Rgb, false, Samples::Eight(image.into_raw())),
            DynamicImage::ImageRgba8(image) => (Model::Rgb, true, Samples::Eight(image.into_raw())),
            DynamicImage::ImageLuma16(image) => (Model::Gray, false, Samples::Sixteen(image.into_raw())),
            DynamicImage::ImageLumaA16(image) => (Model::Gray, true, Samples::Sixteen(image.into_raw())),
            DynamicImage::ImageRgb16(image) => (Model::Rgb, false, Samples::Sixteen(image.into_raw())),
            DynamicImage::ImageRgba16(image) => (Model::Rgb, true, Samples::Sixteen(image.into_raw())),
            other => return Err(format!("{:?}", other.color())),
        };
        Ok(Self { width, height, model, alpha, samples })
    }
}

/// Divides the color of a pixel by its alpha, the last sample.
pub(super) fn straight<T: Copy + Into<u32> + TryFrom<u32>>(pixel: &mut [T], colors: usize) {
    let most: u32 = if size_of::<T>() == 1 { 255 } else { 65535 };
    let alpha: u32 = pixel[colors].into();
    if alpha == 0 || alpha == most {
        return;
    }
    for value in &mut pixel[..colors] {
        let color = (u64::from((*value).into()) * u64::from(most) + u64::from(alpha / 2)) / u64::from(alpha);
        if let Ok(straight) = T::try_from(color.min(u64::from(most)) as u32) {
            *value = straight;
        }
    }
}
