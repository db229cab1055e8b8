//! Into the Winograd domain: `V = B^T d B` for input tiles, `Z = A dy A^T` for output gradients.

use std::ops::Range;

use super::correlation::Map;
use super::grid::{Block, Tile};
use super::layout::{Distance, Far, Layout, Near, by_height};
use super::points::{POINTS, TILE, gradient, input, uses};
use crate::conv::product::CHUNK;
use crate::conv::simd::{Access, First, Job, LANES, Simd, Vector, Whole};

/// What stands for a pixel outside the map.
static ZEROS: [f32; 16] = [0.0; 16];

/// Some tiles of a block, some channels of them, and where they go.
///
/// Channel `channels.start` becomes the layout's channel 0; channels are padded with zeros to a
/// multiple of [`LANES`].
#[derive(Clone)]
pub(super) struct Tiles<'a> {
    pub block: &'a Block,
    /// Which tiles of the block.
    pub range: Range<usize>,
    /// The map, `[image][height][width][pixel]`.
    pub from: *const f32,
    pub map: Map,
    pub pixel: usize,
    pub channels: Range<usize>,
    pub to: *mut f32,
    pub layout: Layout,
}

/// `V`: the 6 x 6 pixels under each tile.
#[derive(Clone)]
pub(super) struct InputTiles<'a>(pub Tiles<'a>);

/// `Z`: the 4 x 4 pixels, or fewer, of each tile.
#[derive(Clone)]
pub(super) struct GradientTiles<'a>(pub Tiles<'a>);

impl Job for InputTiles<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on from the caller.
        unsafe {
            if self.0.layout.point == CHUNK {
                self.tiles::<S, _>(Near);
            } else {
                self.tiles::<S, _>(Far(self.0.layout.point));
            }
        }
    }
}

impl Job for GradientTiles<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: passed on from the caller.
        unsafe {
            if self.0.layout.point == CHUNK {
                self.tiles::<S, _>(Near);
            } else {
                self.tiles::<S, _>(Far(self.0.layout.point));
            }
        }
    }
}

/// The 6 x 6 pixels under a tile, as seen from channel 0.
#[derive(Clone, Copy)]
struct Window {
    /// Pixel `(0, 0)` of the window; it may lie outside of the map, and is then not read.
    start: *const f32,
    line: usize,
    pixel: usize,
    /// Which of its sides lie outside of the map.
    top: bool,
    bottom: bool,
    left: bool,
    right: bool,
    /// Width of the tile.
    outputs: usize,
}

impl Window {
    /// Whether none of it lies outside of the map, and its tile is not a narrow one.
    #[inline(always)]
    fn is_inner(&self) -> bool {
        !(self.top | self.bottom | self.left | self.right) && self.outputs == TILE
    }
}

impl InputTiles<'_> {
    #[inline(always)]
    unsafe fn tiles<S: Simd, D: Distance>(&self, distance: D) {
        for (t, tile) in self.0.block.tiles(self.0.range.clone()) {
            let to = self.0.to.wrapping_add(t * self.0.layout.row);
            // SAFETY: passed on from the caller.
            unsafe { by_height!(tile.height, self.channels::<S, D>(tile, to, distance)) };
        }
    }

    #[inline(always)]
    unsafe fn channels<S: Simd, D: Distance, const H: usize>(
        &self,
        tile: Tile,
        to: *mut f32,
        distance: D,
    ) {
        let Tiles { from, map: Map { height, width, .. }, pixel, layout, .. } = self.0;
        let line = width * pixel;
        let at = ((tile.image * height + tile.y) * width + tile.x) * pixel;
        let window = Window {
            start: from.wrapping_add(at).wrapping_sub(line + pixel),
            line,
            pixel,
            top: tile.y == 0,
            bottom: tile.y + H == height,
            left: tile.x == 0,
            right: tile.x + tile.width == width,
            outputs: tile.width,
        };
        let Range { start, end } = self.0.channels;
        let mut c = start;
        // SAFETY: a whole vector of channels is left in the pixels, or `end - c`; they go to the
        // tile's own row.
        unsafe {
            if H == TILE && window.is_inner() {
                while c + S::Wide::LANES <= end {
                    let to = to.wrapping_add(layout.channel(c - start));
                    window_points::<S::Wide, D, TILE, true>(window, c, Whole, to, distance);
                    c += S::Wide::LANES;
                }
            }
            while c + S::Wide::LANES <= end {
                let to = to.wrapping_add(layout.channel(c - start));
                window_points::<S::Wide, D, H, false>(window, c, Whole, to, distance);
                c += S::Wide::LANES;
            }
            while c < end {
                let to = to.wrapping_add(layout.channel(c - start));
                let access = First(LANES.min(end - c));
                window_points::<S::Narrow, D, H, false>(window, c, access, to, distance);
                c += LANES;
            }
        }
    }
}

