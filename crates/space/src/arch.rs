//! One architecture, as the digits of its code.

/// Width codes of one block, 1 = the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockCode {
    /// Middle width (the first convolution's output; of a bottleneck also the second's).
    pub mid: u8,
    /// Output width.
    pub out: u8,
}

/// One architecture of a space. Its meaning, and whether it is valid, is the space's to say.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch {
    /// Width code of the stem.
    pub stem: u8,
    /// The blocks of every stage; a stage's depth is their number.
    pub stages: Vec<Vec<BlockCode>>,
}

impl Arch {
    /// Blocks over all stages.
    pub fn depth(&self) -> usize {
        self.stages.iter().map(Vec::len).sum()
    }
}
