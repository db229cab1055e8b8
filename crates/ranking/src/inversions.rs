//! Counting the pairs that stand in the wrong order, in O(n log n): the core of Knight's algorithm
//! for Kendall's tau (W. R. Knight, "A Computer Method for Calculating Kendall's Tau with Ungrouped
//! Data", 1966).

/// Up to this many values, insertion sort beats another level of merging.
const RUN: usize = 16;

/// Sorts `values` and returns the number of pairs `i < j` with `values[i] > values[j]`.
pub(crate) fn sort_counting_inversions(values: &mut Vec<u32>) -> u64 {
    let n = values.len();
    let mut inversions: u64 = values.chunks_mut(RUN).map(insertion_sort).sum();
    let mut merged = vec![0; n];
    let mut width = RUN;
    while width < n {
        for (from, to) in values.chunks(2 * width).zip(merged.chunks_mut(2 * width)) {
            let (left, right) = from.split_at(width.min(from.len()));
            inversions += merge(left, right, to);
        }
        std::mem::swap(values, &mut merged);
        width *= 2;
    }
    inversions
}

/// Sorts a short run; every step of a value to the left undoes one inversion.
fn insertion_sort(run: &mut [u32]) -> u64 {
    let mut inversions = 0;
    for end in 1..run.len() {
        let value = run[end];
        let mut at = end;
        while at > 0 && run[at - 1] > value {
            run[at] = run[at - 1];
            at -= 1;
        }
        run[at] = value;
        inversions += (end - at) as u64;
    }
    inversions
}

/// Merges two sorted runs into `out`; a value taken from the right jumps over all that is left of
/// the left run. Equal values come from the left first: a tie is not an inversion.
fn merge(left: &[u32], right: &[u32], out: &mut [u32]) -> u64 {
    let (mut i, mut j, mut inversions) = (0, 0, 0);
    while i < left.len() && j < right.len() {
        // Written without a branch: which side is smaller is a coin toss, and would be mispredicted.
        let (l, r) = (left[i], right[j]);
        let from_right = usize::from(l > r);
        out[i + j] = l.min(r);
        inversions += ((left.len() - i) * from_right) as u64;
        i += 1 - from_right;
        j += from_right;
    }
    let at = i + j;
    let rest = at + left.len() - i;
    out[at..rest].copy_from_slice(&left[i..]);
    out[rest..].copy_from_slice(&right[j..]);
    inversions
}

#[cfg(test)]
mod tests {
    use super::sort_counting_inversions;
    use proptest::prelude::*;

    fn naive(values: &[u32]) -> u64 {
        let later = |i: usize| values[i + 1..].iter().filter(|&&v| v < values[i]).count() as u64;
        (0..values.len()).map(later).sum()
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition_and_sorts(values in prop::collection::vec(0u32..50, 0..300)) {
            let mut sorted = values.clone();
            prop_assert_eq!(sort_counting_inversions(&mut sorted), naive(&values));
            let mut expected = values;
            expected.sort_unstable();
            prop_assert_eq!(sorted, expected);
        }
    }

    #[test]
    fn a_reversed_list_has_every_pair_inverted() {
        let mut values: Vec<u32> = (0..1000).rev().collect();
        assert_eq!(sort_counting_inversions(&mut values), 1000 * 999 / 2);
    }
}
