//! LoRAs: in every form they change pictures as diffusers with peft changes them, and leave no trace.

use std::{collections::BTreeMap, collections::HashMap, path::Path, sync::Arc};

use ::image::RgbaImage;
use candle_core::{DType, Device, Tensor};
use qwen_image::{
    Callbacks, DecomposeOptions, EditInputs, EditOptions, Error, Lora, OutputSize, PipelineOptions, Preset,
    QwenImagePipeline,
    hub::{LoraSource, ModelRef},
    image_processor::rgb_of,
    models::{
        BlockPlacement, LoadContext,
        lora::{Adapter, LoraError, LoraFile, Overlays},
        transformer::{Branch, Frame, Transformer},
    },
    pipeline::{LoadOptions, QwenImageEditPlusPipeline, QwenImageLayeredPipeline},
};
use serde::Deserialize;

use super::bars::{PIXEL_MEAN, PIXEL_WORST, assert_close, golden, tensors};

#[derive(Deserialize)]
struct Case {
    name: String,
    checkpoint: String,
    input: String,
    prompt: String,
    steps: u32,
    layers: u32,
    cfg_scale: f64,
    seed: u64,
    outputs: Vec<String>,
    /// Each set of LoRAs, file and strength, gives the same pictures.
    loras: Vec<BTreeMap<String, f64>>,
    /// How far the picture is from the one without LoRAs, in dB.
    without_db: f64,
}

impl Case {
    fn options(&self) -> DecomposeOptions {
        DecomposeOptions {
            prompt: self.prompt.clone(),
            layers: self.layers,
            num_inference_steps: self.steps,
            cfg_scale: self.cfg_scale,
            ..DecomposeOptions::default()
        }
    }

    fn run(&self, loras: &[Adapter]) -> Vec<RgbaImage> {
        let load = LoadOptions { loras, ..LoadOptions::new(LoadContext::new(&Device::Cpu, DType::F32)) };
        let folder = golden("checkpoints").join(&self.checkpoint);
        let input = picture(&self.input);
        if self.checkpoint == "layered" {
            let pipeline = QwenImageLayeredPipeline::load_with(&folder, load).unwrap();
            return pipeline.run(&input, &self.options(), self.seed, &mut Callbacks::default()).unwrap().images;
        }
        let pipeline = QwenImageEditPlusPipeline::load_with(&folder, load).unwrap();
        let options = EditOptions {
            output_size: OutputSize::Model,
            num_inference_steps: self.steps,
            cfg_scale: self.cfg_scale,
            ..EditOptions::default()
        };
        let inputs = EditInputs { image: &input, references: &[], mask: None };
        vec![pipeline.run(inputs, &self.prompt, &options, self.seed, &mut Callbacks::default()).unwrap().image]
    }
}

fn cases() -> Vec<Case> {
    serde_json::from_str(&std::fs::read_to_string(golden("loras.json")).unwrap()).unwrap()
}

fn picture(path: &str) -> RgbaImage {
    ::image::open(golden("pictures").join(path)).unwrap().to_rgba8()
}

fn file(name: &str) -> std::path::PathBuf {
    golden("loras").join(format!("{name}.safetensors"))
}

fn adapter(path: &Path, strength: f64) -> Result<Adapter, LoraError> {
    Ok(Adapter { name: path.display().to_string(), file: Arc::new(LoraFile::read(path)?), strength })
}

/// Worst and mean difference, and the PSNR in dB, over all pictures.
fn differences(found: &[RgbaImage], expected: &[RgbaImage]) -> (u8, f64, f64) {
    assert_eq!(found.len(), expected.len());
    let bytes = |pictures: &[RgbaImage], layered: bool| -> Vec<u8> {
        let flat = |picture: &RgbaImage| if layered { picture.as_raw().clone() } else { rgb_of(picture).into_raw() };
        pictures.iter().flat_map(flat).collect()
    };
    let layered = found.len() > 1;
    let (found, expected) = (bytes(found, layered), bytes(expected, layered));
    assert_eq!(found.len(), expected.len(), "sizes differ");
    let apart: Vec<f64> = found.iter().zip(&expected).map(|(a, b)| f64::from(a.abs_diff(*b))).collect();
    let count = apart.len() as f64;
    let (mean, square) = (apart.iter().sum::<f64>() / count, apart.iter().map(|d| d * d).sum::<f64>() / count);
    (apart.iter().fold(0.0_f64, |a, b| a.max(*b)) as u8, mean, 10.0 * (255.0 * 255.0 / square).log10())
}

