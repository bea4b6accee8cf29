//! GGUF transformers over a checkpoint folder.

use std::{fs, path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor};
use qwen_image::{
    Callbacks, DecomposeOptions, PipelineOptions, QwenImagePipeline, WeightOptions,
    hub::ModelRef,
    models::{
        BlockPlacement, Component, LoadContext, Offloadable, WeightFiles,
        lora::{Adapter, LoraFile},
    },
    pipeline::{LoadOptions, QwenImageLayeredPipeline},
};

use super::files::{Gguf, forms, load, numbers, predict, predict_layered, refusal, text};
use crate::parity::bars::{golden, relative_error, zero_cond_checkpoint};

fn bits(tensor: &Tensor) -> Vec<u32> {
    numbers(tensor).into_iter().map(f32::to_bits).collect()
}

/// Writes the numbers that a file's blocks stand for.
fn save_numbers(path: &Path, dense: &Path) {
    let files = WeightFiles::of_file(path, Component::Transformer).unwrap();
    let numbers = files.tensors.iter().map(|(name, stored)| (name.clone(), files.numbers(stored).unwrap()));
    candle_core::safetensors::save(&numbers.collect(), dense).unwrap();
}

/// The same numbers, dense, through another path.
#[test]
fn a_file_of_the_gguf_package_computes_with_its_numbers() {
    let path = forms("layered.gguf");
    let files = WeightFiles::of_file(&path, Component::Transformer).unwrap();
    let types: std::collections::BTreeSet<_> = files.tensors.values().map(|stored| stored.form.name()).collect();
    assert_eq!(types.into_iter().collect::<Vec<_>>(), ["BF16", "F32", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]);
    let folder = tempfile::tempdir().unwrap();
    let dense = folder.path().join("dense.safetensors");
    save_numbers(&path, &dense);

    let (quantized, plain) = (predict_layered(Some(&path)), predict_layered(Some(&dense)));
    let error = relative_error(&quantized, &plain);
    assert!(error < 1e-5, "{error:.1e} between blocks and their numbers");
    let error = relative_error(&quantized, &predict_layered(None));
    assert!((1e-2..0.4).contains(&error), "{error:.1e} from the dense checkpoint");
}

/// The pipeline's layers with a LoRA in float32, over a transformer of these weights.
fn layers_with(lora: &str, strength: f64, weights: &Path) -> Vec<Vec<u8>> {
    let file = Arc::new(LoraFile::read(&golden("loras").join(lora)).unwrap());
    let loras = [Adapter { name: lora.to_owned(), file, strength }];
    let files = WeightOptions { transformer: Some(weights.to_owned()), ..WeightOptions::default() };
    let load =
        LoadOptions { loras: &loras, files: &files, ..LoadOptions::new(LoadContext::new(&Device::Cpu, DType::F32)) };
    let pipeline = QwenImageLayeredPipeline::load_with(&golden("checkpoints/layered"), load).unwrap();
    let picture = ::image::open(golden("pictures/house.png")).unwrap().to_rgba8();
    let options = DecomposeOptions {
        layers: 2,
        num_inference_steps: 3,
        prompt: "a house".to_owned(),
        ..DecomposeOptions::default()
    };
    let made = pipeline.run(&picture, &options, 7, &mut Callbacks::default()).unwrap();
    made.images.into_iter().map(|image| image.into_raw()).collect()
}

#[test]
fn a_lora_over_blocks_changes_the_numbers_that_they_stand_for() {
    let path = forms("layered.gguf");
    let folder = tempfile::tempdir().unwrap();
    let dense = folder.path().join("dense.safetensors");
    save_numbers(&path, &dense);
    let apart = |some: &[Vec<u8>], others: &[Vec<u8>]| {
        some.concat().iter().zip(&others.concat()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    };
    for lora in ["layered-bare.safetensors", "layered-kohya.safetensors"] {
        let over_blocks = layers_with(lora, 1.0, &path);
        let off = apart(&over_blocks, &layers_with(lora, 1.0, &dense));
        assert!(off <= 1, "{lora}: {off}/255 from the same LoRA over the numbers");
        let without = layers_with(lora, 0.0, &path);
        let moved = apart(&over_blocks, &without);
        assert!(moved > 20, "{lora}: {moved}/255, so it was not applied");
        assert!(apart(&without, &layers_with(lora, 0.0, &dense)) <= 1);
    }
}

#[test]
fn blocks_stream_and_leave_like_numbers() {
    let (folder, path) = (golden("checkpoints/layered"), forms("layered.gguf"));
    let whole = bits(&predict_layered(Some(&path)));
    for resident in 0..2 {
        let streamed = load(&folder, Some(&path), BlockPlacement::Streamed { resident }).unwrap();
        assert!(bits(&predict(&streamed, "transformer_layered")) == whole, "{resident} resident");
    }
    let model = load(&folder, Some(&path), BlockPlacement::OnDevice).unwrap();
    let part = Offloadable::new(model, &Device::Cpu);
    let bytes = part.bytes_on_device().unwrap();
    let dense = load(&folder, None, BlockPlacement::OnDevice).unwrap();
    let dense_bytes = Offloadable::new(dense, &Device::Cpu).bytes_on_device().unwrap();
    assert!(bytes * 3 < dense_bytes, "{bytes} instead of {dense_bytes} bytes: the blocks are not kept");
    part.leave().unwrap();
    assert_eq!(part.bytes_on_device().unwrap(), 0);
    assert!(bits(&predict(&part.enter().unwrap(), "transformer_layered")) == whole);
}

#[test]
fn prefixes_and_marker_tensors_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefixed.gguf");
    let plain = bits(&predict_layered(None));
    for prefix in ["", "model.diffusion_model.", "transformer."] {
        fs::write(&path, Gguf::dense("layered", prefix).bytes()).unwrap();
        assert!(bits(&predict_layered(Some(&path))) == plain, "{prefix}");
    }
    // Other tools name the architecture otherwise, or not at all.
    for keys in [vec![], vec![("general.architecture".to_owned(), 8, text("pig"))]] {
        fs::write(&path, Gguf { keys, ..Gguf::dense("layered", "") }.bytes()).unwrap();
        assert!(bits(&predict_layered(Some(&path))) == plain);
    }
}

