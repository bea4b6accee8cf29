//! LoRAs are single files of a repository that is no checkpoint.

use std::{fs, ops::ControlFlow, path::PathBuf};

use qwen_image::hub::{HubConfig, HubError, LoraSource, resolve_lora};

use super::{
    noise, quick,
    server::{Hub, ID},
};

#[test]
fn only_the_named_file_is_fetched() {
    let files = [
        ("README.md", b"not needed".to_vec()),
        ("a/ink-4steps.safetensors", noise(3000, 3)),
        ("a/ink-8steps.safetensors", noise(2000, 4)),
        ("training_args.bin", noise(10, 5)),
    ];
    let hub = Hub::start(&files);
    let folder = tempfile::tempdir().unwrap();
    let config = quick(HubConfig::new(&hub.endpoint, folder.path()));
    let pull = |config: &HubConfig, file: &str| -> Result<PathBuf, HubError> {
        let source = LoraSource::parse(&format!("{ID}{file}")).unwrap();
        resolve_lora(config, &source, &mut |_| ControlFlow::Continue(()))
    };
    let path = pull(&config, ":a/ink-4steps.safetensors").unwrap();
    assert_eq!(fs::read(&path).unwrap(), files[1].1);
    assert!(!path.with_file_name("ink-8steps.safetensors").exists());
    let offline = HubConfig { offline: true, ..config.clone() };
    assert_eq!(pull(&offline, ":a/ink-4steps.safetensors").unwrap(), path);
    assert!(matches!(pull(&offline, ":a/ink-8steps.safetensors"), Err(HubError::Offline { .. })));
    for missing in ["", ":b.safetensors"] {
        let error = pull(&config, missing).unwrap_err();
        assert!(matches!(&error, HubError::NoLora { found, .. } if found.len() == 2), "{error}");
        assert!(error.to_string().contains("it has a/ink-4steps.safetensors, a/ink-8steps.safetensors"), "{error}");
    }
}
