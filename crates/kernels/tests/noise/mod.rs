//! The operands of the convolutions' tests and benches.

/// Uniform in [-1.73, 1.73], variance 1: what normalised activations look like. The same for the
/// same seed.
pub fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 3.46
    };
    (0..len).map(|_| next()).collect()
}
