//! Time of short kernels with rayon's parallel iterators, with one fork and join each, and with threads
//! held for all of them: `cargo run --release -p slimtau-parallel --example short_kernels -- [THREADS]`.

use rayon::prelude::*;
use slimtau_parallel::{chunks_mut, for_each_chunk, hold};
use std::time::Instant;

const KERNELS: usize = 2_000;
const CHUNK: usize = 1 << 13;

fn work(chunk: &mut [f32]) {
    for x in chunk {
        *x = (*x * 0.5 + 1.0).sqrt();
    }
}

fn microseconds(kernels: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    kernels();
    begin.elapsed().as_secs_f64() * 1e6 / KERNELS as f64
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(2), |n| n.parse())?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    println!(
        "us a kernel on {threads} threads\n{:>8} {:>8} {:>8} {:>8}",
        "floats", "rayon", "ours", "held"
    );
    for len in [1 << 14, 1 << 17, 1 << 20] {
        let mut data = vec![1.0f32; len];
        pool.install(|| {
            let rayon = microseconds(|| {
                (0..KERNELS).for_each(|_| data.par_chunks_mut(CHUNK).for_each(work));
            });
            let mut ours = || {
                (0..KERNELS)
                    .for_each(|_| for_each_chunk(chunks_mut(&mut data, CHUNK), |_, c| work(c)));
            };
            let free = microseconds(&mut ours);
            let held = microseconds(|| hold(ours));
            println!("{len:>8} {rayon:>8.1} {free:>8.1} {held:>8.1}");
        });
    }
    Ok(())
}
