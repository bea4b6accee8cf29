//! Exports: the contents of the files, as far as this program can read them, and the messages of `acetate export`.
//!
//! The stacks of `stacks()` are also written to `target/tmp/export/`, with their layers as plain PNGs, for
//! `tests/export/check.py`, which reads them back with other projects' readers.

use std::{
    collections::BTreeMap,
    fs,
    io::{Cursor, Read},
    os::unix::process::CommandExt,
    path::Path,
    time::Duration,
};

use crate::common::{TestDir, checkpoint, is_root, names, ran, skipped};
use acetate::image::{DecodeLimits, ExportError, ExportFormat, Sheet, Stack, encode_png, trimmed};
use image::{Rgba, RgbaImage};
use qwen_image::image_processor::composite;
use serde_json::{Value, json};

pub fn write(stack: &Stack, format: ExportFormat) -> Result<Vec<u8>, ExportError> {
    // Wider than the default limit of pictures, to test the formats' own limits.
    let limits = DecodeLimits { max_width: 32_768, max_height: 32_768, ..DecodeLimits::default() };
    Ok(stack.write(format, &limits, Cursor::new(Vec::new()))?.out.into_inner())
}

pub fn sheet(name: &str, index: usize, picture: &RgbaImage) -> Sheet {
    let (file, png) = (format!("layer-{index:02}.png"), encode_png(picture).unwrap());
    Sheet { name: name.to_owned(), file, png, placement: None, opacity: 1.0, visible: true, groups: Vec::new() }
}

/// Reproducible noise in every channel, so that nothing compresses and every alpha occurs.
pub fn noise(width: u32, height: u32, mut state: u32) -> RgbaImage {
    RgbaImage::from_fn(width, height, |_, _| {
        Rgba([0; 4].map(|_: u8| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        }))
    })
}

/// A soft disc somewhere in the picture; its color is everywhere, as models leave it.
pub fn disc(width: u32, height: u32, (x0, y0, radius): (f32, f32, f32), [r, g, b]: [u8; 3]) -> RgbaImage {
    RgbaImage::from_fn(width, height, |x, y| {
        let distance = ((x as f32 - x0).powi(2) + (y as f32 - y0).powi(2)).sqrt();
        Rgba([r, g, b, ((radius - distance) * 40.0).clamp(0.0, 255.0) as u8])
    })
}

pub fn stacks() -> Vec<(&'static str, Stack)> {
    let beside = vec![("layer-00.png".to_owned(), encode_png(&noise(70, 50, 1)).unwrap())];
    let (w, h) = (70, 50);
    let ordinary = vec![
        sheet("Background", 1, &RgbaImage::from_fn(w, h, |x, y| Rgba([x as u8, y as u8, 90, 255]))),
        sheet("Sun", 2, &disc(w, h, (20.0, 15.0, 9.0), [250, 200, 20])),
        sheet("Boat", 3, &disc(w, h, (60.5, 44.0, 14.0), [20, 60, 200])),
    ];
    let hard = vec![
        sheet("Rauschen & <Grün> \"日本\" 🎨", 1, &noise(w, h, 2)),
        Sheet {
            opacity: 0.5,
            ..sheet("A name that is far longer than the thirty-one bytes of old", 2, &noise(w, h, 3))
        },
        sheet("nothing on it", 3, &RgbaImage::new(w, h)),
        Sheet { visible: false, ..sheet("hidden", 4, &disc(w, h, (1.0, 1.0, 6.0), [1, 2, 3])) },
        sheet("one pixel", 5, &RgbaImage::from_fn(w, h, |x, y| Rgba([9, 8, 7, u8::from((x, y) == (69, 49))]))),
        sheet("tab\tand\u{1}control", 6, &disc(w, h, (30.0, 30.0, 12.0), [200, 0, 100])),
    ];
    let large = (0..3u32).map(|index| {
        let at = 200.0 * (index + 1) as f32;
        sheet(
            &format!("Disc {index}"),
            index as usize + 1,
            &disc(1200, 900, (at, at, 170.0), [80 * index as u8, 90, 200]),
        )
    });
    vec![
        ("ordinary", Stack { sheets: ordinary, beside }),
        ("hard", Stack { sheets: hard, beside: Vec::new() }),
        ("large", Stack { sheets: large.collect(), beside: Vec::new() }),
        ("single", Stack { sheets: vec![sheet("Edited", 1, &noise(1, 1, 9))], beside: Vec::new() }),
    ]
}

