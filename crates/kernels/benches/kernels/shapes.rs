//! The one table of shapes: layers of the `mini` and `cvpr2022` spaces at their widest and slimmed,
//! with the batch sizes that their steps are measured at (64 and 8), and some of them in small for
//! the plain references.

use slimtau_kernels::conv::ConvShape;
use slimtau_kernels::linear::LinearShape;
use slimtau_kernels::pool::PoolShape;

/// A convolution of a space: `channels` of the `full` ones, in and out.
pub struct Layer {
    space: &'static str,
    batch: usize,
    side: usize,
    pub channels: [usize; 2],
    full: [usize; 2],
    kernel: usize,
    stride: usize,
}

impl Layer {
    pub fn shape(&self) -> ConvShape {
        ConvShape {
            batch: self.batch,
            height: self.side,
            width: self.side,
            in_channels: self.channels[0],
            out_channels: self.channels[1],
            full_in: self.full[0],
            full_out: self.full[1],
            kernel: self.kernel,
            stride: self.stride,
        }
    }

    pub fn name(&self) -> String {
        let Self { space, batch, side, channels: [i, o], full, kernel: k, stride, .. } = self;
        let of = if self.channels == *full {
            String::new()
        } else {
            format!(" of {}-{}", full[0], full[1])
        };
        format!("{space} {batch}x{side}x{side} {i}-{o}{of} {k}x{k} s{stride}")
    }
}

const fn widest(
    space: &'static str,
    [batch, side]: [usize; 2],
    channels: [usize; 2],
    [kernel, stride]: [usize; 2],
) -> Layer {
    Layer { space, batch, side, channels, full: channels, kernel, stride }
}

const fn slimmed(
    space: &'static str,
    [batch, side]: [usize; 2],
    channels: [usize; 2],
    full: [usize; 2],
    [kernel, stride]: [usize; 2],
) -> Layer {
    Layer { space, batch, side, channels, full, kernel, stride }
}

/// Batch and side, input and output channels (and those of the widest), kernel and stride.
pub const LAYERS: &[Layer] = &[
    widest("mini", [64, 28], [1, 32], [3, 1]),
    widest("mini", [64, 28], [32, 32], [3, 1]),
    widest("mini", [64, 14], [64, 64], [3, 1]),
    widest("mini", [64, 7], [128, 128], [3, 1]),
    widest("mini", [64, 4], [256, 256], [3, 1]),
    widest("mini", [64, 28], [32, 64], [3, 2]),
    widest("mini", [64, 14], [64, 128], [3, 2]),
    widest("mini", [64, 7], [128, 256], [3, 2]),
    widest("mini", [64, 28], [32, 64], [1, 2]),
    widest("mini", [64, 7], [128, 256], [1, 2]),
    slimmed("mini", [64, 28], [24, 24], [32, 32], [3, 1]),
    slimmed("mini", [64, 14], [48, 56], [64, 64], [3, 1]),
    slimmed("mini", [64, 7], [104, 88], [128, 128], [3, 1]),
    slimmed("mini", [64, 4], [208, 176], [256, 256], [3, 1]),
    slimmed("mini", [64, 14], [48, 88], [64, 128], [3, 2]),
    slimmed("mini", [64, 14], [48, 88], [64, 128], [1, 2]),
    // A code that breaks the ties projects at stride 1; it stands alone.
    widest("mini", [64, 28], [32, 24], [1, 1]),
    widest("cvpr2022", [8, 224], [3, 64], [7, 2]),
    widest("cvpr2022", [8, 56], [64, 64], [3, 1]),
    widest("cvpr2022", [8, 28], [128, 128], [3, 1]),
    widest("cvpr2022", [8, 14], [256, 256], [3, 1]),
    widest("cvpr2022", [8, 7], [512, 512], [3, 1]),
    widest("cvpr2022", [8, 56], [64, 128], [3, 2]),
    widest("cvpr2022", [8, 28], [128, 256], [3, 2]),
    widest("cvpr2022", [8, 14], [256, 512], [3, 2]),
    widest("cvpr2022", [8, 56], [64, 128], [1, 2]),
    widest("cvpr2022", [8, 14], [256, 512], [1, 2]),
    slimmed("cvpr2022", [8, 224], [3, 48], [3, 64], [7, 2]),
    slimmed("cvpr2022", [8, 56], [48, 48], [64, 64], [3, 1]),
    slimmed("cvpr2022", [8, 28], [104, 88], [128, 128], [3, 1]),
    slimmed("cvpr2022", [8, 14], [208, 232], [256, 256], [3, 1]),
    slimmed("cvpr2022", [8, 7], [408, 360], [512, 512], [3, 1]),
    slimmed("cvpr2022", [8, 14], [176, 360], [256, 512], [3, 2]),
    slimmed("cvpr2022", [8, 28], [88, 176], [128, 256], [1, 2]),
    widest("cvpr2022", [8, 56], [64, 48], [1, 1]),
    // In small (a quarter of the side for the stem), for the reference.
    widest("mini", [2, 28], [32, 32], [3, 1]),
    widest("mini", [2, 14], [64, 64], [3, 1]),
    slimmed("mini", [2, 7], [104, 88], [128, 128], [3, 1]),
    widest("mini", [2, 14], [64, 128], [3, 2]),
    widest("mini", [2, 14], [64, 128], [1, 2]),
    widest("cvpr2022", [1, 56], [3, 64], [7, 2]),
];

