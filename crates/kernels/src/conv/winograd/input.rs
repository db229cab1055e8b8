//! `V = B^T d B`: input tiles to the points of the Winograd domain.

use std::ops::Range;

use super::grid::{Block, Tile};
use super::points::{POINTS, TILE, input, uses};
use crate::conv::simd::{Job, LANES, Simd, Vector};

/// What stands for a pixel outside the map.
static ZEROS: [f32; 16] = [0.0; 16];

/// Transforms some tiles of a block, some channels of them.
///
/// `V[point][tile][channel]` is written at `to + point * point_stride + t * row + channel -
/// channels.start`, channels padded with zeros to a multiple of [`LANES`].
#[derive(Clone)]
pub(super) struct InputTiles<'a> {
    pub block: &'a Block,
    /// Which tiles of the block.
    pub tiles: Range<usize>,
    /// The map, `[image][height][width][row length `pixel`]`.
    pub from: *const f32,
    pub height: usize,
    pub width: usize,
    pub pixel: usize,
    pub channels: Range<usize>,
    pub to: *mut f32,
    pub point_stride: usize,
    pub row: usize,
}

impl Job for InputTiles<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        self.block.for_each(self.tiles.clone(), |t, tile| {
            let to = self.to.wrapping_add(t * self.row);
            // SAFETY: the caller lends the map and room for the tiles.
            unsafe { self.tile::<S>(tile, to) }
        });
    }
}

/// The 6 x 6 pixels under a tile, as seen from its first channel.
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
}

impl InputTiles<'_> {
    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, tile: Tile, to: *mut f32) {
        let line = self.width * self.pixel;
        let pixel = (tile.image * self.height + tile.y) * self.width + tile.x;
        let window = Window {
            start: self.from.wrapping_add(pixel * self.pixel).wrapping_sub(line + self.pixel),
            line,
            pixel: self.pixel,
            top: tile.y == 0,
            bottom: tile.y + tile.height == self.height,
            left: tile.x == 0,
            right: tile.x + tile.width == self.width,
        };
        macro_rules! sizes {
            ($(($h:literal, $w:literal))*) => {
                match (tile.height, tile.width) {
                    // SAFETY: passed on.
                    $(($h, $w) => unsafe { self.channels::<S, $h, $w>(window, to) },)*
                    _ => unreachable!("a tile has 1 to 4 outputs a side"),
                }
            };
        }
        sizes!((4, 4)(4, 3)(4, 2)(4, 1)(3, 4)(3, 3)(3, 2)(3, 1)(2, 4)(2, 3)(2, 2)(2, 1)(1, 4)(
            1, 3
        )(1, 2)(1, 1));
    }

    #[inline(always)]
    unsafe fn channels<S: Simd, const H: usize, const W: usize>(
        &self,
        window: Window,
        to: *mut f32,
    ) {
        let Range { start, end } = self.channels;
        let mut c = start;
        // SAFETY: channels `c..c + LANES` of each, or as many as there are, are within the pixel;
        // they go to the tile's own row.
        unsafe {
            while c + S::Wide::LANES <= end {
                let load = |p| S::Wide::load(p);
                window_points::<_, H, W>(
                    window,
                    c,
                    load,
                    to.wrapping_add(c - start),
                    self.point_stride,
                );
                c += S::Wide::LANES;
            }
            while c < end {
                let n = LANES.min(end - c);
                let load = |p| S::Narrow::load_partial(p, n);
                window_points::<_, H, W>(
                    window,
                    c,
                    load,
                    to.wrapping_add(c - start),
                    self.point_stride,
                );
                c += LANES;
            }
        }
    }
}

/// One vector of channels of one tile.
#[inline(always)]
unsafe fn window_points<V: Vector, const H: usize, const W: usize>(
    window: Window,
    channel: usize,
    load: impl Fn(*const f32) -> V,
    to: *mut f32,
    point_stride: usize,
) {
    // SAFETY: passed on to the caller. Pixels outside of the map are replaced by zeros: no tile
    // reaches further than one pixel over a side.
    unsafe {
        let zero = V::splat(0.0);
        let start = window.start.wrapping_add(channel);
        let (top, top_step) = if window.top { (ZEROS.as_ptr(), 0) } else { (start, window.pixel) };
        let (bottom, bottom_step) = if window.bottom {
            (ZEROS.as_ptr(), 0)
        } else {
            (start.wrapping_add((H + 1) * window.line), window.pixel)
        };
        let mut vertical = [[zero; POINTS]; POINTS];
        for j in 0..W + 2 {
            if (j == 0 && window.left) || (j == W + 1 && window.right) {
                continue;
            }
            let mut d = [zero; POINTS];
            d[0] = load(top.wrapping_add(j * top_step));
            for (i, d) in d.iter_mut().enumerate().take(H + 1).skip(1) {
                *d = load(start.wrapping_add(i * window.line + j * window.pixel));
            }
            d[H + 1] = load(bottom.wrapping_add(j * bottom_step));
            let points = input::<V, H>(d);
            for i in 0..POINTS {
                vertical[i][j] = points[i];
            }
        }
        for i in 0..POINTS {
            if uses(H, i) {
                let points = input::<V, W>(vertical[i]);
                for j in 0..POINTS {
                    if uses(W, j) {
                        points[j].store(to.wrapping_add((i * POINTS + j) * point_stride));
                    }
                }
            }
        }
    }
}