#[test]
fn stacks_for_other_programs() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("export");
    let _ = fs::remove_dir_all(&root);
    for (name, stack) in stacks() {
        let folder = root.join(name);
        fs::create_dir_all(&folder).unwrap();
        for format in ExportFormat::ALL {
            fs::write(folder.join(format!("stack.{format}")), write(&stack, format).unwrap()).unwrap();
        }
        let mut listed = Vec::new();
        for sheet in &stack.sheets {
            fs::write(folder.join(&sheet.file), &sheet.png).unwrap();
            let Sheet { name, file, opacity, visible, .. } = sheet;
            listed.push(json!({ "name": name, "file": file, "opacity": opacity, "visible": visible }));
        }
        fs::write(folder.join("expected.json"), serde_json::to_vec_pretty(&listed).unwrap()).unwrap();
    }
    // A time stamp in a file would differ after this pause, because the formats store seconds at best.
    std::thread::sleep(Duration::from_millis(1100));
    for (name, stack) in stacks() {
        for format in ExportFormat::ALL {
            let before = fs::read(root.join(name).join(format!("stack.{format}"))).unwrap();
            assert!(before == write(&stack, format).unwrap(), "{name}.{format}: the same stack gives the same bytes");
        }
    }
}

pub fn entries(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = zip::ZipArchive::new(Cursor::new(archive)).unwrap();
    let count = archive.len();
    let read = |index| {
        let mut file = archive.by_index(index).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        (file.name().unwrap().into_owned(), bytes)
    };
    (0..count).map(read).collect()
}

#[test]
fn a_zip_holds_the_files_as_they_are_and_the_composite() {
    let (_, stack) = stacks().remove(0);
    let files = entries(&write(&stack, ExportFormat::Zip).unwrap());
    let named: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(named, ["layer-01.png", "layer-02.png", "layer-03.png", "layer-00.png", "composite.png", "stack.json"]);
    assert_eq!(files[1].1, stack.sheets[1].png);
    assert_eq!(files[3].1, stack.beside[0].1);
    let layers: Vec<RgbaImage> =
        stack.sheets.iter().map(|sheet| image::load_from_memory(&sheet.png).unwrap().to_rgba8()).collect();
    assert_eq!(image::load_from_memory(&files[4].1).unwrap().to_rgba8(), composite(&layers).unwrap());
    let listed: Value = serde_json::from_slice(&files[5].1).unwrap();
    assert_eq!(listed[1], json!({ "file": "layer-02.png", "name": "Sun", "opacity": 1.0, "visible": true }));
}

#[test]
fn trimmed_layers_are_written_at_their_place() {
    let (_, whole) = stacks().remove(0);
    let cut = |sheet: &Sheet| {
        let (picture, placement) = trimmed(&image::load_from_memory(&sheet.png).unwrap().to_rgba8());
        Sheet { png: encode_png(&picture).unwrap(), placement: Some(placement), ..sheet.clone() }
    };
    let mut sheets: Vec<Sheet> = whole.sheets.iter().map(cut).collect();
    let small = Stack { sheets: sheets.clone(), beside: Vec::new() };
    for format in [ExportFormat::Psd, ExportFormat::Pptx, ExportFormat::Webp, ExportFormat::Jpeg] {
        assert!(write(&small, format).unwrap() == write(&whole, format).unwrap(), "{format}");
    }
    let [small, whole] = [&small, &whole].map(|stack| entries(&write(stack, ExportFormat::Ora).unwrap()));
    let file = |files: &[(String, Vec<u8>)], name: &str| {
        let found = files.iter().find(|(there, _)| there == name);
        found.unwrap_or_else(|| panic!("no {name}")).1.clone()
    };
    assert_eq!(file(&small, "mergedimage.png"), file(&whole, "mergedimage.png"));
    assert_eq!(file(&small, "data/layer-02.png"), sheets[1].png);
    let description = String::from_utf8(file(&small, "stack.xml")).unwrap();
    assert!(description.contains("name=\"Sun\" src=\"data/layer-02.png\" x=\"12\" y=\"7\""), "{description}");
    assert!(description.contains("name=\"Background\" src=\"data/layer-01.png\" x=\"0\" y=\"0\""), "{description}");

    sheets[1].placement.as_mut().unwrap().x = 60;
    let error = write(&Stack { sheets, beside: Vec::new() }, ExportFormat::Zip).unwrap_err().to_string();
    assert!(
        error.starts_with("layer-02.png: it is 17x17 pixels, which do not fit at 60, 7 on a canvas of 70x50"),
        "{error}"
    );
}

