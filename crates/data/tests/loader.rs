//! What a loader promises: batches that depend on nothing but (dataset, configuration, step), and
//! streams that end cleanly however they end.

use slimtau_data::{
    Batch, Composed, ComposedConfig, CropFlip, DataError, Dataset, LastBatch, Loader, LoaderConfig,
    MocoViews, Normalization, Order, Pipeline, ResizedCropFlip, Source, Subset, hold_out, open,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn small() -> Arc<dyn Dataset> {
    let train = open(&Source::Embedded).unwrap().train;
    Arc::new(Subset::balanced(train, 5, 3).unwrap())
}

fn config(pipeline: Pipeline, batch: usize, workers: usize) -> LoaderConfig {
    let normalization = Normalization::fashion_mnist();
    LoaderConfig { workers, ..LoaderConfig::train(pipeline, normalization, batch, 11) }
}

fn pipelines() -> [Pipeline; 4] {
    [
        Pipeline::Eval(Default::default()),
        Pipeline::CropFlip(CropFlip::default()),
        Pipeline::ResizedCropFlip(ResizedCropFlip::default()),
        Pipeline::TwoViews(MocoViews::default()),
    ]
}

/// Equal to the last bit, NaN or not.
#[track_caller]
fn assert_same(a: &Batch, b: &Batch) {
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!((&a.shape, &a.labels, &a.indices), (&b.shape, &b.labels, &b.indices));
    assert_eq!(bits(&a.images), bits(&b.images));
    assert_eq!(a.second.as_deref().map(bits), b.second.as_deref().map(bits));
}

#[test]
fn any_number_of_workers_gives_the_direct_batches() {
    let dataset = small();
    for pipeline in pipelines() {
        // 64 of 50: batches larger than the dataset, too.
        for batch in [7, 64] {
            let direct = Loader::new(dataset.clone(), config(pipeline, batch, 0)).unwrap();
            let expected: Vec<Batch> = (2..15).map(|s| direct.batch(s).unwrap()).collect();
            for workers in [0, 1, 2, 5] {
                let loader =
                    Loader::new(dataset.clone(), config(pipeline, batch, workers)).unwrap();
                let mut n = 0;
                for (got, expected) in loader.stream(2, 15).zip(&expected) {
                    let got = got.unwrap();
                    assert_same(&got, expected);
                    loader.recycle(got); // stale contents of a recycled buffer would show
                    n += 1;
                }
                assert_eq!(n, 13, "{workers} workers");
            }
        }
    }
}

/// A training that is stopped anywhere and goes on with another number of workers, over photographs of many sizes and
/// over images in memory.
#[test]
fn resuming_with_other_workers_changes_no_bit() {
    let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens");
    let folder = tempfile::tempdir().unwrap();
    let names = ["grey.jpg", "odd444.jpg", "portrait.jpg", "wide.png", "large.jpg", "cmyk.jpg"];
    for (i, name) in names.iter().enumerate() {
        for part in ["train", "val"] {
            let class = folder.path().join(part).join(format!("class{}", i % 2));
            std::fs::create_dir_all(&class).unwrap();
            std::fs::copy(format!("{goldens}/{name}"), class.join(name)).unwrap();
        }
    }
    let source = Source::ImageFolder { folder: folder.path().into(), size: 48, channels: 3 };
    let photographs = open(&source).unwrap().train;
    assert!(photographs.decodes() && !small().decodes());
    for (dataset, pipelines) in [(photographs, &pipelines()[2..]), (small(), &pipelines()[1..])] {
        let normalization = Normalization::identity(dataset.channels());
        for pipeline in pipelines {
            let loader = |workers| {
                let config = LoaderConfig::train(*pipeline, normalization.clone(), 7, 3);
                Loader::new(dataset.clone(), LoaderConfig { workers, ..config }).unwrap()
            };
            let direct = loader(0);
            let expected: Vec<Batch> = (0..9).map(|step| direct.batch(step).unwrap()).collect();
            for (first, then) in [(1, 2), (2, 4), (4, 1), (3, 0)] {
                let before = loader(first);
                let mut got: Vec<Batch> = Vec::new();
                got.extend(before.stream(0, 9).take(4).map(Result::unwrap));
                got.extend(loader(then).stream(4, 9).map(Result::unwrap));
                assert_eq!(got.len(), expected.len());
                got.iter().zip(&expected).for_each(|(got, expected)| assert_same(got, expected));
            }
        }
    }
}

#[test]
fn seeds_epochs_and_views_differ() {
    let dataset = small();
    let loader = |pipeline, seed| {
        let config = LoaderConfig { order: Order::Sequential, seed, ..config(pipeline, 50, 0) };
        Loader::new(dataset.clone(), config).unwrap()
    };
    let views = Pipeline::TwoViews(MocoViews::default());
    let first = loader(views, 1).batch(0).unwrap();
    assert_eq!(first.indices, (0..50).collect::<Vec<_>>());
    assert_ne!(first.images, loader(views, 2).batch(0).unwrap().images, "another seed");
    assert_ne!(first.images, loader(views, 1).batch(1).unwrap().images, "another epoch");
    assert_ne!(Some(&first.images), first.second.as_ref(), "another view");
    let eval = Pipeline::Eval(Default::default());
    assert_eq!(loader(eval, 1).batch(0).unwrap(), loader(eval, 2).batch(1).unwrap());
}

#[test]
fn evaluation_sees_the_whole_set_in_order() {
    let validation = open(&Source::Embedded).unwrap().validation;
    let config = LoaderConfig::eval(Normalization::fashion_mnist(), 300);
    let loader = Loader::new(validation.clone(), config).unwrap();
    let batches: Vec<Batch> =
        loader.stream(0, loader.steps_per_epoch()).collect::<Result<_, _>>().unwrap();
    assert_eq!(batches.len(), 14);
    assert_eq!(batches[13].shape, [100, 28, 28, 1]);
    let indices: Vec<u32> = batches.iter().flat_map(|b| b.indices.clone()).collect();
    assert_eq!(indices, (0..4000).collect::<Vec<_>>());
    let mut pixels = Vec::new();
    for (place, i) in [(0, 0), (299, 299)] {
        validation.image(i, &mut pixels).unwrap();
        let image = &batches[0].images[place * 784..(place + 1) * 784];
        for (value, &pixel) in image.iter().zip(&pixels) {
            let expect = (f32::from(pixel) / 255.0 - 0.286_040_6) / 0.353_024_24;
            assert!((value - expect).abs() < 1e-5);
        }
        assert_eq!(batches[0].labels[place], validation.label(i));
    }
}

#[test]
fn normalised_training_images_have_mean_0_and_deviation_1() {
    let train = open(&Source::Embedded).unwrap().train;
    let config = LoaderConfig::eval(Normalization::fashion_mnist(), 12_000);
    let values = Loader::new(train, config).unwrap().batch(0).unwrap().images;
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
    assert!(mean.abs() < 0.01, "mean {mean}");
    assert!(((square - mean * mean).sqrt() - 1.0).abs() < 0.01, "mean square {square}");
}

/// A dataset that fails, or panics, from image `bad` on, and counts what is asked of it.
struct Failing {
    bad: usize,
    panics: bool,
    asked: AtomicUsize,
}

impl Dataset for Failing {
    fn len(&self) -> usize {
        100
    }
    fn classes(&self) -> usize {
        1
    }
    fn channels(&self) -> usize {
        1
    }
    fn size(&self) -> usize {
        2
    }
    fn label(&self, _: usize) -> u32 {
        0
    }
    fn image(&self, i: usize, pixels: &mut Vec<u8>) -> Result<(usize, usize), DataError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if i >= self.bad {
            assert!(!self.panics, "this panic is part of the test");
            return Err(DataError::Folder { path: "x".into(), problem: format!("image {i}") });
        }
        pixels.clear();
        pixels.extend([i as u8; 4]);
        Ok((2, 2))
    }
    fn describe(&self) -> String {
        "failing".into()
    }
}

