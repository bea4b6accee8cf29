use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use image::{RgbImage, RgbaImage};
use qwen_image::image_processor::{lanczos, on_white};
use qwen_image::models::text_encoder::{
    ImageProcessorBackend, PictureTokens, Positions, Prompt, TextEncoder, TextError, TextPositions, Tokenizer,
};
use serde::Deserialize;
use serde_json::Value;

use super::bars::{COMPONENT, assert_close, golden, notes, tensors};

fn encoder(checkpoint: &str, with_head: bool) -> TextEncoder {
    TextEncoder::load(&golden("checkpoints").join(checkpoint), &Device::Cpu, DType::F32, with_head).unwrap()
}

fn ids(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_dtype(DType::U32).unwrap().to_vec1().unwrap()
}

/// Bytes of a `(h, w, c)` tensor as RGB.
fn picture(tensor: &Tensor) -> RgbImage {
    let (height, width, channels) = tensor.dims3().unwrap();
    let (width, height) = (width as u32, height as u32);
    let bytes: Vec<u8> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    match channels {
        4 => on_white(&RgbaImage::from_raw(width, height, bytes).unwrap()),
        _ => RgbImage::from_raw(width, height, bytes).unwrap(),
    }
}

fn embed(encoder: &TextEncoder, text: &str, pictures: &[PictureTokens], text_positions: TextPositions) -> Tensor {
    let prompt = Prompt { text, pictures, text_positions, drop: 0, keep: None };
    encoder.embed(&prompt).unwrap().states
}

#[test]
fn prompts_without_pictures() {
    let encoder = encoder("layered", false);
    let tensors = tensors("text_layered");
    for (name, note) in notes("text_layered")["prompts"].as_object().unwrap() {
        let text = note["text"].as_str().unwrap();
        assert_eq!(encoder.input_ids(text, &[]).unwrap(), ids(&tensors[&format!("{name}_input_ids")]), "{name}");
        let states = embed(&encoder, text, &[], TextPositions::Sequential);
        assert_close(name, &states, &tensors[&format!("{name}_embeds")], COMPONENT);

        let total = states.dim(1).unwrap();
        let prompt = Prompt { text, pictures: &[], text_positions: TextPositions::Multimodal, drop: 34, keep: Some(3) };
        let cut = encoder.embed(&prompt).unwrap();
        assert_eq!((cut.states.dim(1).unwrap(), cut.tokens), (3, total - 34));
        assert_close("cut", &cut.states, &states.narrow(1, 34, 3).unwrap(), 1e-6);
    }
}

#[test]
fn prompts_with_one_and_two_pictures() {
    let encoder = encoder("edit", false);
    let (tensors, notes) = (tensors("text_edit"), notes("text_edit"));
    let tokens = ["picture_1", "picture_2"]
        .map(|name| encoder.encode_picture(&picture(&tensors[name]), ImageProcessorBackend::Pil).unwrap());
    for (name, count) in [("one", 1), ("two", 2)] {
        let expected = |what: &str| &tensors[&format!("{name}_{what}")];
        let (text, tokens) = (notes[name]["text"].as_str().unwrap(), &tokens[..count]);
        let embeds: Vec<_> = tokens.iter().map(|picture| &picture.embeds).collect();
        let embeds = Tensor::cat(&embeds, 1).unwrap().squeeze(0).unwrap();
        assert_close(&format!("{name}: pictures"), &embeds, expected("image_embeds"), COMPONENT);

        let found = encoder.input_ids(text, tokens).unwrap();
        assert_eq!(found, ids(expected("input_ids")));
        let image_token = encoder.input_ids("<|image_pad|>", &tokens[..1]).unwrap()[0];
        let sizes: Vec<_> = tokens.iter().map(|picture| picture.grid.merged(2)).collect();
        let positions = Positions::grid(&found, image_token, &sizes);
        assert_eq!(positions.rows.concat(), ids(expected("position_ids")));
        let delta: i64 = expected("rope_delta").flatten_all().unwrap().to_vec1().unwrap()[0];
        assert_eq!(positions.next() as i64, found.len() as i64 + delta);

        for (rule, what) in [(TextPositions::Sequential, "embeds"), (TextPositions::Multimodal, "embeds_mrope")] {
            let states = embed(&encoder, text, tokens, rule);
            assert_close(&format!("{name}: {what}"), &states, expected(what), COMPONENT);
        }
    }
}

