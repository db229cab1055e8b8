//! A harder task made of an easy one: items at random places of a canvas, labelled by what is on it. With
//! two, ten classes become 55, and no set of images has to be shipped for it.

use super::subset::by_class;
use crate::transform::{CropBox, Pixels, resize};
use crate::{DataError, Dataset, Scratch};
use rand::RngExt;
use slimtau_base::stream;
use std::sync::Arc;

/// What [`Composed`] composes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComposedConfig {
    /// How many images; they are composed on demand, so any number costs nothing.
    pub len: usize,
    /// Items on each: 1 or 2.
    pub items: usize,
    /// Side of the canvas in pixels.
    pub canvas: usize,
    /// Side of each item on the canvas in pixels; items are resized to it.
    pub item: usize,
    /// Which images: (seed, index) decides everything about one.
    pub seed: u64,
}

/// 32 x 32 canvases with two items of 20 x 20.
impl Default for ComposedConfig {
    fn default() -> Self {
        Self { len: 12_000, items: 2, canvas: 32, item: 20, seed: 0 }
    }
}

/// Items of another dataset under independent shifts on a black canvas; where two overlap, the
/// brighter pixel shows.
///
/// With C classes behind it, one item has C labels, the class; two have C (C + 1) / 2, the unordered pair of
/// classes: for a <= b, in the order (0, 0), (0, 1), ..., (0, C-1), (1, 1), ... Image `i` has label `i
/// mod` their number, so every label is equally frequent (to within one image).
#[derive(Clone)]
pub struct Composed {
    source: Arc<dyn Dataset>,
    members: Vec<Vec<u32>>,
    /// The classes of the items, ascending, by label.
    contents: Vec<Vec<u32>>,
    config: ComposedConfig,
}

impl Composed {
    /// Composes images of `source`'s. Wrap training and validation items separately, so that no item
    /// is on both sides.
    ///
    /// # Errors
    /// When `len` is 0 or above `u32::MAX`, there are neither one nor two items, an item does not fit the
    /// canvas, or a class of `source` is empty.
    pub fn new(source: Arc<dyn Dataset>, config: ComposedConfig) -> Result<Self, DataError> {
        if config.len == 0 || u32::try_from(config.len).is_err() {
            return Err(DataError::setting(
                "number of composed images",
                config.len,
                "1 to 2^32 - 1",
            ));
        }
        if !(1..=2).contains(&config.items) {
            return Err(DataError::setting("items on a composed image", config.items, "1 or 2"));
        }
        if config.item == 0 || config.item > config.canvas {
            let expected = format!("1 to the canvas side, {}", config.canvas);
            return Err(DataError::setting("side of composed items", config.item, expected));
        }
        let members = by_class(&*source);
        if let Some(class) = members.iter().position(Vec::is_empty) {
            return Err(DataError::setting(
                "images of a class to compose",
                0,
                format!("at least 1 of class {class}"),
            ));
        }
        let n = members.len() as u32;
        let contents = if config.items == 1 {
            (0..n).map(|a| vec![a]).collect()
        } else {
            (0..n).flat_map(|a| (a..n).map(move |b| vec![a, b])).collect()
        };
        Ok(Self { source, members, contents, config })
    }

    /// The classes of the items, ascending, that `label` stands for.
    ///
    /// # Panics
    /// When `label >= classes()`.
    pub fn classes_of(&self, label: u32) -> &[u32] {
        &self.contents[label as usize]
    }
}

impl Dataset for Composed {
    fn len(&self) -> usize {
        self.config.len
    }

    fn classes(&self) -> usize {
        self.contents.len()
    }

    fn channels(&self) -> usize {
        self.source.channels()
    }

    fn size(&self) -> usize {
        self.config.canvas
    }

    fn label(&self, i: usize) -> u32 {
        (i % self.contents.len()) as u32
    }

    fn image(&self, i: usize, pixels: &mut Vec<u8>) -> Result<(usize, usize), DataError> {
        let ComposedConfig { canvas, item, seed, .. } = self.config;
        let channels = self.channels();
        let mut rng = stream(seed, "composed", i as u64);
        pixels.clear();
        pixels.resize(canvas * canvas * channels, 0);
        let mut scratch = Scratch::default();
        let mut source = Vec::new();
        let mut resized = vec![0f32; item * item * channels];
        for &class in self.classes_of(self.label(i)) {
            let members = &self.members[class as usize];
            let chosen = members[rng.random_range(0..members.len() as u32) as usize];
            let mut shift = || rng.random_range(0..=(canvas - item) as u32) as usize;
            let (top, left) = (shift(), shift());
            let (height, width) = self.source.image(chosen as usize, &mut source)?;
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

    fn decodes(&self) -> bool {
        self.source.decodes()
    }

    fn describe(&self) -> String {
        let ComposedConfig { len, items, canvas, item, seed } = self.config;
        format!(
            "{len} composed images (seed {seed}) of {items} item(s) of {item} x {item} on {canvas} x {canvas}, {} \
             classes, from {}",
            self.classes(),
            self.source.describe()
        )
    }
}