fn failing(bad: usize, panics: bool, workers: usize) -> (Arc<Failing>, Loader) {
    let dataset = Arc::new(Failing { bad, panics, asked: AtomicUsize::new(0) });
    let config = LoaderConfig { workers, ..LoaderConfig::eval(Normalization::identity(1), 10) };
    let loader = Loader::new(dataset.clone(), config).unwrap();
    (dataset, loader)
}

#[test]
fn an_error_comes_in_its_turn_and_ends_the_stream() {
    for workers in [0, 1, 2, 5] {
        let (_, loader) = failing(35, false, workers);
        let mut stream = loader.stream(0, 10);
        for step in 0..3 {
            assert_eq!(stream.next().unwrap().unwrap().indices[0], step * 10);
        }
        let error = stream.next().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "x: image 35");
        assert!(stream.next().is_none() && stream.next().is_none());
    }
}

#[test]
fn a_panic_in_a_dataset_becomes_an_error() {
    for workers in [1, 2, 5] {
        let (_, loader) = failing(35, true, workers);
        let results: Vec<_> = loader.stream(0, 10).collect();
        assert_eq!(results.len(), 4);
        assert!(matches!(results[3], Err(DataError::WorkerPanicked { step: 3 })));
    }
}

#[test]
fn dropping_a_stream_stops_and_joins_its_threads() {
    for taken in [0, 1, 3] {
        let (dataset, loader) = failing(1000, false, 3);
        let mut stream = loader.stream(0, u64::MAX);
        stream.by_ref().take(taken).for_each(|batch| drop(batch.unwrap()));
        drop(stream);
        // All threads are gone, with their references to the dataset.
        drop(loader);
        assert_eq!(Arc::strong_count(&dataset), 1);
        assert!(dataset.asked.load(Ordering::Relaxed) <= 10 * (taken + 4));
    }
}

