//! Mean and squared deviations of some pixels' channels, while the pixels are in the cache.

use super::columns::Columns;
use super::simd::{Access, Vector};

/// Pixels whose mean becomes the shift of the others. The sums are of `x - shift`, which keeps what the
/// formula subtracts within a small factor of what remains, as in
/// [`batch_statistics`](crate::norm::batch_statistics).
const SHIFT_ROWS: usize = 8;
/// Sums in flight.
const CHAINS: usize = 4;

/// `x` is `[rows, channels]`, at least one row; `moments` takes `channels` means and then as many sums of
/// squared deviations, of which those of `first..last` are made. Sums are in f32, so it is for blocks of up to some thousand rows.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    pub x: *const f32,
    pub rows: usize,
    pub channels: usize,
    pub first: usize,
    pub last: usize,
    pub moments: *mut f64,
}

impl Columns for Moments {
    fn range(&self) -> std::ops::Range<usize> {
        self.first..self.last
    }

    #[inline(always)]
    unsafe fn vector<V: Vector>(&self, channel: usize, lanes: usize, access: impl Access) {
        // SAFETY: passed on to the caller; the rows exist, and so do these channels' moments. The
        // arrays have room for the widest vector.
        unsafe {
            let row =
                |i: usize| -> V { access.load(self.x.wrapping_add(i * self.channels + channel)) };
            let head = self.rows.min(SHIFT_ROWS);
            let mut shift = V::splat(0.0);
            for i in 0..head {
                shift = shift.add(row(i));
            }
            let shift = shift.mul(V::splat(1.0 / head as f32));
            let (mut sums, mut squares) = ([V::splat(0.0); CHAINS], [V::splat(0.0); CHAINS]);
            let mut i = 0;
            while i + CHAINS <= self.rows {
                for j in 0..CHAINS {
                    let d = row(i + j).sub(shift);
                    sums[j] = sums[j].add(d);
                    squares[j] = d.mul_add(d, squares[j]);
                }
                i += CHAINS;
            }
            for i in i..self.rows {
                let d = row(i).sub(shift);
                sums[0] = sums[0].add(d);
                squares[0] = d.mul_add(d, squares[0]);
            }
            let total = |v: [V; CHAINS]| v[0].add(v[1]).add(v[2].add(v[3]));
            let [mut shifts, mut sum, mut square] = [[0.0f32; 16]; 3];
            shift.store(shifts.as_mut_ptr());
            total(sums).store(sum.as_mut_ptr());
            total(squares).store(square.as_mut_ptr());
            let n = self.rows as f64;
            for lane in 0..lanes {
                let (sum, square) = (f64::from(sum[lane]), f64::from(square[lane]));
                let rest = square - sum * sum / n;
                let to = self.moments.wrapping_add(channel + lane);
                *to = f64::from(shifts[lane]) + sum / n;
                // Rounding may leave a constant channel a hair below zero. NaN stays NaN.
                *to.wrapping_add(self.channels) = if rest < 0.0 { 0.0 } else { rest };
            }
        }
    }
}
