//! A harder task made of an easy one: two items on one canvas, labelled by their unordered pair of
//! classes. Ten classes become 55, and no set of images has to be shipped for it.

use super::subset::by_class;
use crate::transform::{CropBox, Pixels, resize};
use crate::{DataError, Dataset, Scratch};
use rand::RngExt;
use slimtau_base::stream;
use std::sync::Arc;

/// What [`Pairs`] composes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairsConfig {
    /// How many images; they are composed on demand, so any number costs nothing.
    pub len: usize,
    /// Side of the canvas in pixels.
    pub canvas: usize,
    /// Side of each item on the canvas in pixels; items are resized to it.
    pub item: usize,
    /// Which images: (seed, index) decides everything about one.
    pub seed: u64,
}

/// 32 x 32 canvases with items of 20 x 20.
impl Default for PairsConfig {
    fn default() -> Self {
        Self { len: 12_000, canvas: 32, item: 20, seed: 0 }
    }
}

/// Two items of another dataset under independent shifts on a black canvas; where they overlap,
/// the brighter pixel shows.
///
/// With C classes behind it there are C (C + 1) / 2 labels: for classes a <= b, in the order
/// (0, 0), (0, 1), ..., (0, C-1), (1, 1), ... Image `i` has label `i mod` their number, so every
/// label is equally frequent (to within one image).
#[derive(Clone)]
pub struct Pairs {
    items: Arc<dyn Dataset>,
    members: Vec<Vec<u32>>,
    /// (a, b) by label.
    pairs: Vec<(u32, u32)>,
    config: PairsConfig,
}

impl Pairs {
    /// Composes images of `items`. Wrap training and validation items separately, so that no item
    /// is on both sides.
    ///
    /// # Errors
    /// When `len` is 0 or above `u32::MAX`, an item does not fit the canvas, or a class of `items`
    /// is empty.
    pub fn new(items: Arc<dyn Dataset>, config: PairsConfig) -> Result<Self, DataError> {
        if config.len == 0 || u32::try_from(config.len).is_err() {
            return Err(DataError::setting("number of pairs", config.len, "1 to 2^32 - 1"));
        }
        if config.item == 0 || config.item > config.canvas {
            let expected = format!("1 to the canvas side, {}", config.canvas);
            return Err(DataError::setting("item side of pairs", config.item, expected));
        }
        let members = by_class(&*items);
        if let Some(class) = members.iter().position(Vec::is_empty) {
            return Err(DataError::setting(
                "images of a class to pair",
                0,
                format!("at least 1 of class {class}"),
            ));
        }
        let n = members.len() as u32;
        let pairs = (0..n).flat_map(|a| (a..n).map(move |b| (a, b))).collect();
        Ok(Self { items, members, pairs, config })
    }

    /// The two classes, the smaller first, that `label` stands for.
    ///
    /// # Panics
    /// When `label >= classes()`.
    pub fn classes_of(&self, label: u32) -> (u32, u32) {
        self.pairs[label as usize]
    }
}

impl Dataset for Pairs {
    fn len(&self) -> usize {
        self.config.len
    }

    fn classes(&self) -> usize {
        self.pairs.len()
    }

    fn channels(&self) -> usize {
        self.items.channels()
    }

    fn size(&self) -> usize {
        self.config.canvas
    }

    fn label(&self, i: usize) -> u32 {
        (i % self.pairs.len()) as u32
    }

    fn image(&self, i: usize, pixels: &mut Vec<u8>) -> Result<(usize, usize), DataError> {
        let PairsConfig { canvas, item, seed, .. } = self.config;
        let channels = self.channels();
        let mut rng = stream(seed, "pairs", i as u64);
        let (a, b) = self.classes_of(self.label(i));
        pixels.clear();
        pixels.resize(canvas * canvas * channels, 0);
        let mut scratch = Scratch::default();
        let mut source = Vec::new();
        let mut resized = vec![0f32; item * item * channels];
        for class in [a, b] {
            let members = &self.members[class as usize];
            let chosen = members[rng.random_range(0..members.len() as u32) as usize];
            let mut shift = || rng.random_range(0..=(canvas - item) as u32) as usize;
            let (top, left) = (shift(), shift());
            let (height, width) = self.items.image(chosen as usize, &mut source)?;
            let whole = CropBox { top: 0, left: 0, height, width };
            let view = Pixels { data: &source, height, width, channels };
            resize(view, whole, item, &mut scratch, &mut resized);
            for (y, row) in resized.chunks_exact(item * channels).enumerate() {
                let start = ((top + y) * canvas + left) * channels;
                for (out, &value) in pixels[start..].iter_mut().zip(row) {
                    *out = (*out).max((value * 255.0).round() as u8);
                }
            }
        }
        Ok((canvas, canvas))
    }

    fn describe(&self) -> String {
        let PairsConfig { len, canvas, item, seed } = self.config;
        format!(
            "{len} pairs (seed {seed}) of {item} x {item} items on {canvas} x {canvas}, {} classes, \
             from {}",
            self.classes(),
            self.items.describe()
        )
    }
}
