//! Time of short kernels with rayon's parallel iterators, with one fork and join each, and with threads
//! held for all of them: `cargo run --release -p slimtau-parallel --example short_kernels -- [THREADS]`.

use rayon::prelude::*;
use slimtau_parallel::{chunks_mut, for_each_chunk, hold};
use std::time::Instant;

const KERNELS: usize = 500;
const ROUNDS: usize = 5;
const CHUNK: usize = 1 << 13;

fn work(chunk: &mut [f32]) {
    for x in chunk {
        *x = (*x * 0.5 + 1.0).sqrt();
    }
}

/// Microseconds a kernel.
fn time(kernels: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    kernels();
    begin.elapsed().as_secs_f64() * 1e6 / KERNELS as f64
}

fn by_rayon(data: &mut [f32]) {
    (0..KERNELS).for_each(|_| data.par_chunks_mut(CHUNK).for_each(work));
}

fn by_ours(data: &mut [f32]) {
    (0..KERNELS).for_each(|_| for_each_chunk(chunks_mut(data, CHUNK), |_, chunk| work(chunk)));
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(2), |n| n.parse())?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    println!("microseconds a kernel on {threads} threads, medians of {ROUNDS} alternating rounds");
    println!("{:>8} {:>8} {:>8} {:>8}", "floats", "rayon", "ours", "held");
    for len in [1 << 14, 1 << 17, 1 << 20] {
        let mut data = vec![1.0f32; len];
        let mut rounds = [[0.0; ROUNDS]; 3];
        pool.install(|| {
            for round in 0..ROUNDS {
                rounds[0][round] = time(|| by_rayon(&mut data));
                rounds[1][round] = time(|| by_ours(&mut data));
                rounds[2][round] = time(|| hold(|| by_ours(&mut data)));
            }
        });
        let [rayon, ours, held] = rounds.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[ROUNDS / 2]
        });
        println!("{len:>8} {rayon:>8.1} {ours:>8.1} {held:>8.1}");
    }
    Ok(())
}
