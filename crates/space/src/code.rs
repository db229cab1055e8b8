//! Codes: reading, writing, and the residual ties.
//!
//! Short form: one depth digit per stage, the stem's code, then two digits (middle, output) per
//! block of every stage, padded with 0 to the stage's maximum depth. The long form puts an
//! image-size digit (1 = the space's image size) first.

use crate::{Arch, BlockCode, SearchSpace, SpaceError};

impl SearchSpace {
    /// Digits of the short form; 51 for `cvpr2022`.
    pub fn code_len(&self) -> usize {
        self.stages.len() + 1 + 2 * self.max_blocks()
    }

    /// Reads a code in either form.
    ///
    /// # Errors
    /// [`SpaceError::Length`], or [`SpaceError::Digit`] naming the first digit that is wrong.
    pub fn parse(&self, code: &str) -> Result<Arch, SpaceError> {
        let (short, found) = (self.code_len(), code.chars().count());
        if found != short && found != short + 1 {
            let code = code.to_owned();
            return Err(SpaceError::Length { code, found, short, long: short + 1 });
        }
        let mut reader = Reader { code, rest: code.chars(), at: 0 };
        if found == short + 1 {
            reader.digit(1, 1, || "image size".into())?;
        }
        let widths = self.ratios.len();
        let mut depths = Vec::with_capacity(self.stages.len());
        for (i, stage) in self.stages.iter().enumerate() {
            let (low, high) = stage.depth;
            depths.push(reader.digit(low, high, || format!("depth of stage {}", i + 1))?);
        }
        let stem = reader.digit(1, widths, || "width of the stem".into())?;
        let mut stages = Vec::with_capacity(self.stages.len());
        for (i, (stage, &depth)) in self.stages.iter().zip(&depths).enumerate() {
            let mut blocks = Vec::with_capacity(usize::from(depth));
            for b in 0..stage.depth.1 {
                let name = |what: &str| format!("{what} of stage {}, block {}", i + 1, b + 1);
                if b < usize::from(depth) {
                    let mid = reader.digit(1, widths, || name("middle width"))?;
                    let out = reader.digit(1, widths, || name("output width"))?;
                    blocks.push(BlockCode { mid, out });
                } else {
                    let pad = || format!("padding of stage {}, which has {depth} blocks", i + 1);
                    reader.digit(0, 0, pad)?;
                    reader.digit(0, 0, pad)?;
                }
            }
            stages.push(blocks);
        }
        Ok(Arch { stem, stages })
    }

    /// The short form of an architecture of this space. (One that is not gives a text that is no
    /// code: [`SearchSpace::check`] tells.)
    pub fn encode(&self, arch: &Arch) -> String {
        let mut code = String::with_capacity(self.code_len());
        self.push_code(arch, &mut code);
        code
    }

    /// The long form: the image-size digit `1`, then the short form.
    pub fn encode_long(&self, arch: &Arch) -> String {
        let mut code = String::with_capacity(self.code_len() + 1);
        code.push('1');
        self.push_code(arch, &mut code);
        code
    }

    fn push_code(&self, arch: &Arch, code: &mut String) {
        let digit = |n: u8| char::from(b'0'.saturating_add(n));
        code.extend(arch.stages.iter().map(|blocks| digit(blocks.len().min(10) as u8)));
        code.push(digit(arch.stem));
        for (stage, blocks) in self.stages.iter().zip(&arch.stages) {
            code.extend(blocks.iter().flat_map(|b| [digit(b.mid), digit(b.out)]));
            let padding = stage.depth.1.saturating_sub(blocks.len());
            code.extend(std::iter::repeat_n('0', 2 * padding));
        }
    }

    /// Whether an architecture keeps the residual ties: within a stage all output codes are equal,
    /// and a stage without a projection has the output code of what it reads.
    ///
    /// # Errors
    /// [`SpaceError::Untied`] naming stage, block and digit; [`SpaceError::Arch`] when an
    /// architecture built by hand is not one of the space.
    pub fn check_tied(&self, arch: &Arch) -> Result<(), SpaceError> {
        self.check(arch)?;
        let mut before = arch.stem;
        for (i, blocks) in arch.stages.iter().enumerate() {
            let tied_in = !self.projects(i);
            let expected = if tied_in { before } else { blocks[0].out };
            for (b, block) in blocks.iter().enumerate() {
                if block.out != expected {
                    let with = match (tied_in, i) {
                        (true, 0) => "the stem's".to_owned(),
                        (true, _) => format!("stage {i}'s output"),
                        (false, _) => "its first block's output".to_owned(),
                    };
                    let offset = self.stages.len() + 1 + 2 * (self.block_offset(i) + b);
                    return Err(SpaceError::Untied {
                        code: self.encode(arch),
                        stage: i + 1,
                        block: b + 1,
                        position: offset + 2,
                        found: block.out,
                        expected,
                        with,
                    });
                }
            }
            before = expected;
        }
        Ok(())
    }

    /// Whether an architecture, which anyone may build by hand, is one of this space.
    ///
    /// # Errors
    /// [`SpaceError::Arch`] naming what does not fit.
    pub fn check(&self, arch: &Arch) -> Result<(), SpaceError> {
        let fail = |problem| Err(SpaceError::Arch { space: self.name.clone(), problem });
        if arch.stages.len() != self.stages.len() {
            return fail(format!("{} stages, not {}", arch.stages.len(), self.stages.len()));
        }
        for (i, (stage, blocks)) in self.stages.iter().zip(&arch.stages).enumerate() {
            let (low, high) = stage.depth;
            if !(low..=high).contains(&blocks.len()) {
                return fail(format!(
                    "stage {} has {} blocks, not {low} to {high}",
                    i + 1,
                    blocks.len()
                ));
            }
        }
        let blocks = arch.stages.iter().flatten().flat_map(|b| [b.mid, b.out]);
        for code in blocks.chain([arch.stem]) {
            if !(1..=self.ratios.len()).contains(&usize::from(code)) {
                return fail(format!("width code {code}, not 1 to {}", self.ratios.len()));
            }
        }
        Ok(())
    }
}

struct Reader<'a> {
    code: &'a str,
    rest: std::str::Chars<'a>,
    /// Digits read so far.
    at: usize,
}

impl Reader<'_> {
    fn digit(
        &mut self,
        low: usize,
        high: usize,
        what: impl Fn() -> String,
    ) -> Result<u8, SpaceError> {
        let found = self.rest.next().expect("`parse` reads no more digits than it counted");
        self.at += 1;
        match found.to_digit(10) {
            Some(value) if (low..=high).contains(&(value as usize)) => Ok(value as u8),
            _ => Err(SpaceError::Digit {
                code: self.code.to_owned(),
                position: self.at,
                what: what(),
                found,
                allowed: if low == high { low.to_string() } else { format!("{low} to {high}") },
            }),
        }
    }
}
