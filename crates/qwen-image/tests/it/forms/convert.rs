//! `acetate models convert`: what it writes, it reads; an interruption loses nothing.

use std::{collections::HashMap, fs, ops::ControlFlow, path::Path};

use candle_core::{DType, Device, Tensor};
use qwen_image::models::{
    Component, ConvertTo, Converted, LoadResult, ModelError, TARGETS, WeightFiles, check_file, convert,
};

use super::files::{dense, forms, is_matrix, numbers, predict_layered};
use crate::parity::bars::{golden, relative_error};

fn write(to: &str, out: &Path) -> LoadResult<Converted> {
    let target: ConvertTo = to.parse().unwrap();
    let source = golden("checkpoints/layered");
    convert(&source, Component::Transformer, target, out, &mut |_, _| ControlFlow::Continue(()))
}

/// The relative error of the matrices in blocks.
fn rounding(path: &Path) -> f64 {
    let files = WeightFiles::of_file(path, Component::Transformer).unwrap();
    let (mut off, mut all) = (0.0, 0.0);
    for (name, tensor) in dense("layered").into_iter().filter(|(name, tensor)| is_matrix(name, tensor)) {
        let found = numbers(&files.numbers(&files.tensors[&name]).unwrap().to_dtype(DType::F32).unwrap());
        for (found, wanted) in found.iter().zip(numbers(&tensor)) {
            off += f64::from(found - wanted).powi(2);
            all += f64::from(wanted).powi(2);
        }
    }
    (off / all).sqrt()
}

#[test]
fn every_form_that_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let plain = predict_layered(None);
    let mut sizes = Vec::new();
    for (name, _) in TARGETS {
        let out = folder.path().join(name);
        let converted = write(name, &out).unwrap();
        assert_eq!((converted.bytes, converted.resumed), (fs::metadata(&out).unwrap().len(), 0));
        assert!(!folder.path().join(format!("{name}.part")).exists());
        let off = relative_error(&predict_layered(Some(&out)), &plain);
        let weights = rounding(&out);
        println!("{name}: weights off by {weights:.1e}, a prediction by {off:.1e}, {} bytes", converted.bytes);
        let most = match name {
            "bf16" => 1e-7,
            "q8_0" => 0.01,
            "q6_k" => 0.03,
            "fp8" => 0.04,
            "q5_k_m" => 0.06,
            _ => 0.12,
        };
        assert!(weights <= most && off <= most * 8.0, "{name}: {weights:.1e}, {off:.1e}");
        sizes.push((name, converted.bytes, off));
        let report = check_file(&out).unwrap();
        assert!(report.refused.is_none() && report.what == "a Qwen-Image transformer", "{report:?}");
    }
    let size = |wanted: &str| sizes.iter().find(|(name, ..)| *name == wanted).unwrap().1;
    assert!(
        size("q4_k_m") < size("q5_k_m") && size("q5_k_m") < size("q8_0") && size("q8_0") < size("bf16"),
        "{sizes:?}"
    );
}

#[test]
fn an_interrupted_conversion_goes_on_and_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, out) = (folder.path().join("whole.gguf"), folder.path().join("out.gguf"));
    write("q4_k_m", &whole).unwrap();
    let mut calls = 0;
    let target: ConvertTo = "q4_k_m".parse().unwrap();
    let stopped = convert(&golden("checkpoints/layered"), Component::Transformer, target, &out, &mut |_, _| {
        calls += 1;
        if calls > 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(ModelError::Cancelled)) && !out.exists());
    // Killed inside of a tensor.
    let part = folder.path().join("out.gguf.part");
    let mut bytes = fs::read(&part).unwrap();
    bytes.truncate(bytes.len() - 5);
    fs::write(&part, bytes).unwrap();
    let converted = write("q4_k_m", &out).unwrap();
    assert_eq!(converted.resumed, 19);
    assert!(fs::read(&out).unwrap() == fs::read(&whole).unwrap());
    // What was begun with another form is not used.
    fs::copy(&whole, &part).unwrap();
    fs::remove_file(&out).unwrap();
    assert_eq!(write("q8_0", &out).unwrap().resumed, 0);
    let error = write("q8_0", &out).unwrap_err().to_string();
    assert!(error.ends_with("out.gguf: exists; give another name, or remove it"), "{error}");
}

