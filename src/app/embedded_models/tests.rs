use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    thread,
};

use super::{unpack::unpack, *};

const FILES: [File<'static>; 3] = [
    File { path: "model_index.json", bytes: b"{}" },
    File { path: "vae/config.json", bytes: b"{\"a\": 1}" },
    File { path: "vae/weights", bytes: &[7; 300_000] },
];

fn assert_whole(folder: &Path) {
    for file in FILES {
        assert!(fs::read(folder.join(file.path)).unwrap() == file.bytes, "{}", file.path);
    }
    let parent = folder.parent().unwrap();
    let left: BTreeSet<_> = names(parent).into_iter().collect();
    assert_eq!(left, [".lock".into(), folder.file_name().unwrap().to_owned()].into(), "something was left behind");
}

fn names(folder: &Path) -> Vec<OsString> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn a_folder_that_is_whole_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("deep/down/layered-nano");
    unpack(&folder, &FILES).unwrap();
    assert_whole(&folder);
    let inode = |name: &str| fs::metadata(folder.join(name)).unwrap().ino();
    let before = inode("vae/weights");
    unpack(&folder, &FILES).unwrap();
    assert_eq!(inode("vae/weights"), before);
}

#[test]
fn a_damaged_folder_is_made_anew() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("layered-nano");
    let damages: [fn(&Path); 5] = [
        |folder| fs::remove_file(folder.join("model_index.json")).unwrap(),
        |folder| fs::write(folder.join("vae/weights"), [7; 299_999]).unwrap(),
        |folder| fs::write(folder.join("vae/weights"), [&[7; 299_999][..], &[8]].concat()).unwrap(),
        |folder| fs::remove_dir_all(folder.join("vae")).unwrap(),
        |folder| {
            fs::remove_dir_all(folder).unwrap();
            fs::write(folder, "a file").unwrap();
        },
    ];
    for damage in damages {
        unpack(&folder, &FILES).unwrap();
        damage(&folder);
        unpack(&folder, &FILES).unwrap();
        assert_whole(&folder);
    }
}

#[test]
fn what_a_killed_process_left_is_cleared_away() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("layered-nano");
    fs::create_dir_all(place.path().join(".unfinished-x/vae")).unwrap();
    fs::write(place.path().join(".unfinished-x/vae/weights"), [7; 1000]).unwrap();
    fs::write(place.path().join(".lock"), "").unwrap();
    unpack(&folder, &FILES).unwrap();
    assert_whole(&folder);
}

/// A lock belongs to an open file, so threads wait for each other like processes.
#[test]
fn many_at_once_make_one_folder() {
    let place = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let folder = place.path().join(round.to_string()).join("layered-nano");
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    unpack(&folder, &FILES).unwrap();
                    // It is never removed again.
                    assert!(fs::read(folder.join("vae/weights")).unwrap() == FILES[2].bytes);
                });
            }
        });
        assert_whole(&folder);
    }
}

#[test]
fn a_full_or_read_only_disk() {
    let place = tempfile::tempdir().unwrap();
    let disk = place.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mount = |options: &str| {
        let ran = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&disk).output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    if !mount("size=128k") {
        let text = b"SKIPPED unpacking to a full disk: mounting a small file system is not permitted here\n";
        return std::io::stderr().write_all(text).unwrap();
    }
    let full = into_cache(Some(&disk), Small::Edit, &FILES).unwrap_err();
    // Names alone: an open entry would keep the disk from being unmounted.
    let left = names(&disk.join("models").join(digest(&FILES)));
    let enough = mount("remount,size=1m");
    let unpacked = into_cache(Some(&disk), Small::Edit, &FILES);
    let read_only = mount("remount,ro");
    let there = into_cache(Some(&disk), Small::Edit, &FILES);
    let not_there = into_cache(Some(&disk), Small::Layered, &FILES);
    assert!(Command::new("umount").arg("--lazy").arg(&disk).status().unwrap().success());

    assert!(enough && read_only, "the small file system was not remounted");
    let HubError::Unpack { needed: 300_010, ref source, .. } = full else { panic!("{full}") };
    assert_eq!(source.kind(), ErrorKind::StorageFull);
    assert!(full.to_string().contains("edit-nano") && full.to_string().contains("it needs 300.0 kB"), "{full}");
    assert_eq!(left.len(), 1, "a lock alone: {left:?}");
    let unpacked = unpacked.unwrap();
    assert!(unpacked.starts_with(&disk));
    assert_eq!(unpacked, there.unwrap());
    let error = not_there.unwrap_err().to_string();
    assert!(error.contains("Read-only file system") && error.contains("`EmbeddedModels::cache`"), "{error}");
}

#[test]
fn without_a_cache_folder() {
    let error = into_cache(None, Small::Layered, &FILES).unwrap_err().to_string();
    assert!(error.contains("layered-nano") && error.contains("`EmbeddedModels::cache`"), "{error}");
}

#[test]
fn other_files_go_to_another_folder() {
    let mut others = FILES;
    assert_eq!(digest(&FILES), digest(&others));
    others[0].bytes = b"[]";
    assert_ne!(digest(&FILES), digest(&others));
}
