//! Prepares pictures for the models, and their results: resizing as in the reference, splitting and joining alpha,
//! compositing, and keeping an edit true to its source.
//!
//! The pixel type is [`::image::RgbaImage`] throughout: 8 bits, sRGB, straight (not premultiplied) alpha.

mod alpha;
mod change;
mod composite;
mod distance;
mod hidden;
mod mask;
mod matting;
mod outline;
mod registration;
mod resize;

pub use alpha::{alpha_of, at_model_size, back_to_source, on_white, rgb_of, with_alpha};
pub use change::changes;
pub use composite::{Compositor, composite};
pub use hidden::{put_back_hidden, with_continued_colors, without_hidden};
pub use mask::{Mask, MaskCoverage, put_back, usual_feather};
pub use matting::{GROUNDS, from_two_grounds, over_ground};
pub use outline::{Outline, outline};
pub use registration::Drift;
pub(crate) use resize::{Taps, bicubic_taps};
pub use resize::{bicubic_rgb, bicubic_rgb_torchvision, lanczos, lanczos_l, lanczos_rgb};

/// Pictures that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// There are no layers.
    #[error("layers: there are none; give at least one picture, rearmost first")]
    NoLayers,
    /// A layer of another size than the first one.
    #[error(
        "layers[{index}]: is {width}x{height} pixels but layers[0] is {first_width}x{first_height}; all layers must \
         have the same size"
    )]
    LayerSize {
        /// The number of the layer, from 0.
        index: usize,
        /// Its width in pixels.
        width: u32,
        /// Its height in pixels.
        height: u32,
        /// The width of the first layer.
        first_width: u32,
        /// The height of the first layer.
        first_height: u32,
    },
    /// An edited picture of another size than the layer whose alpha it gets.
    #[error(
        "edited picture: it is {width}x{height} pixels but the layer whose alpha it takes is \
         {alpha_width}x{alpha_height}; resize one of them first"
    )]
    AlphaSize {
        /// Its width in pixels.
        width: u32,
        /// Its height in pixels.
        height: u32,
        /// The width of the layer.
        alpha_width: u32,
        /// The height of the layer.
        alpha_height: u32,
    },
}
