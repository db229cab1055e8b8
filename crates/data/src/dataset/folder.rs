//! Image files sorted into one folder per class, as ImageNet is usually kept.

use crate::{DataError, Dataset};
use image::ImageReader;
use slimtau_base::FileError;
use std::fs;
use std::path::{Path, PathBuf};

/// `<folder>/<class>/*` with files ending in jpg, jpeg or png (any case); other files and names
/// that start with a dot are passed over. Classes and files are numbered in the order of their
/// sorted names. Images are decoded at each access, never cached, and EXIF rotation is not applied
/// (nor is it by the usual ImageNet loaders).
#[derive(Clone, Debug)]
pub struct ImageFolder {
    folder: PathBuf,
    class_names: Vec<String>,
    /// (class, file name), sorted.
    files: Vec<(u32, Box<str>)>,
    size: usize,
    channels: usize,
}

impl ImageFolder {
    /// Lists the files of `folder`. With `class_names` (the training part's), labels follow that
    /// list, and classes without a folder are merely absent; without, every sub-folder is a class.
    /// `size` is the side of the square pipelines make, `channels` 1 or 3.
    ///
    /// # Errors
    /// When the folder cannot be listed, holds no classes or a class outside `class_names`, a
    /// class holds no image, a name is not UTF-8, `size` is 0 or `channels` neither 1 nor 3.
    pub fn open(
        folder: &Path,
        class_names: Option<&[String]>,
        size: usize,
        channels: usize,
    ) -> Result<Self, DataError> {
        if size == 0 {
            return Err(DataError::setting("image size", size, "at least 1"));
        }
        if channels != 1 && channels != 3 {
            return Err(DataError::setting("channels", channels, "1 or 3"));
        }
        let bad = |path: &Path, problem: String| DataError::Folder { path: path.into(), problem };
        let found = list(folder, Path::is_dir)?;
        if found.is_empty() {
            return Err(bad(folder, "holds no class folders".into()));
        }
        let known = class_names.map_or_else(|| found.clone(), <[String]>::to_vec);
        let mut files = Vec::new();
        for class in &found {
            let path = folder.join(class);
            let label = known.iter().position(|name| name == class).ok_or_else(|| {
                bad(&path, format!("class `{class}` is not among the {} known ones", known.len()))
            })?;
            let images = list(&path, |file| is_image(file) && file.is_file())?;
            if images.is_empty() {
                return Err(bad(&path, "holds no jpg, jpeg or png file".into()));
            }
            files.extend(images.into_iter().map(|name| (label as u32, name.into_boxed_str())));
        }
        if u32::try_from(files.len()).is_err() {
            return Err(bad(folder, format!("{} images, at most {} fit", files.len(), u32::MAX)));
        }
        Ok(Self { folder: folder.into(), class_names: known, files, size, channels })
    }

    /// The classes, by label.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The file of image `i`.
    ///
    /// # Panics
    /// When `i >= len()`.
    pub fn path(&self, i: usize) -> PathBuf {
        let (label, name) = &self.files[i];
        self.folder.join(&self.class_names[*label as usize]).join(&**name)
    }
}

impl Dataset for ImageFolder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn classes(&self) -> usize {
        self.class_names.len()
    }

    fn channels(&self) -> usize {
        self.channels
    }

    fn size(&self) -> usize {
        self.size
    }

    fn label(&self, i: usize) -> u32 {
        self.files[i].0
    }

    fn image(&self, i: usize, pixels: &mut Vec<u8>) -> Result<(usize, usize), DataError> {
        let path = self.path(i);
        let unreadable = |source| FileError::Read { path: path.clone(), source };
        // ImageNet holds a PNG named .JPEG: the contents decide.
        let reader = ImageReader::open(&path)
            .map_err(unreadable)?
            .with_guessed_format()
            .map_err(unreadable)?;
        let decoded =
            reader.decode().map_err(|source| DataError::Decode { path: path.clone(), source })?;
        let (height, width) = (decoded.height() as usize, decoded.width() as usize);
        *pixels = match self.channels {
            1 => decoded.into_luma8().into_raw(),
            _ => decoded.into_rgb8().into_raw(),
        };
        Ok((height, width))
    }

    fn describe(&self) -> String {
        format!(
            "image folder {}: {} images for {size} x {size} x {}, {} classes",
            self.folder.display(),
            self.len(),
            self.channels,
            self.classes(),
            size = self.size,
        )
    }
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_ascii_lowercase());
    extension.is_some_and(|e| e == "jpg" || e == "jpeg" || e == "png")
}

/// The sorted names in `folder` whose paths pass `keep`.
fn list(folder: &Path, keep: impl Fn(&Path) -> bool) -> Result<Vec<String>, DataError> {
    let unreadable = |source| FileError::Read { path: folder.into(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name() else { continue };
        if name.as_encoded_bytes().starts_with(b".") || !keep(&path) {
            continue;
        }
        let name = name.to_str().ok_or_else(|| DataError::Folder {
            path: path.clone(),
            problem: "its name is not UTF-8".into(),
        })?;
        names.push(name.to_owned());
    }
    names.sort();
    Ok(names)
}
