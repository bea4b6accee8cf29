//! Chooses some rows of a dataset: a shard, a random sample, the first ones.

use std::{collections::HashSet, str::FromStr};

use clap::Args;

/// Which rows of the source become jobs. `--shard` applies first, then `--sample`, then `--limit`.
#[derive(Debug, Clone, Default, Args)]
pub struct PickFlags {
    /// With --from: only the first N rows or pictures
    #[arg(long, value_name = "N", requires = "from")]
    pub limit: Option<u64>,
    /// With --from: N rows or pictures chosen at random, the same ones each time
    #[arg(long, value_name = "N", requires = "from")]
    pub sample: Option<u64>,
    /// With --sample: another number chooses other rows [default: 0]
    #[arg(long, value_name = "N", requires = "sample")]
    pub sample_seed: Option<u64>,
    /// With --from: only every Nth row, starting with row I, to spread a dataset over machines: 1/4, 2/4, 3/4, 4/4
    #[arg(long, value_name = "I/N", requires = "from")]
    pub shard: Option<Shard>,
}

impl PickFlags {
    /// No row is left out.
    pub fn is_everything(&self) -> bool {
        self.limit.is_none() && self.sample.is_none() && self.shard.is_none()
    }
}

/// `3/16`: the third of sixteen parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    part: u64,
    parts: u64,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('/')
            .and_then(|(part, parts)| Some(Self { part: part.parse().ok()?, parts: parts.parse().ok()? }))
            .filter(|shard| (1..=shard.parts).contains(&shard.part))
            .ok_or_else(|| "write I/N, the I-th of N parts, for instance 3/16".to_owned())
    }
}

/// Decides row by row.
#[derive(Debug, Clone)]
pub struct Pick {
    shard: Option<Shard>,
    /// The numbers of the rows of the sample, once they are known.
    sample: Option<HashSet<u64>>,
    limit: Option<u64>,
    taken: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picked {
    Take,
    Leave,
    /// No further row will be taken.
    Stop,
}

impl Pick {
    /// `sample` has the numbers that [`DrawnRows`] chose.
    pub fn new(flags: &PickFlags, sample: Option<HashSet<u64>>) -> Self {
        Self { shard: flags.shard, sample, limit: flags.limit, taken: 0 }
    }

    pub fn take(&mut self, number: u64) -> Picked {
        if self.limit.is_some_and(|limit| self.taken >= limit) {
            return Picked::Stop;
        }
        let is_in = in_shard(self.shard, number) && self.sample.as_ref().is_none_or(|sample| sample.contains(&number));
        self.taken += u64::from(is_in);
        if is_in { Picked::Take } else { Picked::Leave }
    }
}

fn in_shard(shard: Option<Shard>, number: u64) -> bool {
    shard.is_none_or(|Shard { part, parts }| (number - 1) % parts == part - 1)
}

/// Draws a sample from rows whose number is not known before: those with the smallest hashes.
#[derive(Debug)]
pub struct DrawnRows {
    size: usize,
    seed: u64,
    shard: Option<Shard>,
    /// The greatest hash first.
    kept: std::collections::BinaryHeap<(u64, u64)>,
}

impl DrawnRows {
    /// Nothing if no sample is asked for.
    pub fn asked_for(flags: &PickFlags) -> Option<Self> {
        let size = usize::try_from(flags.sample?).unwrap_or(usize::MAX);
        let seed = flags.sample_seed.unwrap_or_default();
        Some(Self { size, seed, shard: flags.shard, kept: Default::default() })
    }

    pub fn offer(&mut self, number: u64) {
        if !in_shard(self.shard, number) {
            return;
        }
        self.kept.push((mixed(self.seed ^ mixed(number)), number));
        if self.kept.len() > self.size {
            self.kept.pop();
        }
    }

    pub fn numbers(self) -> HashSet<u64> {
        self.kept.into_iter().map(|(_, number)| number).collect()
    }
}

/// A well mixed function of 64 bits: the finalizer of splitmix64.
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(flags: &PickFlags, rows: u64) -> Vec<u64> {
        let sample = DrawnRows::asked_for(flags).map(|mut sample| {
            (1..=rows).for_each(|number| sample.offer(number));
            sample.numbers()
        });
        let mut pick = Pick::new(flags, sample);
        (1..=rows).filter(|number| pick.take(*number) == Picked::Take).collect()
    }

    #[test]
    fn shards_are_apart_and_together_everything() {
        let shard = |text: &str| PickFlags { shard: Some(text.parse().unwrap()), ..PickFlags::default() };
        assert_eq!(taken(&shard("1/3"), 7), [1, 4, 7]);
        let mut all: Vec<_> = ["1/3", "2/3", "3/3"].iter().flat_map(|text| taken(&shard(text), 7)).collect();
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4, 5, 6, 7]);
        for wrong in ["0/3", "4/3", "3", "a/b", "1/0", ""] {
            assert!(wrong.parse::<Shard>().unwrap_err().contains("3/16"), "{wrong}");
        }
    }

    #[test]
    fn a_sample_has_its_size_and_stays_the_same() {
        let sample = |sample_seed| PickFlags { sample: Some(10), sample_seed, ..PickFlags::default() };
        let first = taken(&sample(None), 1000);
        assert_eq!(first.len(), 10);
        assert_eq!(first, taken(&sample(Some(0)), 1000));
        assert_ne!(first, taken(&sample(Some(1)), 1000));
        assert!(first.iter().any(|number| *number > 300), "it is not the beginning: {first:?}");
        assert_eq!(taken(&sample(None), 4), [1, 2, 3, 4]);
    }

    #[test]
    fn a_limit_counts_what_the_others_left() {
        let flags = PickFlags { limit: Some(2), shard: Some("2/3".parse().unwrap()), ..PickFlags::default() };
        assert_eq!(taken(&flags, 100), [2, 5]);
        let mut pick = Pick::new(&PickFlags { limit: Some(1), ..PickFlags::default() }, None);
        assert_eq!((pick.take(1), pick.take(2)), (Picked::Take, Picked::Stop));
    }
}