/// Memory is bounded by it: a batch of two views of 256 photographs is 308 MB.
#[test]
fn no_number_of_workers_gets_further_ahead() {
    for (workers, ahead) in [(1, 2), (2, 4), (4, 4), (16, 4)] {
        let (dataset, loader) = failing(1000, false, workers);
        let mut stream = loader.stream(0, u64::MAX);
        for taken in 1..4 {
            stream.next().unwrap().unwrap();
            let most = 10 * (taken + ahead);
            let asked = || dataset.asked.load(Ordering::Relaxed);
            let begin = Instant::now();
            while asked() < most {
                assert!(begin.elapsed() < Duration::from_secs(20), "{workers} workers stand still");
                std::thread::yield_now();
            }
            // Time to go too far.
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(asked(), most, "{workers} workers");
        }
    }
}

#[test]
fn an_empty_range_has_no_batches() {
    let loader = Loader::new(small(), config(pipelines()[0], 5, 2)).unwrap();
    assert!(loader.stream(4, 4).next().is_none());
    assert!(loader.stream(5, 4).next().is_none());
}

#[test]
fn unusable_configurations_are_refused() {
    let check = |config: LoaderConfig, expect: &str| {
        let message = Loader::new(small(), config).err().unwrap().to_string();
        assert!(message.starts_with(expect), "{message}");
    };
    let good = config(pipelines()[1], 5, 0);
    check(LoaderConfig { batch: 0, ..good.clone() }, "batch size is 0");
    let dropping = LoaderConfig { batch: 51, last_batch: LastBatch::Drop, ..good.clone() };
    check(dropping, "batch size is 51, expected at most the 50 images");
    let rgb = LoaderConfig { normalization: Normalization::imagenet(), ..good.clone() };
    check(rgb, "normalization mean is");
    let pipeline = Pipeline::CropFlip(CropFlip { padding: 2, flip_probability: 1.5 });
    check(LoaderConfig { pipeline, ..good }, "flip probability is 1.5");
}

