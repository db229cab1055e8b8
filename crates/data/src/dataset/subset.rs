//! Parts of a dataset: chosen indices, and a class-balanced part held out for tuning.

use crate::{DataError, Dataset};
use rand::RngExt;
use slimtau_base::{Stream, stream};
use std::sync::Arc;

/// The images of another dataset at given indices.
#[derive(Clone)]
pub struct Subset {
    dataset: Arc<dyn Dataset>,
    indices: Vec<u32>,
    what: String,
}

impl Subset {
    /// The images at `indices`, in that order; `what` says in [`Dataset::describe`] which they are.
    ///
    /// # Errors
    /// When `indices` is empty or holds one that the dataset lacks.
    pub fn new(
        dataset: Arc<dyn Dataset>,
        indices: Vec<u32>,
        what: impl Into<String>,
    ) -> Result<Self, DataError> {
        if indices.is_empty() {
            return Err(DataError::setting("indices of a subset", &indices, "at least one"));
        }
        let n = dataset.len();
        if let Some(&index) = indices.iter().find(|&&index| index as usize >= n) {
            return Err(DataError::setting("index of a subset", index, format!("below {n}")));
        }
        Ok(Self { dataset, indices, what: what.into() })
    }

    /// `per_class` images of each class, drawn by `seed`, in the order of the dataset.
    ///
    /// # Errors
    /// When a class has fewer, or `per_class` is 0.
    pub fn balanced(
        dataset: Arc<dyn Dataset>,
        per_class: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let (chosen, _) = partition(&*dataset, per_class, seed)?;
        Self::new(dataset, chosen, format!("{per_class} of each class by seed {seed}"))
    }

    /// The indices into the dataset behind it.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn classes(&self) -> usize {
        self.dataset.classes()
    }

    fn channels(&self) -> usize {
        self.dataset.channels()
    }

    fn size(&self) -> usize {
        self.dataset.size()
    }

    fn label(&self, i: usize) -> u32 {
        self.dataset.label(self.indices[i] as usize)
    }

    fn image(&self, i: usize, pixels: &mut Vec<u8>) -> Result<(usize, usize), DataError> {
        self.dataset.image(self.indices[i] as usize, pixels)
    }

    fn decodes(&self) -> bool {
        self.dataset.decodes()
    }

    fn describe(&self) -> String {
        format!("{} images ({}) of {}", self.len(), self.what, self.dataset.describe())
    }
}

/// Splits a training set by `seed` into (the rest to train on, `per_class` images of each class to
/// tune on). What is tuned on the held-out part has not seen the validation set, whose accuracies
/// are the ground truth of rankings.
///
/// # Errors
/// When a class has no more than `per_class` images, or `per_class` is 0.
pub fn hold_out(
    dataset: Arc<dyn Dataset>,
    per_class: usize,
    seed: u64,
) -> Result<(Subset, Subset), DataError> {
    let (held_out, rest) = partition(&*dataset, per_class, seed)?;
    let mut n_left = vec![0; dataset.classes()];
    rest.iter().for_each(|&i| n_left[dataset.label(i as usize) as usize] += 1);
    if let Some(class) = n_left.iter().position(|&n| n == 0) {
        let expected = format!("less than the {per_class} images of class {class}");
        return Err(DataError::setting("held-out images per class", per_class, expected));
    }
    let what = |part| format!("{part}, {per_class} of each class held out by seed {seed}");
    let rest = Subset::new(Arc::clone(&dataset), rest, what("the rest"))?;
    Ok((rest, Subset::new(dataset, held_out, what("held out"))?))
}

/// Sorted indices of (`per_class` images of each class, all others).
fn partition(
    dataset: &dyn Dataset,
    per_class: usize,
    seed: u64,
) -> Result<(Vec<u32>, Vec<u32>), DataError> {
    if per_class == 0 {
        return Err(DataError::setting("images per class", per_class, "at least 1"));
    }
    let (mut chosen, mut rest) = (Vec::new(), Vec::new());
    for (class, mut members) in by_class(dataset).into_iter().enumerate() {
        if members.len() < per_class {
            let expected = format!("at most the {} images of class {class}", members.len());
            return Err(DataError::setting("images per class", per_class, expected));
        }
        shuffle(&mut members, &mut stream(seed, "split", class as u64));
        chosen.extend_from_slice(&members[..per_class]);
        rest.extend_from_slice(&members[per_class..]);
    }
    chosen.sort_unstable();
    rest.sort_unstable();
    Ok((chosen, rest))
}

/// The indices of the images of each class.
pub(super) fn by_class(dataset: &dyn Dataset) -> Vec<Vec<u32>> {
    let mut members = vec![Vec::new(); dataset.classes()];
    for i in 0..dataset.len() {
        members[dataset.label(i) as usize].push(i as u32);
    }
    members
}

/// Fisher-Yates: every order is equally likely.
pub(crate) fn shuffle(values: &mut [u32], rng: &mut Stream) {
    for i in (1..values.len()).rev() {
        // Drawn as u32, not usize: the same on 32-bit and 64-bit machines.
        values.swap(i, rng.random_range(0..=i as u32) as usize);
    }
}
