//! What may happen to flat gradients between backward and the optimiser: the mean over data-parallel
//! replicas, clipping by the global norm, and summing while each summand's norm is taken. All have one
//! order of summation, whatever the number of threads.

use slimtau_parallel::{MOST_SUMS, chunks, chunks_mut, for_each_chunk, sum_over_chunks};

const CHUNK: usize = 1 << 15;

/// Zeros for gradients and velocities, in memory that is there already.
///
/// `vec![0.0; len]` is a promise of the system's, kept page by page at the first touch; and a page that is first read and
/// then written, as an optimiser does, costs two faults and interrupts every other core.
pub fn zeros(len: usize) -> Vec<f32> {
    let mut zeros = vec![0.0; len];
    for value in zeros.iter_mut().step_by(PAGE_FLOATS) {
        *value = std::hint::black_box(0.0); // a store that the compiler must not drop
    }
    zeros
}

/// Of the smallest pages in use, 4 KiB.
const PAGE_FLOATS: usize = 1 << 10;

/// Replaces the first replica's gradients by the mean over all, and zeroes the others, ready for
/// their next step.
///
/// The sum runs from the first replica to the last, so that equal inputs give equal bits. Nothing
/// happens to a single replica or to none.
///
/// # Panics
/// When the replicas differ in length.
pub fn reduce_mean(replicas: &mut [Vec<f32>]) {
    let count = replicas.len();
    let Some((mean, others)) = replicas.split_first_mut() else { return };
    for other in others.iter() {
        assert_eq!(other.len(), mean.len(), "replicas differ in length");
    }
    for (i, other) in others.iter_mut().enumerate() {
        // The division comes with the last replica, in the same pass.
        let divisor = if i + 2 == count { count as f32 } else { 1.0 };
        let parts = (chunks_mut(mean, CHUNK), chunks_mut(other, CHUNK));
        for_each_chunk(parts, |_, (mean, other)| {
            for (m, o) in mean.iter_mut().zip(other) {
                *m = (*m + *o) / divisor;
                *o = 0.0;
            }
        });
    }
}

/// Scales the gradients by max_norm / (norm + 1e-6) if that is below 1, as PyTorch's
/// `clip_grad_norm_`, and returns their L2 norm as it was, which belongs in the log.
///
/// A norm that is not finite leaves the gradients as they are: no factor could repair them, and the
/// loss will say so.
pub fn clip_global_norm(grads: &mut [f32], max_norm: f64) -> f64 {
    let len = part_len(grads.len());
    let norm = sum_over_chunks(chunks(grads, len), |_, grads| sum_of_squares(grads)).sqrt();
    let factor = max_norm / (norm + 1e-6);
    if norm.is_finite() && factor < 1.0 {
        let factor = factor as f32;
        for_each_chunk(chunks_mut(grads, CHUNK), |_, chunk| {
            chunk.iter_mut().for_each(|g| *g *= factor);
        });
    }
    norm
}

/// Adds `grads` to `total`, zeroes them, ready for the next backward pass, and returns their L2 norm
/// as they were: the norm of one summand of an accumulated gradient. Allocates nothing.
///
/// # Panics
/// When the buffers differ in length.
pub fn drain_into(total: &mut [f32], grads: &mut [f32]) -> f64 {
    assert_eq!(total.len(), grads.len(), "total and gradients differ in length");
    let len = part_len(grads.len());
    let parts = (chunks_mut(total, len), chunks_mut(grads, len));
    let squares = sum_over_chunks(parts, |_, (total, grads)| {
        let squares = sum_of_squares(grads);
        for (t, g) in total.iter_mut().zip(grads) {
            *t += *g;
            *g = 0.0;
        }
        squares
    });
    squares.sqrt()
}

/// Length of at most [`MOST_SUMS`] parts of a buffer.
fn part_len(len: usize) -> usize {
    len.div_ceil(MOST_SUMS).max(CHUNK)
}

/// In f64, where no f32 square overflows; eight running sums, so that the compiler can use vectors.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (blocks, rest) = values.as_chunks::<8>();
    for block in blocks {
        for (sum, &x) in sums.iter_mut().zip(block) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_of_replicas() {
        let check = |replicas: &[&[f32]], mean: &[f32]| {
            let mut given: Vec<Vec<f32>> = replicas.iter().map(|r| r.to_vec()).collect();
            reduce_mean(&mut given);
            assert_eq!(given[0], mean);
            assert!(given[1..].iter().flatten().all(|&g| g == 0.0), "not ready for the next step");
        };
        check(&[&[1.0, -2.0]], &[1.0, -2.0]);
        check(&[&[1.0, -2.0], &[3.0, 4.0]], &[2.0, 1.0]);
        check(&[&[1.0, 0.0], &[2.0, 0.0], &[6.0, -3.0]], &[3.0, -1.0]);
        // 1 vanishes beside 2^25 only when it is added after it: the order is first to last.
        let big = 33_554_432.0f32;
        check(&[&[big], &[1.0], &[-big], &[0.0]], &[0.0]);
        check(&[&[big], &[-big], &[1.0], &[0.0]], &[0.25]);
        reduce_mean(&mut []);
    }

    #[test]
    fn clipping() {
        let check = |mut grads: Vec<f32>, max_norm, norm: f64, first: f32| {
            let found = clip_global_norm(&mut grads, max_norm);
            assert!((found - norm).abs() <= 1e-9 * norm, "{found} for {norm}");
            assert!((grads[0] - first).abs() <= 1e-5 * first.abs(), "{} for {first}", grads[0]);
        };
        check(vec![3.0, 4.0], 10.0, 5.0, 3.0);
        check(vec![3.0, 4.0], 1.0, 5.0, 0.6);
        check(vec![0.0; 3], 1.0, 0.0, 0.0);
        check(vec![2.0; 90_000], 6.0, 600.0, 0.02);
        // Squares of these overflow f32.
        check(vec![3e30, 4e30], 1.0, f64::from(3e30f32).hypot(f64::from(4e30f32)), 0.6);
    }

    #[test]
    fn a_broken_gradient_is_reported_and_left_alone() {
        let mut grads = [1.0, f32::INFINITY];
        assert_eq!(clip_global_norm(&mut grads, 1.0), f64::INFINITY);
        assert_eq!(grads, [1.0, f32::INFINITY]);
        assert!(clip_global_norm(&mut [1.0, f32::NAN], 1.0).is_nan());
    }

    #[test]
    fn draining_adds_clears_and_measures() {
        for n in [0, 1, 90_001] {
            let (mut total, mut grads) = (vec![1.0f32; n], vec![-2.0f32; n]);
            let norm = drain_into(&mut total, &mut grads);
            assert!((norm - 2.0 * (n as f64).sqrt()).abs() <= 1e-9 * norm, "{norm} of {n}");
            assert!(total.iter().all(|&t| t == -1.0) && grads.iter().all(|&g| g == 0.0));
            assert_eq!(drain_into(&mut total, &mut grads), 0.0);
        }
    }

    #[test]
    fn norms_do_not_depend_on_the_number_of_threads() {
        // More than MOST_SUMS times CHUNK.
        let grads: Vec<f32> = (0..9_000_001).map(|i| ((i * 7919) % 1000) as f32 * 1e-3).collect();
        let norms = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let clipped = clip_global_norm(&mut grads.clone(), 1.0);
                let drained = drain_into(&mut vec![0.0; grads.len()], &mut grads.clone());
                (clipped.to_bits(), drained.to_bits())
            })
        };
        assert_eq!(norms(1), norms(3));
    }
}
