//! Finds out how much of a JPEG's data is there. Decoders fill in what is missing with gray, and say nothing if the
//! file still ends with an end-of-image marker.
//!
//! Every scan's codes are read, but no value: a third of a decoder's time.

use super::header::{DHT, DRI, FrameHeader, SOS, Segment, Segments};
use super::huffman::{Bits, Stop, Table};

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScanSurvey {
    /// Blocks of 8x8 coefficients that the scans should have, and those before the first fault.
    pub blocks: u64,
    pub intact: u64,
    /// A component has no scan at all.
    pub lacks_component: bool,
    /// Scans of a progressive file that add detail are missing at the end.
    pub lacks_detail: bool,
}

/// The blocks of one component.
struct ComponentBlocks {
    id: u8,
    across: usize,
    down: usize,
    /// Blocks that show something, as in a scan of this component alone.
    columns: usize,
    rows: usize,
    /// Blocks in a row, including those that only fill up a unit.
    stride: usize,
    /// By block: a bit for each coefficient that is not zero, which decides how many bits refine it.
    nonzero: Vec<u64>,
    /// By coefficient: the precision reached; 0 is full, 255 is none at all.
    low: [u8; 64],
}

/// The parameters of a scan.
struct Scan<'a> {
    first: u8,
    last: u8,
    high: u8,
    low: u8,
    /// The component's position, and its DC and AC tables.
    parts: Vec<(usize, Option<&'a Table>, Option<&'a Table>)>,
}

/// `frame` is Huffman-coded with 8 bits, baseline, extended or progressive, and its sampling factors are from 1 to 4.
pub(super) fn examine(bytes: &[u8], frame: &FrameHeader) -> ScanSurvey {
    let (most_across, most_down) = frame.most_sampled();
    let units = |size: u16, most: u8| usize::from(size).div_ceil(8 * usize::from(most));
    let (unit_columns, unit_rows) = (units(frame.width, most_across), units(frame.height, most_down));
    let own = |size: u16, factor: u8, most: u8| {
        (usize::from(size) * usize::from(factor)).div_ceil(usize::from(most)).div_ceil(8)
    };
    let mut planes: Vec<ComponentBlocks> = frame
        .components
        .iter()
        .map(|component| {
            let stride = unit_columns * usize::from(component.across);
            let kept = if frame.is_progressive() { stride * unit_rows * usize::from(component.down) } else { 0 };
            ComponentBlocks {
                id: component.id,
                across: usize::from(component.across),
                down: usize::from(component.down),
                columns: own(frame.width, component.across, most_across),
                rows: own(frame.height, component.down, most_down),
                stride,
                nonzero: vec![0; kept],
                low: [255; 64],
            }
        })
        .collect();

    let mut found = ScanSurvey { blocks: 0, intact: 0, lacks_component: false, lacks_detail: false };
    let (mut dc, mut ac): ([Option<Table>; 4], [Option<Table>; 4]) = Default::default();
    let mut interval = 0usize;
    for Segment { marker, content } in Segments::of(bytes) {
        let body = &bytes[content.clone()];
        match marker {
            DHT => read_tables(body, &mut dc, &mut ac),
            DRI => interval = body.get(..2).map_or(0, |two| usize::from(u16::from_be_bytes([two[0], two[1]]))),
            SOS => {
                let Some(scan) = scan(body, &planes, &dc, &ac) else { continue };
                let bits = Bits::new(bytes, content.end);
                walk(bits, &scan, &mut planes, (unit_columns, unit_rows), interval, &mut found);
            }
            _ => {}
        }
    }
    found.lacks_component = planes.iter().any(|plane| plane.low[0] == 255);
    found.lacks_detail = frame.is_progressive() && planes.iter().any(|plane| plane.low.iter().any(|low| *low > 0));
    found
}

fn read_tables(mut body: &[u8], dc: &mut [Option<Table>; 4], ac: &mut [Option<Table>; 4]) {
    while let Some((head, rest)) = body.split_first_chunk::<17>() {
        let [kind, counts @ ..] = head;
        let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
        let set = if kind >> 4 == 0 { &mut *dc } else { &mut *ac };
        if let Some(slot) = set.get_mut(usize::from(kind & 15)) {
            *slot = Table::of(counts, rest);
        }
        body = rest.get(total..).unwrap_or_default();
    }
}

fn scan<'a>(
    body: &[u8],
    planes: &[ComponentBlocks],
    dc: &'a [Option<Table>; 4],
    ac: &'a [Option<Table>; 4],
) -> Option<Scan<'a>> {
    let (count, rest) = body.split_first()?;
    let (list, rest) = rest.split_at_checked(2 * usize::from(*count))?;
    let parts = list.chunks_exact(2).map(|pair| {
        let plane = planes.iter().position(|plane| plane.id == pair[0])?;
        let table = |set: &'a [Option<Table>; 4], number: u8| set.get(usize::from(number)).and_then(Option::as_ref);
        Some((plane, table(dc, pair[1] >> 4), table(ac, pair[1] & 15)))
    });
    let [first, last, bits] = *rest.get(..3)? else { return None };
    Some(Scan { first, last, high: bits >> 4, low: bits & 15, parts: parts.collect::<Option<_>>()? })
}