#[test]
fn every_form_gives_diffusers_pictures() {
    let cases = cases();
    assert_eq!(cases.iter().map(|case| case.loras.len()).collect::<Vec<_>>(), [5, 1, 1]);
    for case in cases {
        let expected: Vec<_> = case.outputs.iter().map(|path| picture(path)).collect();
        for loras in &case.loras {
            let adapters: Vec<_> =
                loras.iter().map(|(name, strength)| adapter(&file(name), *strength).unwrap()).collect();
            let found = case.run(&adapters);
            let (worst, mean, _) = differences(&found, &expected);
            println!("{} {loras:?}: worst {worst}/255, mean {mean:.5}/255", case.name);
            assert!(worst <= PIXEL_WORST && mean <= PIXEL_MEAN, "{} {loras:?}: {worst}, {mean}", case.name);
        }
        // A LoRA that is not applied cannot pass.
        let (_, _, db) = differences(&case.run(&[]), &expected);
        println!("{} without LoRAs: {db:.1} dB", case.name);
        assert!(db < 25.0 && case.without_db < 25.0, "{}: {db} dB without the LoRA", case.name);
    }
}

#[test]
fn the_levels_of_lightning_are_those_of_the_published_script() {
    let stored = tensors("lightning");
    assert_eq!(stored.len(), 16);
    for (name, expected) in stored.iter().filter(|(name, _)| name.ends_with("_sigmas")) {
        let steps = name.split('_').next().unwrap().parse().unwrap();
        let found = Preset::Lightning.sigmas(steps).unwrap();
        let expected = expected.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6, "{name}: {found} instead of {expected}");
        }
    }
    assert!(Preset::Fast.sigmas(12).is_none());
}

/// A pipeline whose edit model is the layered one's neighbor.
fn pipeline() -> QwenImagePipeline {
    let options = PipelineOptions {
        edit_model: Some(ModelRef::Folder(golden("checkpoints/edit"))),
        ..PipelineOptions::default()
    };
    QwenImagePipeline::lazy(ModelRef::Folder(golden("checkpoints/layered")), options).unwrap()
}

fn lora(name: &str, strength: f64) -> Lora {
    Lora { source: LoraSource::File(file(name)), strength }
}

#[test]
fn loras_change_between_calls_and_leave_no_trace() {
    let case = &cases()[0];
    let input = picture(&case.input);
    let mut pipeline = pipeline();
    let mut run = |loras: &[Lora]| {
        let options = DecomposeOptions {
            loras: Some(loras.to_vec()),
            seed: Some(case.seed),
            num_inference_steps: 2,
            ..case.options()
        };
        let (made, used) = pipeline.decompose_with(&input, &options, &mut Callbacks::default()).unwrap();
        (made.images, used.model.loras)
    };
    let (base, none) = run(&[]);
    assert!(none.is_empty());
    let (once, applied) = run(&[lora("layered-bare", 0.8)]);
    let [one] = applied.as_slice() else { panic!("{applied:?}") };
    // Three blocks of 14 layers, and six outside of them.
    assert_eq!((one.strength, one.rank, one.modules), (0.8, 2, 3 * 14 + 6));
    assert_eq!((one.sha256.len(), one.file.ends_with("layered-bare.safetensors")), (64, true));
    assert_ne!(once, base);
    assert_eq!(run(&[]).0, base, "taken away");
    assert_eq!(run(&[lora("layered-bare", 0.0)]), (base.clone(), Vec::new()), "strength 0");
    assert_eq!(run(&[lora("layered-bare", 0.8)]).0, once, "and back");
    let (twice, applied) = run(&[lora("layered-bare", 0.5), lora("layered-kohya", 0.3)]);
    assert_eq!(applied.len(), 2);
    let (worst, ..) = differences(&twice, &once);
    assert!(worst <= 1, "0.5 and 0.3 of the same are 0.8 of it: {worst}");
    assert_eq!(run(&[]).0, base);
}

