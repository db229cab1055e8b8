//! `[data]`: where images come from, and what training and evaluation make of them.

use super::in_range;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use slimtau_data::{CropFlip, Dataset, EvalCrop, Pipeline, ResizedCropFlip};
use std::fmt;

/// More threads than any machine is helped by: a mistake rather than a wish.
const MOST_WORKERS: usize = 1024;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// `embedded`, `auto` (the whole set where it is installed), or a folder.
    pub source: String,
    /// Use only the first so many training images (0 = all).
    #[serde(default)]
    pub train_images: usize,
    /// Use only the first so many validation images (0 = all).
    #[serde(default)]
    pub validation_images: usize,
    // What a configuration of before has no word for is not written either: folders of runs are compared as text.
    /// How training images are cropped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub crop: Crop,
    /// Zero padding before the random crop, pixels; with `crop = "padded"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop_padding: Option<usize>,
    /// Smallest share of the image's area that a crop may show; with `crop = "random-resized"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_scale: Option<f32>,
    /// Smallest and largest width / height of a crop; with `crop = "random-resized"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<[f32; 2]>,
    /// In evaluation: side of the centre crop in shorter sides of the resized image.
    #[serde(default, skip_serializing_if = "is_default")]
    pub crop_fraction: CropFraction,
    /// Mirror every second training image.
    pub flip: bool,
    /// What happens to image files that cannot be decoded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub corrupt: Corrupt,
    /// Hold out so many training images of each class, and validate on them instead (0 = off).
    #[serde(default)]
    pub hold_out: usize,
    /// Threads that prepare batches; 0 = [`Data::training_workers`] decides. Of the machine, not of the run: no result
    /// depends on it, so it is never written, and a folder's configuration does not differ by it.
    #[serde(default, skip_serializing)]
    pub workers: usize,
    /// Compose images of the source's and classify those.
    #[serde(default)]
    pub composed: Option<Composed>,
}

/// How training images are cropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Crop {
    /// The image's centre at the network's size, with zeros around it, at a random place.
    #[default]
    Padded,
    /// A box of random size, shape and place, resized.
    RandomResized,
}

/// A share of the shorter side; 224 of 256 by default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CropFraction(pub f32);

impl Default for CropFraction {
    fn default() -> Self {
        Self(EvalCrop::default().crop_fraction)
    }
}

/// What happens to image files that cannot be decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Corrupt {
    /// The run ends with an error that names the file
    #[default]
    Fail,
    /// In training the next image of its class takes its place; validation goes without it
    Skip,
}

/// Items at random places of a canvas, labelled by what is on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Composed {
    /// Items on an image, 1 or 2.
    pub items: usize,
    /// How many composed images to train on.
    pub train_images: usize,
    /// How many to validate on.
    pub validation_images: usize,
    /// Side of the canvas, pixels.
    pub canvas: usize,
    /// Side of an item, pixels.
    pub item: usize,
    /// Which images are composed; not the run's seed, so that every run has the same task.
    #[serde(default)]
    pub seed: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fail => "fail",
            Self::Skip => "skip",
        })
    }
}

impl Data {
    /// All images of a source as they are.
    pub fn of_source(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            train_images: 0,
            validation_images: 0,
            crop: Crop::default(),
            crop_padding: None,
            min_scale: None,
            ratio: None,
            crop_fraction: CropFraction::default(),
            flip: false,
            corrupt: Corrupt::default(),
            hold_out: 0,
            workers: 0,
            composed: None,
        }
    }

    /// What training with labels makes of an image.
    pub fn training(&self) -> Pipeline {
        let flip_probability = if self.flip { 0.5 } else { 0.0 };
        match self.crop {
            Crop::Padded => {
                let padding = self.crop_padding.unwrap_or_default(); // there, once checked
                Pipeline::CropFlip(CropFlip { padding, flip_probability })
            }
            Crop::RandomResized => {
                let usual = ResizedCropFlip::default();
                let scale = self.min_scale.map_or(usual.scale, |least| (least, 1.0));
                let ratio = self.ratio.map_or(usual.ratio, |[low, high]| (low, high));
                Pipeline::ResizedCropFlip(ResizedCropFlip { scale, ratio, flip_probability })
            }
        }
    }

    /// What evaluation makes of an image.
    pub fn evaluation(&self) -> EvalCrop {
        EvalCrop { crop_fraction: self.crop_fraction.0 }
    }

    /// Threads that prepare batches of `train`. Where none are asked for: one keeps up with images that lie in
    /// memory, and the others are needed for training; files that have to be decoded get half of the threads. Where
    /// training is a GPU's work, all threads prepare batches.
    pub fn training_workers(&self, train: &dyn Dataset, on_cpu: bool) -> usize {
        let threads = rayon::current_num_threads();
        match self.workers {
            0 if !on_cpu => threads,
            0 if train.decodes() => (threads / 2).max(1),
            0 => 1,
            workers => workers,
        }
    }

    /// Takes the option `--workers` instead of the key, where it was given.
    pub fn with_workers(&mut self, given: Option<usize>) -> Result<()> {
        if let Some(workers) = given {
            check_workers("--workers", workers)?;
            self.workers = workers;
        }
        Ok(())
    }

    /// What decides the pixels that stages with labels see, besides the images. Part of hashes, so where a
    /// configuration says nothing new it is what it was before there was more to say.
    pub fn identity(&self) -> String {
        let mut text = match self.training() {
            Pipeline::ResizedCropFlip(ResizedCropFlip { scale, ratio, .. }) => {
                format!("random-resized {scale:?} {ratio:?} {}", self.flip)
            }
            _ => format!("{} {}", self.crop_padding.unwrap_or_default(), self.flip),
        };
        if !is_default(&self.crop_fraction) {
            text += &format!(" crop_fraction {}", self.crop_fraction.0);
        }
        text
    }

    /// Refuses values out of range and keys of the other kind of crop.
    pub fn check(&self) -> Result<()> {
        check_workers("data.workers =", self.workers)?;
        match self.crop {
            Crop::Padded => {
                if self.crop_padding.is_none() {
                    bail!(
                        "data.crop_padding: is missing, and `crop = \"padded\"`, the default, needs it"
                    );
                }
                let shown = [
                    ("min_scale", self.min_scale.map(|value| format!("{value:?}"))),
                    ("ratio", self.ratio.map(|value| format!("{value:?}"))),
                ];
                for (key, value) in shown {
                    if let Some(value) = value {
                        bail!("data.{key} = {value}: only with `crop = \"random-resized\"`");
                    }
                }
            }
            Crop::RandomResized => {
                if let Some(padding) = self.crop_padding {
                    bail!("data.crop_padding = {padding}: only with `crop = \"padded\"`");
                }
            }
        }
        if let Some(least) = self.min_scale {
            in_range("data.min_scale", least, 0.01, 1.0)?;
        }
        if let Some([low, high]) = self.ratio {
            in_range("data.ratio", low, 0.01, 100.0)?;
            in_range("data.ratio", high, low, 100.0)?;
        }
        in_range("data.crop_fraction", self.crop_fraction.0, 0.1, 1.0)
    }
}

