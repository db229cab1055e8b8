//! The leading channels of a dense `[rows, channels]` buffer: what a slimmer subnet uses of a wider one's map.

use crate::tile::vectorised;
use slimtau_parallel::{chunks, chunks_mut, for_each_chunk};

/// Floats of the wider buffer that one parallel task handles (256 KiB).
const CHUNK: usize = 1 << 16;

/// Calls `task` with parts of both buffers, of so many channels, that are the same whole rows.
fn for_each_part(
    (from, x): (usize, &[f32]),
    (to, y): (usize, &mut [f32]),
    task: impl Fn(&[f32], &mut [f32]) + Sync,
) {
    assert!(from > 0 && to > 0, "a tensor needs at least one channel");
    for (len, channels) in [(x.len(), from), (y.len(), to)] {
        assert!(len.is_multiple_of(channels), "{len} floats in {channels} channels");
    }
    assert_eq!(x.len() / from, y.len() / to, "rows");
    let rows = (CHUNK / from.max(to)).max(1);
    for_each_chunk((chunks_mut(y, rows * to), chunks(x, rows * from)), |_, (y, x)| task(x, y));
}

/// `y[row] = x[row][..channels]` of `x: [rows, all]`.
///
/// # Panics
/// When `channels` is 0 or more than `all`, or the buffers are not equally many whole rows.
pub fn take_leading(all: usize, x: &[f32], channels: usize, y: &mut [f32]) {
    let _span = tracing::trace_span!("leading").entered();
    assert!(channels <= all, "{channels} of {all} channels");
    for_each_part((all, x), (channels, y), |x, y| {
        for (x, y) in x.chunks_exact(all).zip(y.chunks_exact_mut(channels)) {
            y.copy_from_slice(&x[..channels]);
        }
    });
}

/// `y[row][..channels] = x[row]` of `y: [rows, all]`, and zeros behind.
///
/// # Panics
/// As [`take_leading`].
pub fn put_leading(channels: usize, x: &[f32], all: usize, y: &mut [f32]) {
    let _span = tracing::trace_span!("leading").entered();
    assert!(channels <= all, "{channels} of {all} channels");
    for_each_part((channels, x), (all, y), |x, y| {
        for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(all)) {
            let (leading, rest) = y.split_at_mut(channels);
            leading.copy_from_slice(x);
            rest.fill(0.0);
        }
    });
}

/// `y[row][..channels] += x[row]` of `y: [rows, all]`.
///
/// # Panics
/// As [`take_leading`].
pub fn add_leading(channels: usize, x: &[f32], all: usize, y: &mut [f32]) {
    let _span = tracing::trace_span!("leading").entered();
    assert!(channels <= all, "{channels} of {all} channels");
    for_each_part((channels, x), (all, y), |x, y| {
        vectorised(
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(all)) {
                    for (y, x) in y.iter_mut().zip(x) {
                        *y += x;
                    }
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_channels_are_taken_put_and_added() {
        for (rows, all, channels) in [(1, 1, 1), (7, 5, 3), (3000, 64, 48), (2500, 40, 40)] {
            let x: Vec<f32> = (0..rows * all).map(|i| i as f32).collect();
            let mut y = vec![f32::NAN; rows * channels];
            take_leading(all, &x, channels, &mut y);
            let want = |row: usize, c: usize| (row * all + c) as f32;
            for (i, &y) in y.iter().enumerate() {
                assert_eq!(y, want(i / channels, i % channels), "{rows} {all} {channels} {i}");
            }
            let mut z = vec![f32::NAN; rows * all];
            put_leading(channels, &y, all, &mut z);
            add_leading(channels, &y, all, &mut z);
            for (i, &z) in z.iter().enumerate() {
                let (row, c) = (i / all, i % all);
                let want = if c < channels { 2.0 * want(row, c) } else { 0.0 };
                assert_eq!(z, want, "{rows} {all} {channels} {i}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "rows")]
    fn other_rows_are_refused() {
        take_leading(2, &[0.0; 6], 1, &mut [0.0; 2]);
    }

    #[test]
    #[should_panic(expected = "7 floats in 2 channels")]
    fn a_part_of_a_row_is_refused() {
        take_leading(2, &[0.0; 7], 1, &mut [0.0; 3]);
    }

    #[test]
    #[should_panic(expected = "3 of 2 channels")]
    fn more_channels_than_there_are_are_refused() {
        add_leading(3, &[0.0; 6], 2, &mut [0.0; 4]);
    }
}
