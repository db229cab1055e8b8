//! A run's images: the source, and what the configuration makes of it.

use crate::config::{self, Corrupt};
use anyhow::{Context, Result, bail, ensure};
use slimtau_data::{
    Composed, ComposedConfig, Data, Dataset, InMemory, Replaced, Source, Subset, hold_out, readable,
};
use slimtau_space::SearchSpace;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The images that a configuration's `[data]` table stands for, which must fit the space. Its source is `embedded`,
/// `auto`, `kind:FOLDER`, or a folder or packed file whose kind its contents tell.
pub fn of_run(config: &config::Data, space: &SearchSpace) -> Result<Data> {
    let mut data = open(&config.source, space)?;
    if config.hold_out > 0 {
        let (rest, held_out) = hold_out(data.train, config.hold_out, 0).context("data.hold_out")?;
        data = Data { train: Arc::new(rest), validation: Arc::new(held_out) };
    }
    data.train = first(data.train, config.train_images)?;
    data.validation = first(data.validation, config.validation_images)?;
    // After held-out images were split off: none of them may stand in for a training image.
    data = without_corrupt(data, config.corrupt)?;
    if let Some(composed) = &config.composed {
        let &config::Composed { items, train_images, validation_images, canvas, item, seed } =
            composed;
        // Both parts have seeds of their own, or the same places would go with the same labels.
        let part = |source, len, seed| -> Result<Arc<dyn Dataset>> {
            let images = Composed::new(source, ComposedConfig { len, items, canvas, item, seed });
            let images = Arc::new(images.context("data.composed")?);
            // Composing takes longer than a small network's training step on the image.
            Ok(Arc::new(InMemory::new(images)?))
        };
        data = Data {
            train: part(data.train, train_images, 2 * seed)?,
            validation: part(data.validation, validation_images, 2 * seed + 1)?,
        };
    }
    check(&data, space)?;
    Ok(data)
}

/// The first line of a run's `config.toml`: the configuration names a space and images but does not hold them, so this and
/// [`recorded_images`] let a space file or a dataset that changed since be noticed.
pub fn recorded_space(space: &SearchSpace) -> String {
    let hash = blake3::hash(space.to_toml().as_bytes()).to_hex();
    format!("# space {}: {}", space.name, &hash[..16])
}

/// The second and third line.
pub fn recorded_images(data: &Data) -> [String; 2] {
    [
        format!("# training: {}", data.train.describe()),
        format!("# validation: {}", data.validation.describe()),
    ]
}

/// Whether line `i` (from 0) of a run's `config.toml` is what it would be now. A configuration that no run has written
/// has no such lines, and says nothing.
pub fn check_recorded(config: &str, i: usize, now: &str) -> Result<()> {
    let then: Vec<&str> = config.lines().take(3).collect();
    let kinds = ["# space ", "# training: ", "# validation: "];
    if then.len() == 3 && then.iter().zip(kinds).all(|(line, kind)| line.starts_with(kind)) {
        let [then, now] = [then[i], now].map(|line| line.trim_start_matches("# "));
        ensure!(then == now, "the run had {then}, but here is {now}");
    }
    Ok(())
}

/// Does with undecodable images as the configuration says. Each is named once on standard error, with how many
/// there have been.
fn without_corrupt(data: Data, corrupt: Corrupt) -> Result<Data> {
    if corrupt == Corrupt::Fail {
        return Ok(data);
    }
    let mut left_out = 0;
    let threads = rayon::current_num_threads();
    let validation = readable(data.validation, threads, |_, error| {
        left_out += 1;
        eprintln!("{error}; left out of validation ({left_out} so far)");
    })?;
    let replaced = AtomicUsize::new(0);
    let train = Replaced::new(data.train, move |_, error| {
        let n = replaced.fetch_add(1, Ordering::Relaxed) + 1;
        eprintln!("{error}; the next of its class takes its place ({n} so far)");
    });
    Ok(Data { train: Arc::new(train), validation })
}

fn open(source: &str, space: &SearchSpace) -> Result<Data> {
    let folder = Path::new(source);
    let source: Source = if folder.is_dir() {
        if folder.join("train").is_dir() {
            let (size, channels) = (space.image_size, space.channels);
            Source::ImageFolder { folder: folder.into(), size, channels }
        } else {
            Source::IdxFolder(folder.into())
        }
    } else if folder.is_file() {
        let (size, channels) = (space.image_size, space.channels);
        Source::Packed { file: folder.into(), size, channels }
    } else if source.contains(['/', '\\']) && !source.contains(':') {
        bail!("data source {source}: no such folder or file");
    } else {
        match source.parse()? {
            // The space says which.
            Source::ImageFolder { folder, .. } => {
                Source::ImageFolder { folder, size: space.image_size, channels: space.channels }
            }
            Source::Packed { file, .. } => {
                Source::Packed { file, size: space.image_size, channels: space.channels }
            }
            source => source,
        }
    };
    Ok(slimtau_data::open(&source)?)
}

fn check(data: &Data, space: &SearchSpace) -> Result<()> {
    for (part, set) in [("training", &data.train), ("validation", &data.validation)] {
        let got = (set.size(), set.channels());
        let needed = (space.image_size, space.channels);
        if got != needed || set.classes() > space.classes {
            bail!(
                "space {} takes {}x{}x{} images of {} classes, the {part} set has {}x{}x{} of {}: {}",
                space.name,
                needed.0,
                needed.0,
                needed.1,
                space.classes,
                got.0,
                got.0,
                got.1,
                set.classes(),
                set.describe()
            );
        }
    }
    Ok(())
}

/// The first `n` images of a set; all of them for 0.
pub fn first(set: Arc<dyn Dataset>, n: usize) -> Result<Arc<dyn Dataset>> {
    if n == 0 || n == set.len() {
        return Ok(set);
    }
    if n > set.len() {
        bail!("data: {n} images asked for, {} has {}", set.describe(), set.len());
    }
    let indices = (0..n as u32).collect();
    Ok(Arc::new(Subset::new(set, indices, format!("the first {n}"))?))
}