#[test]
fn a_layer_that_was_taken_apart_is_a_group() {
    let (_, plain) = stacks().remove(0);
    let part = |name: &str, index, radius, color| sheet(name, index, &disc(70, 50, (20.0, 15.0, radius), color));
    let inner = |name: &str| Stack {
        sheets: vec![part("Back", 1, 2.0, [250, 0, 0]), part(name, 2, 9.0, [250, 200, 20])],
        beside: Vec::new(),
    };
    let mut stack = plain.clone();
    stack.nest("layer-02.png", inner("Front <1>"));
    stack.nest("layer-09.png", inner("nowhere"));
    let names: Vec<_> = stack.sheets.iter().map(|sheet| (sheet.name.as_str(), sheet.groups.len())).collect();
    assert_eq!(names, [("Background", 0), ("Back", 1), ("Front <1>", 1), ("Boat", 0)]);
    assert_eq!(stack.beside.len(), plain.beside.len() + 1, "the layer itself is in a ZIP");
    // What is in the place of the sun hides the red disc, so that the picture stays.
    let merged = |stack: &Stack| {
        let files = entries(&write(stack, ExportFormat::Ora).unwrap());
        files.into_iter().find(|(name, _)| name == "mergedimage.png").unwrap().1
    };
    assert!(merged(&stack) == merged(&plain));
    let ora = entries(&write(&stack, ExportFormat::Ora).unwrap());
    let xml = String::from_utf8(ora[1].1.clone()).unwrap();
    let shown: Vec<&str> = xml.lines().map(|line| line.trim().split(" src").next().unwrap()).collect();
    let group =
        "<stack name=\"Sun\" opacity=\"1\" visibility=\"visible\" composite-op=\"svg:src-over\" isolation=\"isolate\">";
    assert_eq!(
        &shown[2..],
        [
            "<stack>",
            "<layer name=\"Boat\"",
            group,
            "<layer name=\"Front &lt;1&gt;\"",
            "<layer name=\"Back\"",
            "</stack>",
            "<layer name=\"Background\"",
            "</stack>",
            "</image>"
        ]
    );
    let zip = entries(&write(&stack, ExportFormat::Zip).unwrap());
    let listed: Value = serde_json::from_slice(&zip.last().unwrap().1).unwrap();
    assert_eq!((&listed[1]["groups"], listed[0].get("groups")), (&json!(["Sun"]), None));
    // Groups in groups, and two of one name next to each other.
    stack.nest(&stack.sheets[2].file.clone(), inner("Inner"));
    stack.nest("layer-03.png", inner("Hull"));
    let psd = write(&stack, ExportFormat::Psd).unwrap();
    let count = |needle: &[u8]| psd.windows(needle.len()).filter(|bytes| *bytes == needle).count();
    assert_eq!((count(b"8BIMlsct"), count(b"8BIMluni")), (6, stack.sheets.len() + 6));
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nested.psd");
    fs::write(root, psd).unwrap();
}

#[test]
fn layers_of_several_jobs_may_have_one_file_name() {
    let edited = |name: &str| Sheet { file: "edited.png".to_owned(), ..sheet(name, 1, &noise(3, 2, 5)) };
    let ours = Sheet { file: "composite.png".to_owned(), ..sheet("old", 1, &noise(3, 2, 6)) };
    let stack = Stack { sheets: vec![edited("a"), edited("b"), ours], beside: Vec::new() };
    let files = entries(&write(&stack, ExportFormat::Zip).unwrap());
    let named: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(named, ["edited.png", "edited-2.png", "composite-2.png", "composite.png", "stack.json"]);
}

#[test]
fn an_openraster_is_recognized_by_its_first_bytes() {
    let bytes = write(&stacks()[0].1, ExportFormat::Ora).unwrap();
    assert_eq!(&bytes[30..38], b"mimetype");
    assert_eq!(&bytes[38..54], b"image/openraster");
}

