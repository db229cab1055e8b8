//! Why a GPU was not used, or a call failed on it.

/// What went wrong with a GPU.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// The driver's library is not installed.
    #[error("no NVIDIA driver: libcuda.so cannot be loaded; install the driver, or run on the CPU")]
    NoDriver,
    /// The compiler's library is not installed.
    #[error(
        "no CUDA compiler: libnvrtc.so cannot be loaded; install the CUDA toolkit 12 or 13 (or Python's \
         nvidia-cuda-nvrtc) and put the library's folder into LD_LIBRARY_PATH"
    )]
    NoCompiler,
    /// The compiler is of a later CUDA than the driver, which does not load what it makes.
    #[error(
        "the CUDA compiler libnvrtc is of version {}.{}, but the driver of {}.{} does not load its code: \
         install a newer driver or an older libnvrtc ({answer})",
        compiler.0, compiler.1, driver.0, driver.1
    )]
    OldDriver {
        /// Version of NVRTC.
        compiler: (i32, i32),
        /// The latest CUDA that the driver knows.
        driver: (i32, i32),
        /// The failed call.
        answer: String,
    },
    /// There are fewer GPUs than that.
    #[error("there is no GPU {ordinal}: the driver sees {count}")]
    NoDevice {
        /// The number asked for, from 0.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The card's generation lacks what the kernels use.
    #[error(
        "GPU {ordinal} ({name}) has compute capability {major}.{minor}; bf16 tensor cores need 8.0 or later"
    )]
    TooOld {
        /// Its number.
        ordinal: usize,
        /// Its name.
        name: String,
        /// Its compute capability.
        major: i32,
        /// The part after the point.
        minor: i32,
    },
    /// A buffer did not fit.
    #[error(
        "out of GPU memory: {bytes} more bytes were asked for, {free} are free; fewer trainings at once, smaller batches in evaluation, or another program that ends would help"
    )]
    OutOfMemory {
        /// The buffer's size.
        bytes: usize,
        /// What was left.
        free: usize,
    },
    /// The driver refused a call, or reports the failure of an earlier one.
    #[error("{call}: the CUDA driver answers {answer}")]
    Driver {
        /// What was asked for.
        call: String,
        /// The driver's name and words for the error.
        answer: String,
    },
    /// NVRTC refused a source.
    #[error("compiling {module} for {target} failed: {log}")]
    Compile {
        /// The source.
        module: String,
        /// The architecture.
        target: String,
        /// The compiler's words.
        log: String,
    },
    /// The emulator's library is not as it should be.
    #[error("the emulator {path}: {problem}")]
    Emulator {
        /// Where it was looked for.
        path: std::path::PathBuf,
        /// What is wrong.
        problem: String,
    },
}
