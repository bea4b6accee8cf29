//! PPTX (Office Open XML, ECMA-376): one slide with the shape of the canvas and no background, on which every layer is
//! a picture that can be moved. The parts that are always the same are the files in `pptx/`.
//!
//! A layer is stored without its border in which nothing is visible (alpha below 8 of 255, a trace that models leave
//! over whole layers), as `--trim` does it: a click beside a layer must not select it. An empty layer is a single
//! transparent pixel. Groups are groups of shapes.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{Seek, Write},
};

use super::{ExportError, Merged, Sheet, Stack, StackStep, attribute, steps, zip::Archive};
use crate::{
    image::{encode_png, is_plain, trimmed},
    job::{BoundingBox, JobError},
};

/// The size of a pixel at 96 per inch. All lengths are in English Metric Units, 914,400 per inch.
const PIXEL: u64 = 9_525;
/// Slides have sides of 1 to 56 inches.
const SHORTEST_SIDE: u64 = 914_400;
const LONGEST_SIDE: u64 = 56 * 914_400;

const OPAQUE: f32 = 100_000.0;
const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>\n";
const NAMESPACES: &str = "xmlns:a=\"http://schemas.openxmlformats.org/drawingml/2006/main\" \
    xmlns:r=\"http://schemas.openxmlformats.org/officeDocument/2006/relationships\" \
    xmlns:p=\"http://schemas.openxmlformats.org/presentationml/2006/main\"";

/// Programs recognize the format by the first three files.
pub(super) fn write<W: Write + Seek>(stack: &Stack, merged: &Merged, out: W) -> Result<W, ExportError> {
    let canvas = SlideCanvas::of(merged.size());
    let mut archive = Archive::new(out);
    archive.add("[Content_Types].xml", include_bytes!("pptx/content_types.xml"))?;
    archive.add("_rels/.rels", include_bytes!("pptx/package_rels.xml"))?;
    archive.add("ppt/presentation.xml", canvas.presentation().as_bytes())?;
    let master = ("slideMaster", "slideMasters/slideMaster1.xml".to_owned());
    let slide = ("slide", "slides/slide1.xml".to_owned());
    let theme = ("theme", "theme/theme1.xml".to_owned());
    archive.add("ppt/_rels/presentation.xml.rels", relations(&[master, slide, theme]).as_bytes())?;
    archive.add("ppt/slideMasters/slideMaster1.xml", include_bytes!("pptx/master.xml"))?;
    let layout = ("slideLayout", "../slideLayouts/slideLayout1.xml".to_owned());
    let theme = ("theme", "../theme/theme1.xml".to_owned());
    let of_master = relations(&[layout.clone(), theme]);
    archive.add("ppt/slideMasters/_rels/slideMaster1.xml.rels", of_master.as_bytes())?;
    archive.add("ppt/slideLayouts/slideLayout1.xml", include_bytes!("pptx/layout.xml"))?;
    let master = ("slideMaster", "../slideMasters/slideMaster1.xml".to_owned());
    archive.add("ppt/slideLayouts/_rels/slideLayout1.xml.rels", relations(&[master]).as_bytes())?;
    archive.add("ppt/theme/theme1.xml", include_bytes!("pptx/theme.xml"))?;
    let pictures = stack.sheets.iter().map(|sheet| SlidePicture::of(sheet, merged)).collect::<Result<Vec<_>, _>>()?;
    archive.add("ppt/slides/slide1.xml", canvas.slide(stack, &pictures).as_bytes())?;
    let targets = (0..stack.sheets.len()).map(|index| ("image", format!("../{}", media(index))));
    let of_slide = relations(&std::iter::once(layout).chain(targets).collect::<Vec<_>>());
    archive.add("ppt/slides/_rels/slide1.xml.rels", of_slide.as_bytes())?;
    for (index, picture) in pictures.iter().enumerate() {
        archive.add(&format!("ppt/{}", media(index)), &picture.png)?;
    }
    archive.add("docProps/core.xml", include_bytes!("pptx/core.xml"))?;
    archive.add("docProps/app.xml", include_bytes!("pptx/app.xml"))?;
    archive.finish()
}

/// The visible part of a layer.
struct SlidePicture<'a> {
    /// The file itself, if all of it is visible.
    png: Cow<'a, [u8]>,
    /// Where it is on the canvas, in pixels.
    place: BoundingBox,
}

