//! A strict reader of pickles: the values that a file of weights is made of, and nothing else.
//!
//! A pickle is a program, and Python's own reader runs whatever it names. This one knows an
//! allow-list of types and of functions (see `globals.rs`), which it imitates rather than calls; the rest
//! is refused by name, with its place in the file. Protocols 2 to 5, the binary opcodes only.
//!
//! It is ours because no library has what these files need: `candle_core::pickle` lacks protocol 4's opcodes
//! (frames, short strings, `MEMOIZE`, `STACK_GLOBAL`) and bytes, which NumPy's arrays are made of, and
//! `serde-pickle` reads built-in types only, not what NumPy's and PyTorch's functions rebuild.
//!
//! **Hostile files.** Values live in one vector and name each other by number, so cycles and deep nesting
//! cost no recursion, here or when they are dropped. Strings and bytes are borrowed from the file. The
//! number of values is limited, and what is decoded anew is never longer than the file.

mod globals;
mod machine;
mod value;

pub(super) use value::{Id, Pickle, Value};

/// Why a pickle was refused. Offsets are in bytes from the pickle's start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// It ends in the middle of something.
    #[error(
        "byte {offset}: {needed} more bytes should follow, {left} do; the file is truncated or damaged"
    )]
    Truncated {
        /// Where the missing bytes should begin.
        offset: usize,
        /// How many there should be.
        needed: u64,
        /// How many there are.
        left: usize,
    },
    /// An opcode that no file of weights needs.
    #[error("byte {offset}: opcode {opcode:#04x} is not one that a file of weights needs")]
    Opcode {
        /// Its place.
        offset: usize,
        /// The opcode.
        opcode: u8,
    },
    /// A class or function beyond the allow-list.
    #[error(
        "byte {offset}: the file asks for `{module}.{name}`, which is refused; only arrays, tensors and plain \
         dictionaries, lists, texts and numbers are read (save the `state_dict` by itself)"
    )]
    Global {
        /// Its place.
        offset: usize,
        /// Python's module.
        module: String,
        /// The name in it.
        name: String,
    },
    /// The opcodes do not fit together.
    #[error("byte {offset}: {problem}")]
    Malformed {
        /// Place of the opcode.
        offset: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// More values than any file of weights has.
    #[error("byte {offset}: more than {limit} values; a file of weights has some thousands")]
    TooMany {
        /// Place of the opcode that exceeds the limit.
        offset: usize,
        /// The limit.
        limit: usize,
    },
}