/// An activation `[batch, side, side, channels]`.
pub struct Map {
    space: &'static str,
    pub batch: usize,
    pub side: usize,
    pub channels: usize,
}

impl Map {
    pub fn len(&self) -> usize {
        self.batch * self.side * self.side * self.channels
    }

    pub fn pixels(&self) -> usize {
        self.side * self.side
    }

    pub fn pool(&self) -> PoolShape {
        let Self { batch, side, channels, .. } = *self;
        PoolShape { batch, height: side, width: side, channels }
    }

    pub fn name(&self) -> String {
        let Self { space, batch, side, channels } = self;
        format!("{space} {batch}x{side}x{side}x{channels}")
    }
}

const fn map(space: &'static str, [batch, side, channels]: [usize; 3]) -> Map {
    Map { space, batch, side, channels }
}

/// Where batch norm works: the outputs of convolutions.
pub const NORMS: &[Map] = &[
    map("mini", [64, 28, 32]),
    map("mini", [64, 14, 64]),
    map("mini", [64, 7, 128]),
    map("mini", [64, 4, 256]),
    map("mini", [64, 28, 24]),
    map("mini", [64, 7, 88]),
    map("cvpr2022", [8, 112, 64]),
    map("cvpr2022", [8, 56, 64]),
    map("cvpr2022", [8, 28, 128]),
    map("cvpr2022", [8, 14, 256]),
    map("cvpr2022", [8, 7, 512]),
    map("cvpr2022", [8, 56, 48]),
];

/// Inputs of the stem's max pool.
pub const MAX_POOLS: &[Map] =
    &[map("cvpr2022", [8, 112, 64]), map("cvpr2022", [8, 112, 48]), map("cvpr2022", [1, 112, 64])];

/// Inputs of the head's average pool.
pub const AVERAGE_POOLS: &[Map] = &[
    map("mini", [64, 4, 256]),
    map("mini", [64, 4, 176]),
    map("cvpr2022", [8, 7, 512]),
    map("cvpr2022", [8, 7, 360]),
];

/// Rows, inputs of all inputs, outputs: classifiers, then the two layers of the contrastive head.
pub const DENSE: &[(&str, LinearShape)] = &[
    ("mini", LinearShape { rows: 64, inputs: 256, outputs: 10, full_inputs: 256 }),
    ("mini", LinearShape { rows: 64, inputs: 176, outputs: 10, full_inputs: 256 }),
    ("cvpr2022", LinearShape { rows: 8, inputs: 512, outputs: 1000, full_inputs: 512 }),
    ("cvpr2022", LinearShape { rows: 8, inputs: 360, outputs: 1000, full_inputs: 512 }),
    ("cvpr2022", LinearShape { rows: 256, inputs: 512, outputs: 1000, full_inputs: 512 }),
    ("mini", LinearShape { rows: 64, inputs: 256, outputs: 256, full_inputs: 256 }),
    ("mini", LinearShape { rows: 64, inputs: 256, outputs: 128, full_inputs: 256 }),
    ("cvpr2022", LinearShape { rows: 256, inputs: 512, outputs: 512, full_inputs: 512 }),
];

pub fn dense_name(space: &str, shape: &LinearShape) -> String {
    let LinearShape { rows, inputs, outputs, full_inputs } = shape;
    let of = if inputs == full_inputs { String::new() } else { format!(" of {full_inputs}") };
    format!("{space} {rows} rows {inputs}{of}-{outputs}")
}

/// Rows and classes of the softmax cross-entropy.
pub const LOGITS: &[(&str, [usize; 2])] =
    &[("mini", [64, 10]), ("cvpr2022", [8, 1000]), ("cvpr2022", [256, 1000])];

/// Queries, keys in the queue and length of an embedding.
pub const CONTRASTS: &[(&str, [usize; 3])] =
    &[("mini", [64, 4096, 128]), ("cvpr2022", [256, 40_960, 128]), ("mini", [16, 512, 128])];
