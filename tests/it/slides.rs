//! PPTX, read back without other programs: the parts and their relations, and the layers on the slide.
//! `tests/export/check.py` reads the same files with python-pptx.

use std::collections::BTreeMap;

use acetate::image::{ExportFormat, Group, Sheet, Stack};
use image::{GenericImage, RgbaImage};
use qwen_image::image_processor::composite;

use crate::export::{disc, entries, noise, sheet, stacks, write};

type Files = BTreeMap<String, Vec<u8>>;

/// An element's name and attributes.
#[derive(Debug)]
struct Element {
    name: String,
    attributes: BTreeMap<String, String>,
    /// The names of the elements that it is in.
    within: Vec<String>,
}

impl Element {
    fn number(&self, name: &str) -> u64 {
        self.attributes[name].parse().unwrap_or_else(|_| panic!("{name} of {self:?} is not a number"))
    }
}

/// The elements in their order. Panics if they are not nested, or an attribute is given twice or not quoted.
fn elements(xml: &str) -> Vec<Element> {
    let (mut found, mut open) = (Vec::new(), Vec::<String>::new());
    let mut rest = xml.trim_start_matches("<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n");
    assert_ne!(rest.len(), xml.len(), "no declaration: {xml}");
    while let Some((text, after)) = rest.split_once('<') {
        assert!(!text.contains(['>', '&']), "{text}");
        let (tag, after) = after.split_once('>').expect("an open tag");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "{xml}");
            continue;
        }
        let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut pairs) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut attributes = BTreeMap::new();
        while !pairs.is_empty() {
            let (key, after) = pairs.trim_start().split_once("=\"").unwrap_or_else(|| panic!("<{tag}>"));
            let (value, after) = after.split_once('"').unwrap_or_else(|| panic!("<{tag}>"));
            let plain = value.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
            assert!(attributes.insert(key.to_owned(), plain).is_none(), "<{tag}>");
            pairs = after.trim_start();
        }
        found.push(Element { name: name.to_owned(), attributes, within: open.clone() });
        if !is_empty {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} is not closed");
    found
}

fn text(files: &Files, name: &str) -> String {
    String::from_utf8(files.get(name).unwrap_or_else(|| panic!("no {name}")).clone()).unwrap()
}

/// The file that a path means in a file of `folder`.
fn resolved(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            ".." => assert!(parts.pop().is_some(), "{target} is outside"),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The files of a PPTX, all of whose parts are well formed, have a type, and name only parts that exist.
fn parts(pptx: &[u8]) -> Files {
    let listed = entries(pptx);
    let first: Vec<&str> = listed.iter().take(3).map(|(name, _)| name.as_str()).collect();
    assert_eq!(first, ["[Content_Types].xml", "_rels/.rels", "ppt/presentation.xml"]);
    let files: Files = listed.into_iter().collect();
    let types = elements(&text(&files, "[Content_Types].xml"));
    let of = |key: &str| types.iter().filter_map(|kind| kind.attributes.get(key).cloned()).collect::<Vec<_>>();
    let (endings, named) = (of("Extension"), of("PartName"));
    for part in &named {
        assert!(files.contains_key(part.trim_start_matches('/')), "{part} has a type and does not exist");
    }
    for name in files.keys() {
        let ending = name.rsplit('.').next().unwrap();
        assert!(endings.iter().any(|known| known == ending), "{name} has no type");
        if ending == "png" {
            continue;
        }
        let xml = elements(&text(&files, name));
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        if let Some(folder) = folder.strip_suffix("_rels") {
            assert!(
                name == "_rels/.rels" || files.contains_key(&format!("{folder}{}", file.trim_end_matches(".rels")))
            );
            for relation in xml.iter().filter(|element| element.name == "Relationship") {
                let target = resolved(folder, &relation.attributes["Target"]);
                assert!(files.contains_key(&target), "{name}: there is no {target}");
            }
            continue;
        }
        assert!(name.starts_with('[') || named.contains(&format!("/{name}")), "{name} has the type of any XML");
        // What a part names by an id is in its relations.
        let ids = xml.iter().flat_map(|element| &element.attributes);
        let used: Vec<&String> = ids.filter(|(key, _)| key.starts_with("r:")).map(|(_, id)| id).collect();
        if !used.is_empty() {
            let relations = elements(&text(&files, &format!("{folder}/_rels/{file}.rels")));
            let known: Vec<&String> = relations.iter().filter_map(|element| element.attributes.get("Id")).collect();
            assert!(used.iter().all(|id| known.contains(id)), "{name}: {used:?} of {known:?}");
        }
    }
    files
}

/// A picture on the slide.
struct Shape {
    name: String,
    hidden: bool,
    /// In hundred thousandths.
    opacity: u64,
    /// Left, top, width, height.
    rect: [u64; 4],
    picture: RgbaImage,
    groups: usize,
}

fn shapes(files: &Files) -> Vec<Shape> {
    let relations = elements(&text(files, "ppt/slides/_rels/slide1.xml.rels"));
    let target = |id: &str| {
        let relation = relations.iter().find(|element| element.attributes.get("Id").is_some_and(|own| own == id));
        resolved("ppt/slides", &relation.unwrap().attributes["Target"])
    };
    let mut found: Vec<Shape> = Vec::new();
    let slide = elements(&text(files, "ppt/slides/slide1.xml"));
    let mut ids: Vec<u64> = slide.iter().filter(|e| e.name == "p:cNvPr").map(|e| e.number("id")).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "each shape has an id of its own");
    for element in slide {
        let is_picture = element.within.iter().any(|outer| outer == "p:pic");
        match element.name.as_str() {
            "p:pic" => found.push(Shape {
                name: String::new(),
                hidden: false,
                opacity: 100_000,
                rect: [0; 4],
                picture: RgbaImage::new(0, 0),
                groups: element.within.iter().filter(|outer| *outer == "p:grpSp").count(),
            }),
            "p:cNvPr" if is_picture => {
                let shape = found.last_mut().unwrap();
                shape.name = element.attributes["name"].clone();
                shape.hidden = element.attributes.get("hidden").is_some_and(|value| value == "1");
            }
            "a:blip" => {
                let png = &files[&target(&element.attributes["r:embed"])];
                found.last_mut().unwrap().picture = image::load_from_memory(png).unwrap().to_rgba8();
            }
            "a:alphaModFix" => found.last_mut().unwrap().opacity = element.number("amt"),
            "a:off" if is_picture => {
                found.last_mut().unwrap().rect[..2].copy_from_slice(&[element.number("x"), element.number("y")]);
            }
            "a:ext" if is_picture => {
                found.last_mut().unwrap().rect[2..].copy_from_slice(&[element.number("cx"), element.number("cy")]);
            }
            _ => {}
        }
    }
    found
}

