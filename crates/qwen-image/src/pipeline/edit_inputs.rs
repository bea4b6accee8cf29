//! The pictures of an edit, and what can be said of them before a model is loaded.

use ::image::RgbaImage;

use super::{
    error::{PipelineError, Result},
    image_tensor,
    options::EditOptions,
};
use crate::image_processor::{Mask, MaskCoverage};

/// The maximum number of pictures in addition to the edited one.
pub const MOST_REFERENCES: usize = 2;

/// The pictures of an edit.
#[derive(Debug, Clone, Copy)]
pub struct EditInputs<'a> {
    /// The picture to edit; the output has its aspect ratio.
    pub image: &'a RgbaImage,
    /// Up to two that the instruction may refer to. They are numbered before the edited one: "Picture 1", "Picture 2".
    pub references: &'a [RgbaImage],
    /// Where the picture may change, of its size. None, or white everywhere: everything.
    pub mask: Option<&'a Mask>,
}

impl<'a> EditInputs<'a> {
    /// All pictures in the order of the model's numbering.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = &'a RgbaImage> + use<'a> {
        self.references.iter().chain(std::iter::once(self.image))
    }

    /// Checks the pictures, the instruction and the options of an edit, also against each other; no model is needed.
    /// Returns the mask, unless it lets everything change.
    pub(crate) fn check(&self, instruction: &str, options: &EditOptions) -> Result<Option<&'a Mask>> {
        options.check()?;
        let invalid = |field, reason: String| Err(PipelineError::invalid(field, reason));
        if instruction.trim().is_empty() {
            return invalid("instruction", "is empty; say what to change".to_owned());
        }
        let references = self.references.len();
        if references > MOST_REFERENCES {
            let reason = format!("{references} references were given; the model reads at most {MOST_REFERENCES}");
            return invalid("references", reason);
        }
        self.numbered().try_for_each(image_tensor::check_shape)?;
        let Some(mask) = self.mask else {
            let no_mask = "is the soft edge of a mask, and there is none; give a mask, or set keep_rest";
            let unused = options.feather.is_some() && !options.keep_rest;
            return if unused { invalid("feather", no_mask.to_owned()) } else { Ok(None) };
        };
        if options.keep_rest {
            return invalid(
                "keep_rest",
                "finds by itself what changed, so it cannot be combined with a mask".to_owned(),
            );
        }
        let ((width, height), (wanted_width, wanted_height)) = (mask.dimensions(), self.image.dimensions());
        if (width, height) != (wanted_width, wanted_height) {
            return invalid("mask", format!("is {width}x{height}, but the picture is {wanted_width}x{wanted_height}"));
        }
        match mask.coverage() {
            MaskCoverage::Empty => invalid("mask", "is black everywhere, so that nothing may change".to_owned()),
            MaskCoverage::Part => Ok(Some(mask)),
            MaskCoverage::Full => Ok(None),
        }
    }
}