#[test]
#[allow(clippy::result_large_err, reason = "the library's error, as callers get it")]
fn a_lora_that_does_not_fit_is_refused_and_the_model_stays() {
    let folder = tempfile::tempdir().unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let write = |name: &str, tensors: &[(&str, &[usize])]| {
        let path = folder.path().join(format!("{name}.safetensors"));
        let all: HashMap<_, _> = tensors.iter().map(|(key, shape)| ((*key).to_owned(), zeros(shape))).collect();
        candle_core::safetensors::save(&all, &path).unwrap();
        path
    };
    let case = &cases()[0];
    let input = picture(&case.input);
    let mut pipeline = pipeline();
    let mut run = |source: Option<&Path>| {
        let loras = source.map(|path| Lora::new(LoraSource::File(path.to_owned())));
        let options = DecomposeOptions {
            loras: Some(loras.into_iter().collect()),
            seed: Some(1),
            num_inference_steps: 1,
            cfg_scale: 1.0,
            ..case.options()
        };
        pipeline.decompose_with(&input, &options, &mut Callbacks::default()).map(|(made, _)| made.images)
    };
    let base = run(None).unwrap();
    let q = "transformer_blocks.0.attn.to_q";
    let (down, up) = (format!("{q}.lora_A.weight"), format!("{q}.lora_B.weight"));
    let far = format!("transformer.{}", down.replace(".0.", ".59."));
    for (name, tensors, told) in [
        ("lokr", vec![("lycoris_transformer_blocks_0_attn_to_q.lokr_w1", &[4, 4][..])], "lokr_w1` is part of a LoKr"),
        ("loha", vec![("diffusion_model.proj_out.hada_w1_a", &[4, 4][..])], "is part of a LoHa"),
        ("dora", vec![("transformer.proj_out.dora_scale", &[4][..])], "is part of a DoRA"),
        (
            "other",
            vec![(down.as_str(), &[2, 72][..]), (&up, &[72, 2]), (&far, &[2, 3072])],
            "59.attn.to_q.lora_A.weight` [2, 3072]",
        ),
        (
            "text",
            vec![("lora_te1_text_model.lora_down.weight", &[2, 64][..])],
            "1 of 1 keys are not of this transformer",
        ),
        (
            "wide",
            vec![(down.as_str(), &[2, 3072][..]), (&up, &[3072, 2])],
            "`transformer_blocks.0.attn.to_q.lora_A.weight` is [2, 3072], not [rank, 72]",
        ),
        (
            "ranks",
            vec![(down.as_str(), &[2, 72][..]), (&up, &[72, 3])],
            "lora_B.weight`: has shape [72, 3], so rank 3, but `transformer_blocks.0",
        ),
        ("nothing", vec![(down.as_str(), &[0, 72][..]), (&up, &[72, 0])], "which is of rank 0"),
        ("convolution", vec![(down.as_str(), &[2, 72, 1, 1][..]), (&up, &[72, 2, 1, 1])], "as [2, 72]"),
        (
            "biases",
            vec![(down.as_str(), &[2, 72][..]), (&up, &[72, 2]), ("transformer_blocks.0.attn.to_q.lora_B.bias", &[72])],
            "is part of a LoRA with biases",
        ),
        ("half", vec![(down.as_str(), &[2, 72][..])], "has no `lora_B` or `lora_up` matrix"),
        ("twice", vec![(down.as_str(), &[2, 72][..]), (&far.replace(".59.", ".0."), &[2, 72])], "are the same matrix"),
        (
            "alpha",
            vec![(down.as_str(), &[2, 72][..]), (&up, &[72, 2]), ("transformer_blocks.0.attn.to_q.alpha", &[2])],
            "it must be one",
        ),
        ("empty", vec![], "has no LoRA matrices"),
    ] {
        let path = write(name, &tensors);
        let error = run(Some(&path)).unwrap_err();
        assert!(matches!(&error, Error::Lora(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("{name}.safetensors: ")) && text.contains(told), "{text}");
        assert_eq!(run(None).unwrap(), base, "after {name}");
    }
    let cut = folder.path().join("cut.safetensors");
    let whole = std::fs::read(file("layered-bare")).unwrap();
    for length in [0, 7, 100, whole.len() - 1] {
        std::fs::write(&cut, &whole[..length]).unwrap();
        let error = run(Some(&cut)).unwrap_err().to_string();
        assert!(error.contains("cut.safetensors: "), "{error}");
    }
    let error = run(Some(&folder.path().join("missing.safetensors"))).unwrap_err();
    assert!(matches!(&error, Error::Lora(LoraError::Io { .. })), "{error:?}");
    // Another version of a file under the same name is seen.
    std::fs::write(&cut, &whole).unwrap();
    let merged = run(Some(&cut)).unwrap();
    assert_ne!(merged, base);
    std::fs::copy(write("none", &[(&down, &[2, 72]), (&up, &[72, 2])]), &cut).unwrap();
    assert_eq!(run(Some(&cut)).unwrap(), base, "a LoRA of zeros");
}

/// Blocks that stay are the old ones; those that change, and streamed ones, are the same as loaded at once.
#[test]
fn what_is_taken_over_is_as_good_as_loaded() {
    let folder = golden("checkpoints/layered/transformer");
    let stored = tensors("transformer_layered");
    let only: HashMap<String, Tensor> = candle_core::safetensors::load(file("layered-bare"), &Device::Cpu).unwrap();
    let one_block = tempfile::tempdir().unwrap();
    let path = one_block.path().join("one.safetensors");
    let kept: HashMap<_, _> = only.into_iter().filter(|(key, _)| key.starts_with("transformer_blocks.1.")).collect();
    candle_core::safetensors::save(&kept, &path).unwrap();
    let adapters = [adapter(&path, 1.0).unwrap()];
    let overlays = Overlays::of(&adapters, &Transformer::linears(&folder).unwrap()).unwrap();
    let forward = |model: &Transformer| {
        let shapes = stored["img_shapes"].to_vec2::<i64>().unwrap();
        let frame = |shape: &Vec<i64>| Frame { height: shape[1] as usize, width: shape[2] as usize };
        let frames: Vec<_> = shapes.iter().map(frame).collect();
        let text = model.project_text(&stored["encoder_hidden_states"]).unwrap();
        let rotations = model.rotations(&frames, text.dim(1).unwrap(), &Device::Cpu).unwrap();
        let modulations = model.modulations(0.5, &Device::Cpu).unwrap();
        let branch = [Branch { text: &text, rotations: &rotations }];
        let hidden = &stored["hidden_states"];
        model.forward_branches(hidden, &branch, &modulations, hidden.dim(1).unwrap()).unwrap().remove(0)
    };
    let plain = LoadContext::new(&Device::Cpu, DType::F32);
    let changed = LoadContext { overlays: &overlays, ..plain };
    for place in [BlockPlacement::OnDevice, BlockPlacement::Streamed { resident: 1 }] {
        let load = |context, old| Transformer::load_reusing(&folder, context, place, false, old).unwrap();
        let base = load(plain, None);
        let expected = forward(&base);
        let with = load(changed, Some(base));
        let at_once = forward(&load(changed, None));
        assert_close("taken over", &forward(&with), &at_once, 0.0);
        assert!(super::bars::relative_error(&at_once, &expected) > 1e-2, "the LoRA has no effect");
        assert_close("and back", &forward(&load(plain, Some(with))), &expected, 0.0);
    }
}
