//! Batches as a pure function of (dataset, configuration, step), or of (dataset, configuration, drawn
//! images, step) where the caller chooses the images.

mod drawn;
mod hands;
mod order;
mod stream;

pub use order::{LastBatch, Order};
pub use stream::BatchStream;

use crate::transform::{EvalCrop, Pixels};
use crate::{DataError, Dataset, Normalization, Pipeline};
use drawn::Places;
use hands::{Ended, Hands};
use order::Positions;
use std::sync::{Arc, Mutex, PoisonError};

/// How a [`Loader`] makes batches.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// What is made of each image.
    pub pipeline: Pipeline,
    /// Applied last.
    pub normalization: Normalization,
    /// Images per batch, at least 1. More than the dataset has is fine with [`LastBatch::Wrap`].
    pub batch: usize,
    /// Decides the order and every augmentation.
    pub seed: u64,
    /// Threads that [`Loader::stream`] prepares batches with, at most a few thousand; 0 prepares each in the
    /// caller's thread when it is asked for. Never changes a batch, nor how many there are at a time.
    pub workers: usize,
    /// In which order an epoch visits the images.
    pub order: Order,
    /// What happens where an epoch ends within a batch.
    pub last_batch: LastBatch,
}

impl LoaderConfig {
    /// For training: shuffled, every batch full, one worker per core but at most 8.
    pub fn train(
        pipeline: Pipeline,
        normalization: Normalization,
        batch: usize,
        seed: u64,
    ) -> Self {
        Self {
            pipeline,
            normalization,
            batch,
            seed,
            workers: default_workers(),
            order: Order::Shuffled,
            last_batch: LastBatch::Wrap,
        }
    }

    /// For evaluation: every image once, in order, without augmentation; the last batch may be
    /// short. `loader.stream(0, loader.steps_per_epoch())` is then the whole set.
    pub fn eval(normalization: Normalization, batch: usize) -> Self {
        Self {
            pipeline: Pipeline::Eval(EvalCrop::default()),
            normalization,
            batch,
            seed: 0, // nothing is drawn
            workers: default_workers(),
            order: Order::Sequential,
            last_batch: LastBatch::Short,
        }
    }
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(8))
}

/// Images and labels of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// `shape` in row-major order, normalised.
    pub images: Vec<f32>,
    /// The second view of each image, of the same shape, with [`Pipeline::TwoViews`].
    pub second: Option<Vec<f32>>,
    /// The class of each image.
    pub labels: Vec<u32>,
    /// The index of each image in the dataset.
    pub indices: Vec<u32>,
    /// `[n, height, width, channels]` of `images`.
    pub shape: [usize; 4],
}

/// Makes batches from a dataset. Clones are cheap and share buffers.
#[derive(Clone)]
pub struct Loader {
    shared: Arc<Shared>,
}

/// What a loader's clones and threads share.
struct Shared {
    dataset: Arc<dyn Dataset>,
    config: LoaderConfig,
    places: Places,
    /// Batches handed back, whose buffers the next ones take. A loader of drawn images shares them.
    spare: Arc<Mutex<Vec<Batch>>>,
}

/// An image that is to be made: its place in the batch is where the slices lie.
struct Place<'a> {
    at: u64,
    index: u32,
    image: &'a mut [f32],
    second: Option<&'a mut [f32]>,
}

impl Loader {
    /// A loader over `dataset`.
    ///
    /// # Errors
    /// When the dataset is empty or too large, a setting is out of range, the normalisation has
    /// other channels than the dataset, or [`LastBatch::Drop`] would drop everything.
    pub fn new(dataset: Arc<dyn Dataset>, config: LoaderConfig) -> Result<Self, DataError> {
        config.pipeline.check()?;
        let channels = dataset.channels();
        if channels != 1 && channels != 3 {
            return Err(DataError::setting("channels of the dataset", channels, "1 or 3"));
        }
        if dataset.size() == 0 {
            return Err(DataError::setting("image size of the dataset", 0, "at least 1"));
        }
        config.normalization.check(channels)?;
        let LoaderConfig { batch, seed, order, last_batch, .. } = config;
        let positions = Positions::new(dataset.len(), batch, seed, order, last_batch)?;
        let (places, spare) = (Places::Ordered(positions), Arc::default());
        Ok(Self { shared: Arc::new(Shared { dataset, config, places, spare }) })
    }