#[test]
fn stacks_that_cannot_be_written() {
    let said = |sheets: Vec<Sheet>, format| match write(&Stack { sheets, beside: Vec::new() }, format) {
        Ok(_) => panic!("this was written"),
        Err(error) => error.to_string(),
    };
    assert!(said(Vec::new(), ExportFormat::Ora).starts_with("layers: there are none to export"));
    let two = vec![sheet("a", 1, &noise(4, 4, 1)), sheet("b", 2, &noise(5, 4, 1))];
    assert_eq!(
        said(two, ExportFormat::Zip),
        "layer-02.png: it is 5x4 pixels but layer-01.png is 4x4; all layers must have the same size (an edit with \
         output_size \"source\" keeps it)"
    );
    let faint = Sheet { opacity: f32::NAN, ..sheet("a", 1, &noise(4, 4, 1)) };
    assert!(said(vec![faint], ExportFormat::Psd).starts_with("layers[0].opacity: NaN is not a number from 0"));
    let text = Sheet { png: b"no picture".to_vec(), ..sheet("a", 1, &noise(4, 4, 1)) };
    assert!(said(vec![text], ExportFormat::Psd).starts_with("layer-01.png: not a readable picture"));

    let wide = vec![sheet("a", 1, &RgbaImage::new(30_001, 1))];
    assert_eq!(
        said(wide.clone(), ExportFormat::Psd),
        "format: the stack has 30001x1 pixels; a PSD has at most 30000 per side; export it as ora or zip"
    );
    assert_eq!(
        said(wide.clone(), ExportFormat::Webp),
        "format: the stack has 30001x1 pixels; a WebP has at most 16383 per side; export it as ora or zip"
    );
    for format in [ExportFormat::Ora, ExportFormat::Pptx, ExportFormat::Jpeg] {
        assert!(write(&Stack { sheets: wide.clone(), beside: Vec::new() }, format).is_ok(), "{format}");
    }
}

#[test]
fn a_writer_that_takes_no_more() {
    let mut room = [0u8; 300];
    let (_, stack) = stacks().remove(0);
    for format in ExportFormat::ALL {
        let error = stack.write(format, &DecodeLimits::default(), Cursor::new(&mut room[..])).unwrap_err();
        assert!(matches!(error, ExportError::Write(_)), "{format}: {error}");
    }
}

const ID: &str = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21";

/// A place with a finished decompose in `out`, and the same as a job.
pub fn decomposed() -> TestDir {
    let place = TestDir::new();
    place.picture("in.png", [200, 30, 90, 255]);
    let model = checkpoint("layered");
    let flags = ["--steps", "1", "--cfg-scale", "1", "--layers", "3", "--prompt", "x", "--id", ID, "--json"];
    let flags = [&flags[..], &["--output-size", "model"]].concat();
    place.json(
        &[&["run", "decompose", "in.png", "--out", "out", "--model", &model, "--resolution", "128"], &flags[..]]
            .concat(),
    );
    place
}

