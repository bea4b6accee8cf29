//! What names a model, which of its files are wanted, and where the environment puts the cache.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qwen_image::hub::{HubConfig, HubError, ModelRef, diffusers_files, resolve};

use super::token;

#[test]
fn a_model_is_a_folder_or_a_hub_id() {
    let hub = |id: &str, revision: &str| ModelRef::Hub { id: id.into(), revision: revision.into() };
    let parse = |text: &str| ModelRef::parse(text).unwrap();
    assert_eq!(parse("Qwen/Qwen-Image-Layered"), hub("Qwen/Qwen-Image-Layered", "main"));
    assert_eq!(parse("Qwen/Qwen-Image-Edit-2509@v1.0"), hub("Qwen/Qwen-Image-Edit-2509", "v1.0"));
    assert_eq!(parse("a/b@refs/pr/5"), hub("a/b", "refs/pr/5"));
    assert_eq!(parse("a/b@refs/pr/5").to_string(), "a/b@refs/pr/5");
    assert_eq!(parse("a/b").to_string(), "a/b");
    for folder in ["./a/b", "../a/b", "/a/b", ".", "src", "src/hub"] {
        assert_eq!(parse(folder), ModelRef::Folder(PathBuf::from(folder)));
    }
    for wrong in ["", " ", "model", "a/b/c", "a//b", "a/b@", "a/b@../x", "a/b@x/../y", "a--b/c", "a/..", "é/b", "a/b c"]
    {
        let error = ModelRef::parse(wrong).unwrap_err();
        assert!(matches!(error, HubError::Reference { .. }), "{wrong}: {error:?}");
        assert!(error.to_string().contains("Qwen/Qwen-Image-Layered"), "{error}");
    }
}

#[test]
fn a_local_folder_is_used_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let config = HubConfig::new("http://127.0.0.1:9", folder.path().join("cache"));
    let find = |path: &Path| {
        let model = ModelRef::Folder(path.to_owned());
        resolve(&config, &model, &diffusers_files, &mut |_| ControlFlow::Continue(()))
    };
    let snapshot = find(folder.path()).unwrap();
    assert_eq!((snapshot.folder.as_path(), snapshot.revision), (folder.path(), None));
    let missing = find(&folder.path().join("missing")).unwrap_err().to_string();
    assert!(missing.contains("there is no such folder") && missing.contains("model_index.json"), "{missing}");
    std::fs::write(folder.path().join("file"), b"").unwrap();
    assert!(find(&folder.path().join("file")).unwrap_err().to_string().contains("is a file"));
}

#[test]
fn only_the_diffusers_layout_is_wanted() {
    for wanted in [
        "model_index.json",
        "acetate.json",
        "scheduler/scheduler_config.json",
        "transformer/diffusion_pytorch_model-00001-of-00005.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "tokenizer/merges.txt",
        "tokenizer/chat_template.jinja",
        "processor/preprocessor_config.json",
        "text_encoder/generation_config.json",
        "vae/config.json",
    ] {
        assert!(diffusers_files(wanted), "{wanted}");
    }
    for unwanted in [
        "README.md",
        "LICENSE.txt",
        "config.json",
        "assets/picture.json",
        "transformer/pytorch_model.bin",
        "transformer/model.pt",
        "transformer/model.pkl",
        "transformer/deep/model.safetensors",
        "transformer/diffusion_pytorch_model.fp16.safetensors",
        "vae/preview.png",
        "model.safetensors",
    ] {
        assert!(!diffusers_files(unwanted), "{unwanted}");
    }
}

/// The configuration for these variables, in a home with this token file.
fn config(env: &[(&str, &str)], token_file: Option<(&str, &str)>) -> HubConfig {
    let get = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let read = |path: &Path| token_file.filter(|(at, _)| Path::new(at) == path).map(|(_, text)| text.to_owned());
    HubConfig::resolve(get, read, Path::new("/home/me"))
}

#[test]
fn the_cache_follows_the_variables_of_huggingface_hub() {
    let dir = |env: &[(&str, &str)]| config(env, None).cache_dir.to_str().unwrap().to_owned();
    assert_eq!(dir(&[]), "/home/me/.cache/huggingface/hub");
    assert_eq!(dir(&[("HF_HOME", "")]), "/home/me/.cache/huggingface/hub");
    assert_eq!(dir(&[("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
    assert_eq!(dir(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")]), "/home/me/hf/hub");
    assert_eq!(dir(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")]), "/old");
    assert_eq!(dir(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")]), "/new");
}

#[test]
fn token_endpoint_and_offline_follow_too() {
    let plain = config(&[], None);
    assert_eq!(plain.endpoint, "https://huggingface.co");
    assert!(plain.token.is_none() && !plain.offline);

    let file = Some(("/home/me/.cache/huggingface/token", "from_file\n"));
    assert_eq!(config(&[], file).token, token("from_file"));
    assert_eq!(config(&[("HF_TOKEN", "from_env")], file).token, token("from_env"));
    assert_eq!(config(&[("HUGGING_FACE_HUB_TOKEN", "legacy")], file).token, token("legacy"));
    assert_eq!(config(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), ("HF_TOKEN", "t")], file).token, None);
    assert_eq!(config(&[("HF_HOME", "/hf")], Some(("/hf/token", "home"))).token, token("home"));
    assert_eq!(config(&[("HF_TOKEN_PATH", "/t")], Some(("/t", "path"))).token, token("path"));

    assert_eq!(config(&[("HF_ENDPOINT", "https://mirror.example/")], None).endpoint, "https://mirror.example");
    for (value, offline) in [("1", true), ("true", true), ("YES", true), ("0", false), ("", false)] {
        assert_eq!(config(&[("HF_HUB_OFFLINE", value)], None).offline, offline, "{value:?}");
    }
    assert!(config(&[("TRANSFORMERS_OFFLINE", "on")], None).offline);
    assert!(!config(&[("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "0")], None).offline);
    assert_eq!(config(&[("HF_HUB_DOWNLOAD_TIMEOUT", "7")], None).retry.stall, Duration::from_secs(7));
}