/// Stops after some tensors.
fn interrupt(source: &Path, out: &Path) {
    let mut calls = 0;
    let stopped = convert(source, Component::Transformer, "q8_0".parse().unwrap(), out, &mut |_, _| {
        calls += 1;
        if calls > 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(ModelError::Cancelled)), "{stopped:?}");
}

#[test]
fn an_interrupted_conversion_of_another_checkpoint_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    let (other, out) = (folder.path().join("other"), folder.path().join("out.gguf"));
    fs::create_dir(&other).unwrap();
    for file in fs::read_dir(golden("checkpoints/layered/transformer")).unwrap() {
        let file = file.unwrap().path();
        fs::copy(&file, other.join(file.file_name().unwrap())).unwrap();
    }
    interrupt(&other, &out);
    // Nothing is younger than what was begun.
    assert_eq!(write("q8_0", &out).unwrap().resumed, 0);
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("out")).collect::<Vec<_>>(), ["out.gguf"]);
}

#[test]
fn a_second_conversion_to_the_same_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let mut second = None;
    let target: ConvertTo = "q8_0".parse().unwrap();
    convert(&golden("checkpoints/layered"), Component::Transformer, target, &out, &mut |_, _| {
        second.get_or_insert_with(|| write("q8_0", &out).unwrap_err().to_string());
        ControlFlow::Continue(())
    })
    .unwrap();
    let error = second.unwrap();
    assert!(error.contains("out.gguf.part: another conversion writes this file now"), "{error}");
}

#[test]
fn only_dense_transformers_become_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut go = |_: u64, _: u64| ControlFlow::Continue(());
    let (fp8, q8): (ConvertTo, ConvertTo) = ("fp8".parse().unwrap(), "q8_0".parse().unwrap());
    let again = convert(&forms("layered.gguf"), Component::Transformer, fp8, &out, &mut go).unwrap_err().to_string();
    assert!(again.contains("is Q") && again.contains("rounding it again would only lose more"), "{again}");
    let text = convert(&golden("checkpoints/edit"), Component::TextEncoder, q8, &out, &mut go).unwrap_err().to_string();
    assert!(text.contains("has no vision part"), "{text}");
    let vae = convert(&golden("checkpoints/edit/vae"), Component::Transformer, q8, &out, &mut go).unwrap_err();
    assert!(vae.to_string().contains("has no transformer of Qwen-Image"), "{vae}");
    for (target, name, right) in [(fp8, "a.gguf", "a.safetensors"), (q8, "a.safetensors", "a.gguf")] {
        let out = folder.path().join(name);
        let error = convert(&golden("checkpoints/edit"), Component::Transformer, target, &out, &mut go).unwrap_err();
        let wanted = format!("give the name {}", folder.path().join(right).display());
        assert!(error.to_string().ends_with(&wanted), "{error}");
    }
    assert!("q1_0".parse::<ConvertTo>().unwrap_err().contains("q4_k_m"));
    // Either naming of text encoders, and shards, become one file of fp8.
    for kind in ["edit", "layered"] {
        let out = folder.path().join(kind);
        convert(&golden("checkpoints").join(kind), Component::TextEncoder, fp8, &out, &mut go).unwrap();
        let files = WeightFiles::of_file(&out, Component::TextEncoder).unwrap();
        let kept = files.tensors.values().filter(|stored| stored.stays()).count();
        assert_eq!(kept, 3 * 7, "{kind}");
    }
}

fn refused(path: &Path) -> Option<String> {
    check_file(path).unwrap().refused
}

