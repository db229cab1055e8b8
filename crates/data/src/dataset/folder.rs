//! Image files sorted into one folder per class, as ImageNet is usually kept, or in one folder with a list of
//! their classes, as its validation images are distributed.

use super::decode::decode;
use crate::{DataError, Dataset};
use slimtau_base::{FileError, read_bytes, read_text};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirEntry, FileType};
use std::path::{Path, PathBuf};

/// The file that says the classes of the images in `val`, where these are not in folders of their own: it lies
/// beside `val` and has one line `FILE CLASS` for each image.
pub const VALIDATION_LABELS: &str = "val_labels.txt";

/// `<folder>/<class>/*` with files ending in jpg, jpeg or png (any case); other files and names
/// that start with a dot are passed over. Classes and files are numbered in the order of their
/// sorted names. Only names are kept: images are read and decoded at each access, in the thread that asks for one.
/// They are what torchvision's `ImageFolder` gives; in particular, EXIF rotation is not applied.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    folder: PathBuf,
    class_names: Vec<String>,
    /// Whether files lie in a folder of their class's name.
    by_class: bool,
    /// (class, file name), in order.
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
        check_format(size, channels)?;
        let found = list(folder, |_, kind| kind.is_dir())?;
        if found.is_empty() {
            let hint = class_names.map_or(String::new(), |_| {
                format!(", and there is no {VALIDATION_LABELS} beside it to say the classes of its files")
            });
            return Err(bad(folder, format!("holds no class folders{hint}")));
        }
        let known = class_names.map_or_else(|| found.clone(), <[String]>::to_vec);
        let mut files = Vec::new();
        for class in &found {
            let path = folder.join(class);
            let label = known.iter().position(|name| name == class).ok_or_else(|| {
                bad(&path, format!("class `{class}` is not among the {} known ones", known.len()))
            })?;
            let images = list(&path, |name, kind| kind.is_file() && is_image(name))?;
            if images.is_empty() {
                return Err(bad(&path, "holds no jpg, jpeg or png file".into()));
            }
            files.extend(images.into_iter().map(|name| (label as u32, name.into_boxed_str())));
        }
        check_count(folder, files.len())?;
        let folder = folder.into();
        Ok(Self { folder, class_names: known, by_class: true, files, size, channels })
    }

    /// Lists the files of `folder`, which holds no folders of classes: `labels` is a text with one line `FILE
    /// CLASS` per image, a file's name and one of `class_names`; a name may hold spaces, a class may not. Empty
    /// lines are passed over. Files are numbered in the order of their sorted names, not of the lines.
    ///
    /// # Errors
    /// As [`ImageFolder::open`], and, naming file and line, when a line is not of that form, names a class or a file
    /// that there is not, or a file that an earlier line names; or when `labels` says nothing of an image in `folder`.
    pub fn open_labelled(
        folder: &Path,
        labels: &Path,
        class_names: &[String],
        size: usize,
        channels: usize,
    ) -> Result<Self, DataError> {
        check_format(size, channels)?;
        let classes: HashMap<&str, u32> =
            class_names.iter().enumerate().map(|(i, name)| (&**name, i as u32)).collect();
        // By name: its class, and the line that says so.
        let images = list(folder, |name, kind| kind.is_file() && is_image(name))?;
        let mut found: BTreeMap<String, Option<(u32, usize)>> =
            images.into_iter().map(|name| (name, None)).collect();
        for (i, text) in read_text(labels)?.lines().enumerate() {
            let (line, text) = (i + 1, text.trim());
            if text.is_empty() {
                continue;
            }
            let wrong = |problem: String| -> DataError {
                FileError::contents(labels, format!("line {line}: {problem}")).into()
            };
            let (name, class) = text
                .rsplit_once(char::is_whitespace)
                .ok_or_else(|| wrong(format!("`{text}` is not of the form FILE CLASS")))?;
            let name = name.trim_end();
            let label = *classes.get(class).ok_or_else(|| {
                let n = class_names.len();
                wrong(format!("class `{class}` is not among the {n} of the training images"))
            })?;
            let place = found.get_mut(name).ok_or_else(|| {
                wrong(format!("{} holds no jpg, jpeg or png file `{name}`", folder.display()))
            })?;
            if let Some((_, earlier)) = place.replace((label, line)) {
                return Err(wrong(format!("`{name}` was labelled in line {earlier}")));
            }
        }
        let mut files = Vec::with_capacity(found.len());
        for (name, label) in found {
            let Some((label, _)) = label else {
                let problem = format!("no line is for the image `{name}` in {}", folder.display());
                return Err(FileError::contents(labels, problem).into());
            };
            files.push((label, name.into_boxed_str()));
        }
        if files.is_empty() {
            return Err(bad(folder, "holds no jpg, jpeg or png file".into()));
        }
        check_count(folder, files.len())?;
        let (folder, class_names) = (folder.into(), class_names.to_vec());
        Ok(Self { folder, class_names, by_class: false, files, size, channels })
    }

    /// The classes, by label.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The file of image `i`, from the folder.
    pub(super) fn name(&self, i: usize) -> String {
        let (label, name) = &self.files[i];
        if self.by_class {
            format!("{}/{name}", self.class_names[*label as usize])
        } else {
            name.to_string()
        }
    }

    /// The file of image `i`.
    ///
    /// # Panics
    /// When `i >= len()`.
    pub fn path(&self, i: usize) -> PathBuf {
        self.folder.join(self.name(i))
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
        let file = read_bytes(&path)?;
        decode(&file, self.channels, pixels).map_err(|source| DataError::Decode { path, source })
    }

    fn decodes(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        // Part of what decides results: other pixels or labels need other words.
        let mut text = format!(
            "image folder {}: {} images for {size} x {size} x {}, decoded as by Pillow, {} classes",
            self.folder.display(),
            self.len(),
            self.channels,
            self.classes(),
            size = self.size,
        );
        if !self.by_class {
            let mut labels = flate2::Crc::new();
            for (label, name) in &self.files {
                labels.update(name.as_bytes());
                labels.update(&label.to_le_bytes());
            }
            text += &format!(", labels {:08x}", labels.sum());
        }
        text
    }
}

