//! Slimmable convolution, batch norm, pooling and losses, forward and backward, as candle custom ops.
