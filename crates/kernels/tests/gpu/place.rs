//! Where the tests of GPU code run; shared by several crates. `SLIMTAU_TEST_GPU` holds the number of a GPU,
//! `SLIMTAU_EMULATOR` the path of the emulator.

use slimtau_kernels::gpu::Gpu;

/// The GPU, or the emulator in both orders of a block's threads.
pub fn gpus() -> Vec<Gpu> {
    if let Ok(ordinal) = std::env::var("SLIMTAU_TEST_GPU") {
        let ordinal = ordinal.parse().expect("SLIMTAU_TEST_GPU: the number of a GPU");
        return vec![Gpu::open(ordinal).expect("the GPU of SLIMTAU_TEST_GPU")];
    }
    let path = std::env::var_os("SLIMTAU_EMULATOR").expect("run by `cargo xtask cuda test`");
    [false, true]
        .map(|reversed| Gpu::emulated(path.as_ref(), reversed).expect("the emulator"))
        .into()
}