/// Reads one scan and adds its blocks to `found`.
fn walk(
    mut bits: Bits<'_>,
    scan: &Scan<'_>,
    planes: &mut [ComponentBlocks],
    (unit_columns, unit_rows): (usize, usize),
    interval: usize,
    found: &mut ScanSurvey,
) {
    let progressive = planes.iter().any(|plane| !plane.nonzero.is_empty());
    for (part, ..) in &scan.parts {
        let (first, last) = if progressive { (scan.first, scan.last.min(63)) } else { (0, 63) };
        for low in planes[*part].low.iter_mut().take(usize::from(last) + 1).skip(usize::from(first)) {
            *low = if progressive { scan.low } else { 0 };
        }
    }
    let alone = scan.parts.len() == 1;
    let (columns, rows) = match scan.parts.first() {
        Some((part, ..)) if alone => (planes[*part].columns, planes[*part].rows),
        _ => (unit_columns, unit_rows),
    };
    let in_unit: usize = scan.parts.iter().map(|(part, ..)| planes[*part].across * planes[*part].down).sum();
    let blocks_in_unit = if alone { 1 } else { in_unit };
    let total = columns * rows;
    found.blocks += (total * blocks_in_unit) as u64;

    let mut eob_run = 0u32;
    for unit in 0..total {
        if interval > 0 && unit > 0 && unit.is_multiple_of(interval) {
            if bits.restart(((unit / interval - 1) % 8) as u8).is_err() {
                return;
            }
            eob_run = 0;
        }
        let (x, y) = (unit % columns, unit / columns);
        for (part, dc, ac) in &scan.parts {
            let plane = &mut planes[*part];
            let (across, down) = if alone { (1, 1) } else { (plane.across, plane.down) };
            for block in 0..across * down {
                let column = x * across + block % across;
                let row = y * down + block / across;
                let read = if progressive {
                    let Some(nonzero) = plane.nonzero.get_mut(row * plane.stride + column) else { return };
                    progressive_block(&mut bits, scan, *dc, *ac, nonzero, &mut eob_run)
                } else {
                    baseline_block(&mut bits, *dc, *ac)
                };
                if read.is_err() {
                    return;
                }
                found.intact += 1;
            }
        }
    }
}

#[inline]
fn baseline_block(bits: &mut Bits<'_>, dc: Option<&Table>, ac: Option<&Table>) -> Result<(), Stop> {
    let (Some(dc), Some(ac)) = (dc, ac) else { return Err(Stop::Wrong) };
    let size = bits.code(dc)?;
    if size > 15 {
        return Err(Stop::Wrong);
    }
    bits.skip(u32::from(size))?;
    let mut at = 1;
    while at < 64 {
        let code = bits.code(ac)?;
        let (run, size) = (u32::from(code >> 4), u32::from(code & 15));
        match (run, size) {
            (15, 0) => at += 16,
            (_, 0) => break,
            _ => {
                at += run + 1;
                if at > 64 {
                    return Err(Stop::Wrong);
                }
                bits.skip(size)?;
            }
        }
    }
    Ok(())
}

/// T.81, annex G.
fn progressive_block(
    bits: &mut Bits<'_>,
    scan: &Scan<'_>,
    dc: Option<&Table>,
    ac: Option<&Table>,
    nonzero: &mut u64,
    eob_run: &mut u32,
) -> Result<(), Stop> {
    if scan.first == 0 {
        return match (scan.high, dc) {
            (0, Some(dc)) => {
                let size = bits.code(dc)?;
                if size > 15 { Err(Stop::Wrong) } else { bits.skip(u32::from(size)) }
            }
            (0, None) => Err(Stop::Wrong),
            _ => bits.skip(1),
        };
    }
    let Some(ac) = ac else { return Err(Stop::Wrong) };
    if scan.last > 63 || scan.first > scan.last {
        return Err(Stop::Wrong);
    }
    let (mut at, last) = (u32::from(scan.first), u32::from(scan.last));
    let refine = scan.high > 0;
    if *eob_run > 0 {
        *eob_run -= 1;
        return if refine { correct(bits, *nonzero, at, last, None).map(drop) } else { Ok(()) };
    }
    while at <= last {
        let code = bits.code(ac)?;
        let (run, size) = (u32::from(code >> 4), u32::from(code & 15));
        if size == 0 && run < 15 {
            *eob_run = (1 << run) - 1 + bits.take(run)?;
            return if refine { correct(bits, *nonzero, at, last, None).map(drop) } else { Ok(()) };
        }
        if refine {
            // A new coefficient has its sign; those on the way to it have a correction bit each.
            if size > 0 {
                bits.skip(1)?;
            }
            let target = correct(bits, *nonzero, at, last, Some(run))?;
            if size > 0 {
                if target > last {
                    return Err(Stop::Wrong);
                }
                *nonzero |= 1 << target;
            }
            at = target + 1;
        } else {
            at += run;
            if at > last {
                // A run of 16 zeros may end with the band.
                return if size == 0 { Ok(()) } else { Err(Stop::Wrong) };
            }
            bits.skip(size)?;
            if size > 0 {
                *nonzero |= 1 << at;
            }
            at += 1;
        }
    }
    Ok(())
}

/// Skips a correction bit for each coefficient from `at` that is not zero. Stops at the zero after `zeros` others and
/// returns its position, or `last + 1`.
fn correct(bits: &mut Bits<'_>, nonzero: u64, mut at: u32, last: u32, zeros: Option<u32>) -> Result<u32, Stop> {
    let mut left = zeros;
    while at <= last {
        if nonzero >> at & 1 == 1 {
            bits.skip(1)?;
        } else if let Some(count) = left.as_mut() {
            if *count == 0 {
                return Ok(at);
            }
            *count -= 1;
        }
        at += 1;
    }
    Ok(at)
}
