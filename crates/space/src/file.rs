//! Presets, and space files with errors that name file, line and value.

use crate::{Block, SearchSpace, SpaceError, Stage, Stem};
use serde::Deserialize;
use slimtau_base::read_text;
use std::collections::BTreeMap;
use std::path::Path;
use toml::Spanned;

/// The ratios of the competition, codes 1 to 7.
const RATIOS: [f64; 7] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7];

impl SearchSpace {
    /// A space by name: `cvpr2022` (the competition's), `mini` or `tiny` (for benches and trials).
    ///
    /// # Errors
    /// [`SpaceError::Unknown`] for any other name.
    pub fn preset(name: &str) -> Result<Self, SpaceError> {
        let small = |width| Stem { width, kernel: 3, stride: 1, max_pool: false, codes: 7 };
        let (image_size, channels, classes, stem, widths, codes) = match name {
            "cvpr2022" => {
                let stem = Stem { width: 64, kernel: 7, stride: 2, max_pool: true, codes: 3 };
                (224, 3, 1000, stem, [64, 128, 256, 512], [3, 3, 5, 7])
            }
            "mini" => (28, 1, 10, small(32), [32, 64, 128, 256], [7; 4]),
            "tiny" => (32, 3, 10, small(16), [16, 32, 64, 128], [7; 4]),
            _ => return Err(SpaceError::Unknown { name: name.to_owned() }),
        };
        let stages = (0..4).map(|i| Stage {
            width: widths[i],
            depth: [(2, 5), (2, 5), (2, 8), (2, 5)][i],
            stride: if i == 0 { 1 } else { 2 },
            codes: codes[i],
        });
        Ok(Self {
            name: name.to_owned(),
            image_size,
            channels,
            classes,
            ratios: RATIOS.to_vec(),
            divisor: 8,
            block: Block::Basic,
            stem,
            stages: stages.collect(),
        })
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

    /// Reads the text of a space file; `source_name` stands in messages. Unknown keys are refused.
    ///
    /// # Errors
    /// [`SpaceError::Invalid`] with line and value.
    pub fn from_toml(text: &str, source_name: &str) -> Result<Self, SpaceError> {
        let invalid = |byte: Option<usize>, problem: &str| SpaceError::Invalid {
            source_name: source_name.to_owned(),
            problem: match byte {
                Some(byte) => format!("line {}: {problem}", line_of(text, byte)),
                None => problem.to_owned(),
            },
        };
        let file: SpaceFile = toml::from_str(text).map_err(|e| {
            let problem = e.message().trim_end().replace('\n', ", ");
            invalid(e.span().map(|s| s.start), &problem)
        })?;
        let mut places = BTreeMap::new();
        let space = file.into_space(&mut places);
        match space.fault() {
            Some(fault) => Err(invalid(places.get(&fault.key).copied(), &fault.problem)),
            None => Ok(space),
        }
    }

    /// The text of a space file; [`SearchSpace::from_toml`] reads it back to an equal space.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a space has only strings, numbers and tables")
    }
}

/// 1-based line of a byte.
fn line_of(text: &str, byte: usize) -> usize {
    let before = &text.as_bytes()[..byte.min(text.len())];
    before.iter().filter(|b| **b == b'\n').count() + 1
}

/// A space as written, every value with its place in the text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpaceFile {
    name: String,
    image_size: Spanned<usize>,
    channels: Spanned<usize>,
    classes: Spanned<usize>,
    ratios: Spanned<Vec<f64>>,
    divisor: Option<Spanned<usize>>,
    block: Block,
    stem: StemFile,
    stage: Vec<Spanned<StageFile>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StemFile {
    width: Spanned<usize>,
    kernel: Spanned<usize>,
    stride: Spanned<usize>,
    max_pool: bool,
    codes: Spanned<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StageFile {
    width: Spanned<usize>,
    depth: Spanned<(usize, usize)>,
    stride: Spanned<usize>,
    codes: Spanned<usize>,
}

impl SpaceFile {
    /// The space, and in `places` the byte where each key's value stands.
    fn into_space(self, places: &mut BTreeMap<String, usize>) -> SearchSpace {
        fn take<T>(places: &mut BTreeMap<String, usize>, key: String, value: Spanned<T>) -> T {
            places.insert(key, value.span().start);
            value.into_inner()
        }
        let stem = Stem {
            width: take(places, "stem.width".into(), self.stem.width),
            kernel: take(places, "stem.kernel".into(), self.stem.kernel),
            stride: take(places, "stem.stride".into(), self.stem.stride),
            max_pool: self.stem.max_pool,
            codes: take(places, "stem.codes".into(), self.stem.codes),
        };
        let mut stages = Vec::with_capacity(self.stage.len());
        for (i, spanned) in self.stage.into_iter().enumerate() {
            // Where there are too many stages, the last is what is wrong.
            places.insert("stage".into(), spanned.span().start);
            let stage = spanned.into_inner();
            let key = |name: &str| format!("stage {}.{name}", i + 1);
            stages.push(Stage {
                width: take(places, key("width"), stage.width),
                depth: take(places, key("depth"), stage.depth),
                stride: take(places, key("stride"), stage.stride),
                codes: take(places, key("codes"), stage.codes),
            });
        }
        SearchSpace {
            name: self.name,
            image_size: take(places, "image_size".into(), self.image_size),
            channels: take(places, "channels".into(), self.channels),
            classes: take(places, "classes".into(), self.classes),
            ratios: take(places, "ratios".into(), self.ratios),
            divisor: self.divisor.map_or(8, |d| take(places, "divisor".into(), d)),
            block: self.block,
            stem,
            stages,
        }
    }
}
