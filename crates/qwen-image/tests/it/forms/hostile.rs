//! Damaged and hostile files end in errors that name the file and what is wrong in it.

use std::{fs, path::Path};

use candle_core::{DType, Device};
use qwen_image::models::{BlockPlacement, LoadContext, check_file, transformer::Transformer};
use serde_json::json;

use super::files::{Entry, Gguf, forms, refusal, text, write_safetensors};
use crate::parity::bars::golden;

fn gguf_error(change: impl FnOnce(&mut Gguf)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    let mut file = Gguf::dense("layered", "");
    change(&mut file);
    fs::write(&path, file.bytes()).unwrap();
    refusal("layered", &path)
}

#[test]
fn lengths_that_no_file_has() {
    let mut found = vec![gguf_error(|file| file.tensor_count = Some(1 << 60))];
    found.push(gguf_error(|file| file.key_count = Some(u64::MAX)));
    found.push(gguf_error(|file| file.tensors[3].dims = vec![u64::MAX, 8]));
    found.push(gguf_error(|file| file.tensors[3].dims = vec![1 << 40, 1 << 40]));
    found.push(gguf_error(|file| file.tensors[3].offset = Some(u64::MAX - 31)));
    found.push(gguf_error(|file| file.tensors[3].offset = Some(7)));
    found.push(gguf_error(|file| file.tensors[3].dims = vec![1; 9]));
    let long = [&(1_u64 << 62).to_le_bytes(), b"short".as_slice()].concat();
    found.push(gguf_error(|file| file.keys.push(("a.text".into(), 8, long))));
    let array = [&8_u32.to_le_bytes(), (1_u64 << 60).to_le_bytes().as_slice()].concat();
    found.push(gguf_error(|file| file.keys.push(("a.list".into(), 9, array))));
    let nested = [&9_u32.to_le_bytes(), 1_u64.to_le_bytes().as_slice()].concat().repeat(1000);
    found.push(gguf_error(|file| file.keys.push(("a.nest".into(), 9, nested))));
    insta::assert_snapshot!("gguf_lengths", found.join("\n"));
}

#[test]
fn kinds_that_are_not_read() {
    let mut found = vec![gguf_error(|file| file.tensors[3].kind = 23)];
    found.push(gguf_error(|file| file.tensors[3].kind = 99));
    found.push(gguf_error(|file| file.tensors[0].kind = 12));
    found.push(gguf_error(|file| file.keys.push(("a.key".into(), 77, vec![]))));
    found.push(gguf_error(|file| file.version = 1));
    found.push(gguf_error(|file| file.version = 3_u32.swap_bytes()));
    found.push(gguf_error(|file| file.tensors[1].name = file.tensors[0].name.clone()));
    let alignment = ("general.alignment".to_owned(), 4, 3_u32.to_le_bytes().to_vec());
    found.push(gguf_error(|file| file.keys.push(alignment)));
    found.push(gguf_error(|file| {
        file.tensors.retain(|tensor| !tensor.name.starts_with("transformer_blocks."));
        file.keys[0].2 = text("flux");
    }));
    let shape = [&5_u32.to_le_bytes(), 2_u64.to_le_bytes().as_slice(), &[3; 8]].concat();
    found.push(gguf_error(|file| file.keys.push(("comfy.gguf.orig_shape.img_in.weight".into(), 9, shape))));
    insta::assert_snapshot!("gguf_kinds", found.join("\n"));
}

/// Cut anywhere, a file is refused with its name: it never panics, and is never loaded.
#[test]
fn cut_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["layered.gguf", "types.gguf"] {
        let whole = fs::read(forms(name)).unwrap();
        let path = folder.path().join(name);
        let lengths = (0..4000).step_by(61).chain([whole.len() / 2, whole.len() * 9 / 10]);
        for length in lengths.filter(|length| *length < whole.len()) {
            fs::write(&path, &whole[..length]).unwrap();
            let error = check_file(&path).err().map(|error| error.to_string());
            assert!(
                error.as_ref().is_some_and(|error| error.starts_with(&path.display().to_string())),
                "{length}: {error:?}"
            );
            refusal("layered", &path);
        }
    }
}

/// Any damaged byte of a header is refused or harmless.
#[test]
fn damaged_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("types.gguf");
    let whole = fs::read(forms("types.gguf")).unwrap();
    for place in 0..700 {
        for value in [0, 0x7f, 0xff] {
            let mut damaged = whole.clone();
            damaged[place] = value;
            fs::write(&path, damaged).unwrap();
            if let Err(error) = check_file(&path) {
                assert!(error.to_string().starts_with(&path.display().to_string()), "{place}: {error}");
            }
        }
    }
}

fn safetensors_error(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.safetensors");
    let entry = Entry::new("transformer_blocks.0.attn.add_q_proj.weight", "F32", &[2, 2], vec![0; 16]);
    write_safetensors(&path, &json!({}), &[entry]);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    refusal("layered", &path)
}

#[test]
fn safetensors_that_lie() {
    let mut found = Vec::new();
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| {
            let text = String::from_utf8_lossy(&bytes[8..bytes.len() - 16]).replace(from, to);
            let data = bytes[bytes.len() - 16..].to_vec();
            *bytes = [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &data].concat();
        }
    };
    found.push(safetensors_error(replace("[0,16]", "[16,0]")));
    found.push(safetensors_error(replace("[0,16]", "[8,16]")));
    found.push(safetensors_error(replace("[2,2]", "[4294967296,4294967296]")));
    found.push(safetensors_error(replace("F32", "F99")));
    found.push(safetensors_error(|bytes| bytes[7] = 0xff));
    found.push(safetensors_error(|bytes| bytes.truncate(3)));
    insta::assert_snapshot!("safetensors_lies", found.join("\n"));
}

#[test]
fn a_folder_or_a_picture_is_not_a_file_of_weights() {
    let mut found = Vec::new();
    let folder = golden("checkpoints/layered");
    found.push(refusal("layered", &folder));
    found.push(refusal("layered", &golden("pictures/house.png")));
    let nowhere = Path::new("/nowhere/model.gguf");
    let context = LoadContext { file: Some(nowhere), ..LoadContext::new(&Device::Cpu, DType::F32) };
    let loaded = Transformer::load_with(&folder.join("transformer"), context, BlockPlacement::OnDevice, false);
    assert!(loaded.err().unwrap().to_string().starts_with("/nowhere/model.gguf: "));
    insta::assert_snapshot!("not_weights", found.join("\n"));
}