#[test]
fn pictures_become_the_references_patches() {
    let encoder = encoder("layered", false);
    let processor = encoder.processor();
    let (in_pil, in_torchvision) = (tensors("processor"), tensors("processor_torchvision"));
    for name in ["square", "wide", "tiny", "exact", "rgba"] {
        let picture = picture(&in_pil[&format!("{name}_image")]);
        let values = format!("{name}_pixel_values");
        // Not even the last bit of a float differs where torch scales.
        for (backend, expected, bar) in [
            (ImageProcessorBackend::Pil, &in_pil[&values], 1e-6),
            (ImageProcessorBackend::Torchvision, &in_torchvision[&values], 0.0),
        ] {
            let (patches, grid) = processor.process(&picture, backend, &Device::Cpu).unwrap();
            assert_eq!(vec![1, grid.height as u32, grid.width as u32], ids(&in_pil[&format!("{name}_grid_thw")]));
            let worst: f32 = (patches - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap();
            println!("{name}, {backend:?}: largest difference {worst:e}");
            assert!(worst <= bar, "{name}, {backend:?}: {worst}");
        }
    }
    for row in notes("processor")["smart_resize"].as_array().unwrap() {
        let row: Vec<usize> = row.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        assert_eq!(processor.target_size(row[0], row[1]).unwrap(), (row[2], row[3]), "{row:?}");
    }
    let tensors = tensors("text_edit");
    for (name, patches) in [("picture_1", "one_pixel_values"), ("picture_2", "two_pixel_values_2")] {
        let (found, _) = processor.process(&picture(&tensors[name]), ImageProcessorBackend::Pil, &Device::Cpu).unwrap();
        assert_close(patches, &found, &tensors[patches], 1e-7);
    }
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

#[test]
fn both_forms_of_the_tokenizer() {
    let texts: Vec<Text> = serde_json::from_slice(&std::fs::read(golden("tokenizer.json")).unwrap()).unwrap();
    assert!(texts.len() > 20, "{} texts", texts.len());
    for checkpoint in ["layered", "edit"] {
        let tokenizer = Tokenizer::load(&golden("checkpoints").join(checkpoint).join("tokenizer")).unwrap();
        for Text { text, ids, decoded } in &texts {
            assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{checkpoint}: {text:?}");
            assert_eq!(&tokenizer.decode(ids).unwrap(), decoded, "{checkpoint}: {text:?}");
        }
    }
}

#[derive(Deserialize)]
struct Captioned {
    picture: String,
    resized: [u32; 2],
    image_processor: ImageProcessorBackend,
    max_new_tokens: usize,
    ids: Vec<u32>,
    text: String,
    question_ids: Vec<u32>,
}

impl Captioned {
    /// The question as text, with one placeholder.
    fn question(&self) -> String {
        let path = golden("checkpoints/layered/tokenizer/tokenizer.json");
        let text = tokenizers::Tokenizer::from_file(path).unwrap().decode(&self.question_ids, false).unwrap();
        let (before, rest) = text.split_once("<|image_pad|>").unwrap();
        format!("{before}<|image_pad|>{}", rest.trim_start_matches("<|image_pad|>"))
    }

    /// The picture as the pipeline resizes it, over white.
    fn picture(&self) -> RgbImage {
        let source = image::open(golden("pictures").join(&self.picture)).unwrap().to_rgba8();
        on_white(&lanczos(&source, self.resized[0], self.resized[1]))
    }
}

fn captions() -> Vec<Captioned> {
    serde_json::from_slice(&std::fs::read(golden("caption.json")).unwrap()).unwrap()
}

#[test]
fn captions_token_by_token() {
    let encoder = encoder("layered", true);
    for case in captions() {
        let (picture, question) = (case.picture(), case.question());
        let mut calls = Vec::new();
        let mut on_token = |done: usize, limit: usize| {
            calls.push((done, limit));
            ControlFlow::Continue(())
        };
        let caption = encoder
            .caption(&question, &picture, case.image_processor, case.max_new_tokens, &mut on_token)
            .unwrap()
            .unwrap();
        assert_eq!(caption.tokens, case.ids, "{}", case.picture);
        assert_eq!(caption.text, case.text);
        assert_eq!(calls, (1..=case.ids.len()).map(|n| (n, case.max_new_tokens)).collect::<Vec<_>>());
    }
}

#[test]
fn captions_stop_when_asked_and_at_the_end_token() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["text_encoder", "tokenizer", "processor"] {
        std::fs::create_dir(folder.path().join(part)).unwrap();
        for entry in std::fs::read_dir(golden("checkpoints/layered").join(part)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(part).join(entry.file_name())).unwrap();
        }
    }
    let case = captions().remove(0);
    let (picture, question) = (case.picture(), case.question());
    // The fifth token ends the text.
    let path = folder.path().join("text_encoder/generation_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["eos_token_id"] = case.ids[4].into();
    std::fs::write(&path, config.to_string()).unwrap();
    let encoder = TextEncoder::load(folder.path(), &Device::Cpu, DType::F32, true).unwrap();
    let go_on = &mut |_: usize, _: usize| ControlFlow::Continue(());
    let caption = encoder.caption(&question, &picture, case.image_processor, 24, go_on).unwrap().unwrap();
    assert_eq!(caption.tokens, case.ids[..5]);

    let mut calls = 0;
    let stop = &mut |done: usize, _: usize| {
        calls += 1;
        if done == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    assert_eq!(encoder.caption(&question, &picture, case.image_processor, 24, stop).unwrap(), None);
    assert_eq!(calls, 3);

    config["top_k"] = 20.into();
    config["top_p"] = 0.8.into();
    config["temperature"] = 0.7.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let error = TextEncoder::load(folder.path(), &Device::Cpu, DType::F32, true).err().unwrap().to_string();
    assert!(error.contains("generation_config.json") && error.contains("top_k"), "{error}");
}

#[test]
fn what_cannot_be_read_is_said() {
    let encoder = encoder("layered", false);
    let prompt = Prompt {
        text: "a <|image_pad|>",
        pictures: &[],
        text_positions: TextPositions::Multimodal,
        drop: 0,
        keep: None,
    };
    let error = encoder.embed(&prompt).unwrap_err();
    assert!(matches!(error, TextError::Placeholders { found: 1, pictures: 0, .. }), "{error}");

    let long = "red house ".repeat(4096);
    let error = encoder.embed(&Prompt { text: &long, ..prompt }).unwrap_err();
    assert!(matches!(error, TextError::TooLong { limit: 4096, .. }), "{error}");
    let cut = encoder.embed(&Prompt { text: &long, keep: Some(16), ..prompt }).unwrap();
    assert_eq!(cut.states.dims(), [1, 16, encoder.hidden_size()]);
    assert!(cut.tokens > 4096);

    let backend = ImageProcessorBackend::default();
    let error = encoder.encode_picture(&RgbImage::new(0, 2), backend).unwrap_err().to_string();
    assert_eq!(error, "the picture is 0x2: it has no pixels");
    let picture = RgbImage::new(2, 2);
    let error = encoder.caption("", &picture, backend, 1, &mut |_, _| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, TextError::NoHead), "{error}");
}

/// The path of other devices and number formats: plain candle expressions, with the cache too.
#[test]
fn bfloat16_stays_near_float32() {
    let folder = golden("checkpoints/layered");
    let narrow = TextEncoder::load(&folder, &Device::Cpu, DType::BF16, true).unwrap();
    let case = captions().remove(0);
    let (picture, question) = (case.picture(), case.question());
    let states = |encoder: &TextEncoder| {
        let tokens = [encoder.encode_picture(&picture, case.image_processor).unwrap()];
        embed(encoder, &question, &tokens, TextPositions::Multimodal).to_dtype(DType::F32).unwrap()
    };
    assert_close("bf16", &states(&narrow), &states(&encoder("layered", false)), 5e-2);
    let go_on = &mut |_: usize, _: usize| ControlFlow::Continue(());
    let caption = narrow.caption(&question, &picture, case.image_processor, 3, go_on).unwrap().unwrap();
    assert_eq!(caption.tokens, case.ids[..3]);
}
