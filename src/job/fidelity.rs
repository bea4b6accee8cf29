//! How true the layers of a decompose are to their picture.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The sizes of a decompose, and what its layers differ from their picture by.
///
/// A picture that is larger than the model's, or of another shape, has layers of its own size, whose composite it is;
/// what the model itself made is told beside them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Fidelity {
    /// The picture, as it was read.
    pub source: PictureSize,
    /// What the model made.
    pub model: PictureSize,
    /// The layers.
    pub output: PictureSize,
    /// Peak signal-to-noise ratio of the layers' composite against the picture, in dB. Null: there is no difference.
    pub psnr: Option<f64>,
    /// The largest difference of a color or alpha, of 255.
    pub max_error: u8,
    /// The same for the layers as the model made them, against the picture at the model's size.
    pub model_psnr: Option<f64>,
    pub model_max_error: u8,
    /// Back to front.
    pub layers: Vec<LayerCoverage>,
    /// If the request has `min_psnr`: whether both ratios reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
}

/// A size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PictureSize {
    pub width: u32,
    pub height: u32,
}

/// What a layer covers of its picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LayerCoverage {
    /// The number in the layer's name.
    pub layer: u32,
    /// The mean of its alpha, from 0 to 1.
    pub area: f64,
    /// Whether next to nothing of it is visible.
    pub empty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    Ok,
    /// Below the request's `min_psnr`.
    Low,
}

impl Quality {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Low => "low",
        }
    }
}

impl Fidelity {
    /// The quality by the `min_psnr` of a request.
    #[must_use]
    pub fn judged(self, min_psnr: Option<f64>) -> Self {
        let worst = [self.psnr, self.model_psnr].into_iter().flatten().fold(f64::INFINITY, f64::min);
        let quality = min_psnr.map(|least| if worst < least { Quality::Low } else { Quality::Ok });
        Self { quality, ..self }
    }

    /// The numbers of the layers that are empty.
    pub fn empty(&self) -> Vec<u32> {
        self.layers.iter().filter(|layer| layer.empty).map(|layer| layer.layer).collect()
    }
}

impl fmt::Display for PictureSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// `exact; by the model, at 160x96: 24.1 dB, largest error 87; layer 4 is empty; quality low`.
impl fmt::Display for Fidelity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = |psnr: Option<f64>, largest: u8| match psnr {
            Some(psnr) => format!("{psnr:.1} dB, largest error {largest}"),
            None => "exact".to_owned(),
        };
        f.write_str(&error(self.psnr, self.max_error))?;
        if self.output != self.model {
            write!(f, "; by the model, at {}: {}", self.model, error(self.model_psnr, self.model_max_error))?;
        }
        match self.empty().as_slice() {
            [] => {}
            [one] => write!(f, "; layer {one} is empty")?,
            several => {
                let numbers: Vec<_> = several.iter().map(u32::to_string).collect();
                write!(f, "; layers {} are empty", numbers.join(", "))?;
            }
        }
        self.quality.map_or(Ok(()), |quality| write!(f, "; quality {}", quality.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_of_both_ratios_is_judged_and_told() {
        let (source, model) = (PictureSize { width: 640, height: 480 }, PictureSize { width: 160, height: 96 });
        let layer = |layer, empty| LayerCoverage { layer, area: 0.5, empty };
        let exact = Fidelity {
            source,
            model,
            output: source,
            psnr: None,
            max_error: 0,
            model_psnr: Some(24.12),
            model_max_error: 87,
            layers: vec![layer(1, false), layer(2, true)],
            quality: None,
        };
        assert_eq!(exact.clone().judged(None), exact);
        assert_eq!(exact.clone().judged(Some(24.0)).quality, Some(Quality::Ok));
        let low = exact.clone().judged(Some(30.0));
        assert_eq!(
            low.to_string(),
            "exact; by the model, at 160x96: 24.1 dB, largest error 87; layer 2 is empty; quality low"
        );
        let own = Fidelity { output: model, psnr: Some(24.12), max_error: 87, layers: vec![layer(1, false)], ..exact };
        assert_eq!(own.to_string(), "24.1 dB, largest error 87");
        let equal = Fidelity { psnr: None, model_psnr: None, ..own };
        assert_eq!(equal.judged(Some(100.0)).quality, Some(Quality::Ok));
    }
}
