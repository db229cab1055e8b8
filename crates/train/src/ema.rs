//! Exponential moving averages of flat buffers.

use slimtau_parallel::{chunks, chunks_mut, for_each_chunk};

/// average = decay average + (1 - decay) current: an EMA of weights, or MoCo's key encoder (He et
/// al., 2020, equation 2).
///
/// # Panics
/// When the buffers differ in length.
pub fn ema_update(decay: f32, average: &mut [f32], current: &[f32]) {
    let _span = tracing::trace_span!("optimiser").entered();
    assert_eq!(average.len(), current.len(), "average and current differ in length");
    const CHUNK: usize = 1 << 16;
    let parts = (chunks_mut(average, CHUNK), chunks(current, CHUNK));
    for_each_chunk(parts, |_, (average, current)| {
        for (a, c) in average.iter_mut().zip(current) {
            *a = decay * *a + (1.0 - decay) * c;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::ema_update;

    #[test]
    fn closed_form() {
        // From 0 towards a constant c, n updates give c (1 - decay^n).
        let mut average = vec![0.0f32; 100_000];
        let current = vec![2.0f32; 100_000];
        for _ in 0..10 {
            ema_update(0.9, &mut average, &current);
        }
        let expected = 2.0 * (1.0 - 0.9f32.powi(10));
        assert!(average.iter().all(|a| (a - expected).abs() < 1e-6));
    }
}