#[test]
fn held_out_images_are_balanced_and_apart() {
    let train = open(&Source::Embedded).unwrap().train;
    let (rest, held_out) = hold_out(train.clone(), 100, 5).unwrap();
    assert_eq!((rest.len(), held_out.len()), (11_000, 1_000));
    let mut all = [rest.indices(), held_out.indices()].concat();
    all.sort_unstable();
    assert_eq!(all, (0..12_000).collect::<Vec<_>>());
    let mut counts = [0; 10];
    (0..1000).for_each(|i| counts[held_out.label(i) as usize] += 1);
    assert_eq!(counts, [100; 10]);
    let again = hold_out(train.clone(), 100, 5).unwrap().1;
    assert_eq!(again.indices(), held_out.indices());
    let other = hold_out(train.clone(), 100, 6).unwrap().1;
    assert_ne!(other.indices(), held_out.indices());
    let message = hold_out(train, 1200, 5).err().unwrap().to_string();
    assert!(message.contains("less than the 1200 images of class 0"), "{message}");
}

#[test]
fn pairs_have_both_items_and_balanced_labels() {
    let items = open(&Source::Embedded).unwrap().validation;
    let pair = |seed, item| ComposedConfig { len: 550, items: 2, canvas: 32, item, seed };
    let pairs = Composed::new(items.clone(), pair(1, 16)).unwrap();
    assert_eq!((pairs.classes(), pairs.size(), pairs.len()), (55, 32, 550));
    assert_eq!(
        [pairs.classes_of(0), pairs.classes_of(9), pairs.classes_of(10)],
        [[0, 0], [0, 9], [1, 1]]
    );
    assert_eq!(pairs.classes_of(54), [9, 9]);
    let mut counts = [0; 55];
    (0..550).for_each(|i| counts[pairs.label(i) as usize] += 1);
    assert_eq!(counts, [10; 55]);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    assert_eq!(pairs.image(7, &mut a).unwrap(), (32, 32));
    Composed::new(items.clone(), pair(1, 16)).unwrap().image(7, &mut b).unwrap();
    assert_eq!(a, b, "decided by (seed, index)");
    Composed::new(items.clone(), pair(2, 16)).unwrap().image(7, &mut b).unwrap();
    assert_ne!(a, b, "another seed");
    let single = Composed::new(items.clone(), ComposedConfig { items: 1, ..pair(1, 16) }).unwrap();
    assert_eq!((single.classes(), single.label(13), single.classes_of(3)), (10, 3, &[3][..]));
    single.image(7, &mut b).unwrap();
    let lit = |image: &[u8]| image.iter().filter(|&&p| p > 0).count();
    assert!((1..=16 * 16).contains(&lit(&b)) && lit(&a) > lit(&b), "one item");
    let message =
        Composed::new(items.clone(), ComposedConfig { items: 3, ..pair(1, 16) }).err().unwrap();
    assert_eq!(message.to_string(), "items on a composed image is 3, expected 1 or 2");
    let message = Composed::new(items, pair(1, 33)).err().unwrap().to_string();
    assert_eq!(message, "side of composed items is 33, expected 1 to the canvas side, 32");
}

/// One white image per class, so that a pair shows exactly where its two items lie.
struct White;

impl Dataset for White {
    fn len(&self) -> usize {
        2
    }
    fn classes(&self) -> usize {
        2
    }
    fn channels(&self) -> usize {
        1
    }
    fn size(&self) -> usize {
        4
    }
    fn label(&self, i: usize) -> u32 {
        i as u32
    }
    fn image(&self, i: usize, pixels: &mut Vec<u8>) -> Result<(usize, usize), DataError> {
        pixels.clear();
        pixels.extend([if i == 0 { 100 } else { 200 }; 16]);
        Ok((4, 4))
    }
    fn describe(&self) -> String {
        "white".into()
    }
}