impl<'a> SlidePicture<'a> {
    fn of(sheet: &'a Sheet, merged: &Merged) -> Result<Self, JobError> {
        let layer = merged.layer(sheet)?;
        let size = layer.dimensions();
        let (seen, at) = trimmed(&layer);
        let is_whole = seen.dimensions() == size && is_plain(&sheet.png);
        let png = if is_whole { Cow::Borrowed(sheet.png.as_slice()) } else { Cow::Owned(encode_png(&seen)?) };
        let (x, y) = sheet.corner();
        Ok(Self { png, place: BoundingBox { x: x + at.x, y: y + at.y, width: seen.width(), height: seen.height() } })
    }
}

/// A layer's picture, relative to the folder `ppt`.
fn media(index: usize) -> String {
    format!("media/image{}.png", index + 1)
}

/// The part that names the others that a part uses: `rId1`, `rId2` and so on.
fn relations(targets: &[(&str, String)]) -> String {
    let mut xml =
        format!("{XML}<Relationships xmlns=\"http://schemas.openxmlformats.org/package/2006/relationships\">\n");
    for (number, (kind, target)) in (1..).zip(targets) {
        // Writing to a String does not fail.
        let _ = writeln!(
            xml,
            "  <Relationship Id=\"rId{number}\" \
             Type=\"http://schemas.openxmlformats.org/officeDocument/2006/relationships/{kind}\" Target=\"{target}\"/>"
        );
    }
    xml.push_str("</Relationships>\n");
    xml
}

/// A rectangle on the slide; the ends are exclusive.
#[derive(Clone, Copy)]
struct SlideRect {
    left: u64,
    top: u64,
    right: u64,
    bottom: u64,
}

impl SlideRect {
    fn union(self, other: Self) -> Self {
        Self {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }

    /// Its position and size as attributes.
    fn texts(self) -> (String, String) {
        let Self { left, top, right, bottom } = self;
        (format!("x=\"{left}\" y=\"{top}\""), format!("cx=\"{}\" cy=\"{}\"", right - left, bottom - top))
    }
}

/// A group that is not closed yet.
#[derive(Default)]
struct OpenGroup {
    shapes: String,
    /// Around all shapes in it.
    bounds: Option<SlideRect>,
}

impl OpenGroup {
    fn add(&mut self, shape: &str, bounds: SlideRect) {
        self.shapes.push_str(shape);
        self.bounds = Some(self.bounds.map_or(bounds, |others| others.union(bounds)));
    }
}

/// Where the canvas is on the slide, and its scale.
struct SlideCanvas {
    /// The length of so many pixels is so many units.
    pixels: u64,
    units: u64,
    /// The sides of the slide.
    width: u64,
    height: u64,
    /// The position of the canvas. It is in the middle of a slide that is wider or higher, which happens only for a
    /// canvas whose one side is more than 56 times the other.
    left: u64,
    top: u64,
}

impl SlideCanvas {
    fn of((width, height): (u32, u32)) -> Self {
        let (shortest, longest) = (u64::from(width.min(height)), u64::from(width.max(height)));
        let (mut pixels, mut units) = (1, PIXEL);
        if shortest * units < SHORTEST_SIDE {
            (pixels, units) = (shortest, SHORTEST_SIDE);
        }
        if longest * units > LONGEST_SIDE * pixels {
            (pixels, units) = (longest, LONGEST_SIDE);
        }
        let mut canvas = Self { pixels, units, width: 0, height: 0, left: 0, top: 0 };
        let side = |side: u32| {
            let length = canvas.units(side);
            let slide = length.max(SHORTEST_SIDE);
            (slide, (slide - length) / 2)
        };
        let ((width, left), (height, top)) = (side(width), side(height));
        (canvas.width, canvas.left, canvas.height, canvas.top) = (width, left, height, top);
        canvas
    }

    fn units(&self, pixels: u32) -> u64 {
        (u64::from(pixels) * self.units + self.pixels / 2) / self.pixels
    }

    fn rect(&self, place: BoundingBox) -> SlideRect {
        SlideRect {
            left: self.left + self.units(place.x),
            top: self.top + self.units(place.y),
            right: self.left + self.units(place.x + place.width),
            bottom: self.top + self.units(place.y + place.height),
        }
    }

