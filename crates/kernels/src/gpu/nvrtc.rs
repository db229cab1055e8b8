//! The CUDA sources and their compilation by NVRTC.

use super::GpuError;
use cudarc::nvrtc::{result, sys};
use std::ffi::{CStr, CString, c_char};
use std::hash::Hash;

/// A source file with what it includes.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Its name, `conv.cu`.
    pub name: &'static str,
    source: &'static str,
}

macro_rules! source {
    ($name:literal) => {
        Module { name: $name, source: include_str!(concat!("../../cuda/", $name)) }
    };
}

const MODULES: [Module; 6] = [
    source!("conv.cu"),
    source!("loss.cu"),
    source!("norm.cu"),
    source!("optimiser.cu"),
    source!("pool.cu"),
    source!("rows.cu"),
];
const HEADERS: [Module; 3] = [source!("device.cuh"), source!("load.cuh"), source!("tile.cuh")];

/// The sources that together have all kernels.
pub fn modules() -> &'static [Module] {
    &MODULES
}

/// Machine code of a module.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// A cubin, which the driver loads as it is.
    pub code: Vec<u8>,
    /// What each kernel takes.
    pub kernels: Vec<KernelResources>,
}

/// What the assembler says of one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelResources {
    /// The kernel.
    pub name: String,
    /// Registers per thread.
    pub registers: u32,
    /// Bytes per thread that did not fit into registers, written and read.
    pub spills: u32,
}

fn options(target: &str) -> [String; 3] {
    [
        format!("--gpu-architecture={target}"),
        "--std=c++17".into(),
        "--ptxas-options=-v".into(), // registers and spills, in the log
    ]
}

/// The compiler's version, as (13, 0).
///
/// # Errors
/// When it is not installed.
pub(super) fn version() -> Result<(i32, i32), GpuError> {
    // Linked in, where candle's CUDA backend is built: then it is there.
    #[cfg(not(feature = "cuda"))]
    // SAFETY: looks for the library and loads it, whose constructors have no conditions.
    if !unsafe { sys::is_culib_present() } {
        return Err(GpuError::NoCompiler);
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two numbers.
    let answer = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    answer.result().map_err(|_| GpuError::NoCompiler)?;
    Ok((major, minor))
}

/// All that the code of a module follows from.
pub(super) fn fingerprint(module: &Module, target: &str) -> Result<impl Hash, GpuError> {
    let headers = HEADERS.map(|header| (header.name, header.source));
    Ok((module.name, module.source, headers, options(target), version()?))
}

/// Compiles a module for an architecture, such as `sm_90`.
///
/// # Errors
/// When NVRTC is not installed or refuses the source.
pub fn compile(module: &Module, target: &str) -> Result<Compiled, GpuError> {
    version()?;
    let program = Program::new(module)?;
    let options = options(target);
    let failed =
        |log: String| GpuError::Compile { module: module.name.into(), target: target.into(), log };
    // SAFETY: the program was created and is destroyed only when dropped.
    let answer = unsafe { result::compile_program(program.0, &options) };
    let log = program.log();
    answer.map_err(|e| failed(if log.is_empty() { e.to_string() } else { log.clone() }))?;
    let code = program.code().map_err(|e| failed(e.to_string()))?;
    Ok(Compiled { code, kernels: parse_log(&log) })
}

/// Destroys itself.
struct Program(sys::nvrtcProgram);

impl Program {
    fn new(module: &Module) -> Result<Self, GpuError> {
        let text = |s: &str| CString::new(s).expect("our sources have no zero bytes");
        let (source, name) = (text(module.source), text(module.name));
        let headers = HEADERS.map(|h| (text(h.source), text(h.name)));
        let sources: Vec<*const c_char> = headers.iter().map(|h| h.0.as_ptr()).collect();
        let names: Vec<*const c_char> = headers.iter().map(|h| h.1.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        // SAFETY: all strings end in zero and live until the call is over, which copies them.
        let answer = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program,
                source.as_ptr(),
                name.as_ptr(),
                headers.len() as i32,
                sources.as_ptr(),
                names.as_ptr(),
            )
        };
        answer.result().map_err(|e| GpuError::Compile {
            module: module.name.into(),
            target: "any".into(),
            log: e.to_string(),
        })?;
        Ok(Self(program))
    }

    fn log(&self) -> String {
        // SAFETY: the program exists; the log ends in zero.
        unsafe {
            match result::get_program_log(self.0) {
                Ok(log) if !log.is_empty() => CStr::from_ptr(log.as_ptr()).to_string_lossy().into(),
                _ => String::new(),
            }
        }
    }

    fn code(&self) -> Result<Vec<u8>, result::NvrtcError> {
        let mut size = 0;
        // SAFETY: the program exists and was compiled for a real architecture; the buffer has the size that is asked for.
        unsafe {
            sys::nvrtcGetCUBINSize(self.0, &raw mut size).result()?;
            let mut code = vec![0u8; size];
            sys::nvrtcGetCUBIN(self.0, code.as_mut_ptr().cast()).result()?;
            Ok(code)
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created in `new` and destroyed here only. There is nothing to do about an error.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

/// The assembler's log: per kernel a line with its name, one with its spills, one with its registers.
fn parse_log(log: &str) -> Vec<KernelResources> {
    let mut kernels: Vec<KernelResources> = Vec::new();
    let before = |line: &str, words: &str| -> u32 {
        let number = line.split(words).next().and_then(|head| head.split_whitespace().last());
        number.and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let name = rest.split('\'').next().unwrap_or(rest).to_owned();
            kernels.push(KernelResources { name, ..KernelResources::default() });
        } else if let Some(kernel) = kernels.last_mut() {
            if line.contains(" bytes spill stores") {
                kernel.spills =
                    before(line, " bytes spill stores") + before(line, " bytes spill loads");
            } else if line.contains(" registers") {
                kernel.registers = before(line, " registers");
            }
        }
    }
    kernels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assemblers_log_is_understood() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'conv' for 'sm_80'\n\
            ptxas info    : Function properties for conv\n\
            ptxas         .     72 bytes stack frame, 72 bytes spill stores, 140 bytes spill loads\n\
            ptxas info    : Used 128 registers, used 1 barriers, 464 bytes cmem[0]\n\
            ptxas info    : Compiling entry function 'pool' for 'sm_80'\n\
            ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
            ptxas info    : Used 30 registers, used 0 barriers\n";
        let of = |name: &str, registers, spills| KernelResources {
            name: name.into(),
            registers,
            spills,
        };
        assert_eq!(parse_log(log), [of("conv", 128, 212), of("pool", 30, 0)]);
    }
}