/// The size of the slide.
fn slide_size(files: &Files) -> (u64, u64) {
    let all = elements(&text(files, "ppt/presentation.xml"));
    let size = all.iter().find(|element| element.name == "p:sldSz").unwrap();
    (size.number("cx"), size.number("cy"))
}

#[test]
fn a_slide_has_each_layer_in_its_place() {
    let (_, stack) = stacks().remove(2);
    let files = parts(&write(&stack, ExportFormat::Pptx).unwrap());
    const PIXEL: u64 = 9525;
    assert_eq!(slide_size(&files), (1200 * PIXEL, 900 * PIXEL));
    let shapes = shapes(&files);
    let names: Vec<&str> = shapes.iter().map(|shape| shape.name.as_str()).collect();
    assert_eq!(names, ["Disc 0", "Disc 1", "Disc 2"]);
    // The pictures are as small as their discs, and make the same composite from where they are, except for their
    // edges: an alpha below 8 of 255 is not visible.
    let mut layers = Vec::new();
    for shape in &shapes {
        let [left, top, width, height] = shape.rect;
        let (across, down) = shape.picture.dimensions();
        assert_eq!((width, height), (u64::from(across) * PIXEL, u64::from(down) * PIXEL));
        assert!(across < 345 && down < 345, "{across}x{down}");
        let mut layer = RgbaImage::new(1200, 900);
        layer.copy_from(&shape.picture, (left / PIXEL) as u32, (top / PIXEL) as u32).unwrap();
        layers.push(layer);
    }
    let originals: Vec<RgbaImage> =
        stack.sheets.iter().map(|sheet| image::load_from_memory(&sheet.png).unwrap().to_rgba8()).collect();
    let (made, wanted) = (composite(&layers).unwrap(), composite(&originals).unwrap());
    let visible = |picture: &RgbaImage| picture.pixels().filter(|pixel| pixel.0[3] >= 8).count();
    assert!(visible(&wanted) > 200_000 && visible(&made) == visible(&wanted));
    for (made, wanted) in made.pixels().zip(wanted.pixels()) {
        assert!(made == wanted || wanted.0[3] < 8 && made.0[3] == 0, "{made:?} is not {wanted:?}");
    }
}

