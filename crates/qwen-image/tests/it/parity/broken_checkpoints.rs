//! The errors of unusable checkpoints say what is wrong, where, and what is valid.

use std::{
    cell::Cell,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device};
use qwen_image::{
    models::{self, LoadContext, WeightOptions},
    pipeline::{LoadOptions, QwenImageEditPlusPipeline, QwenImageLayeredPipeline},
};

use super::bars::golden;

/// A copy of a golden checkpoint that may be damaged.
struct Broken {
    folder: tempfile::TempDir,
}

impl Broken {
    fn new(checkpoint: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&golden(&format!("checkpoints/{checkpoint}")), folder.path());
        Self { folder }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Sets a value of a JSON file.
    fn set(&self, file: &str, key: &str, value: serde_json::Value) {
        let path = self.path(file);
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json[key] = value;
        fs::write(path, json.to_string()).unwrap();
    }

    /// The error of loading, without the folder's path.
    fn decompose_error(&self) -> String {
        let result = QwenImageLayeredPipeline::load(self.folder.path(), &Device::Cpu, DType::F32);
        self.shorten(result.err().expect("a broken checkpoint was loaded").to_string())
    }

    fn edit_error(&self) -> String {
        let result = QwenImageEditPlusPipeline::load(self.folder.path(), &Device::Cpu, DType::F32);
        self.shorten(result.err().expect("a broken checkpoint was loaded").to_string())
    }

    /// The errors that a check reports for the broken parts.
    fn checked(&self) -> Vec<String> {
        let report = models::check(self.folder.path()).unwrap();
        let errors = report.components.into_iter().filter_map(|part| part.error);
        errors.map(|error| self.shorten(error)).collect()
    }

