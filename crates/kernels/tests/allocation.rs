//! Once its scratch memory has grown, no kernel allocates in proportion to its data. (Convolutions, and
//! whole training steps down to the last byte: `tests/allocation.rs` at the top of the repository.)

use slimtau_kernels::Scratch;
use slimtau_kernels::linear::{LinearShape, linear_backward, linear_forward};
use slimtau_kernels::loss::{Target, cross_entropy, info_nce, softmax};
use slimtau_kernels::norm::{Norm, batch_statistics, norm_backward, norm_forward};
use slimtau_kernels::pool::{
    PoolShape, average_pool_backward, average_pool_forward, max_pool_backward, max_pool_forward,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Allocations of at least this many bytes are counted: far below the smallest buffer here, above
/// what a thread pool needs for its queues.
const LARGE: usize = 4096;

static LARGE_ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE {
            LARGE_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's obligations are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above, hence from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn the_steady_state_allocates_nothing_large() {
    let (batch, side, channels, classes) = (8, 32, 24, 100);
    let pixels = side * side;
    let len = batch * pixels * channels;
    let shape = PoolShape { batch, height: side, width: side, channels };
    let (mut x, mut y, mut grad) = (vec![1.0; len], vec![0.0; len], vec![1.0; len]);
    let (mut pooled, mut argmax) = (vec![0.0; shape.output_len()], vec![0; shape.output_len()]);
    let (mut mean, mut var) = (vec![0.0; channels], vec![0.0; channels]);
    let (gamma, beta) = (vec![1.0; channels], vec![0.5; channels]);
    let (mut grad_gamma, mut grad_beta) = (vec![0.0; channels], vec![0.0; channels]);
    let (mut features, grad_features) = (vec![0.0; batch * channels], vec![0.1; batch * channels]);
    let logits = vec![0.3; batch * classes];
    let (mut probabilities, mut grad_logits) = (logits.clone(), logits.clone());
    let linear = LinearShape { rows: batch, inputs: channels, outputs: classes, full_inputs: 32 };
    let (weight, bias) = (vec![0.1; classes * 32], vec![0.2; classes]);
    let (mut grad_weight, mut grad_bias) = (weight.clone(), bias.clone());
    let (mut scores, mut grad_input) = (logits.clone(), features.clone());
    let (queue, mut grad_queries) = (vec![0.1; 3000 * channels], features.clone());
    let mut scratch = Scratch::new();

    let mut step = || {
        batch_statistics(channels, &x, &mut mean, &mut var, &mut scratch);
        let norm =
            Norm { channels, mean: &mean, var: &var, gamma: &gamma, beta: &beta, relu: true };
        norm_forward(&norm, &x, None, &mut y);
        max_pool_forward(&shape, &y, &mut pooled, Some(&mut argmax));
        average_pool_forward(batch, pixels, channels, &y, &mut features);
        softmax(classes, 2.0, &logits, &mut probabilities);
        let target = Target::Soft(&probabilities);
        cross_entropy(classes, &logits, target, 1.0, &mut grad_logits);
        linear_forward(&linear, &features, &weight, &bias, &mut scores);
        linear_backward(
            &linear,
            &features,
            &weight,
            &grad_logits,
            Some(&mut grad_input),
            &mut grad_weight,
            &mut grad_bias,
        );
        let (q, k) = (&features, &grad_features);
        info_nce(channels, 0.1, q, k, &queue, &mut grad_queries, &mut scratch);
        average_pool_backward(batch, pixels, channels, &grad_features, &mut grad);
        max_pool_backward(&shape, &argmax, &pooled, &mut grad);
        norm_backward(
            &norm,
            true,
            &mut x,
            None,
            &mut grad,
            &mut grad_gamma,
            &mut grad_beta,
            &mut scratch,
        );
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one");
    pool.install(|| {
        step();
        let before = LARGE_ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..3 {
            step();
        }
        assert_eq!(LARGE_ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
    });
}
