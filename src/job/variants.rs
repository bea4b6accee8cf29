//! Variants: results of one job that differ only by their seed.

use std::ops::RangeInclusive;

use super::{JobError, MAX_SEED};

/// How many variants a job may have.
pub const VARIANTS: RangeInclusive<u32> = 1..=64;
/// The contact sheet of all variants.
pub const CONTACT_SHEET: &str = "variants.png";

/// What a request says about its seeds.
#[derive(Debug, Clone, Copy)]
pub struct Seeds<'a> {
    pub seed: Option<u64>,
    pub count: Option<u32>,
    pub seeds: Option<&'a [u64]>,
}

impl Seeds<'_> {
    /// Checks the parameters below `at` in the request.
    ///
    /// # Errors
    /// [`JobError::InvalidRequest`] with the field.
    pub fn check(&self, at: &str) -> Result<(), JobError> {
        let invalid = |field: &str, reason: String| Err(JobError::invalid(format!("{at}.{field}"), reason));
        let (least, most) = VARIANTS.into_inner();
        if let Some(count) = self.count.filter(|count| !VARIANTS.contains(count)) {
            return invalid("count", format!("{count} is not between {least} and {most}"));
        }
        let Some(seeds) = self.seeds else {
            // A seed that is too large by itself is refused as such.
            let last = self
                .seed
                .filter(|seed| *seed <= MAX_SEED)
                .unwrap_or_default()
                .saturating_add(u64::from(self.count.unwrap_or(1)) - 1);
            if last > MAX_SEED {
                return invalid("seed", format!("the last variant's seed, {last}, is larger than {MAX_SEED}"));
            }
            return Ok(());
        };
        if seeds.is_empty() {
            return invalid("seeds", "is empty; name at least one seed, for instance [7, 8]".to_owned());
        }
        if seeds.len() > most as usize {
            return invalid("seeds", format!("{} seeds; at most {most} are allowed", seeds.len()));
        }
        if self.seed.is_some() {
            return invalid("seeds", "a request has `seed` or `seeds`; give one of them".to_owned());
        }
        if let Some(count) = self.count.filter(|count| *count as usize != seeds.len()) {
            let reason = format!("{count}, but there are {} seeds; leave `count` out", seeds.len());
            return invalid("count", reason);
        }
        for (index, seed) in seeds.iter().enumerate() {
            if *seed > MAX_SEED {
                return invalid(&format!("seeds[{index}]"), format!("a seed is between 0 and {MAX_SEED}"));
            }
            if seeds[..index].contains(seed) {
                return invalid(
                    &format!("seeds[{index}]"),
                    format!("{seed} is given twice; each variant needs a seed of its own"),
                );
            }
        }
        Ok(())
    }

    /// The seed of each variant, if the job's own is `seed`.
    pub fn list(&self, seed: u64) -> Vec<u64> {
        match self.seeds {
            Some(seeds) => seeds.to_vec(),
            None => (0..u64::from(self.count.unwrap_or(1))).map(|index| seed.saturating_add(index)).collect(),
        }
    }

    pub(super) fn is_of_version_3(&self) -> bool {
        self.count.is_some() || self.seeds.is_some()
    }
}

/// The name of a variant's file: `variant-02-layer-01.png`.
pub fn variant_file(variant: u32, file: &str) -> String {
    format!("variant-{variant:02}-{file}")
}

/// The name of a file without its variant.
pub fn without_variant(file: &str) -> &str {
    split_variant(file).map_or(file, |(_, rest)| rest)
}

/// The variant that a file's name begins with.
pub(super) fn variant_number(file: &str) -> Option<u32> {
    split_variant(file)?.0.parse().ok()
}

fn split_variant(file: &str) -> Option<(&str, &str)> {
    let (number, rest) = file.strip_prefix("variant-")?.split_once('-')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_of(seed: Option<u64>, count: Option<u32>, seeds: Option<&[u64]>) -> Option<String> {
        match (Seeds { seed, count, seeds }).check("params") {
            Ok(()) => None,
            Err(JobError::InvalidRequest { field, .. }) => Some(field),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_field() {
        let many: Vec<u64> = (0..65).collect();
        for (seed, count, seeds, field) in [
            (None, Some(0), None, "params.count"),
            (None, Some(65), None, "params.count"),
            (None, None, Some(&[][..]), "params.seeds"),
            (None, None, Some(&many[..]), "params.seeds"),
            (Some(1), None, Some(&[1, 2][..]), "params.seeds"),
            (None, Some(3), Some(&[1, 2][..]), "params.count"),
            (None, None, Some(&[1, 2, 1][..]), "params.seeds[2]"),
            (None, None, Some(&[1, MAX_SEED + 1][..]), "params.seeds[1]"),
            (Some(MAX_SEED), Some(2), None, "params.seed"),
        ] {
            assert_eq!(field_of(seed, count, seeds).as_deref(), Some(field), "{seed:?} {count:?} {seeds:?}");
        }
        for (seed, count, seeds) in [
            (None, None, None),
            (Some(MAX_SEED), Some(1), None),
            (Some(MAX_SEED + 1), None, None),
            (None, Some(64), None),
            (None, Some(2), Some(&[3, 1][..])),
        ] {
            assert_eq!(field_of(seed, count, seeds), None);
        }
    }

    #[test]
    fn a_count_goes_on_from_the_seed_and_seeds_are_as_given() {
        let list = |count, seeds| Seeds { seed: None, count, seeds }.list(7);
        assert_eq!((list(None, None), list(Some(3), None)), (vec![7], vec![7, 8, 9]));
        assert_eq!(list(Some(2), Some(&[5, 3])), [5, 3]);
    }

    #[test]
    fn files_carry_their_variant() {
        let name = variant_file(2, "layer-01.png");
        assert_eq!((name.as_str(), without_variant(&name)), ("variant-02-layer-01.png", "layer-01.png"));
        for other in ["layer-01.png", "variants.png", "variant-x-a.png"] {
            assert_eq!(without_variant(other), other);
        }
    }
}