#[test]
fn items_are_whole_and_the_brighter_shows() {
    let config = ComposedConfig { len: 3 * 60, items: 2, canvas: 9, item: 4, seed: 1 };
    let pairs = Composed::new(Arc::new(White), config).unwrap();
    let mut pixels = Vec::new();
    let mut apart = 0;
    for i in 0..pairs.len() {
        pairs.image(i, &mut pixels).unwrap();
        let count = |value| pixels.iter().filter(|&&p| p == value).count();
        let (dim, bright) = (count(100), count(200));
        assert_eq!(dim + bright + count(0), 81);
        match pairs.classes_of(pairs.label(i)) {
            [0, 1] => assert!(bright == 16 && dim <= 16, "{dim} {bright}"),
            [0, 0] => assert!(bright == 0 && (16..=32).contains(&dim)),
            _ => assert!(dim == 0 && (16..=32).contains(&bright)),
        }
        apart += usize::from(dim + bright == 32);
    }
    assert!((10..170).contains(&apart), "shifts vary independently: {apart} of 180 apart");
}

#[test]
fn drawn_images_come_at_their_places() {
    let dataset = small();
    let pipeline = Pipeline::CropFlip(CropFlip::default());
    let images: Arc<[u32]> = [4, 4, 49, 0, 7, 4, 4, 1, 2].into();
    let direct = Loader::new(dataset.clone(), config(pipeline, 3, 0)).unwrap();
    let drawn = direct.drawn(10, images.clone()).unwrap();
    assert_eq!(drawn.steps_per_epoch(), 3);
    let batches: Vec<Batch> = (10..13).map(|s| drawn.batch(s).unwrap()).collect();
    for (batch, images) in batches.iter().zip(images.chunks(3)) {
        assert_eq!(batch.indices, images);
        let labels: Vec<u32> = images.iter().map(|&i| dataset.label(i as usize)).collect();
        assert_eq!(batch.labels, labels);
    }
    // The same image differs from place to place, within a batch and between batches.
    let views: Vec<&[f32]> = batches.iter().flat_map(|b| b.images.chunks(784)).collect();
    for (a, b) in [(0, 1), (0, 5), (1, 6), (5, 6)] {
        assert_ne!(views[a], views[b], "places {a} and {b}");
    }
    // The batches do not depend on where the draw began, on prefetching, or on recycled buffers.
    let later = direct.drawn(12, images[6..].into()).unwrap();
    assert_same(&later.batch(12).unwrap(), &batches[2]);
    for workers in [1, 2, 5] {
        let loader = Loader::new(dataset.clone(), config(pipeline, 3, workers)).unwrap();
        let drawn = loader.drawn(10, images.clone()).unwrap();
        for (got, expected) in drawn.stream(11, 13).zip(&batches[1..]) {
            let got = got.unwrap();
            assert_same(&got, expected);
            drawn.recycle(got);
        }
        // The loader itself goes on in its own order.
        assert_same(&loader.batch(11).unwrap(), &direct.batch(11).unwrap());
    }
}

#[test]
fn drawn_images_that_cannot_be_are_refused() {
    let loader = Loader::new(small(), config(Pipeline::Eval(Default::default()), 3, 0)).unwrap();
    let error =
        |first, images: &[u32]| loader.drawn(first, images.into()).err().unwrap().to_string();
    assert_eq!(
        error(0, &[1, 2]),
        "number of drawn images is 2, expected one or more whole batches of 3"
    );
    assert!(error(0, &[]).contains("is 0, expected one or more"));
    assert_eq!(error(0, &[1, 50, 2]), "drawn image is 50, expected below 50");
    assert!(error(u64::MAX / 2, &[1, 2, 3]).contains("64-bit range"));
    let drawn = loader.drawn(5, [1, 2, 3].into()).unwrap();
    for step in [4, 6] {
        let error = drawn.batch(step).unwrap_err();
        assert!(matches!(error, DataError::StepNotDrawn { first: 5, end: 6, .. }), "{error}");
    }
    assert!(drawn.stream(5, 8).nth(1).unwrap().is_err());
}