#[test]
fn of_a_job_and_of_its_folder() {
    let place = decomposed();
    let told = place.json(&["export", ID, "--out", "job.zip", "--json"]);
    assert_eq!((&told["job"], &told["format"], &told["file"]), (&ID.into(), &"zip".into(), &"job.zip".into()));
    assert_eq!(told["size"].as_u64(), Some(fs::metadata(place.path("job.zip")).unwrap().len()));
    assert_eq!(
        told["layers"][1],
        json!({ "name": "Layer 2", "file": "layer-02.png", "opacity": 1.0, "visible": true })
    );

    let files: BTreeMap<_, _> = entries(&fs::read(place.path("job.zip")).unwrap()).into_iter().collect();
    let named: Vec<&str> = files.keys().map(String::as_str).collect();
    let mut wanted = names(&place.path("out"));
    wanted.extend(["composite.png".to_owned(), "stack.json".to_owned()]);
    wanted.sort();
    assert_eq!(named, wanted);
    for name in names(&place.path("out")) {
        assert_eq!(files[&name], fs::read(place.path("out").join(&name)).unwrap(), "{name}");
    }

    let ran = place.run(&["export", "out", "--format", "zip", "--out", "folder"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.starts_with("folder  3 layers, "), "{}", ran.stdout);
    assert_eq!(fs::read(place.path("folder")).unwrap(), fs::read(place.path("job.zip")).unwrap());

    // Pictures in a folder may be edited; those in a store may not.
    fs::write(place.path("out/layer-02.png"), encode_png(&noise(8, 6, 4)).unwrap()).unwrap();
    let ran = place.run(&["export", "out", "--out", "new.ora"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("layer-02.png: it is 8x6 pixels"), "{}", ran.stderr);
    let stored = place.path(&format!("data/objects/{ID}/1/layer-02.png"));
    let size = fs::metadata(&stored).unwrap().len();
    fs::write(&stored, vec![0; size as usize]).unwrap();
    let ran = place.run(&["export", ID, "--out", "new.ora"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("does not have the bytes"), "{}", ran.stderr);
    assert!(!place.path("new.ora").exists());
}

#[test]
fn exports_that_cannot_be() {
    let place = decomposed();
    let refused = |args: &[&str], code: i32, wanted: &str| {
        let before = names(place.folder.path());
        let ran = place.run(&[&["export"], args].concat());
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(wanted) && ran.stdout.is_empty(), "{args:?} said: {}", ran.stderr);
        assert_eq!(names(place.folder.path()), before, "{args:?} left something");
    };
    refused(
        &["out", "--out", "x.tiff"],
        2,
        "--out: `x.tiff` does not end in .zip, .ora, .psd, .pptx, .webp or .jpg; give --format",
    );
    refused(&["out", "--out", "x", "--format", "tiff"], 2, "`tiff` is not an export format");
    refused(&["nowhere", "--out", "x.zip"], 2, "there is no folder `nowhere`, and it is not a job: an id (a UUID)");
    refused(&["in.png", "--out", "x.zip"], 2, "in.png is a file; give the folder of a result");
    refused(&["data", "--out", "x.zip"], 2, "data has no manifest.json");
    refused(&["out", "--out", "out"], 2, "--format");
    refused(&["out", "--out", "out", "--format", "psd"], 2, "out is a folder; give the name of a file");
    refused(&["out", "--out", "none/x.zip"], 2, "there is no folder none to write to");
    let unknown = "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e22";
    refused(&[unknown, "--out", "x.zip"], 2, "there is no job 018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e22;");

    fs::write(place.path("taken.psd"), "mine").unwrap();
    refused(&["out", "--out", "taken.psd"], 2, "taken.psd exists; give another name, or --force to replace it");
    assert_eq!(fs::read(place.path("taken.psd")).unwrap(), b"mine");
    assert_eq!(place.run(&["export", "out", "--out", "taken.psd", "--force"]).code, Some(0));
    assert!(fs::read(place.path("taken.psd")).unwrap().starts_with(b"8BPS"));

    // A link, a pipe or a device is never replaced.
    std::os::unix::fs::symlink(place.path("taken.psd"), place.path("link.psd")).unwrap();
    for forced in [&["out", "--out", "link.psd"][..], &["out", "--out", "link.psd", "--force"]] {
        refused(forced, 2, "link.psd is a link, which is never replaced; give the name of a file");
    }
    let device = ["out", "--format", "zip", "--out", "/dev/full", "--force"];
    refused(&device, 2, "/dev/full is a pipe, a socket or a device, which is never replaced");
    assert!(fs::symlink_metadata(place.path("link.psd")).unwrap().is_symlink());
    // `-` is standard output.
    let piped = place.command(&["export", "out", "--format", "zip", "--out", "-"]).output().unwrap();
    assert_eq!(piped.status.code(), Some(0));
    assert!(entries(&piped.stdout).iter().any(|(name, _)| name == "composite.png"));
    assert!(!place.path("-").exists());

    let waiting = place.json(&["submit", "composite", "--input", "in.png", "--output", "later", "--json"]);
    let id = waiting["id"].as_str().unwrap();
    refused(&[id, "--out", "x.zip"], 2, "is queued and has no result; wait for it with `acetate jobs watch");

    fs::remove_file(place.path("out/layer-03.png")).unwrap();
    refused(&["out", "--out", "x.zip"], 1, "layer-03.png: manifest.json names it, but it is missing");
    fs::write(place.path("out/manifest.json"), "{}").unwrap();
    refused(&["out", "--out", "x.zip"], 2, "manifest.json is not an acetate manifest");
}

#[test]
fn a_manifest_names_no_files_elsewhere() {
    let place = decomposed();
    let text = fs::read_to_string(place.path("out/manifest.json")).unwrap();
    fs::write(place.path("out/manifest.json"), text.replace("layer-02.png", "../in.png")).unwrap();
    let ran = place.run(&["export", "out", "--out", "x.zip"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("../in.png: is not an object key"), "{}", ran.stderr);
}

#[test]
fn a_folder_that_takes_no_export() {
    let place = decomposed();
    fs::create_dir(place.path("locked")).unwrap();
    let mut command = place.command(&["export", "out", "--out", "locked/x.zip"]);
    let chmod = |mode: &str, name: &str| {
        assert!(std::process::Command::new("chmod").args([mode]).arg(place.path(name)).status().unwrap().success());
    };
    chmod("a-w", "locked");
    if is_root() {
        chmod("a+rwx", ".");
        command.uid(65534).gid(65534);
    }
    let output = match command.output() {
        Ok(output) => ran(output),
        Err(error) => return skipped("unwritable exports", &format!("the program cannot run as nobody ({error})")),
    };
    chmod("u+w", "locked");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("locked/x.zip") && output.stderr.contains("permission denied"), "{}", output.stderr);
}
