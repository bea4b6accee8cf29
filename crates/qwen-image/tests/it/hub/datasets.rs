//! Datasets, which have addresses and folders of their own.

use std::fs;
use std::ops::ControlFlow;

use qwen_image::hub::{DatasetRef, HubConfig, HubError, resolve_dataset};

use super::server::{COMMIT, Hub, ID};
use super::{noise, quick};

#[test]
fn a_dataset_is_fetched_below_its_path_into_its_own_folder() {
    let files = [
        ("README.md", b"not needed".to_vec()),
        ("data/train-0.parquet", noise(3000, 3)),
        ("data/train-1.parquet", noise(2000, 4)),
        ("data2/x.parquet", noise(10, 5)),
    ];
    let hub = Hub::start(&files);
    let folder = tempfile::tempdir().unwrap();
    let config = quick(HubConfig::new(&hub.endpoint, folder.path()));
    let wanted = |path: &str| path.ends_with(".parquet");
    let pull = |config: &HubConfig, path: &str| {
        let dataset = DatasetRef::parse(&format!("{ID}{path}")).unwrap();
        resolve_dataset(config, &dataset, &wanted, &mut |_| ControlFlow::Continue(()))
    };
    let snapshot = pull(&config, "/data/").unwrap();
    assert_eq!(snapshot.folder, folder.path().join(format!("datasets--Org--Model/snapshots/{COMMIT}")));
    assert_eq!(fs::read(snapshot.folder.join("data/train-1.parquet")).unwrap(), files[2].1);
    for other in ["README.md", "data2/x.parquet"] {
        assert!(!snapshot.folder.join(other).exists(), "{other}");
    }
    let log = hub.log();
    assert_eq!(log[0].path, "/api/datasets/Org/Model/revision/main");
    let resolved = log.iter().filter(|request| request.path.contains("/resolve/"));
    assert!(
        resolved.clone().count() == 2 && resolved.clone().all(|r| r.path.starts_with("/datasets/Org/Model/resolve/"))
    );

    // Complete, it needs no hub; and a model of the same name is another repository.
    let offline = HubConfig { offline: true, ..config.clone() };
    assert_eq!(pull(&offline, "/data").unwrap().folder, snapshot.folder);
    assert!(matches!(pull(&offline, ""), Err(HubError::Offline { .. })));
    assert!(!folder.path().join("models--Org--Model").exists());
    assert_eq!(pull(&config, "@main").unwrap().folder, snapshot.folder);
    assert!(snapshot.folder.join("data2/x.parquet").exists());
    assert!(matches!(pull(&config, "/nothing"), Err(HubError::NoFiles { .. })));
}

#[test]
fn names_of_datasets_have_two_parts_and_stay_inside() {
    let parsed = DatasetRef::parse("Org/Name@refs-pr/data/a.parquet").unwrap();
    assert_eq!(
        (parsed.id.as_str(), parsed.revision.as_str(), parsed.path.as_str()),
        ("Org/Name", "refs-pr", "data/a.parquet")
    );
    for wrong in ["Name", "", "/Org/Name", "Org/Name/../x", "Org/Na me", "Org/Name@../x", "../Org/Name"] {
        assert!(DatasetRef::parse(wrong).is_err(), "{wrong}");
    }
}
