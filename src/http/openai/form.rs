//! The form of an edit.

use axum::extract::Request;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{
    http::{
        api::Api,
        jobs::{broken, keep, multipart, of_picture, read_picture, read_text, receive},
        openapi::Binary,
        problem::{Answer, ApiError},
        view::InputView,
    },
    image::{Background, fitted, mask_of_transparency},
    job::{EDIT_IMAGES, JobError, PresetName},
};

const MOST_PICTURES: u32 = 10;

/// The fields of the form.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a form to readers of the OpenAPI document")]
pub struct ImageEditForm {
    /// One to three pictures, also as `image[]`. The last one is edited, the others are for reference.
    #[schema(inline)]
    image: Vec<Binary>,
    /// Where the edited picture may change: where the mask is transparent.
    #[schema(inline)]
    mask: Option<Binary>,
    /// The instruction: what to change.
    prompt: String,
    /// Any name; the server's model for edits is used.
    model: Option<String>,
    /// How many pictures to make, each with another seed.
    #[schema(minimum = 1, maximum = 10)]
    n: Option<u32>,
    /// `auto` or `WIDTHxHEIGHT` of the same shape as the picture.
    size: Option<String>,
    /// `b64_json` (default) or `url`.
    response_format: Option<String>,
    /// `auto`, `transparent` or `opaque`.
    background: Option<String>,
    /// `auto`, `low`, `medium` or `high`: the server's defaults, or the preset `fast`, `balanced` or `exact`.
    quality: Option<String>,
    /// `png`.
    output_format: Option<String>,
    /// Stored as the label `user`.
    user: Option<String>,
    seed: Option<u64>,
    #[schema(minimum = 1, maximum = 1000)]
    steps: Option<u32>,
    #[schema(minimum = 0, maximum = 100)]
    cfg_scale: Option<f64>,
    negative_prompt: Option<String>,
    preset: Option<PresetName>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ResponseFormat {
    #[default]
    B64Json,
    Url,
}

/// What the form asks for. Its pictures are stored.
#[derive(Debug, Default)]
pub struct EditForm {
    pub images: Vec<InputView>,
    pub mask: Option<InputView>,
    pub params: Map<String, Value>,
    pub n: u32,
    pub response: ResponseFormat,
    pub background: Background,
    pub user: Option<String>,
    size: Option<(u32, u32)>,
}

pub async fn read(api: &Api, request: Request) -> Answer<EditForm> {
    receive(api, request, |request: Request| async move {
        let mut fields = multipart(request).await?;
        let mut form = EditForm { n: 1, ..EditForm::default() };
        let (mut pictures, mut mask) = (Vec::new(), None);
        while let Some(field) = fields.next_field().await.map_err(broken)? {
            let name = field.name().unwrap_or_default().to_owned();
            // Clients number the items of a list in different ways.
            if name == "image" || name.starts_with("image[") {
                if pictures.len() == *EDIT_IMAGES.end() {
                    let reason = format!("an edit takes at most {} pictures", EDIT_IMAGES.end());
                    return Err(JobError::invalid("image", reason).into());
                }
                pictures.push(read_picture(api, field).await?);
            } else if name == "mask" {
                if mask.is_some() {
                    return Err(JobError::invalid("mask", "is given twice; an edit has one mask").into());
                }
                mask = Some(read_picture(api, field).await?);
            } else if let Some(instead) = instead_of(&name) {
                return Err(unsupported(&name, instead));
            } else {
                form.add(&name, &read_text(field).await?)?;
            }
        }
        let _turn = api.uploads.acquire().await;
        if let Some((_, bytes)) = mask {
            let limits = api.settings().limits;
            let converted = move || mask_of_transparency("mask", &bytes, &limits);
            let unusable =
                |_| JobError::InvalidImage { input: "mask".to_owned(), reason: "cannot be converted".to_owned() };
            let mask = tokio::task::spawn_blocking(converted).await.map_err(unusable).flatten();
            let mask = mask.map_err(|error| of_picture(error.into(), "mask"))?;
            form.mask = Some(InputView::Upload { upload: keep(api, "mask", mask).await?.name });
        }
        form.finish(api, pictures).await
    })
    .await
}

/// What to do instead of using a parameter that an edit does not have.
fn instead_of(name: &str) -> Option<&'static str> {
    Some(match name.split('[').next().unwrap_or_default() {
        "markup" => "edits have no markup; say in the prompt what to change, and with a mask where",
        "svg" | "frame_count" | "frame_duration_ms" => "an edit returns one PNG for each picture",
        "complexity" => "use quality, preset or steps",
        _ => return None,
    })
}

fn unsupported(name: &str, instead: &str) -> ApiError {
    let detail = format!("{name}: is not supported; {instead}");
    ApiError::new(axum::http::StatusCode::BAD_REQUEST, "unsupported_parameter", detail).about(name)
}

