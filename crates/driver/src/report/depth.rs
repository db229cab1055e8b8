//! Architectures in groups of similar depth, for colours and for statistics within groups.

use serde::{Deserialize, Serialize};

/// As many groups as the style sheet has shades.
pub(super) const N_DEPTHS: usize = 4;

/// A group of architectures of similar depth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepthGroup {
    /// The smallest number of blocks.
    pub low: usize,
    /// The largest.
    pub high: usize,
}

impl DepthGroup {
    /// `8 to 12 blocks`.
    pub fn label(&self) -> String {
        match (self.low, self.high) {
            (low, high) if low == high => format!("{low} blocks"),
            (low, high) => format!("{low} to {high} blocks"),
        }
    }
}

/// At most [`N_DEPTHS`] groups, shallow first: one for each depth, or else about equally many architectures
/// in each; equal depths stay together.
pub fn depth_groups(depths: impl Iterator<Item = usize>) -> Vec<DepthGroup> {
    let mut depths: Vec<usize> = depths.collect();
    depths.sort_unstable();
    let mut distinct = depths.clone();
    distinct.dedup();
    let mut groups: Vec<DepthGroup> = Vec::new();
    let mut last = None;
    for (i, &depth) in distinct.iter().enumerate() {
        let n_shallower = depths.partition_point(|&d| d < depth);
        let few = distinct.len() <= N_DEPTHS;
        let quantile = if few { i } else { n_shallower * N_DEPTHS / depths.len() };
        match groups.last_mut() {
            Some(group) if last == Some(quantile) => group.high = depth,
            _ => groups.push(DepthGroup { low: depth, high: depth }),
        }
        last = Some(quantile);
    }
    groups
}

/// The group of every depth, by index.
pub fn group_of(groups: &[DepthGroup], depth: usize) -> usize {
    groups.iter().position(|g| depth <= g.high).unwrap_or(groups.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_depths_stay_together_and_groups_are_alike_in_size() {
        let check = |depths: &[usize], expect: &[(usize, usize)]| {
            let groups = depth_groups(depths.iter().copied());
            let found: Vec<_> = groups.iter().map(|g| (g.low, g.high)).collect();
            assert_eq!(found, expect, "{depths:?}");
            for &depth in depths {
                let group = groups[group_of(&groups, depth)];
                assert!(group.low <= depth && depth <= group.high);
            }
        };
        check(&[], &[]);
        check(&[9, 9], &[(9, 9)]);
        check(&[8, 12, 8, 10], &[(8, 8), (10, 10), (12, 12)]);
        check(&[1, 2, 3, 4, 5, 6, 7, 8], &[(1, 2), (3, 4), (5, 6), (7, 8)]);
        check(&[5, 5, 5, 5, 5, 6, 7, 8, 9], &[(5, 5), (6, 7), (8, 9)]);
        assert_eq!(DepthGroup { low: 3, high: 4 }.label(), "3 to 4 blocks");
    }
}