fn bad(path: &Path, problem: String) -> DataError {
    DataError::Folder { path: path.into(), problem }
}

pub(super) fn check_format(size: usize, channels: usize) -> Result<(), DataError> {
    if size == 0 {
        return Err(DataError::setting("image size", size, "at least 1"));
    }
    if channels != 1 && channels != 3 {
        return Err(DataError::setting("channels", channels, "1 or 3"));
    }
    Ok(())
}

fn check_count(folder: &Path, n: usize) -> Result<(), DataError> {
    if u32::try_from(n).is_err() {
        return Err(bad(folder, format!("{n} images, at most {} fit", u32::MAX)));
    }
    Ok(())
}

fn is_image(name: &Path) -> bool {
    let extension = name.extension().map(|e| e.to_ascii_lowercase());
    extension.is_some_and(|e| e == "jpg" || e == "jpeg" || e == "png")
}

/// The sorted names in `folder` that `keep` wants, which sees the name and what is behind it.
fn list(folder: &Path, keep: impl Fn(&Path, FileType) -> bool) -> Result<Vec<String>, DataError> {
    let unreadable = |source| FileError::Read { path: folder.into(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let kept = || kind(&entry).is_some_and(|kind| keep(Path::new(&name), kind));
        if name.as_encoded_bytes().starts_with(b".") || !kept() {
            continue;
        }
        let name =
            name.into_string().map_err(|_| bad(&entry.path(), "its name is not UTF-8".into()))?;
        names.push(name);
    }
    names.sort();
    Ok(names)
}

/// What an entry is, or what it links to. Most file systems say it without another call: a million files
/// are listed in seconds.
fn kind(entry: &DirEntry) -> Option<FileType> {
    let kind = entry.file_type().ok()?;
    if kind.is_symlink() {
        return fs::metadata(entry.path()).ok().map(|target| target.file_type());
    }
    Some(kind)
}