    fn shorten(&self, message: String) -> String {
        message.replace(&self.folder.path().display().to_string(), "CHECKPOINT")
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

const SINGLE: &str = "transformer/diffusion_pytorch_model.safetensors";

#[test]
fn no_checkpoint_at_all() {
    let broken = Broken::new("layered");
    fs::remove_file(broken.path("model_index.json")).unwrap();
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT: not found; a checkpoint is a folder in diffusers' layout, with a model_index.json");
}

#[test]
fn the_other_of_the_two_models() {
    insta::assert_snapshot!(Broken::new("edit").decompose_error(), @"CHECKPOINT/model_index.json: is a QwenImageEditPlusPipeline, but this needs a QwenImageLayeredPipeline; the model for edits was given where the one for layers is needed");
}

#[test]
fn a_folder_that_mixes_the_two_models() {
    for (checkpoint, other, wanted) in [("layered", "edit", "layers"), ("edit", "layered", "edits")] {
        let broken = Broken::new(checkpoint);
        fs::remove_dir_all(broken.path("transformer")).unwrap();
        fs::create_dir(broken.path("transformer")).unwrap();
        copy(&golden(&format!("checkpoints/{other}/transformer")), &broken.path("transformer"));
        let error = if checkpoint == "layered" { broken.decompose_error() } else { broken.edit_error() };
        let place = "CHECKPOINT/transformer/config.json: `use_additional_t_cond` is ";
        assert!(error.starts_with(place) && error.contains(&format!("this checkpoint is for {wanted}")), "{error}");
        assert_eq!(broken.checked(), [error]);
    }
}

#[test]
fn components_of_other_classes() {
    let broken = Broken::new("layered");
    broken.set("transformer/config.json", "_class_name", "FluxTransformer2DModel".into());
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/transformer/config.json: `_class_name` is FluxTransformer2DModel; QwenImageTransformer2DModel is needed");
    let broken = Broken::new("layered");
    broken.set("vae/config.json", "_class_name", "AutoencoderKLWan".into());
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/vae/config.json: `_class_name` is AutoencoderKLWan; AutoencoderKLQwenImage is needed");
    let broken = Broken::new("layered");
    broken.set("model_index.json", "transformer", serde_json::json!(["diffusers", "FluxTransformer2DModel"]));
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/model_index.json: `transformer` is FluxTransformer2DModel; QwenImageTransformer2DModel is needed");
}

#[test]
fn a_shard_outside_the_folder() {
    let broken = Broken::new("edit");
    for name in ["../secret.safetensors", "/etc/secret.safetensors", "a/b.safetensors", ""] {
        let map = serde_json::json!({ "model.embed_tokens.weight": name });
        broken.set("text_encoder/model.safetensors.index.json", "weight_map", map);
        let error = broken.edit_error();
        assert!(error.contains("model.safetensors.index.json: names the shard") && error.contains(name), "{error}");
    }
}

#[test]
fn weights_under_another_name() {
    let broken = Broken::new("layered");
    fs::rename(broken.path(SINGLE), broken.path("transformer/diffusion_pytorch_model.fp16.safetensors")).unwrap();
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/transformer/diffusion_pytorch_model.fp16.safetensors: has another name than the weights that are read, diffusion_pytorch_model.safetensors or model.safetensors; a variant must be renamed");
}

#[test]
fn a_missing_folder() {
    let broken = Broken::new("layered");
    fs::remove_dir_all(broken.path("vae")).unwrap();
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/vae/config.json: is missing; the checkpoint is not complete");
}

#[test]
fn a_missing_shard() {
    let broken = Broken::new("edit");
    let shard = "text_encoder/model-00002-of-00002.safetensors";
    fs::remove_file(broken.path(shard)).unwrap();
    insta::assert_snapshot!(broken.edit_error(), @"CHECKPOINT/text_encoder/model-00002-of-00002.safetensors: is missing; the index lists 2 shards, so the download is not complete");
}

#[test]
fn half_a_file() {
    let broken = Broken::new("layered");
    let file = fs::OpenOptions::new().write(true).open(broken.path(SINGLE)).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length / 2).unwrap();
    let message = broken.decompose_error();
    let expected = format!("CHECKPOINT/{SINGLE}: has {} of {length} bytes; the download is not complete", length / 2);
    assert_eq!(message, expected);
    file.set_len(100).unwrap();
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/transformer/diffusion_pytorch_model.safetensors: ends inside its header; the download is not complete");
}

#[test]
fn not_safetensors() {
    let broken = Broken::new("layered");
    fs::write(broken.path(SINGLE), "<!DOCTYPE html><title>Sign in</title>").unwrap();
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/transformer/diffusion_pytorch_model.safetensors: is not a safetensors file, or only a part of one");
}

#[test]
fn a_pickle() {
    let broken = Broken::new("layered");
    fs::rename(broken.path(SINGLE), broken.path("transformer/pytorch_model.bin")).unwrap();
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/transformer/pytorch_model.bin: is a pickle, which can run code when it is loaded; convert the checkpoint to safetensors");
}

#[test]
fn tensors_of_another_shape() {
    let broken = Broken::new("layered");
    broken.set("transformer/config.json", "joint_attention_dim", 80.into());
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/transformer: tensor `txt_norm.weight` has shape [64], but the config requires [80]");
}

#[test]
fn too_few_and_too_many_tensors() {
    let broken = Broken::new("layered");
    broken.set("transformer/config.json", "num_layers", 4.into());
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/transformer: tensor `transformer_blocks.3.attn.to_q.weight` is missing");
    broken.set("transformer/config.json", "num_layers", 2.into());
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/transformer: 32 tensors that the model does not have, the first is `transformer_blocks.2.attn.add_k_proj.bias`; is this another model's file?");
}

#[test]
fn a_config_that_contradicts_itself() {
    let broken = Broken::new("layered");
    broken.set("transformer/config.json", "axes_dims_rope", serde_json::json!([4, 10, 8]));
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/transformer/config.json: `axes_dims_rope` [4, 10, 8] must be even and add up to `attention_head_dim`, 24");
    let broken = Broken::new("layered");
    broken.set("scheduler/scheduler_config.json", "use_karras_sigmas", true.into());
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/scheduler/scheduler_config.json: `use_karras_sigmas` is true, which is not supported");
}

#[test]
fn a_misspelled_override() {
    let broken = Broken::new("layered");
    broken.set("acetate.json", "resolution", 128.into());
    insta::assert_snapshot!(broken.decompose_error().split(" at line").next().unwrap(), @"CHECKPOINT/acetate.json: unknown field `resolution`, expected one of `resolutions`, `min_layers`, `max_layers`, `condition_area`, `vae_area`, `prompt_template_encode_start_idx`, `caption_max_new_tokens`, `text_positions`, `image_processor`, `lightning`, `note`");
}

#[test]
fn an_override_with_an_unknown_word() {
    let broken = Broken::new("layered");
    broken.set("acetate.json", "image_processor", "pillow".into());
    insta::assert_snapshot!(broken.decompose_error().split(" at line").next().unwrap(), @"CHECKPOINT/acetate.json: unknown variant `pillow`, expected `torchvision` or `pil`");
    broken.set("acetate.json", "image_processor", "pil".into());
    broken.set("acetate.json", "lightning", 4.into());
    insta::assert_snapshot!(broken.decompose_error().split(" at line").next().unwrap(), @"CHECKPOINT/acetate.json: `lightning` is the path of a LoRA, or false if the checkpoint needs none");
}

#[test]
fn overrides_out_of_bounds() {
    let broken = Broken::new("layered");
    broken.set("acetate.json", "resolutions", serde_json::json!([128, 65536]));
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/acetate.json: `resolutions` [128, 65536] are multiples of 32 from 32 to 4096");
    broken.set("acetate.json", "resolutions", serde_json::json!([128]));
    broken.set("acetate.json", "prompt_template_encode_start_idx", 100_000.into());
    insta::assert_snapshot!(broken.decompose_error(), @"CHECKPOINT/acetate.json: `prompt_template_encode_start_idx` is 100000, but the whole template has 39 tokens");
}

#[test]
fn loading_stops_when_asked() {
    let folder = golden("checkpoints/layered");
    let (told, bytes) = (Cell::new(0), Cell::new(0));
    let load = |most: u32| {
        told.set(0);
        let watch = |count: u64| {
            told.set(told.get() + 1);
            bytes.set(bytes.get() + count);
            if told.get() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let loading = LoadContext { watch: Some(&watch), ..LoadContext::new(&Device::Cpu, DType::F32) };
        QwenImageLayeredPipeline::load_with(&folder, LoadOptions::new(loading)).err()
    };
    assert!(load(u32::MAX).is_none());
    let (tensors, all) = (told.get(), bytes.get());
    assert!(
        all <= models::checkpoint_bytes(&folder, &WeightOptions::default(), DType::F32).unwrap(),
        "{all} bytes were told"
    );
    // Cancelling works within every part, and at once.
    for most in [1, tensors / 2, tensors - 1] {
        assert!(matches!(load(most), Some(models::ModelError::Cancelled)), "at tensor {most}");
        assert_eq!(told.get(), most);
    }
}

#[test]
fn a_check_finds_nothing_wrong_with_what_loads() {
    for (checkpoint, pipeline) in [("layered", "QwenImageLayeredPipeline"), ("edit", "QwenImageEditPlusPipeline")] {
        let report = models::check(&golden(&format!("checkpoints/{checkpoint}"))).unwrap();
        assert_eq!(report.pipeline, pipeline);
        for part in report.components {
            assert!(part.loaded && part.error.is_none(), "{part:?}");
        }
    }
}

/// Whatever loading refuses, a check refuses with the same message.
#[test]
fn a_check_refuses_what_loading_refuses() {
    let cases: [(&str, &str, serde_json::Value); 10] = [
        ("transformer/config.json", "num_layers", 9.into()),
        ("transformer/config.json", "num_layers", 2.into()),
        ("transformer/config.json", "axes_dims_rope", serde_json::json!([4, 10, 8])),
        ("transformer/config.json", "guidance_embeds", true.into()),
        ("vae/config.json", "latents_std", serde_json::json!([0.0])),
        ("vae/config.json", "base_dim", 40.into()),
        ("processor/preprocessor_config.json", "resample", 2.into()),
        ("scheduler/scheduler_config.json", "use_karras_sigmas", true.into()),
        ("scheduler/scheduler_config.json", "stochastic_sampling", true.into()),
        ("text_encoder/generation_config.json", "num_beams", 4.into()),
    ];
    for (file, key, value) in cases {
        let broken = Broken::new("layered");
        broken.set(file, key, value.clone());
        assert_eq!(broken.checked(), [broken.decompose_error()], "{file}: {key} {value}");
    }
    for gone in ["tokenizer", "scheduler", "vae"] {
        let broken = Broken::new("layered");
        fs::remove_dir_all(broken.path(gone)).unwrap();
        assert_eq!(broken.checked(), [broken.decompose_error()], "{gone}");
    }
}

/// These two are found by comparing parts with each other, so the messages differ.
#[test]
fn a_check_holds_the_parts_against_each_other() {
    let broken = Broken::new("layered");
    broken.set("transformer/config.json", "joint_attention_dim", 80.into());
    insta::assert_snapshot!(broken.checked().join("\n"), @"CHECKPOINT/transformer/config.json: `joint_attention_dim` is 80, but the text encoder's states have 64 values");
    let broken = Broken::new("layered");
    broken.set("model_index.json", "_class_name", "QwenImageEditPlusPipeline".into());
    insta::assert_snapshot!(broken.checked().join("\n"), @r"
    CHECKPOINT/transformer/config.json: `use_additional_t_cond` is true, as in a model for layers, but this checkpoint is for edits; give it the transformer of its own model
    CHECKPOINT/vae/config.json: `input_channels` is 4, but this pipeline's pictures have 3
    ");
    broken.set("model_index.json", "_class_name", "FluxPipeline".into());
    let error = models::check(broken.folder.path()).unwrap_err().to_string();
    insta::assert_snapshot!(broken.shorten(error), @"CHECKPOINT/model_index.json: is a FluxPipeline; a QwenImageLayeredPipeline or a QwenImageEditPlusPipeline is needed");
}