/// One vector of channels of one tile.
///
/// Only so many lines of points at a time that their half-transformed values stay in registers; the
/// pixels are read again for each group, from the first-level cache. The groups share subexpressions.
#[inline(always)]
unsafe fn window_points<V: Vector, D: Distance, const H: usize, const INNER: bool>(
    window: Window,
    channel: usize,
    access: impl Access,
    to: *mut f32,
    distance: D,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        if INNER && V::REGISTERS >= 32 {
            window_lines::<V, D, H, 3, INNER>(window, channel, access, [0, 1, 2], to, distance);
            window_lines::<V, D, H, 3, INNER>(window, channel, access, [3, 4, 5], to, distance);
        } else {
            window_lines::<V, D, H, 2, INNER>(window, channel, access, [0, 5], to, distance);
            window_lines::<V, D, H, 2, INNER>(window, channel, access, [1, 2], to, distance);
            window_lines::<V, D, H, 2, INNER>(window, channel, access, [3, 4], to, distance);
        }
    }
}

/// Lines `lines` of the points.
#[inline(always)]
unsafe fn window_lines<
    V: Vector,
    D: Distance,
    const H: usize,
    const N: usize,
    const INNER: bool,
>(
    window: Window,
    channel: usize,
    access: impl Access,
    lines: [usize; N],
    to: *mut f32,
    distance: D,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let columns = [
            window_column::<V, H, N, INNER>(window, channel, access, lines, 0),
            window_column::<V, H, N, INNER>(window, channel, access, lines, 1),
            window_column::<V, H, N, INNER>(window, channel, access, lines, 2),
            window_column::<V, H, N, INNER>(window, channel, access, lines, 3),
            window_column::<V, H, N, INNER>(window, channel, access, lines, 4),
            window_column::<V, H, N, INNER>(window, channel, access, lines, 5),
        ];
        for (n, i) in lines.into_iter().enumerate() {
            if uses(H, i) {
                let line = columns.map(|column| column[n]);
                let outputs = if INNER { TILE } else { window.outputs };
                input_line(line, outputs, to, distance, i);
            }
        }
    }
}

/// Points `lines` of a column of the window. Pixels outside of the map are zeros: no tile reaches
/// further than one pixel over a side. `INNER` tiles are whole and reach over none.
#[inline(always)]
unsafe fn window_column<V: Vector, const H: usize, const N: usize, const INNER: bool>(
    window: Window,
    channel: usize,
    access: impl Access,
    lines: [usize; N],
    j: usize,
) -> [V; N] {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut d = [V::splat(0.0); POINTS];
        if !INNER {
            let last = window.outputs + 1;
            let outside = j > last || (j == 0 && window.left) || (j == last && window.right);
            if outside {
                return [d[0]; N];
            }
        }
        let start = window.start.wrapping_add(channel + j * window.pixel);
        for (i, d) in d.iter_mut().enumerate() {
            let from = start.wrapping_add(i * window.line);
            if i == 0 {
                *d = access.load(if !INNER && window.top { ZEROS.as_ptr() } else { from });
            } else if i == H + 1 {
                *d = access.load(if !INNER && window.bottom { ZEROS.as_ptr() } else { from });
            } else if i <= H {
                *d = access.load(from);
            }
        }
        let points = input::<V, H>(d);
        lines.map(|line| points[line])
    }
}

/// The other dimension of [`window_column`], for line `i` of the points.
#[inline(always)]
unsafe fn input_line<V: Vector, D: Distance>(
    line: [V; POINTS],
    outputs: usize,
    to: *mut f32,
    distance: D,
    i: usize,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        match outputs {
            4 => store_line::<V, D, 4>(input::<V, 4>(line), to, distance, i),
            3 => store_line::<V, D, 3>(input::<V, 3>(line), to, distance, i),
            2 => store_line::<V, D, 2>(input::<V, 2>(line), to, distance, i),
            _ => store_line::<V, D, 1>(input::<V, 1>(line), to, distance, i),
        }
    }
}

#[inline(always)]
unsafe fn store_line<V: Vector, D: Distance, const W: usize>(
    points: [V; POINTS],
    to: *mut f32,
    distance: D,
    i: usize,
) {
    for (j, point) in points.into_iter().enumerate() {
        if uses(W, j) {
            // SAFETY: passed on to the caller.
            unsafe { point.store(to.wrapping_add(distance.point(i * POINTS + j))) };
        }
    }
}

