//! From the picture that the model made to the edited picture: at the source's place, size and alpha, and equal to the
//! source where it must not change.

use ::image::{RgbImage, RgbaImage};

use super::options::{DriftRecord, EditOptions, OutputSize};
use crate::image_processor::{
    Drift, Mask, at_model_size, back_to_source, changes, lanczos_rgb, put_back, usual_feather,
};

pub struct Finished {
    pub image: RgbaImage,
    pub drift: Option<DriftRecord>,
    /// The share of the pixels that may differ from the source's, if there was a mask or one was found.
    pub changed: Option<f64>,
}

/// `seen` is the source as the model saw it, and `mask` has its size. Latents outside one cannot drift, so that drift is undone only without.
pub fn finish(
    mut edited: RgbImage,
    source: &RgbaImage,
    seen: &RgbImage,
    mask: Option<&Mask>,
    options: &EditOptions,
) -> Finished {
    let needs_source = options.output_size == OutputSize::Model && mask.is_some();
    let small = (options.drift_guard || options.keep_rest || needs_source)
        .then(|| lanczos_rgb(seen, edited.width(), edited.height()));
    let mut drift = None;
    if let Some(small) = small.as_ref().filter(|_| options.drift_guard && mask.is_none())
        && let Some(found) = Drift::of(small, &edited)
    {
        let undone = !found.is_unnoticed() && found.is_accident();
        if undone {
            edited = found.undo(&edited);
        }
        drift = Some(DriftRecord { shift: found.shift(source.dimensions()), zoom: found.zoom(), undone });
    }
    let found = small.as_ref().filter(|_| options.keep_rest && mask.is_none()).map(|small| changes(small, &edited));
    let (mut image, rest) = match (options.output_size, &small) {
        (OutputSize::Model, Some(small)) => (at_model_size(&edited, source), Some(at_model_size(small, source))),
        (OutputSize::Model, None) => (at_model_size(&edited, source), None),
        (OutputSize::Source, _) => (back_to_source(&edited, source), None),
    };
    let mask = mask.or(found.as_ref()).map(|mask| mask.resized(image.width(), image.height()));
    if let Some(mask) = &mask {
        let feather = options.feather.unwrap_or_else(|| usual_feather(image.dimensions()));
        put_back(&mut image, rest.as_ref().unwrap_or(source), &mask.weights(feather));
    }
    Finished { image, drift, changed: mask.map(|mask| mask.share()) }
}
