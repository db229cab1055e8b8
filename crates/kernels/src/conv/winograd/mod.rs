//! 3 x 3 convolutions of stride 1 by Winograd's minimal filtering: F(4 x 4, 3 x 3) takes 36 products per
//! input and output channel where the definition takes 144, F(5 x 5, 3 x 3) 49 of 225 and F(6 x 6, 3 x 3)
//! 64 of 324. The larger ones are for maps where they save an eighth of the products or more, where the
//! filters stay in a core's cache although they have more points, or (tiles of 5) stream by in any case.
//!
//! Forward: input tiles and filters are transformed to the points, each point is an ordinary matrix
//! product `M[tiles, out] = V[tiles, in] * U[in, out]`, and `M` is transformed back. The data
//! gradient is the same with transposed filters. The weight gradient transforms input tiles and
//! output-gradient tiles, and each point is `dU[in, out] = V^T[in, tiles] * Z[tiles, out]`.
//!
//! Each of the two comes in two schedules, told apart by whether all `U` stays in a core's cache:
//!
//! | | few channels | many channels |
//! |---|---|---|
//! | forward | a thread takes a block of tiles from input to output, for as many output channels as its own `U` has room for | `V` of all tiles is shared, a thread takes a panel of output channels and transforms its filters in passing |
//! | weight gradient | a thread takes a range of tiles and sums its own `dU`, or half of its rows | `V` and `Z` of all tiles are shared, a thread takes a block of `dU` |

mod ahead;
mod correlation;
mod filter;
mod grid;
mod input;
mod layout;
mod output;
mod points;
mod separable;
mod weight_gradient;

pub(super) use correlation::{Map, Statistics, correlate, normalises};
pub(super) use filter::Filters;
pub(super) use weight_gradient::{sums_normalise, takes_norm, weight_gradient};

/// A stride between points that does not put all points into the same few cache sets.
fn padded(len: usize) -> usize {
    len.next_multiple_of(16) + 16
}