#[test]
fn the_file_of_another_of_the_models_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edit.gguf");
    fs::write(&path, Gguf::dense("edit", "").bytes()).unwrap();
    insta::assert_snapshot!(refusal("layered", &path), @"FILE: is not a transformer of Qwen-Image-Layered (it lacks `time_text_embed.addition_t_embedding.weight`), but the checkpoint folder is Qwen-Image-Layered's; give a file of that model");
    insta::assert_snapshot!(refusal("edit", &forms("layered.gguf")), @"FILE: is a transformer of Qwen-Image-Layered (it has `time_text_embed.addition_t_embedding.weight`), but the checkpoint folder is for edits; give a folder of Qwen-Image-Layered");

    let mut marked = Gguf::dense("edit", "");
    let mut marker = marked.tensors[0].clone();
    (marker.name, marker.dims, marker.bytes) = ("__index_timestep_zero__".to_owned(), vec![1], vec![0; 4]);
    marked.tensors.push(marker);
    fs::write(&path, marked.bytes()).unwrap();
    insta::assert_snapshot!(refusal("edit", &path), @"FILE: is a transformer of Qwen-Image-Edit-2511 (it has the marker `__index_timestep_zero__`), but the checkpoint folder is another one's (its transformer/config.json has no `zero_cond_t`); give a folder of Qwen-Image-Edit-2511");
    // In the right folder it works, with and without the marker, which quantizers drop.
    let zero_cond = zero_cond_checkpoint();
    let expected =
        bits(&predict(&load(zero_cond.path(), None, BlockPlacement::OnDevice).unwrap(), "transformer_zero_cond"));
    for marked in [true, false] {
        if !marked {
            fs::write(&path, Gguf::dense("edit", "").bytes()).unwrap();
        }
        let model = load(zero_cond.path(), Some(&path), BlockPlacement::OnDevice).unwrap();
        assert!(bits(&predict(&model, "transformer_zero_cond")) == expected);
    }
}

/// A file of another size than the folder's config is refused by the tensor that differs.
#[test]
fn wrong_shapes_and_missing_tensors_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.gguf");
    let place = |gguf: &Gguf, name: &str| gguf.tensors.iter().position(|tensor| tensor.name == name).unwrap();
    let mut wrong = Gguf::dense("layered", "");
    let at = place(&wrong, "transformer_blocks.1.img_mlp.net.2.weight");
    wrong.tensors[at].dims.reverse();
    fs::write(&path, wrong.bytes()).unwrap();
    insta::assert_snapshot!(refusal("layered", &path), @"FILE: tensor `transformer_blocks.1.img_mlp.net.2.weight` has shape [288, 72], but the config requires [72, 288]");
    let mut short = Gguf::dense("layered", "");
    short.tensors.remove(at);
    fs::write(&path, short.bytes()).unwrap();
    insta::assert_snapshot!(refusal("layered", &path), @"FILE: tensor `transformer_blocks.1.img_mlp.net.2.weight` is missing");
}

#[test]
fn the_pipeline_takes_a_file_and_says_so() {
    let path = forms("layered.gguf");
    let options = PipelineOptions { transformer: Some(path.clone()), ..PipelineOptions::default() };
    let mut pipe = QwenImagePipeline::lazy(ModelRef::Folder(golden("checkpoints/layered")), options).unwrap();
    let picture = ::image::open(golden("pictures/house.png")).unwrap().to_rgba8();
    let options = DecomposeOptions {
        layers: 2,
        num_inference_steps: 2,
        prompt: "a house".to_owned(),
        seed: Some(7),
        ..DecomposeOptions::default()
    };
    let (made, used) = pipe.decompose_with(&picture, &options, &mut Callbacks::default()).unwrap();
    assert_eq!(made.images.len(), 3);
    let note = format!("its transformer is {}", path.display());
    assert!(used.notes.iter().any(|found| found.ends_with(&note)), "{:?}", used.notes);
    let missing = PipelineOptions { transformer: Some(Path::new("nowhere.gguf").into()), ..PipelineOptions::default() };
    let mut pipe = QwenImagePipeline::lazy(ModelRef::Folder(golden("checkpoints/layered")), missing).unwrap();
    let error = pipe.decompose_with(&picture, &options, &mut Callbacks::default()).err().unwrap().to_string();
    assert!(error.contains("nowhere.gguf"), "{error}");
}
