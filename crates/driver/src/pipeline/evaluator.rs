//! Top-1 accuracies on a validation set, which is kept in memory where it is small enough.

use super::Run;
use super::log::Log;
use super::stages::normalization;
use crate::config::Config;
use crate::engine::{Engine, Judge};
use crate::progress::Bar;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use slimtau_data::{
    Batch, Data, DataError, Dataset, EvalCrop, Loader, LoaderConfig, Normalization, Pipeline,
};
use slimtau_space::{Arch, SearchSpace};
use slimtau_supernet::{BnMode, Layout, Plan, PrefixTree, Weights};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Subnets that go through a prefix tree together. Ordered, a hundred share nearly all that the whole list would (the
/// competition's 45,000 codes: 1.86 times fewer operations than one by one, all at once 1.87), and their statistics
/// take little memory.
pub const CHUNK: usize = 100;

/// Validation images that take more memory than this, as the network sees them, are decoded anew for each pass: the
/// 50,000 of ImageNet would take 30 GB.
pub const KEPT_BYTES: usize = 2 << 30;

/// What a kill may lose, besides the batch in progress and the measurement of BN statistics.
const LOG_EVERY: Duration = Duration::from_secs(20);

/// How far an evaluation of some subnets is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Validation batches done.
    pub batches: usize,
    /// Right answers of each subnet on them.
    pub right: Vec<usize>,
}

/// What decides an inherited accuracy besides weights and images.
#[derive(Clone, Copy, Debug)]
pub struct EvalSettings {
    /// What is seen of an image.
    pub crop: EvalCrop,
    pub bn: BnMode,
    /// Images per batch.
    pub batch: usize,
    /// Training batches that [`BnMode::Recalibrated`] measures statistics on.
    pub recalibration_batches: usize,
    /// Threads that load images; 0 = the loader's own choice. No accuracy depends on it.
    pub workers: usize,
}

impl EvalSettings {
    /// Those of a run's stage 3.
    pub fn of_run(config: &Config) -> Self {
        Self {
            crop: config.data.evaluation(),
            bn: config.inherit.bn.unwrap_or(config.ccfs.bn).into(),
            batch: config.inherit.batch,
            recalibration_batches: config.inherit.recalibration_batches,
            workers: config.data.workers,
        }
    }
}

/// Measures subnets of one supernet.
pub struct Evaluator {
    space: SearchSpace,
    layout: Arc<Layout>,
    bn: BnMode,
    validation: Batches,
    calibration: Vec<Vec<f32>>,
    judge: Box<dyn Judge>,
}

/// The batches of a pass over all images.
struct Batches {
    loader: Loader,
    /// All of them, in order, or none.
    kept: Vec<Batch>,
}

impl Batches {
    fn new(loader: Loader, most_bytes: usize) -> Result<Self, DataError> {
        let set = loader.dataset();
        let bytes = set.len().saturating_mul(4 * set.size() * set.size() * set.channels());
        let keep = if bytes <= most_bytes { loader.steps_per_epoch() } else { 0 };
        let kept = loader.stream(0, keep).collect::<Result<_, _>>()?;
        Ok(Self { loader, kept })
    }

    fn len(&self) -> usize {
        self.loader.steps_per_epoch() as usize
    }

    fn images(&self) -> usize {
        self.loader.dataset().len()
    }

    /// Hands the batches from `first` on to `use_batch` with their numbers, until that says no; whether it never did.
    fn all_from(
        &self,
        first: usize,
        mut use_batch: impl FnMut(usize, &Batch) -> Result<bool>,
    ) -> Result<bool> {
        for (i, batch) in self.kept.iter().enumerate().skip(first) {
            if !use_batch(i, batch)? {
                return Ok(false);
            }
        }
        let first = first.max(self.kept.len());
        for (i, batch) in (first..).zip(self.loader.stream(first as u64, self.len() as u64)) {
            let batch = batch?;
            if !use_batch(i, &batch)? {
                return Ok(false);
            }
            self.loader.recycle(batch);
        }
        Ok(true)
    }
}

impl Evaluator {
    /// Loads the validation set where it is small, and for [`BnMode::Recalibrated`] the batches of training images that
    /// statistics are measured on.
    pub fn new(
        space: &SearchSpace,
        layout: Arc<Layout>,
        data: &Data,
        settings: EvalSettings,
        engine: &Engine,
    ) -> Result<Self> {
        let normalization = normalization(&*data.train)?;
        let validation = loader(&data.validation, settings, &normalization)?;
        let validation = Batches::new(validation, KEPT_BYTES)?;
        let calibration = match settings.bn {
            BnMode::Recalibrated => first_images(data, settings, &normalization)?,
            BnMode::Tracked | BnMode::Frozen => Vec::new(),
        };
        Ok(Self {
            space: space.clone(),
            layout,
            bn: settings.bn,
            validation,
            calibration,
            judge: engine.judge(space),
        })
    }

