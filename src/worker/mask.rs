//! The mask of an edit, at the size of the picture that is edited.

use ::image::RgbaImage;
use qwen_image::image_processor::{Mask, MaskCoverage};

use crate::job::{EditParams, InputRef, JobError};

/// Makes the mask of an edit's region, or of its mask picture: of a layer's alpha, of another picture's brightness.
/// Returns it with notes for the user; there is none if everything may change.
///
/// # Errors
/// [`JobError::InvalidRequest`] for a region that leaves the picture, and for a mask that lets nothing change.
pub(super) fn edit_mask(
    (at, params): (&str, &EditParams),
    named: Option<&InputRef>,
    picture: Option<&RgbaImage>,
    (width, height): (u32, u32),
) -> Result<(Option<Mask>, Vec<String>), JobError> {
    let mut notes = Vec::new();
    if let Some(region) = params.region {
        check_region(at, region, (width, height))?;
    }
    let mask = match (picture, params.region) {
        (None, None) => return Ok((None, notes)),
        (None, Some(region)) => Mask::from_region((width, height), region),
        (Some(picture), _) if named.is_some_and(InputRef::is_layer) => Mask::from_alpha(picture),
        (Some(picture), _) => Mask::from_picture(picture),
    };
    let (has_width, has_height) = mask.dimensions();
    if (has_width, has_height) != (width, height) {
        notes.push(format!("the mask is {has_width}x{has_height} and was scaled to the picture's {width}x{height}"));
    }
    let mask = mask.resized(width, height);
    match mask.coverage() {
        MaskCoverage::Part => Ok((Some(mask), notes)),
        MaskCoverage::Full => {
            notes.push("the mask lets everything change, so that it has no effect".to_owned());
            Ok((None, notes))
        }
        MaskCoverage::Empty => {
            let reason = if named.is_some_and(InputRef::is_layer) {
                "the layer is transparent everywhere, so that nothing may change; name another layer"
            } else {
                "is black everywhere, so that nothing may change; paint white what may change"
            };
            Err(JobError::invalid("input.mask", reason))
        }
    }
}

fn check_region(at: &str, region: [u32; 4], (width, height): (u32, u32)) -> Result<(), JobError> {
    let [x, y, w, h] = region.map(u64::from);
    if x + w <= u64::from(width) && y + h <= u64::from(height) {
        return Ok(());
    }
    let reason = format!(
        "{region:?} reaches to {}, {}, outside the picture, which is {width}x{height}; write [x, y, width, height] in \
         its pixels",
        x + w,
        y + h
    );
    Err(JobError::invalid(format!("{at}.region"), reason))
}

#[cfg(test)]
mod tests {
    use ::image::Rgba;

    use super::*;
    use crate::job::JobId;

    fn region(region: [u32; 4]) -> Result<(Option<Mask>, Vec<String>), JobError> {
        edit_mask(("params", &EditParams { region: Some(region), ..EditParams::default() }), None, None, (64, 48))
    }

    fn picture(named: &InputRef, pixel: [u8; 4]) -> Result<(Option<Mask>, Vec<String>), JobError> {
        let picture = RgbaImage::from_fn(32, 48, |x, _| if x < 16 { Rgba(pixel) } else { Rgba([0, 0, 0, pixel[3]]) });
        edit_mask(("params", &EditParams::default()), Some(named), Some(&picture), (64, 48))
    }

    #[test]
    fn a_region_lies_in_the_picture() {
        assert_eq!(region([10, 10, 20, 20]).unwrap().0.unwrap().dimensions(), (64, 48));
        assert_eq!(region([0, 0, 64, 48]).unwrap().0, None, "the whole picture is no mask");
        for outside in [[0, 0, 65, 48], [0, 40, 10, 9], [64, 0, 1, 1], [u32::MAX, 0, u32::MAX, 1]] {
            let error = region(outside).unwrap_err().to_string();
            assert!(error.starts_with("params.region: [") && error.contains("which is 64x48"), "{error}");
        }
    }

    #[test]
    fn pictures_are_masks_by_brightness_and_layers_by_alpha() {
        let job = JobId::new();
        let (url, layer) = (InputRef::Url("file:///m.png".to_owned()), InputRef::Layer { job, layer: 2 });
        let file = |file: &str| InputRef::File { job, file: file.to_owned() };
        let (mask, notes) = picture(&url, [255, 255, 255, 255]).unwrap();
        assert_eq!(mask.unwrap().dimensions(), (64, 48));
        assert_eq!(notes, ["the mask is 32x48 and was scaled to the picture's 64x48"]);
        let error = picture(&url, [255, 255, 255, 0]).unwrap_err().to_string();
        assert!(error.starts_with("input.mask: is black everywhere"), "{error}");
        assert_eq!(picture(&layer, [0, 0, 0, 255]).unwrap().0, None, "an opaque layer is all white");
        assert!(picture(&file("edited.png"), [0, 0, 0, 255]).is_err());
        for layer in [layer, file("layer-01.png")] {
            let error = picture(&layer, [255, 255, 255, 3]).unwrap_err().to_string();
            assert!(error.starts_with("input.mask: the layer is transparent everywhere"), "{error}");
        }
    }
}
