//! MoCo on the supernet: key queue, momentum encoder, InfoNCE step.
