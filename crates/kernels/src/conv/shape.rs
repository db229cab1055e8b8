//! The geometry of one slimmable convolution.

/// The sizes of one call. Activations are `[batch, height, width, channels]` (NHWC), dense with the
/// *active* channel count; weights are `[kernel, kernel, full_in, full_out]` (HWIO), of which the
/// leading `[in_channels, out_channels]` block of every tap is active. Padding is `kernel / 2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Images.
    pub batch: usize,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Active input channels.
    pub in_channels: usize,
    /// Active output channels.
    pub out_channels: usize,
    /// Input channels of the shared weight, `>= in_channels`.
    pub full_in: usize,
    /// Output channels of the shared weight, `>= out_channels`.
    pub full_out: usize,
    /// Side of the square kernel.
    pub kernel: usize,
    /// Step between output positions, in both directions.
    pub stride: usize,
}

impl std::fmt::Display for ConvShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { batch, height, width, in_channels, out_channels, kernel, stride, .. } = self;
        write!(f, "{batch}x{height}x{width}, {in_channels} -> {out_channels}, ")?;
        write!(f, "{kernel}x{kernel} stride {stride}")
    }
}

impl ConvShape {
    /// Zero rows and columns around the input, on each side.
    pub fn padding(&self) -> usize {
        self.kernel / 2
    }

    /// Rows of the output.
    pub fn out_height(&self) -> usize {
        (self.height + 2 * self.padding() - self.kernel) / self.stride + 1
    }

    /// Columns of the output.
    pub fn out_width(&self) -> usize {
        (self.width + 2 * self.padding() - self.kernel) / self.stride + 1
    }

    /// Elements of the input activation.
    pub fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.in_channels
    }

    /// Elements of the output activation.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_height() * self.out_width() * self.out_channels
    }

    /// Elements of the whole shared weight, inactive channels included.
    pub fn weight_len(&self) -> usize {
        self.kernel * self.kernel * self.full_in * self.full_out
    }

    /// Multiply-accumulates of one forward pass, padding counted as work.
    pub fn macs(&self) -> usize {
        self.output_len() * self.kernel * self.kernel * self.in_channels
    }

    /// Panics unless the sizes are consistent and the three slices have the lengths they call for.
    pub(crate) fn check(&self, input: usize, weight: usize, output: usize) {
        assert!(
            self.kernel % 2 == 1 && self.stride > 0,
            "a convolution needs an odd kernel and a stride of at least 1: {self:?}"
        );
        assert!(
            self.in_channels <= self.full_in && self.out_channels <= self.full_out,
            "the active channels exceed the shared weight's: {self:?}"
        );
        assert!(
            self.height > 0 && self.width > 0,
            "a convolution needs at least one pixel: {self:?}"
        );
        assert_eq!(input, self.input_len(), "length of the input of {self:?}");
        assert_eq!(weight, self.weight_len(), "length of the weight of {self:?}");
        assert_eq!(output, self.output_len(), "length of the output of {self:?}");
    }
}