#[test]
fn a_lora_is_checked_as_a_run_reads_it() {
    let report = check_file(&golden("loras/layered-bare.safetensors")).unwrap();
    assert_eq!(report.fits.as_deref(), Some("checkpoints of width 72 with at least 3 blocks"), "{report:?}");
    assert_eq!(report.refused, None);
    let folder = tempfile::tempdir().unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let q = "transformer_blocks.6.attn.to_q";
    let (down, up) = (format!("{q}.lora_A.weight"), format!("{q}.lora_B.weight"));
    let (dora, far) = (format!("{q}.dora_scale"), down.replace(".6.", ".99."));
    for (name, tensors, wanted) in [
        ("full", vec![(down.as_str(), &[2, 3072][..]), (&up, &[3072, 2])], None),
        ("nano", vec![(down.as_str(), &[2, 224][..]), (&up, &[224, 2])], None),
        ("dora", vec![(down.as_str(), &[2, 224][..]), (&up, &[224, 2]), (&dora, &[224])], Some("is part of a DoRA")),
        ("half", vec![(down.as_str(), &[2, 224][..])], Some("has no `lora_B`")),
        ("rank", vec![(down.as_str(), &[2, 224][..]), (&up, &[224, 3])], Some("has rank 2")),
        ("far", vec![(down.as_str(), &[2, 224][..]), (&up, &[224, 2]), (&far, &[2, 224])], Some("are not of this")),
        ("lokr", vec![("proj_out.lokr_w1", &[2, 2][..])], Some("is part of a LoKr")),
    ] {
        let path = folder.path().join(format!("{name}.safetensors"));
        let all: HashMap<_, _> = tensors.iter().map(|(key, shape)| ((*key).to_owned(), zeros(shape))).collect();
        candle_core::safetensors::save(&all, &path).unwrap();
        let report = check_file(&path).unwrap();
        match wanted {
            Some(wanted) => assert!(report.refused.is_some_and(|reason| reason.contains(wanted)), "{name}"),
            None => assert!(report.refused.is_none() && report.fits.is_some(), "{name}: {report:?}"),
        }
    }
    let nano = check_file(&folder.path().join("nano.safetensors")).unwrap();
    assert_eq!(nano.fits.as_deref(), Some("layered-nano"), "edit-nano has 5 blocks");
}

#[test]
fn a_transformer_with_other_tensors_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let file = golden("checkpoints/layered/transformer/diffusion_pytorch_model.safetensors");
    let whole = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let with = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let mut tensors = whole.clone();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, &path).unwrap();
        refused(&path)
    };
    assert_eq!(with(&|_| ()), None);
    let (q, mlp) = ("transformer_blocks.1.attn.to_q.weight", "transformer_blocks.1.img_mlp.net.2.weight");
    let other = || Tensor::zeros((72, 72), DType::F32, &Device::Cpu).unwrap();
    let missing = with(&|tensors| drop(tensors.remove(q))).unwrap();
    assert_eq!(missing, format!("tensor `{q}` is missing"));
    let narrow = with(&|tensors| drop(tensors.insert(q.to_owned(), other().narrow(0, 0, 64).unwrap()))).unwrap();
    assert!(narrow.starts_with(&format!("tensor `{q}` has shape [64, 72], but")), "{narrow}");
    let turned = with(&|tensors| {
        let turned = tensors[mlp].t().unwrap().contiguous().unwrap();
        tensors.insert(mlp.to_owned(), turned);
    });
    assert!(turned.unwrap().starts_with(&format!("tensor `{mlp}` has shape")));
    let more = with(&|tensors| drop(tensors.insert("foo.weight".to_owned(), other()))).unwrap();
    assert!(more.contains("1 tensors that the model does not have, the first is `foo.weight`"), "{more}");
    let block = with(&|tensors| drop(tensors.insert(q.replace(".1.", ".3."), other()))).unwrap();
    assert!(block.starts_with("tensor `transformer_blocks.3.") && block.ends_with("is missing"), "{block}");
    let vae = golden("checkpoints/layered/vae/diffusion_pytorch_model.safetensors");
    assert!(refused(&vae).unwrap().starts_with("is a VAE; a transformer"), "{:?}", refused(&vae));
}

#[test]
fn a_file_is_described() {
    let report = check_file(&forms("layered.gguf")).unwrap();
    assert_eq!((report.format, report.what.as_str()), ("GGUF", "a Qwen-Image transformer"));
    assert_eq!(report.architecture.as_deref(), Some("qwen_image"));
    assert_eq!(report.fits.as_deref(), Some("a small checkpoint of Qwen-Image-Layered, with 3 blocks of width 72"));
    assert_eq!(
        report.types.iter().map(|(name, count)| (name.as_str(), *count)).collect::<Vec<_>>(),
        [("BF16", 7), ("F32", 61), ("Q4_0", 8), ("Q4_1", 8), ("Q5_0", 8), ("Q5_1", 9), ("Q8_0", 9),]
    );
    let memory = report.memory.unwrap();
    assert!(memory.blocks == 3 && memory.weights() < report.bytes * 2, "{memory:?}");
}
