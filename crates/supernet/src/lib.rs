//! The weight-sharing ResNet: forward and backward for any subnet, checkpoints.
