//! Every kernel over one table of shapes (`shapes`), beside the plain reference (small shapes only),
//! candle's own operation and what the machine's matrix product and memory can do.
//!
//! `cargo xtask bench` runs it and makes one table of it. Each result is held to the definition
//! before it is timed. Everything runs on rayon's global pool, candle and the roofs too.

mod channels_first;
mod conv;
mod loss;
mod machine;
mod measure;
#[path = "../../tests/noise/mod.rs"]
mod noise;
mod norm;
mod pool;
#[allow(dead_code, reason = "the tests use all of it, the benches a part")]
#[path = "../../tests/elementwise/reference.rs"]
mod reference;
mod shapes;

use criterion::{Criterion, criterion_group, criterion_main};
use std::time::Duration;

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = machine::roofs, conv::convolutions, norm::norms, pool::pools, loss::dense, loss::losses
}
criterion_main!(benches);
