//! JPEG XL, through jxl-oxide.

use std::ops::Not;

use jxl_oxide::{
    AllocTracker, EnumColourEncoding, ExtraChannelType, FrameBufferSample, InitializeResult, JxlImage, Render,
    RenderingIntent,
};

use super::pixels::{CodecError, Model, Pixels, Samples, straight};
use crate::job::JobError;

/// A JPEG XL file that is read, but not decoded.
pub(super) struct Jxl {
    image: JxlImage,
    model: Model,
    alpha: bool,
    premultiplied: bool,
    high_dynamic_range: bool,
}

impl Jxl {
    /// Reads the headers of all frames. `check` gets the size before anything of that size is allocated; decoding will
    /// hold at most `most_memory` bytes beside the result.
    pub fn open(
        bytes: &[u8],
        most_memory: usize,
        check: impl FnOnce((u32, u32)) -> Result<(), JobError>,
    ) -> Result<Result<Self, CodecError>, JobError> {
        let (mut image, rest) = match begin(bytes, most_memory) {
            Ok(begun) => begun,
            Err(error) => return Ok(Err(error)),
        };
        check((image.width(), image.height()))?;
        Ok(load(&mut image, rest).map(|()| Self::of(image)))
    }

    fn of(mut image: JxlImage) -> Self {
        // Its transfer curve is undone and the light mapped to sRGB; otherwise the picture would look flat.
        let high_dynamic_range = image.hdr_type().is_some();
        if high_dynamic_range {
            image.request_color_encoding(EnumColourEncoding::srgb(RenderingIntent::Relative));
        }
        let format = image.pixel_format();
        let model = match (format.is_grayscale(), format.has_black()) {
            (true, _) => Model::Gray,
            (_, true) => Model::Cmyk,
            _ => Model::Rgb,
        };
        let of_alpha =
            |channel: &ExtraChannelType| matches!(channel, ExtraChannelType::Alpha { alpha_associated: true });
        let premultiplied = image.image_header().metadata.ec_info.iter().any(|channel| of_alpha(&channel.ty));
        Self { model, alpha: format.has_alpha(), premultiplied, high_dynamic_range, image }
    }

    /// As it is shown: the decoder turns it.
    pub fn size(&self) -> (u32, u32) {
        (self.image.width(), self.image.height())
    }

    pub fn frames(&self) -> usize {
        self.image.num_loaded_keyframes()
    }

    /// The profile of the decoded pixels. Nearly every file has one or names its color by numbers, from which the
    /// decoder makes one.
    pub fn icc(&self) -> Option<Vec<u8>> {
        (!self.high_dynamic_range).then(|| self.image.rendered_icc())
    }

    /// Bytes per pixel that the decoder holds at its peak: each channel in 32 bits, before and after the filters, and
    /// the samples.
    pub fn bytes_per_pixel(&self) -> u64 {
        let channels = self.image.image_header().metadata.ec_info.len() + 3;
        channels as u64 * (2 * 4 + 2)
    }

    /// The first picture, and a note about its light.
    pub fn decode(&self) -> Result<(Pixels, Option<String>), CodecError> {
        let render = self.image.render_frame(0).map_err(|error| refused(&*error))?;
        let mut samples = if self.image.image_header().metadata.bit_depth.bits_per_sample() > 8 {
            Samples::Sixteen(read(&render))
        } else {
            Samples::Eight(read(&render))
        };
        match &mut samples {
            Samples::Eight(samples) => self.finish(samples),
            Samples::Sixteen(samples) => self.finish(samples),
        }
        let (width, height) = self.size();
        let note = self.high_dynamic_range.then(|| "a high dynamic range, mapped to sRGB".to_owned());
        Ok((Pixels { width, height, model: self.model, alpha: self.alpha, samples }, note))
    }

    /// Ink as an amount (in JPEG XL, 0 is full ink), and straight alpha.
    fn finish<T>(&self, samples: &mut [T])
    where
        T: Copy + Not<Output = T> + Into<u32> + TryFrom<u32>,
    {
        let colors = self.model.channels();
        for pixel in samples.chunks_exact_mut(colors + usize::from(self.alpha)) {
            if self.model == Model::Cmyk {
                pixel[..colors].iter_mut().for_each(|value| *value = !*value);
            }
            if self.premultiplied {
                straight(pixel, colors);
            }
        }
    }
}

/// Reads until the header is complete, and returns the rest.
fn begin(mut bytes: &[u8], most_memory: usize) -> Result<(JxlImage, &[u8]), CodecError> {
    let mut unread = JxlImage::builder().alloc_tracker(AllocTracker::with_limit(most_memory)).build_uninit();
    loop {
        // What is not consumed is given again.
        let consumed = unread.feed_bytes(&bytes[..bytes.len().min(4096)]).map_err(|error| refused(&*error))?;
        if consumed == 0 {
            return Err(CodecError::CutShort);
        }
        bytes = &bytes[consumed..];
        match unread.try_init().map_err(|error| refused(&*error))? {
            InitializeResult::Initialized(image) => return Ok((image, bytes)),
            InitializeResult::NeedMoreData(more) => unread = more,
        }
    }
}

/// Reads the rest.
fn load(image: &mut JxlImage, mut bytes: &[u8]) -> Result<(), CodecError> {
    while !image.is_loading_done() {
        match image.feed_bytes(bytes).map_err(|error| refused(&*error))? {
            0 => return Err(CodecError::CutShort),
            consumed => bytes = &bytes[consumed..],
        }
    }
    Ok(())
}

fn read<T: FrameBufferSample + Clone + Default>(render: &Render) -> Vec<T> {
    let mut stream = render.stream();
    let count = stream.width() as usize * stream.height() as usize * stream.channels() as usize;
    let mut samples = vec![T::default(); count];
    stream.write_to_buffer(&mut samples);
    samples
}

/// The decoder's error is a chain of types that it does not export.
fn refused(error: &(dyn std::error::Error + Send + Sync + 'static)) -> CodecError {
    let is_end = |error: &std::io::Error| error.kind() == std::io::ErrorKind::UnexpectedEof;
    if error.downcast_ref::<std::io::Error>().is_some_and(is_end) {
        return CodecError::CutShort;
    }
    let said = error.to_string();
    if said.contains("failed to allocate") { CodecError::TooLarge } else { CodecError::Damaged(said) }
}
