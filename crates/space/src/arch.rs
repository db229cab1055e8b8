//! One architecture, as the digits of its code.

use crate::SearchSpace;

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

impl SearchSpace {
    /// The same network with the smallest digits. Neighbouring ratios often round to one width (of base 64, codes 3 and 4
    /// both give 56), so several codes may name a network; they have one canonical form.
    ///
    /// # Panics
    /// When a width code is not one of this space.
    pub fn canonical(&self, arch: &Arch) -> Arch {
        let first = |base: usize, code: u8| {
            let width = self.code_width(base, code);
            (1..code).find(|c| self.code_width(base, *c) == width).unwrap_or(code)
        };
        let stages = arch.stages.iter().enumerate().map(|(i, blocks)| {
            let block = |block: &BlockCode| BlockCode {
                mid: first(self.stages[i].width, block.mid),
                out: first(self.out_base(i), block.out),
            };
            blocks.iter().map(block).collect()
        });
        Arch { stem: first(self.stem.width, arch.stem), stages: stages.collect() }
    }
}