impl EditForm {
    fn add(&mut self, name: &str, text: &str) -> Answer<()> {
        let value = text.trim();
        let wrong = |wanted: &str| -> ApiError {
            JobError::invalid(name, format!("`{}` is not {wanted}", value.escape_debug())).into()
        };
        let number = || value.parse::<u64>().map_err(|_| wrong("a whole number"));
        match name {
            "prompt" => drop(self.params.insert("instruction".to_owned(), json!(text))),
            "model" | "moderation" => {}
            "input_fidelity" if matches!(value, "high" | "low") => {}
            "input_fidelity" => return Err(wrong("high or low")),
            "n" => {
                let n = value.parse().ok().filter(|n| (1..=MOST_PICTURES).contains(n));
                self.n = n.ok_or_else(|| wrong(&format!("a number from 1 to {MOST_PICTURES}")))?;
            }
            "size" => self.size = size(value).ok_or_else(|| wrong("auto or WIDTHxHEIGHT, such as 1024x1024"))?,
            "response_format" => {
                self.response = match value {
                    "b64_json" => ResponseFormat::B64Json,
                    "url" => ResponseFormat::Url,
                    _ => return Err(wrong("b64_json or url")),
                };
            }
            "background" => {
                self.background = match value {
                    "auto" => Background::Auto,
                    "transparent" => Background::Transparent,
                    "opaque" => Background::Opaque,
                    _ => return Err(wrong("auto, transparent or opaque")),
                };
            }
            "quality" => {
                let preset = match value {
                    "auto" | "standard" => return Ok(()),
                    "low" => "fast",
                    "medium" => "balanced",
                    "high" | "hd" | "xhigh" | "max" => "exact",
                    _ => return Err(wrong("auto, low, medium or high")),
                };
                self.params.entry("preset").or_insert(json!(preset));
            }
            "output_format" if value == "png" => {}
            "output_format" => return Err(unsupported(name, "results are PNG; leave it out, or write png")),
            "output_compression" if value == "100" => {}
            "output_compression" => return Err(unsupported(name, "results are PNG, which loses nothing")),
            "stream" if matches!(value, "false" | "False" | "0") => {}
            "partial_images" if value == "0" => {}
            "stream" | "partial_images" => {
                return Err(unsupported(
                    name,
                    "to follow the progress, submit with POST /v1/jobs and watch its events",
                ));
            }
            "user" | "safety_identifier" => self.user = Some(text.to_owned()),
            "seed" | "steps" => drop(self.params.insert(name.to_owned(), json!(number()?))),
            "cfg_scale" => {
                let scale = value.parse().ok().filter(|scale: &f64| scale.is_finite());
                let scale = scale.ok_or_else(|| wrong("a number"))?;
                self.params.insert(name.to_owned(), json!(scale));
            }
            "negative_prompt" => drop(self.params.insert(name.to_owned(), json!(text))),
            "preset" => drop(self.params.insert(name.to_owned(), json!(value))),
            _ => {
                let name = name.escape_debug().to_string();
                let detail = format!(
                    "{name}: is not a parameter of image edits; they are image, mask, prompt, model, n, size, \
                     response_format, background, quality, output_format, user, seed, steps, cfg_scale, \
                     negative_prompt and preset"
                );
                let unknown = ApiError::new(axum::http::StatusCode::BAD_REQUEST, "unknown_parameter", detail);
                return Err(unknown.about(name));
            }
        }
        Ok(())
    }

    /// Fits the edited picture to what was asked for, and stores all pictures.
    async fn finish(mut self, api: &Api, mut pictures: Vec<(String, Vec<u8>)>) -> Answer<Self> {
        if !self.params.contains_key("instruction") {
            return Err(JobError::invalid("prompt", "is missing; say what to change").into());
        }
        let Some((name, bytes)) = pictures.pop() else {
            return Err(JobError::invalid("image", "is missing; send one to three pictures").into());
        };
        let (limits, size, background) = (api.settings().limits, self.size, self.background);
        let edited = if size.is_some() || background != Background::Auto {
            let (shown, bytes) = (name.clone(), bytes);
            let fitted = tokio::task::spawn_blocking(move || fitted(&shown, &bytes, &limits, size, background)).await;
            let unusable = |_| JobError::InvalidImage { input: name.clone(), reason: "cannot be resized".to_owned() };
            fitted.map_err(unusable).flatten().map_err(|error| of_picture(error.into(), "image"))?
        } else {
            bytes
        };
        pictures.push((name, edited));
        for (name, bytes) in pictures {
            let kept = keep(api, &name, bytes).await.map_err(|error| of_picture(error, "image"))?;
            self.images.push(InputView::Upload { upload: kept.name });
        }
        Ok(self)
    }
}

/// None inside: the size of the picture.
fn size(text: &str) -> Option<Option<(u32, u32)>> {
    if text == "auto" {
        return Some(None);
    }
    let (width, height) = text.split_once('x')?;
    let side = |text: &str| text.parse::<u32>().ok().filter(|side| *side > 0);
    Some(Some((side(width)?, side(height)?)))
}
