//! AV1 pictures, through rav1d.

use re_rav1d::dav1d::{Decoder, Error, Picture, PixelLayout, PlanarImageComponent, Settings};

use super::planes::{Chroma, PlaneFormat, Planes};
use crate::image::pixels::CodecError;

/// Decodes the first picture, of no more than `most_pixels`.
pub(super) fn decode(data: &[u8], operating_point: u8, most_pixels: u64) -> Result<Planes, CodecError> {
    let mut settings = Settings::new();
    // Tiles of a grid are decoded side by side already, and a panic in a thread of the decoder could not be caught.
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    settings.set_all_layers(false);
    settings.set_operating_point(operating_point.into());
    settings.set_frame_size_limit(u32::try_from(most_pixels).unwrap_or(u32::MAX));
    let mut decoder = Decoder::with_settings(&settings).map_err(said)?;
    let mut sent = decoder.send_data(data.to_vec(), None, None, None);
    loop {
        match sent {
            Ok(()) | Err(Error::Again) => {}
            Err(error) => return Err(said(error)),
        }
        match decoder.get_picture() {
            Ok(picture) => return planes(&picture),
            Err(Error::Again) if sent.is_ok() => {
                return Err(CodecError::Damaged("its AV1 data hold no whole picture".to_owned()));
            }
            Err(Error::Again) => sent = decoder.send_pending_data(),
            Err(error) => return Err(said(error)),
        }
    }
}

fn said(error: Error) -> CodecError {
    match error {
        Error::NotEnoughMemory => CodecError::TooLarge,
        Error::UnsupportedBitstream => CodecError::Unsupported("this profile of AV1".to_owned()),
        _ => CodecError::Damaged("its AV1 data are not valid".to_owned()),
    }
}

fn planes(picture: &Picture) -> Result<Planes, CodecError> {
    let chroma = match picture.pixel_layout() {
        PixelLayout::I400 => Chroma::None,
        PixelLayout::I420 => Chroma::Quarter,
        PixelLayout::I422 => Chroma::Half,
        PixelLayout::I444 => Chroma::Full,
    };
    let depth = picture.bits_per_component().map_or(8, |bits| bits.0 as u8);
    let mut planes = Planes {
        width: picture.width() as usize,
        height: picture.height() as usize,
        format: PlaneFormat { depth, chroma },
        samples: Default::default(),
    };
    let components = [PlanarImageComponent::Y, PlanarImageComponent::U, PlanarImageComponent::V];
    for (index, component) in components.into_iter().enumerate() {
        let (width, height) = planes.plane_size(index);
        if width == 0 {
            continue;
        }
        let stride = picture.stride(component) as usize;
        let plane = picture.plane(component);
        let mut samples = Vec::with_capacity(width * height);
        for row in plane.chunks_exact(stride).take(height) {
            if depth == 8 {
                samples.extend(row.iter().take(width).map(|sample| u16::from(*sample)));
            } else {
                samples.extend(row.as_chunks().0.iter().take(width).map(|sample| u16::from_ne_bytes(*sample)));
            }
        }
        planes.samples[index] = samples;
    }
    Ok(planes)
}