/// `Z = A dy A^T`: tiles of an output gradient to the points, for the weight gradient.
///
/// `Z[point][panel][tile][column]` goes to `to + point * point_stride + tiles * first column of the
/// panel + t * width of the panel + column`: the layout of the products' right operand, `tiles`
/// being the depth of the sum.
#[derive(Clone)]
pub(super) struct GradientTiles<'a> {
    pub block: &'a Block,
    pub range: Range<usize>,
    /// The map, `[image][height][width][channels]`.
    pub from: *const f32,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub panels: crate::conv::product::Panels,
    pub to: *mut f32,
    pub point_stride: usize,
    /// Tiles that a panel holds.
    pub tiles: usize,
}

impl Job for GradientTiles<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        self.block.for_each(self.range.clone(), |t, tile| {
            macro_rules! sizes {
                ($(($h:literal, $w:literal))*) => {
                    match (tile.height, tile.width) {
                        // SAFETY: the caller lends the map and room for the tiles.
                        $(($h, $w) => unsafe { self.panels::<S, $h, $w>(t, tile) },)*
                        _ => unreachable!("a tile has 1 to 4 outputs a side"),
                    }
                };
            }
            sizes!((4, 4)(4, 3)(4, 2)(4, 1)(3, 4)(3, 3)(3, 2)(3, 1)(2, 4)(2, 3)(2, 2)(2, 1)(1, 4)(
                1, 3
            )(1, 2)(1, 1));
        });
    }
}

impl GradientTiles<'_> {
    #[inline(always)]
    unsafe fn panels<S: Simd, const H: usize, const W: usize>(&self, t: usize, tile: Tile) {
        let pixel = (tile.image * self.height + tile.y) * self.width + tile.x;
        let from = self.from.wrapping_add(pixel * self.channels);
        let line = self.width * self.channels;
        for (first, units) in self.panels.iter() {
            let width = units * LANES;
            let to = self.to.wrapping_add(first * self.tiles + t * width);
            let mut c = 0;
            // SAFETY: the tile's pixels are within the map, and columns past the channels are
            // neither read nor left unwritten; they go to the tile's own row of the panel.
            unsafe {
                while c + S::Wide::LANES <= width && first + c + S::Wide::LANES <= self.channels {
                    let load = |p| S::Wide::load(p);
                    gradient_points::<_, H, W>(
                        from.wrapping_add(first + c),
                        line,
                        self.channels,
                        load,
                        to.wrapping_add(c),
                        self.point_stride,
                    );
                    c += S::Wide::LANES;
                }
                while c < width {
                    let n = LANES.min(self.channels.saturating_sub(first + c));
                    let load = |p| S::Narrow::load_partial(p, n);
                    gradient_points::<_, H, W>(
                        from.wrapping_add(first + c),
                        line,
                        self.channels,
                        load,
                        to.wrapping_add(c),
                        self.point_stride,
                    );
                    c += LANES;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn gradient_points<V: Vector, const H: usize, const W: usize>(
    from: *const f32,
    line: usize,
    pixel: usize,
    load: impl Fn(*const f32) -> V,
    to: *mut f32,
    point_stride: usize,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let zero = V::splat(0.0);
        let mut vertical = [[zero; TILE]; POINTS];
        for j in 0..W {
            let mut y = [zero; TILE];
            for (i, y) in y.iter_mut().enumerate().take(H) {
                *y = load(from.wrapping_add(i * line + j * pixel));
            }
            let points = super::points::gradient::<V, H>(y);
            for i in 0..POINTS {
                vertical[i][j] = points[i];
            }
        }
        for i in 0..POINTS {
            if uses(H, i) {
                let points = super::points::gradient::<V, W>(vertical[i]);
                for j in 0..POINTS {
                    if uses(W, j) {
                        points[j].store(to.wrapping_add((i * POINTS + j) * point_stride));
                    }
                }
            }
        }
    }
}
