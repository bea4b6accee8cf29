//! ComfyUI's single files: plain fp8, scaled fp8 in the old and in the new convention, everything in one file.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use qwen_image::models::{BlockPlacement, Component, Form, WeightFiles, check_file, text_encoder::TextEncoder};
use qwen_image::nn::float8;
use serde_json::{Value, json};

use super::files::{
    Entry, dense, is_matrix, load, numbers, predict, predict_layered, refusal, scale_of, write_safetensors,
};
use crate::parity::bars::{golden, relative_error};

/// The relative error of a prediction with e4m3 weights. Each weight is off by up to 1/16 of its size, 1/40 on average,
/// and the golden checkpoint's weights are scaled so that every path matters, which multiplies errors by 4 to 5.
const FP8: std::ops::Range<f64> = 1e-2..0.18;
/// The same for e5m2, with one bit less.
const E5M2: std::ops::Range<f64> = 2e-2..0.36;

struct File {
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
}

/// The golden layered transformer with its matrices as `matrix` writes them, and more entries.
fn file(prefix: &str, metadata: &Value, more: &[Entry], matrix: impl Fn(&str, &Tensor) -> Vec<Entry>) -> File {
    let mut entries = more.to_vec();
    for (name, tensor) in dense("layered") {
        let name_in_file = format!("{prefix}{name}");
        if is_matrix(&name, &tensor) {
            entries.extend(matrix(&name_in_file, &tensor));
        } else {
            entries.push(Entry::f32(name_in_file, &tensor));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("comfy.safetensors");
    write_safetensors(&path, metadata, &entries);
    File { _folder: folder, path }
}

fn scalar(name: impl Into<String>, value: f32) -> Entry {
    Entry::new(name, "F32", &[], value.to_le_bytes().to_vec())
}

fn layer(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap()
}

/// Compares with the dense checkpoint, and with the file's own numbers through the dense path.
#[track_caller]
fn check(file: &File, error: std::ops::Range<f64>) {
    let found = predict_layered(Some(&file.path));
    let off = relative_error(&found, &predict_layered(None));
    assert!(error.contains(&off), "{off:.1e} from the dense checkpoint");
    let files = WeightFiles::of_file(&file.path, Component::Transformer).unwrap();
    let numbers = files.tensors.iter().map(|(name, stored)| (name.clone(), files.numbers(stored).unwrap()));
    let plain = file.path.with_file_name("dense.safetensors");
    candle_core::safetensors::save(&numbers.collect(), &plain).unwrap();
    let off = relative_error(&found, &predict_layered(Some(&plain)));
    assert!(off < 1e-5, "{off:.1e} between fp8 and its numbers");
}

#[test]
fn a_plain_cast_has_no_scales() {
    let cast = file("", &json!({}), &[], |name, tensor| vec![Entry::e4m3(name, tensor, 1.0)]);
    check(&cast, FP8);
    let wide = file("", &json!({}), &[], |name, tensor| {
        // The upper byte of a 16-bit float, rounded to nearest.
        let halves = tensor.to_dtype(DType::F16).unwrap();
        let mut bytes = Vec::new();
        halves.write_bytes(&mut bytes).unwrap();
        let upper =
            bytes.chunks(2).map(|half| (u16::from_le_bytes([half[0], half[1]]).saturating_add(0x80) >> 8) as u8);
        vec![Entry::new(name, "F8_E5M2", tensor.dims(), upper.collect())]
    });
    check(&wide, E5M2);
}

#[test]
fn the_old_convention_with_everything_in_one_file() {
    let others = [
        Entry::new("model.diffusion_model.scaled_fp8", "F8_E4M3", &[0], vec![]),
        Entry::new("model.diffusion_model.__x0__", "F32", &[0], vec![]),
        scalar("text_encoders.qwen25_7b.transformer.model.norm.weight", 1.0),
        scalar("vae.decoder.conv1.weight", 1.0),
    ];
    let scaled = file("model.diffusion_model.", &json!({}), &others, |name, tensor| {
        let scale = scale_of(tensor);
        vec![
            Entry::e4m3(name, tensor, scale),
            scalar(format!("{}.scale_weight", layer(name)), scale),
            scalar(format!("{}.scale_input", layer(name)), 1.0),
        ]
    });
    check(&scaled, FP8);
    let files = WeightFiles::of_file(&scaled.path, Component::Transformer).unwrap();
    assert_eq!((files.remarks.prefix.as_str(), files.remarks.others), ("model.diffusion_model.", 2));
}

#[test]
fn a_scale_that_is_no_number_or_negative_is_refused_with_its_tensor() {
    let broken = "transformer_blocks.1.attn.to_k.weight";
    for (scale, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-0.5, "-0.5")] {
        let file = file("", &json!({}), &[], |name, tensor| {
            let given = if name == broken { scale } else { scale_of(tensor) };
            vec![Entry::e4m3(name, tensor, scale_of(tensor)), scalar(format!("{}.weight_scale", layer(name)), given)]
        });
        let wanted = format!("the scale of tensor `{broken}` is {shown}, but must be a finite number");
        let error = refusal("layered", &file.path);
        assert!(error.contains(&wanted), "{error}");
        let checked = check_file(&file.path).unwrap().refused.unwrap_or_default();
        assert!(checked.starts_with(&wanted), "{checked}");
    }
}

#[test]
fn the_new_convention_in_tensors_and_in_the_header() {
    let note = br#"{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}"#;
    let noted = file("", &json!({}), &[], |name, tensor| {
        let scale = scale_of(tensor);
        let layer = layer(name);
        vec![
            Entry::e4m3(name, tensor, scale),
            scalar(format!("{layer}.weight_scale"), scale),
            scalar(format!("{layer}.input_scale"), 0.5),
            Entry::new(format!("{layer}.comfy_quant"), "U8", &[note.len()], note.to_vec()),
        ]
    });
    check(&noted, FP8);
    let files = WeightFiles::of_file(&noted.path, Component::Transformer).unwrap();
    let precise =
        |stored: &qwen_image::models::StoredTensor| matches!(&stored.form, Form::Fp8(scales) if scales.full_precision);
    assert_eq!(files.tensors.values().filter(|stored| precise(stored)).count(), 3 * 14);

    // Layers that the header does not name stay as they are.
    let mixed: Vec<String> = dense("layered")
        .iter()
        .filter(|(name, tensor)| is_matrix(name, tensor) && name.contains(".attn."))
        .map(|(name, _)| layer(name).to_owned())
        .collect();
    let layers: serde_json::Map<String, Value> =
        mixed.iter().map(|layer| (layer.clone(), json!({ "format": "float8_e4m3fn" }))).collect();
    let metadata =
        json!({ "_quantization_metadata": json!({ "format_version": "1.0", "layers": layers }).to_string() });
    let mixed = file("", &metadata, &[], |name, tensor| {
        if !mixed.iter().any(|mixed| mixed == layer(name)) {
            return vec![Entry::f32(name, tensor)];
        }
        // A scale for each row, as other tools write it.
        let rows: Vec<Tensor> = tensor.chunk(tensor.dim(0).unwrap(), 0).unwrap();
        let scales: Vec<f32> = rows.iter().map(scale_of).collect();
        let bytes = rows.iter().zip(&scales).flat_map(|(row, scale)| {
            numbers(row).into_iter().map(move |number| float8::to_e4m3(number / scale)).collect::<Vec<_>>()
        });
        vec![
            Entry::new(name, "F8_E4M3", tensor.dims(), bytes.collect()),
            Entry::f32(format!("{}.weight_scale", layer(name)), &Tensor::new(scales, &Device::Cpu).unwrap()),
        ]
    });
    check(&mixed, 5e-3..0.15);
}

#[test]
fn scales_matter_and_stay() {
    let scaled = |factor: f32| {
        file("", &json!({}), &[], move |name, tensor| {
            let scale = scale_of(tensor);
            vec![Entry::e4m3(name, tensor, scale), scalar(format!("{}.weight_scale", layer(name)), scale * factor)]
        })
    };
    let off = relative_error(&predict_layered(Some(&scaled(1.5).path)), &predict_layered(None));
    assert!(off > 0.3, "a wrong scale changes only {off:.1e}");
    let file = scaled(1.0);
    let streamed =
        load(&golden("checkpoints/layered"), Some(&file.path), BlockPlacement::Streamed { resident: 1 }).unwrap();
    let off = relative_error(&predict(&streamed, "transformer_layered"), &predict_layered(Some(&file.path)));
    assert!(off == 0.0, "{off:.1e} between streamed and resident fp8");
}

#[test]
fn other_forms_are_refused_by_name() {
    let mut found = Vec::new();
    let refuse = |entries: &dyn Fn(&str, &Tensor) -> Vec<Entry>| {
        let file = file("", &json!({}), &[], entries);
        refusal("layered", &file.path)
    };
    let packed = |tensor: &Tensor| vec![0_u8; tensor.elem_count() / 2];
    let half = |tensor: &Tensor| vec![tensor.dims()[0], tensor.dims()[1] / 2];
    found.push(refuse(&|name, tensor| {
        vec![
            Entry::new(name, "U8", &half(tensor), packed(tensor)),
            Entry::new(format!("{}.weight_scale", layer(name)), "F8_E4M3", &[1], vec![0]),
            scalar(format!("{}.weight_scale_2", layer(name)), 1.0),
        ]
    }));
    found.push(refuse(&|name, tensor| {
        let note = br#"{"format": "int8_tensorwise", "convrot": true}"#;
        vec![
            Entry::new(name, "I8", tensor.dims(), vec![0; tensor.elem_count()]),
            scalar(format!("{}.weight_scale", layer(name)), 1.0),
            Entry::new(format!("{}.comfy_quant", layer(name)), "U8", &[note.len()], note.to_vec()),
        ]
    }));
    found.push(refuse(&|name, tensor| {
        vec![
            Entry::new(name, "I8", tensor.dims(), vec![0; tensor.elem_count()]),
            scalar(format!("{}.weight_scale", layer(name)), 1.0),
        ]
    }));
    found.push(refuse(&|name, tensor| {
        vec![Entry::new(format!("{}.qweight", layer(name)), "I8", &half(tensor), packed(tensor))]
    }));
    found.push(refuse(&|name, tensor| {
        vec![
            Entry::new(name, "U8", &half(tensor), packed(tensor)),
            Entry::new(format!("{}.absmax", layer(name)), "F32", &[1], vec![0; 4]),
        ]
    }));
    found.push(refuse(&|name, tensor| {
        vec![
            Entry::e4m3(name, tensor, 1.0),
            Entry::new(format!("{}.weight_scale", layer(name)), "F32", &[3], vec![0; 12]),
        ]
    }));
    let lora = [scalar("transformer_blocks.0.attn.to_q.lora_A.weight", 1.0)];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    write_safetensors(&path, &json!({}), &lora);
    found.push(refusal("layered", &path));
    insta::assert_snapshot!("comfy_refusals", found.join("\n"));
}

/// The text encoder's file: its language layers in scaled fp8, everything else dense.
#[test]
fn a_scaled_text_encoder() {
    let folder = golden("checkpoints/layered");
    let source = candle_core::safetensors::load(folder.join("text_encoder/model.safetensors"), &Device::Cpu).unwrap();
    let mut entries = vec![Entry::new("scaled_fp8", "F8_E4M3", &[2], vec![0; 2])];
    for (name, tensor) in source {
        let tensor = tensor.to_dtype(DType::F32).unwrap();
        // ComfyUI's names are the older ones.
        let name = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.");
        if tensor.rank() == 2 && name.starts_with("model.layers.") {
            let scale = scale_of(&tensor);
            entries.push(Entry::e4m3(name.clone(), &tensor, scale));
            entries.push(scalar(format!("{}.scale_weight", layer(&name)), scale));
        } else {
            entries.push(Entry::f32(name, &tensor));
        }
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("qwen_2.5_vl_7b_fp8_scaled.safetensors");
    write_safetensors(&path, &json!({}), &entries);
    let states = |file: Option<&Path>, fp8_weights: bool| {
        let context = qwen_image::models::LoadContext {
            file,
            fp8_weights,
            ..qwen_image::models::LoadContext::new(&Device::Cpu, DType::F32)
        };
        let encoder = TextEncoder::load_with(&folder, context, true, BlockPlacement::OnDevice).unwrap();
        let prompt = qwen_image::models::text_encoder::Prompt {
            text: "a house by the sea",
            pictures: &[],
            text_positions: qwen_image::TextPositions::Multimodal,
            drop: 0,
            keep: None,
        };
        encoder.embed(&prompt).unwrap().states
    };
    let dense = states(None, false);
    let off = relative_error(&states(Some(&path), false), &dense);
    assert!((1e-3..0.15).contains(&off), "{off:.1e} from the dense text encoder");
    // Rounded when it is loaded, with a scale for each row.
    let rounded = relative_error(&states(None, true), &dense);
    assert!((1e-3..0.15).contains(&rounded), "{rounded:.1e} from the dense text encoder");
}