fn check_workers(what: &str, workers: usize) -> Result<()> {
    if workers > MOST_WORKERS {
        bail!("{what} {workers}: at most {MOST_WORKERS} threads; 0 = as many as are of use");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(keys: &str) -> Data {
        let data: Data = toml::from_str(&format!("source = \"x\"\nflip = true\n{keys}")).unwrap();
        data.check().unwrap();
        data
    }

    #[test]
    fn what_says_nothing_new_is_written_as_before() {
        let data = parse("crop_padding = 2");
        assert_eq!(data.identity(), "2 true");
        let text = toml::to_string(&data).unwrap();
        assert_eq!(
            text,
            "source = \"x\"\ntrain_images = 0\nvalidation_images = 0\ncrop_padding = 2\nflip = true\nhold_out = 0\n"
        );
    }

    #[test]
    fn workers_are_of_the_machine_and_not_of_the_run() {
        let (two, none) = (parse("crop_padding = 2\nworkers = 2"), parse("crop_padding = 2"));
        assert_eq!(two.identity(), none.identity());
        assert_eq!(toml::to_string(&two).unwrap(), toml::to_string(&none).unwrap());
        let many = Data { workers: 5000, ..none.clone() }.check().unwrap_err().to_string();
        assert!(many.starts_with("data.workers = 5000: at most 1024"), "{many}");
        let many = Data::of_source("x").with_workers(Some(5000)).unwrap_err().to_string();
        assert!(many.starts_with("--workers 5000: at most 1024"), "{many}");
    }

    /// Images that are files, or are not.
    struct Images(bool);

    impl Dataset for Images {
        fn len(&self) -> usize {
            1
        }
        fn classes(&self) -> usize {
            1
        }
        fn channels(&self) -> usize {
            1
        }
        fn size(&self) -> usize {
            1
        }
        fn label(&self, _: usize) -> u32 {
            0
        }
        fn image(
            &self,
            _: usize,
            _: &mut Vec<u8>,
        ) -> Result<(usize, usize), slimtau_data::DataError> {
            unreachable!("nobody asks for it")
        }
        fn decodes(&self) -> bool {
            self.0
        }
        fn describe(&self) -> String {
            String::new()
        }
    }

    #[test]
    fn files_get_half_of_the_threads_and_images_in_memory_one() {
        let mut data = parse("crop_padding = 2");
        for (threads, of_files) in [(1, 1), (2, 1), (3, 1), (16, 8)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let workers = |files, cpu| pool.install(|| data.training_workers(&Images(files), cpu));
            assert_eq!((workers(false, true), workers(true, true)), (1, of_files), "{threads}");
            assert_eq!((workers(false, false), workers(true, false)), (threads, threads));
        }
        data.with_workers(Some(3)).unwrap();
        data.with_workers(None).unwrap();
        assert_eq!([false, true].map(|files| data.training_workers(&Images(files), files)), [3, 3]);
    }

    #[test]
    fn new_keys_reach_pipeline_text_and_identity() {
        let data = parse(
            "crop = \"random-resized\"\nmin_scale = 0.3\nratio = [0.5, 2.0]\ncrop_fraction = 0.5\ncorrupt = \"skip\"",
        );
        let expect =
            ResizedCropFlip { scale: (0.3, 1.0), ratio: (0.5, 2.0), flip_probability: 0.5 };
        assert_eq!(data.training(), Pipeline::ResizedCropFlip(expect));
        assert_eq!(data.evaluation().crop_fraction, 0.5);
        let again: Data = toml::from_str(&toml::to_string(&data).unwrap()).unwrap();
        assert_eq!((again.identity(), again.corrupt), (data.identity(), Corrupt::Skip));
        let usual = parse("crop = \"random-resized\"");
        assert_eq!(usual.training(), Pipeline::ResizedCropFlip(ResizedCropFlip::default()));
        assert_ne!(usual.identity(), data.identity());
    }
}