    fn presentation(&self) -> String {
        let Self { width, height, .. } = self;
        format!(
            "{XML}<p:presentation {NAMESPACES}>\n  \
             <p:sldMasterIdLst><p:sldMasterId id=\"2147483648\" r:id=\"rId1\"/></p:sldMasterIdLst>\n  \
             <p:sldIdLst><p:sldId id=\"256\" r:id=\"rId2\"/></p:sldIdLst>\n  \
             <p:sldSz cx=\"{width}\" cy=\"{height}\"/>\n  \
             <p:notesSz cx=\"6858000\" cy=\"9144000\"/>\n\
             </p:presentation>\n"
        )
    }

    /// The slide; its first shape is the rearmost.
    fn slide(&self, stack: &Stack, pictures: &[SlidePicture<'_>]) -> String {
        let mut id = 1;
        let mut next_id = || {
            id += 1;
            id
        };
        let mut all = OpenGroup::default();
        let mut open: Vec<OpenGroup> = Vec::new();
        for step in steps(&stack.sheets) {
            let (shape, bounds) = match step {
                StackStep::Open => {
                    open.push(OpenGroup::default());
                    continue;
                }
                StackStep::Layer(index, sheet) => {
                    let bounds = self.rect(pictures[index].place);
                    (picture_shape(next_id(), index, sheet, bounds), bounds)
                }
                StackStep::Close(group) => {
                    let Some(OpenGroup { shapes, bounds: Some(bounds) }) = open.pop() else { continue };
                    (group_shape(next_id(), &group.shown_name(), bounds, &shapes), bounds)
                }
            };
            open.last_mut().unwrap_or(&mut all).add(&shape, bounds);
        }
        let shapes = all.shapes;
        format!(
            "{XML}<p:sld {NAMESPACES}>\n<p:cSld><p:spTree>\n\
             <p:nvGrpSpPr><p:cNvPr id=\"1\" name=\"\"/><p:cNvGrpSpPr/><p:nvPr/></p:nvGrpSpPr><p:grpSpPr/>\n\
             {shapes}</p:spTree></p:cSld>\n<p:clrMapOvr><a:masterClrMapping/></p:clrMapOvr>\n</p:sld>\n"
        )
    }
}

/// A layer. Its opacity is the picture's, which can be changed; the pixels are as stored.
fn picture_shape(id: u32, index: usize, sheet: &Sheet, bounds: SlideRect) -> String {
    let name = attribute(&sheet.shown_name(index));
    let hidden = if sheet.visible { "" } else { " hidden=\"1\"" };
    let amount = (sheet.opacity * OPAQUE).round() as u32;
    let opacity = if sheet.opacity < 1.0 { format!("<a:alphaModFix amt=\"{amount}\"/>") } else { String::new() };
    let relation = index + 2;
    let (offset, size) = bounds.texts();
    format!(
        "<p:pic><p:nvPicPr><p:cNvPr id=\"{id}\" name=\"{name}\"{hidden}/>\
         <p:cNvPicPr><a:picLocks noChangeAspect=\"1\"/></p:cNvPicPr><p:nvPr/></p:nvPicPr>\
         <p:blipFill><a:blip r:embed=\"rId{relation}\">{opacity}</a:blip><a:stretch><a:fillRect/></a:stretch></p:blipFill>\
         <p:spPr><a:xfrm><a:off {offset}/><a:ext {size}/></a:xfrm>\
         <a:prstGeom prst=\"rect\"><a:avLst/></a:prstGeom></p:spPr></p:pic>\n"
    )
}

/// A group; the shapes in it have the coordinates of the slide.
fn group_shape(id: u32, name: &str, bounds: SlideRect, shapes: &str) -> String {
    let name = attribute(name);
    let (offset, size) = bounds.texts();
    format!(
        "<p:grpSp><p:nvGrpSpPr><p:cNvPr id=\"{id}\" name=\"{name}\"/><p:cNvGrpSpPr/><p:nvPr/></p:nvGrpSpPr>\
         <p:grpSpPr><a:xfrm><a:off {offset}/><a:ext {size}/><a:chOff {offset}/><a:chExt {size}/></a:xfrm></p:grpSpPr>\n\
         {shapes}</p:grpSp>\n"
    )
}
