//! Presets and space files.

use crate::{Block, SearchSpace, SpaceError, Stage, Stem};
use slimtau_base::read_text;
use std::path::Path;

/// The ratios of the competition, codes 1 to 7.
const RATIOS: [f64; 7] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7];
/// Digits in a code are single: depths and codes go up to this.
const MAX_DIGIT: usize = 9;

impl SearchSpace {
    /// A space by name: `cvpr2022` (the competition's), `mini` or `tiny` (for benches and trials).
    ///
    /// # Errors
    /// [`SpaceError::Unknown`] for any other name.
    pub fn preset(name: &str) -> Result<Self, SpaceError> {
        let depths = [(2, 5), (2, 5), (2, 8), (2, 5)];
        let make =
            |image_size, channels, classes, stem: Stem, widths: [usize; 4], codes: [usize; 4]| {
                let stages = (0..4).map(|i| Stage {
                    width: widths[i],
                    depth: depths[i],
                    stride: if i == 0 { 1 } else { 2 },
                    codes: codes[i],
                });
                Self {
                    name: name.to_owned(),
                    image_size,
                    channels,
                    classes,
                    ratios: RATIOS.to_vec(),
                    divisor: 8,
                    block: Block::Basic,
                    stem,
                    stages: stages.collect(),
                }
            };
        let small = |width| Stem { width, kernel: 3, stride: 1, max_pool: false, codes: 7 };
        match name {
            "cvpr2022" => {
                let stem = Stem { width: 64, kernel: 7, stride: 2, max_pool: true, codes: 3 };
                Ok(make(224, 3, 1000, stem, [64, 128, 256, 512], [3, 3, 5, 7]))
            }
            "mini" => Ok(make(28, 1, 10, small(32), [32, 64, 128, 256], [7; 4])),
            "tiny" => Ok(make(32, 3, 10, small(16), [16, 32, 64, 128], [7; 4])),
            _ => Err(SpaceError::Unknown { name: name.to_owned() }),
        }
    }

    /// A preset by name, or else a space file.
    ///
    /// # Errors
    /// When it is neither, or the file is not a valid space.
    pub fn load(name_or_path: &str) -> Result<Self, SpaceError> {
        let preset = Self::preset(name_or_path);
        let path = Path::new(name_or_path);
        if preset.is_ok() || !path.exists() {
            return preset;
        }
        Self::from_toml(&read_text(path)?, name_or_path)
    }

    /// Reads the text of a space file; `source_name` stands in messages.
    ///
    /// # Errors
    /// [`SpaceError::Invalid`] with line and value.
    pub fn from_toml(text: &str, source_name: &str) -> Result<Self, SpaceError> {
        let invalid =
            |problem| SpaceError::Invalid { source_name: source_name.to_owned(), problem };
        let space: Self =
            toml::from_str(text).map_err(|e| invalid(e.to_string().trim_end().to_owned()))?;
        match space.problem() {
            Some((key, problem)) => Err(invalid(match line_of(text, key) {
                Some(line) => format!("line {line}: {problem}"),
                None => problem,
            })),
            None => Ok(space),
        }
    }

    /// The text of a space file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a space has only strings, numbers and tables")
    }

    /// What makes a space impossible: the key at fault and a sentence.
    fn problem(&self) -> Option<(&'static str, String)> {
        let n = self.ratios.len();
        let sizes = [
            ("image_size", self.image_size),
            ("channels", self.channels),
            ("classes", self.classes),
            ("divisor", self.divisor),
            ("width", self.stem.width),
        ];
        if let Some((key, _)) = sizes.into_iter().find(|(_, v)| *v == 0) {
            return Some((key, format!("{key} = 0; it must be at least 1")));
        }
        if let Some((key, v)) = sizes.into_iter().find(|(_, v)| *v > 1 << 20) {
            return Some((key, format!("{key} = {v} is beyond 2^20")));
        }
        if n == 0 || n > MAX_DIGIT {
            return Some(("ratios", format!("{n} ratios; 1 to {MAX_DIGIT} fit a code's digit")));
        }
        let outside = self.ratios.iter().find(|r| !(**r > 0.0 && **r <= 1.0));
        if let Some(r) = outside {
            return Some(("ratios", format!("ratio {r} is not in (0, 1]")));
        }
        if let Some(w) = self.ratios.windows(2).find(|w| w[0] <= w[1]) {
            return Some(("ratios", format!("ratios must fall: {} is followed by {}", w[0], w[1])));
        }
        if self.stem.kernel.is_multiple_of(2) || self.stem.kernel > 15 {
            let k = self.stem.kernel;
            return Some(("kernel", format!("stem.kernel = {k}; it must be odd and below 16")));
        }
        if !(1..=2).contains(&self.stem.stride) {
            let s = self.stem.stride;
            return Some(("stem", format!("stem.stride = {s}; it must be 1 or 2")));
        }
        if !(1..=n).contains(&self.stem.codes) {
            let c = self.stem.codes;
            return Some(("stem", format!("stem.codes = {c}; there are {n} ratios")));
        }
        if self.stages.is_empty() || self.stages.len() > MAX_DIGIT {
            let s = self.stages.len();
            return Some(("[[stage]]", format!("{s} stages; 1 to {MAX_DIGIT} are possible")));
        }
        for (i, stage) in self.stages.iter().enumerate() {
            let name = format!("stage {}", i + 1);
            let (low, high) = stage.depth;
            if stage.width == 0 || stage.width > 1 << 20 {
                return Some(("[[stage]]", format!("{name}: width = {}", stage.width)));
            }
            if low == 0 || low > high || high > MAX_DIGIT {
                return Some((
                    "depth",
                    format!("{name}: depth = [{low}, {high}]; 1 <= fewest <= most <= {MAX_DIGIT}"),
                ));
            }
            if !(1..=2).contains(&stage.stride) {
                let s = stage.stride;
                return Some(("[[stage]]", format!("{name}: stride = {s}; it must be 1 or 2")));
            }
            if !(1..=n).contains(&stage.codes) {
                let c = stage.codes;
                return Some(("[[stage]]", format!("{name}: codes = {c}; there are {n} ratios")));
            }
        }
        None
    }
}

/// The first line that sets a key.
fn line_of(text: &str, key: &str) -> Option<usize> {
    text.lines().position(|l| l.trim_start().starts_with(key)).map(|i| i + 1)
}