    /// The same loader with the caller's choice of images: place k of step `first_step` + s holds
    /// `images[s * batch + k]`, and there are no other steps. An image may occur any number of times,
    /// even within a batch, and is augmented anew each time: augmentations are numbered by the place,
    /// counted from step 0. So loaders of successive ranges of steps never repeat one.
    ///
    /// A batch is a pure function of (dataset, configuration, `images`, `first_step`, step), and
    /// [`Loader::stream`] prepares it ahead as any other.
    ///
    /// # Errors
    /// When an image is not in the dataset, `images` are no whole number of batches, or a place lies
    /// beyond 64 bits.
    pub fn drawn(&self, first_step: u64, images: Arc<[u32]>) -> Result<Self, DataError> {
        let Shared { dataset, config, spare, .. } = &*self.shared;
        let drawn = drawn::Drawn::new(dataset.len(), config.batch, first_step, images)?;
        let (dataset, config) = (Arc::clone(dataset), config.clone());
        let (places, spare) = (Places::Drawn(drawn), Arc::clone(spare));
        Ok(Self { shared: Arc::new(Shared { dataset, config, places, spare }) })
    }

    /// The dataset behind it.
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.shared.dataset
    }

    /// How batches are made.
    pub fn config(&self) -> &LoaderConfig {
        &self.shared.config
    }

    /// Steps until every image (but those [`LastBatch::Drop`] drops) was seen once: the number of
    /// whole batches with [`LastBatch::Drop`], otherwise rounded up. Of a loader of drawn images,
    /// the number of its steps.
    pub fn steps_per_epoch(&self) -> u64 {
        self.shared.places.steps_per_epoch()
    }

    /// The batch of `step`, made in the caller's thread; no earlier batch is needed for it.
    ///
    /// # Errors
    /// When an image cannot be read, `step` lies beyond 64-bit positions, or nothing was drawn for it.
    pub fn batch(&self, step: u64) -> Result<Batch, DataError> {
        let batch = self.shared.assemble(step, &Hands::default(), || true)?;
        Ok(batch.expect("assembling is only given up where told so"))
    }

    /// The batches of steps `from..to`, in order, prepared ahead by `workers` threads, which share the
    /// images of a batch: at most two batches ahead with one worker, four with more. Equal to calling [`Loader::batch`] for each, whatever the number of
    /// threads. Ends after the first error; dropping it stops and joins the threads.
    pub fn stream(&self, from: u64, to: u64) -> BatchStream {
        BatchStream::new(Arc::clone(&self.shared), from, to)
    }

    /// Hands a used batch back, so that a later one takes over its buffers.
    pub fn recycle(&self, batch: Batch) {
        let mut spare = self.shared.spare.lock().unwrap_or_else(PoisonError::into_inner);
        // More than a stream holds at once would never be taken.
        if spare.len() < stream::MOST_AHEAD {
            spare.push(batch);
        }
    }
}

impl Shared {
    /// Makes the batch of `step`, or nothing once `go_on` says no.
    fn assemble(
        &self,
        step: u64,
        hands: &Hands,
        go_on: impl Fn() -> bool + Sync,
    ) -> Result<Option<Batch>, DataError> {
        let Self { dataset, config, .. } = self;
        let (size, channels) = (dataset.size(), dataset.channels());
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Batch { mut images, second, mut labels, mut indices, .. } = spare.unwrap_or_default();
        let draws = self.places.of_step(step)?;
        let n = draws.len();
        let n_values = size * size * channels;
        labels.clear();
        indices.clear();
        images.resize(n * n_values, 0.0);
        let mut second = (config.pipeline.n_views() == 2).then(|| {
            let mut second = second.unwrap_or_default();
            second.resize(n * n_values, 0.0);
            second
        });
        for (_, index) in &draws {
            labels.push(dataset.label(*index as usize));
            indices.push(*index);
        }
        let mut seconds = second.as_mut().map(|second| second.chunks_exact_mut(n_values));
        let places = draws.into_iter().zip(images.chunks_exact_mut(n_values));
        let places = places.map(|((at, index), image)| {
            let second = seconds.as_mut().and_then(Iterator::next);
            Place { at, index, image, second }
        });
        let made = hands.each(places.collect(), go_on, |buffers, place| {
            let Place { at, index, image, second } = place;
            let (height, width) = dataset.image(index as usize, &mut buffers.pixels)?;
            let pixels = Pixels { data: &buffers.pixels, height, width, channels };
            let mut rng = self.places.augmentation(config.seed, dataset.len(), at, index);
            for out in [Some(image), second].into_iter().flatten() {
                let scratch = &mut buffers.scratch;
                config.pipeline.view(pixels, size, &config.normalization, &mut rng, scratch, out);
            }
            Ok(())
        });
        match made {
            Ok(()) => {}
            Err(Ended::Stopped) => return Ok(None),
            Err(Ended::Failed(error)) => return Err(error),
        }
        let shape = [n, size, size, channels];
        Ok(Some(Batch { images, second, labels, indices, shape }))
    }
}