    /// As the run's stage 3 evaluates, on `data`.
    pub fn of_run(run: &Run, data: &Data) -> Result<Self> {
        let settings = EvalSettings::of_run(&run.config);
        Self::new(&run.space, Arc::clone(&run.layout), data, settings, &run.engine)
    }

    /// The number of validation images.
    pub fn images(&self) -> usize {
        self.validation.images()
    }

    /// Top-1 accuracy of any plan of these weights in percent, always with the running statistics that stand in them.
    pub fn plan_accuracy(&mut self, weights: &Weights, plan: &Plan) -> Result<f64> {
        let mut right = 0;
        let mut count = self.judge.alone(weights, plan)?;
        self.validation.all_from(0, |_, batch| count(batch, &mut right).map(|()| true))?;
        drop(count);
        Ok(percent(right, self.images()))
    }

    /// Top-1 accuracies of subnets in percent, in their order; `None` once `stop` says so, which is asked after every
    /// batch.
    pub fn accuracies(
        &mut self,
        weights: &Weights,
        archs: &[Arch],
        bar: &Bar,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f64>>> {
        let mut accuracies = vec![0.0; archs.len()];
        for chunk in self.order(archs)?.chunks(CHUNK) {
            let subnets: Vec<&Arch> = chunk.iter().map(|place| &archs[*place]).collect();
            let go_on = &mut |_: &Tally| Ok(!stop());
            let right = self.count_right(weights, &subnets, Tally::default(), bar, go_on)?;
            let Some(right) = right else { return Ok(None) };
            for (place, right) in chunk.iter().zip(right) {
                accuracies[*place] = percent(right, self.images());
            }
        }
        Ok(Some(accuracies))
    }

    /// Evaluates the subnets that a log lacks, and writes their right answers there as they come. They go through prefix
    /// trees in the order given, which should be [`Self::order`]'s. Whether all are done: `stop` is asked after every
    /// batch, and what was found until then is in the log.
    pub fn evaluate_missing<'a>(
        &mut self,
        weights: &Weights,
        archs: impl ExactSizeIterator<Item = &'a Arch>,
        log: &mut Log,
        bar: &Bar,
        stop: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let n = archs.len();
        let missing: Vec<(String, &Arch)> = archs
            .map(|arch| (self.space.encode(arch), arch))
            .filter(|(code, _)| log.get(code).is_none())
            .collect();
        if missing.len() < n {
            bar.skip((n - missing.len()) as u64);
        }
        for chunk in missing.chunks(CHUNK) {
            let (codes, subnets): (Vec<String>, Vec<&Arch>) = chunk.iter().cloned().unzip();
            let tally = log.tally(&codes);
            let mut written = Instant::now();
            let mut keep = |tally: &Tally| -> Result<bool> {
                let stop = stop();
                if (stop || written.elapsed() >= LOG_EVERY) && tally.batches > 0 {
                    log.add_tally(&codes, tally)?;
                    written = Instant::now();
                }
                Ok(!stop)
            };
            match self.count_right(weights, &subnets, tally, bar, &mut keep)? {
                Some(right) => log.add(&codes, &right)?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The places of `archs` in an order in which neighbours share their first blocks.
    pub fn order(&self, archs: &[Arch]) -> Result<Vec<usize>> {
        PrefixTree::order(archs.iter().map(|arch| self.plan(arch)))
    }

    /// Right answers of every subnet, together in one prefix tree, from a tally on (the default one is the beginning).
    /// Hands the tally to `go_on` after every batch; `None` where that says no. The bar advances by the number of subnets.
    pub fn count_right(
        &mut self,
        weights: &Weights,
        archs: &[&Arch],
        mut tally: Tally,
        bar: &Bar,
        go_on: &mut dyn FnMut(&Tally) -> Result<bool>,
    ) -> Result<Option<Vec<usize>>> {
        let plans = archs.iter().map(|arch| self.plan(arch)).collect::<Result<_>>()?;
        let tree = PrefixTree::new(plans);
        let Self { validation, calibration, judge, bn, .. } = self;
        tally.right.resize(archs.len(), 0);
        // Of these subnets, as many are done as the share of the batches that is.
        let all = calibration.len() + validation.len();
        let subnets = |batches: usize| (archs.len() * batches / all) as u64;
        let before = tally.batches;
        let mut done = 0;
        let mut advance = |batches: usize| {
            bar.advance(subnets(done + batches) - subnets(done), "");
            done += batches;
        };
        advance(before);

        let mut list = judge.list(weights, &tree, *bn)?;
        for images in calibration.iter() {
            list.measure(images)?;
            advance(1);
            if !go_on(&tally)? {
                return Ok(None);
            }
        }
        let finished = validation.all_from(before, |i, batch| {
            list.count(batch, &mut tally.right)?;
            tally.batches = i + 1;
            advance(1);
            Ok(tally.batches == validation.len() || go_on(&tally)?)
        })?;
        Ok(finished.then_some(tally.right))
    }

    fn plan(&self, arch: &Arch) -> Result<Plan> {
        Ok(Plan::subnet(&self.space, &self.layout, arch)?)
    }
}

/// The images that [`BnMode::Recalibrated`] measures statistics on: the first batches of the training set, always the
/// same, without augmentation. Fewer than the settings say where the set ends before.
pub fn calibration(data: &Data, settings: EvalSettings) -> Result<Vec<Vec<f32>>> {
    first_images(data, settings, &normalization(&*data.train)?)
}

fn first_images(
    data: &Data,
    settings: EvalSettings,
    normalization: &Normalization,
) -> Result<Vec<Vec<f32>>> {
    let loader = loader(&data.train, settings, normalization)?;
    let steps = loader.steps_per_epoch().min(settings.recalibration_batches as u64);
    let batches = loader.stream(0, steps).collect::<Result<Vec<_>, _>>()?;
    Ok(batches.into_iter().map(|b| b.images).collect())
}

/// A set's images in order, without augmentation.
fn loader(
    set: &Arc<dyn Dataset>,
    settings: EvalSettings,
    normalization: &Normalization,
) -> Result<Loader> {
    let mut config = LoaderConfig {
        pipeline: Pipeline::Eval(settings.crop),
        ..LoaderConfig::eval(normalization.clone(), settings.batch)
    };
    if settings.workers > 0 {
        config.workers = settings.workers;
    }
    Ok(Loader::new(Arc::clone(set), config)?)
}

/// A number of right answers as top-1 accuracy in percent.
pub fn percent(right: usize, images: usize) -> f64 {
    100.0 * right as f64 / images as f64
}

#[cfg(test)]
mod tests {
    use super::super::data::first;
    use super::super::log::Evaluation;
    use super::*;
    use slimtau_base::stream;
    use slimtau_data::{Source, open};
    use slimtau_supernet::{Session, recalibrate};

    fn data() -> Data {
        let Data { train, validation } = open(&Source::Embedded).unwrap();
        Data { train: first(train, 60).unwrap(), validation: first(validation, 50).unwrap() }
    }

    fn settings(bn: BnMode) -> EvalSettings {
        EvalSettings {
            crop: EvalCrop::default(),
            bn,
            batch: 20,
            recalibration_batches: 2,
            workers: 0,
        }
    }

    fn evaluator(space: &SearchSpace, bn: BnMode) -> Evaluator {
        // 50 images in batches of 20: the last is smaller.
        let layout = Layout::supernet(space).unwrap();
        Evaluator::new(space, layout, &data(), settings(bn), &Engine::Cpu).unwrap()
    }

    fn space() -> SearchSpace {
        let text = r#"
            name = "narrow"
            image_size = 28
            channels = 1
            classes = 10
            ratios = [1.0, 0.75, 0.5]
            divisor = 2
            block = "basic"
            stem = { width = 8, kernel = 3, stride = 2, max_pool = false, codes = 3 }
            stage = [
                { width = 8, depth = [1, 2], stride = 2, codes = 3 },
                { width = 16, depth = [1, 2], stride = 2, codes = 3 },
            ]
        "#;
        SearchSpace::from_toml(text, "test").unwrap()
    }

    /// More than one tree's worth, some of them twice.
    fn archs(space: &SearchSpace) -> Vec<Arch> {
        let draw = |i| space.sample_uniform(&mut stream(0, "archs", i % 120), true);
        (0..CHUNK as u64 + 50).map(draw).collect()
    }

    #[test]
    fn a_list_has_the_accuracies_of_its_subnets_one_by_one() {
        let space = space();
        let archs = archs(&space);
        for bn in [BnMode::Tracked, BnMode::Frozen, BnMode::Recalibrated] {
            let mut evaluator = evaluator(&space, bn);
            let weights = Weights::init(&evaluator.layout, 1);
            let bar = Bar::new("test", archs.len() as u64);
            let found = evaluator.accuracies(&weights, &archs, &bar, &|| false).unwrap().unwrap();
            let mut session = Session::new();
            for (arch, found) in archs.iter().zip(&found) {
                let plan = evaluator.plan(arch).unwrap();
                let mut alone = weights.clone();
                let batches = evaluator.calibration.iter().map(Vec::as_slice);
                assert_eq!(batches.len(), if bn == BnMode::Recalibrated { 2 } else { 0 });
                let Weights { params, buffers } = &mut alone;
                recalibrate(&mut session, &plan, params, buffers, batches).unwrap();
                assert_eq!(evaluator.plan_accuracy(&alone, &plan).unwrap(), *found, "{bn}");
            }
            let distinct: std::collections::BTreeSet<u64> =
                found.iter().map(|a| a.to_bits()).collect();
            assert!(distinct.len() > 3, "{bn}: random weights differ: {distinct:?}");
        }
    }

    #[test]
    fn images_decoded_anew_are_those_that_would_be_kept() {
        let config = LoaderConfig::eval(slimtau_data::Normalization::fashion_mnist(), 20);
        let loader = Loader::new(data().validation, config).unwrap();
        let bytes = 50 * 28 * 28 * 4;
        let [kept, anew] =
            [bytes, bytes - 1].map(|most| Batches::new(loader.clone(), most).unwrap());
        assert_eq!((kept.kept.len(), anew.kept.len()), (3, 0));
        let seen = |batches: &Batches, first: usize, last: usize| {
            let mut seen = Vec::new();
            let whole = batches.all_from(first, |i, batch| {
                seen.push((i, batch.clone()));
                Ok(i < last)
            });
            (whole.unwrap(), seen)
        };
        for (first, last) in [(0, 9), (1, 9), (3, 9), (0, 1)] {
            assert_eq!(seen(&kept, first, last), seen(&anew, first, last), "{first} to {last}");
        }
        let (whole, all) = seen(&anew, 0, 9);
        assert_eq!((whole, all.len(), anew.images()), (true, 3, 50));
        assert!(!seen(&anew, 0, 1).0);
    }

    #[test]
    fn it_goes_on_from_any_tally_and_stops_after_any_batch() {
        let space = space();
        let archs = archs(&space);
        let subnets: Vec<&Arch> = archs.iter().take(9).collect();
        for bn in [BnMode::Tracked, BnMode::Recalibrated] {
            let mut evaluator = evaluator(&space, bn);
            let weights = Weights::init(&evaluator.layout, 1);
            let bar = Bar::new("test", 9);
            let mut tallies = Vec::new();
            let mut keep = |tally: &Tally| {
                tallies.push(tally.clone());
                Ok(true)
            };
            let whole = evaluator
                .count_right(&weights, &subnets, Tally::default(), &bar, &mut keep)
                .unwrap();
            assert_eq!(tallies.last().unwrap().batches, 2, "of three");
            for (n, tally) in tallies.iter().enumerate() {
                let (from, mut go_on) = (tally.clone(), |_: &Tally| Ok(true));
                let rest = evaluator.count_right(&weights, &subnets, from, &bar, &mut go_on);
                assert_eq!(rest.unwrap(), whole, "{bn} {tally:?}");
                let mut left = n;
                let mut until = |now: &Tally| {
                    left = left.checked_sub(1).unwrap_or_else(|| {
                        assert_eq!(now, tally);
                        usize::MAX
                    });
                    Ok(left != usize::MAX)
                };
                let begin = Tally::default();
                let stopped = evaluator.count_right(&weights, &subnets, begin, &bar, &mut until);
                assert_eq!(stopped.unwrap(), None, "{bn} {tally:?}");
            }
        }
    }

    #[test]
    fn a_stopped_list_goes_on_from_its_log() {
        let space = space();
        let archs: Vec<Arch> = archs(&space).into_iter().take(9).collect();
        let subnets: Vec<&Arch> = archs.iter().collect();
        let codes: Vec<String> = archs.iter().map(|arch| space.encode(arch)).collect();
        let folder = tempfile::tempdir().unwrap();
        let bn = BnMode::Recalibrated;
        let mut evaluator = evaluator(&space, bn);
        let weights = Weights::init(&evaluator.layout, 1);
        let evaluation = Evaluation::new(&space, &weights, &data(), settings(bn), &Engine::Cpu);
        let open = || Log::open(&folder.path().join("log"), &evaluation).unwrap();
        let mut log = open();
        let bar = Bar::new("test", 9);
        // It is asked after two batches of statistics and then after two of three of images.
        let asked = std::cell::Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() >= 4
        };
        let list = archs.iter();
        assert!(!evaluator.evaluate_missing(&weights, list, &mut log, &bar, &stop).unwrap());
        drop(log);
        let mut log = open();
        assert_eq!((log.tally(&codes).batches, log.get(&codes[0])), (2, None));
        asked.set(0);
        let count = || {
            asked.set(asked.get() + 1);
            false
        };
        let list = archs.iter();
        assert!(evaluator.evaluate_missing(&weights, list, &mut log, &bar, &count).unwrap());
        assert_eq!(asked.get(), 2, "the statistics again, of the images only the last batch");
        let begin = Tally::default();
        let whole = evaluator.count_right(&weights, &subnets, begin, &bar, &mut |_| Ok(true));
        for (code, right) in codes.iter().zip(whole.unwrap().unwrap()) {
            assert_eq!(log.get(code), Some(right), "{code}");
        }
    }
}
