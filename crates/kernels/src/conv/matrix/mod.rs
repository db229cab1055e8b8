//! 3 x 3 convolutions of stride 1 and 2 on the matrix unit of x86-64 servers (AMX).
//!
//! The unit multiplies matrices of bf16, 16 times as fast as the vector unit multiplies f32. A number is
//! the sum of two of bf16 to 17 bits, so three products of halves make one that errs by 4.3e-6 where bits are
//! random, somewhat more than Winograd's transforms do, and by the definition it needs no transforms (`split`).
//!
//! Where maps are large enough, or filters many for the pixels (these are made where they are used, `planes`), stride 1 goes a
//! way between the definition and Winograd's: six lines of the source are laid out as what they are at the points of F(4, 3), so
//! that four lines of the result take half of the products, for twice the error (`minimal`); taps of a line are summed by the
//! definition.
//!
//! Forward, a tile's 16 rows are a pixel of 16 images (or two of 8): rows of neighbouring pixels are at one
//! distance, and taps beyond the edge are tiles that are left out (at the points only those to the left and right). Lines of the map are laid out
//! that way, split into halves, in a core's own cache (`layout`, `band`, `correlation`). The weight gradient sums over
//! rows, so there the input is laid out channels by rows (`weight_gradient`). At stride 2 a line's even and odd
//! pixels lie apart, so that what a tap reads are neighbours again; the data gradient is four correlations of
//! one layout, for the pixels of even and odd lines and places.

use super::{ConvShape, map};

mod ahead;
mod band;
mod correlation;
mod filters;
mod layout;
mod minimal;
mod part;
mod planes;
mod source;
mod split;
mod unit;
mod weight_gradient;

pub(super) use correlation::{backward_input, forward};
pub(super) use unit::available;
pub(super) use weight_gradient::{takes_norm, weight_gradient};

/// Fewest images: with fewer, tiles are mostly empty.
const LEAST_IMAGES: usize = 6;
/// Channels of both maps from which on the unit's products are faster forward by more than the layout costs: by the definition,
/// and at the points.
const LEAST_CHANNELS: usize = 64;
const LEAST_CHANNELS_AT_POINTS: usize = 48;
/// Fewer do at the points where they fill steps of the unit's depth without a rest, on a map of so many pixels.
const LEAST_WHOLE_CHANNELS: usize = unit::DEPTH;
const LARGE_MAP: usize = 24 * 24;
/// Channels of both maps from which on the weight's gradient is faster on the unit.
const LEAST_CHANNELS_OF_GRADIENT: usize = 40;
/// The same for all three at stride 2, where Winograd's way does not compete.
const LEAST_CHANNELS_OF_STRIDE_2: usize = 24;
/// Filters of 3 x 3 weights for each pixel from which on they are better made where they are used (`planes`) than all at once: where
/// pixels are too few for points otherwise, and where they are enough.
const FILTERS_OF_FEW_PIXELS: usize = 40;
const FILTERS_OF_MANY_PIXELS: usize = 100;
/// Pixels whose sums of some columns stay in a core's own cache.
const MOST_PIXELS: usize = 3000;

/// Whether the output of a convolution and the gradient of its input are made here.
pub(super) fn correlates(shape: &ConvShape) -> bool {
    let ConvShape { batch, height, width, in_channels, out_channels, kernel, stride, .. } = *shape;
    let least = in_channels.min(out_channels);
    let whole = in_channels % LEAST_WHOLE_CHANNELS == 0 && out_channels % LEAST_WHOLE_CHANNELS == 0;
    let at_points = minimal::pays(map(shape))
        && (least >= LEAST_CHANNELS_AT_POINTS || whole && height * width >= LARGE_MAP);
    let enough = least >= LEAST_CHANNELS || at_points;
    kernel == 3
        && batch >= LEAST_IMAGES
        && match stride {
            1 => enough,
            2 => least >= LEAST_CHANNELS_OF_STRIDE_2,
            _ => false,
        }
}

/// Whether a correlation is summed plane by plane (`planes`).
fn by_planes(shape: &ConvShape) -> bool {
    let ConvShape { batch, height, width, in_channels, out_channels, stride, .. } = *shape;
    let many = minimal::pays(map(shape));
    let least = if many { FILTERS_OF_MANY_PIXELS } else { FILTERS_OF_FEW_PIXELS };
    let (filters, pixels) = (in_channels * out_channels, batch * height * width);
    stride == 1
        && height >= minimal::LEAST_LINES
        && pixels <= MOST_PIXELS
        && filters >= least * pixels
}

/// Whether the gradient of its weight is.
pub(super) fn sums(shape: &ConvShape) -> bool {
    let ConvShape { batch, in_channels, out_channels, kernel, stride, .. } = *shape;
    let least = in_channels.min(out_channels);
    kernel == 3
        && batch >= LEAST_IMAGES
        && match stride {
            1 => least >= LEAST_CHANNELS_OF_GRADIENT,
            2 => least >= LEAST_CHANNELS_OF_STRIDE_2,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without this, the tests' shapes for `planes` might be summed another way one day.
    #[test]
    fn few_pixels_by_many_filters_are_summed_by_planes() {
        let planes = |[batch, height, width]: [usize; 3],
                      [in_channels, out_channels]: [usize; 2]| {
            by_planes(&ConvShape {
                batch,
                height,
                width,
                in_channels,
                out_channels,
                full_in: in_channels,
                full_out: out_channels,
                kernel: 3,
                stride: 1,
            })
        };
        for (map, channels) in [
            ([33, 3, 3], [120, 104]),
            ([34, 4, 4], [160, 152]),
            ([6, 3, 3], [64, 72]),
            ([16, 5, 15], [352, 344]),
            ([20, 6, 6], [72, 400]),
            ([64, 4, 4], [256, 256]),
            ([8, 7, 7], [512, 512]),
        ] {
            assert!(planes(map, channels), "{map:?}, {channels:?}");
        }
        for (map, channels) in [
            ([8, 14, 14], [256, 256]),
            ([64, 7, 7], [128, 128]),
            ([64, 7, 7], [512, 512]),
            ([16, 2, 2], [512, 512]),
        ] {
            assert!(!planes(map, channels), "{map:?}, {channels:?}");
        }
    }
}