impl GradientTiles<'_> {
    #[inline(always)]
    unsafe fn tiles<S: Simd, D: Distance>(&self, distance: D) {
        for (t, tile) in self.0.block.tiles(self.0.range.clone()) {
            let to = self.0.to.wrapping_add(t * self.0.layout.row);
            // SAFETY: passed on from the caller.
            unsafe { by_height!(tile.height, self.channels::<S, D>(tile, to, distance)) };
        }
    }

    #[inline(always)]
    unsafe fn channels<S: Simd, D: Distance, const H: usize>(
        &self,
        tile: Tile,
        to: *mut f32,
        distance: D,
    ) {
        let Tiles { from, map: Map { height, width, .. }, pixel, layout, .. } = self.0;
        let line = width * pixel;
        let from = from.wrapping_add(((tile.image * height + tile.y) * width + tile.x) * pixel);
        let Range { start, end } = self.0.channels;
        let mut c = start;
        // SAFETY: a whole vector of channels is left in the pixels, or `end - c`; they go to the
        // tile's own row.
        unsafe {
            while c + S::Wide::LANES <= end {
                let (from, to) = (from.wrapping_add(c), to.wrapping_add(layout.channel(c - start)));
                gradient_points::<S::Wide, D, H>(
                    from, line, pixel, tile.width, Whole, to, distance,
                );
                c += S::Wide::LANES;
            }
            while c < end {
                let (from, to) = (from.wrapping_add(c), to.wrapping_add(layout.channel(c - start)));
                let access = First(LANES.min(end - c));
                gradient_points::<S::Narrow, D, H>(
                    from, line, pixel, tile.width, access, to, distance,
                );
                c += LANES;
            }
        }
    }
}

#[inline(always)]
unsafe fn gradient_points<V: Vector, D: Distance, const H: usize>(
    from: *const f32,
    line: usize,
    pixel: usize,
    outputs: usize,
    access: impl Access,
    to: *mut f32,
    distance: D,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        gradient_lines::<V, D, H, 0, 5>(from, line, pixel, outputs, access, to, distance);
        gradient_lines::<V, D, H, 1, 2>(from, line, pixel, outputs, access, to, distance);
        gradient_lines::<V, D, H, 3, 4>(from, line, pixel, outputs, access, to, distance);
    }
}

/// Two lines of points, as in [`window_points`].
#[inline(always)]
unsafe fn gradient_lines<V: Vector, D: Distance, const H: usize, const P: usize, const Q: usize>(
    from: *const f32,
    line: usize,
    pixel: usize,
    outputs: usize,
    access: impl Access,
    to: *mut f32,
    distance: D,
) {
    // SAFETY: passed on to the caller; only the tile's own pixels are read.
    unsafe {
        let c = [
            gradient_column::<V, H, P, Q>(from, line, pixel, outputs, access, 0),
            gradient_column::<V, H, P, Q>(from, line, pixel, outputs, access, 1),
            gradient_column::<V, H, P, Q>(from, line, pixel, outputs, access, 2),
            gradient_column::<V, H, P, Q>(from, line, pixel, outputs, access, 3),
        ];
        if uses(H, P) {
            gradient_line([c[0].0, c[1].0, c[2].0, c[3].0], outputs, to, distance, P);
        }
        if uses(H, Q) {
            gradient_line([c[0].1, c[1].1, c[2].1, c[3].1], outputs, to, distance, Q);
        }
    }
}

/// Points `P` and `Q` of a column of the tile.
#[inline(always)]
unsafe fn gradient_column<V: Vector, const H: usize, const P: usize, const Q: usize>(
    from: *const f32,
    line: usize,
    pixel: usize,
    outputs: usize,
    access: impl Access,
    j: usize,
) -> (V, V) {
    // SAFETY: passed on to the caller; only the tile's own pixels are read.
    unsafe {
        let mut y = [V::splat(0.0); TILE];
        if j < outputs {
            for (i, y) in y.iter_mut().enumerate().take(H) {
                *y = access.load(from.wrapping_add(i * line + j * pixel));
            }
        }
        let points = gradient::<V, H>(y);
        (points[P], points[Q])
    }
}

/// The other dimension of [`gradient_column`], for line `i` of the points.
#[inline(always)]
unsafe fn gradient_line<V: Vector, D: Distance>(
    line: [V; TILE],
    outputs: usize,
    to: *mut f32,
    distance: D,
    i: usize,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        match outputs {
            4 => store_line::<V, D, 4>(gradient::<V, 4>(line), to, distance, i),
            3 => store_line::<V, D, 3>(gradient::<V, 3>(line), to, distance, i),
            2 => store_line::<V, D, 2>(gradient::<V, 2>(line), to, distance, i),
            _ => store_line::<V, D, 1>(gradient::<V, 1>(line), to, distance, i),
        }
    }
}
