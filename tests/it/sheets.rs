//! `--sheet`: what it may replace.

use std::{fs, process::Command};

use crate::common::{TestDir, names};

struct SheetTest {
    place: TestDir,
    picture: String,
}

impl SheetTest {
    fn new() -> Self {
        let place = TestDir::new();
        let picture = place.picture("a.png", [200, 80, 40, 255]);
        Self { place, picture }
    }

    #[track_caller]
    fn succeeds(&self, more: &[&str]) {
        let ran = self.place.run(&[&["run", "composite", &self.picture, "--out", "out"], more].concat());
        assert_eq!(ran.code, Some(0), "{more:?}: {ran:?}");
    }

    /// Refused before any work.
    #[track_caller]
    fn refused(&self, more: &[&str], wanted: &str) {
        let before = names(self.place.folder.path());
        let ran = self.place.run(&[&["run", "composite", &self.picture], more].concat());
        assert_eq!(ran.code, Some(2), "{more:?}: {ran:?}");
        assert!(ran.stderr.contains(wanted) && ran.stdout.is_empty(), "{more:?} said: {}", ran.stderr);
        assert_eq!(names(self.place.folder.path()), before, "{more:?} left something");
    }

    fn is_sheet(&self, name: &str) -> bool {
        let sheet = image::open(self.place.path(name)).unwrap();
        // The input and the composite, each 8 pixels wide.
        sheet.width() > 2 * 8
    }
}

#[test]
fn a_sheet_replaces_only_an_earlier_sheet() {
    let test = SheetTest::new();
    let input = fs::read(&test.picture).unwrap();
    for force in [&[][..], &["--force"]] {
        let sheet = ["--out", "new", "--sheet", "a.png"];
        test.refused(&[&sheet, force].concat(), "--sheet: a.png is an input, which is never replaced");
    }
    assert_eq!(fs::read(&test.picture).unwrap(), input);

    test.succeeds(&["--sheet", "sheet.png"]);
    assert!(test.is_sheet("sheet.png"));
    let first = fs::read(test.place.path("sheet.png")).unwrap();
    test.succeeds(&["--sheet", "sheet.png"]);
    assert_eq!(fs::read(test.place.path("sheet.png")).unwrap(), first);
    test.place.picture("other.png", [0, 0, 0, 255]);
    fs::write(test.place.path("text.png"), "mine").unwrap();
    for name in ["other.png", "text.png"] {
        let before = fs::read(test.place.path(name)).unwrap();
        let wanted = format!("{name} exists and is not an earlier sheet; give another name, or --force to replace it");
        test.refused(&["--out", "new", "--sheet", name], &wanted);
        assert_eq!(fs::read(test.place.path(name)).unwrap(), before);
        test.succeeds(&["--sheet", name, "--force"]);
        assert!(test.is_sheet(name));
        // Now it is one.
        test.succeeds(&["--sheet", name]);
    }
}

#[test]
fn a_sheet_is_a_file_of_its_own() {
    let test = SheetTest::new();
    let at = |name: &str| test.place.path(name);
    test.succeeds(&["--sheet", "sheet.png"]);
    std::os::unix::fs::symlink(at("sheet.png"), at("link.png")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe.png")).status().unwrap().success());
    for (name, what) in [("link.png", "a link"), ("pipe.png", "a pipe, a socket or a device")] {
        for force in [&[][..], &["--force"]] {
            let wanted = format!("--sheet: {name} is {what}, which is never replaced; give the name of a file");
            test.refused(&[&["--out", "new", "--sheet", name], force].concat(), &wanted);
        }
    }
    test.refused(&["--out", "new", "--sheet", "data"], "--sheet: data is a folder; give the name of a file");
    test.refused(&["--out", "new", "--sheet", "-"], "--sheet: - is not a file");
    test.refused(&["--out", "out", "--sheet", "none/sheet.png"], "--sheet: there is no folder none to write to");
    for name in ["out/layer-07.png", "out/manifest.json", "out/../out/edited.png"] {
        let force = ["--out", "out", "--sheet", name, "--force"];
        test.refused(&force, &format!("--sheet: {name} is a name of the result's own files; give another name"));
    }
    test.refused(&["--out", "new", "--force"], "--sheet <FILE>");
    // Beside the results, it is left alone by later ones.
    test.succeeds(&["--sheet", "out/sheet.png"]);
    test.succeeds(&[]);
    assert_eq!(names(&at("out")), ["composite.png", "manifest.json", "sheet.png"]);
}

#[test]
fn a_folder_of_results_is_not_standard_output() {
    let test = SheetTest::new();
    let wanted = "--out: - is standard output, but a result is several files; give a folder (./- if that is its name)";
    test.refused(&["--out", "-"], wanted);
    test.succeeds(&["--sheet", "sheet.png"]);
    let fetched = test.place.run(&["jobs", "fetch", "last", "--out", "-"]);
    assert!(fetched.code == Some(2) && fetched.stderr.contains(wanted), "{fetched:?}");
    assert!(!test.place.path("-").exists());
}