#[test]
fn a_slide_has_odd_layers_too() {
    let (_, mut stack) = stacks().remove(1);
    stack.sheets[0].name = " ".to_owned();
    let files = parts(&write(&stack, ExportFormat::Pptx).unwrap());
    // 50 pixels are an inch, the shortest side of a slide.
    assert_eq!(slide_size(&files), (1_280_160, 914_400));
    let shapes = shapes(&files);
    let told: Vec<_> = shapes.iter().map(|shape| (shape.name.as_str(), shape.hidden, shape.opacity)).collect();
    assert_eq!(
        told,
        [
            ("Layer 1", false, 100_000),
            ("A name that is far longer than the thirty-one bytes of old", false, 50_000),
            ("nothing on it", false, 100_000),
            ("hidden", true, 100_000),
            ("one pixel", false, 100_000),
            ("tab and control", false, 100_000),
        ]
    );
    assert_eq!((shapes[2].picture.dimensions(), shapes[2].picture.get_pixel(0, 0).0), ((1, 1), [0; 4]));
    assert_eq!(shapes[2].rect, [0, 0, 18_288, 18_288]);
    // An alpha of 1 is not visible.
    assert_eq!((shapes[4].picture.dimensions(), shapes[4].rect), ((1, 1), [0, 0, 18_288, 18_288]));
    // A layer without a border is the file itself.
    assert!(files["ppt/media/image1.png"] == stack.sheets[0].png);
    let name = stacks()[1].1.sheets[0].name.clone();
    let (_, stack) = stacks().remove(1);
    let files = parts(&write(&stack, ExportFormat::Pptx).unwrap());
    assert_eq!(self::shapes(&files)[0].name, name, "all characters of it");
}

#[test]
fn layers_of_layers_are_a_group_on_the_slide() {
    let group = |name: &str, file: &str| Group { name: name.to_owned(), file: file.to_owned() };
    let at = |name: &str, index: usize, x: f32, groups: Vec<Group>| Sheet {
        groups,
        ..sheet(name, index, &disc(200, 100, (x, 50.0, 10.0), [9, 90, 200]))
    };
    let (outer, inner) = (group("House & <home>", "layer-02.png"), group("", "layer-02/layer-01.png"));
    let sheets = vec![
        sheet("Back", 1, &noise(200, 100, 3)),
        at("Door", 2, 60.0, vec![outer.clone(), inner]),
        at("Roof", 3, 120.0, vec![outer]),
        at("Front", 4, 30.0, Vec::new()),
    ];
    let files = parts(&write(&Stack { sheets, beside: Vec::new() }, ExportFormat::Pptx).unwrap());
    let shapes = shapes(&files);
    let told: Vec<_> = shapes.iter().map(|shape| (shape.name.as_str(), shape.groups)).collect();
    assert_eq!(told, [("Back", 0), ("Door", 2), ("Roof", 1), ("Front", 0)]);
    let slide = elements(&text(&files, "ppt/slides/slide1.xml"));
    let is_group = |element: &&Element| element.within.last().is_some_and(|outer| outer == "p:nvGrpSpPr");
    let names: Vec<&str> = slide
        .iter()
        .filter(|element| element.name == "p:cNvPr")
        .filter(is_group)
        .map(|element| element.attributes["name"].as_str())
        .collect();
    assert_eq!(names, ["", "House & <home>", "Group"]);
    // The outer group goes from the left of the door to the right of the roof, in its own units as on the slide.
    let transform: Vec<&Element> = slide
        .iter()
        .filter(|element| element.within.ends_with(&["p:grpSpPr".to_owned(), "a:xfrm".to_owned()]))
        .take(4)
        .collect();
    let [offset, size, inner_offset, inner_size] = transform[..] else { panic!("{transform:?}") };
    assert_eq!((&offset.attributes, &size.attributes), (&inner_offset.attributes, &inner_size.attributes));
    let ([door, ..], [roof, _, width, _]) = (shapes[1].rect, shapes[2].rect);
    assert_eq!((offset.number("x"), offset.number("x") + size.number("cx")), (door, roof + width));
}

#[test]
fn slides_have_sides_of_1_to_56_inches() {
    const SHORTEST: u64 = 914_400;
    const LONGEST: u64 = 56 * SHORTEST;
    let wanted = [
        // At 96 pixels per inch.
        ((1024, 768), (9_753_600, 7_315_200), [0, 0, 9_753_600, 7_315_200]),
        ((96, 5376), (SHORTEST, LONGEST), [0, 0, SHORTEST, LONGEST]),
        // Smaller and larger ones keep their shape.
        ((1, 1), (SHORTEST, SHORTEST), [0, 0, SHORTEST, SHORTEST]),
        ((70, 50), (1_280_160, SHORTEST), [0, 0, 1_280_160, SHORTEST]),
        ((5600, 600), (LONGEST, 5_486_400), [0, 0, LONGEST, 5_486_400]),
        // No slide is so narrow.
        ((30_001, 1), (LONGEST, SHORTEST), [0, 456_346, LONGEST, 1707]),
        ((1, 30_001), (SHORTEST, LONGEST), [456_346, 0, 1707, LONGEST]),
    ];
    for ((width, height), size, rect) in wanted {
        let picture = RgbaImage::from_pixel(width, height, image::Rgba([1, 2, 3, 255]));
        let stack = Stack { sheets: vec![sheet("All", 1, &picture)], beside: Vec::new() };
        let files = parts(&write(&stack, ExportFormat::Pptx).unwrap());
        assert_eq!((slide_size(&files), shapes(&files)[0].rect), (size, rect), "{width}x{height}");
    }
}
