//! Machine code that was compiled before, in the user's cache folder: a start takes no ten seconds then. Whatever is wrong with
//! the folder or a file of it costs a compilation and nothing else.

use super::GpuError;
use super::nvrtc::{Module, compile, fingerprint};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// `$XDG_CACHE_HOME/slimtau`, or `~/.cache/slimtau`.
pub(super) fn folder() -> Option<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(caches.join("slimtau"))
}

/// Machine code of a module for an architecture: from `folder`, if it has been compiled of these very sources by this very
/// compiler, else compiled and left there. Without a folder it is compiled.
///
/// # Errors
/// As [`compile`].
pub fn load_or_compile(
    folder: Option<&Path>,
    module: &Module,
    target: &str,
) -> Result<Vec<u8>, GpuError> {
    let file = match folder {
        Some(folder) => {
            let key = hash(&fingerprint(module, target)?);
            Some(folder.join(format!("{}-{target}-{key:016x}.cubin", module.name)))
        }
        None => None,
    };
    if let Some(code) = file.as_deref().and_then(read) {
        return Ok(code);
    }
    let code = compile(module, target)?.code;
    if let Some(file) = file {
        let _ = write(&file, &code); // it will be compiled again
    }
    Ok(code)
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The code behind its hash, which says that the file is whole.
fn read(file: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(file).ok()?;
    let (expected, code) = bytes.split_first_chunk()?;
    (hash(&code) == u64::from_le_bytes(*expected)).then(|| code.to_vec())
}

/// Under a name of this process first: others that start now see a whole file or none.
fn write(file: &Path, code: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().expect("a file in a folder");
    fs::create_dir_all(folder)?;
    let own = file.with_extension(format!("{}.tmp", std::process::id()));
    let bytes = [&hash(&code).to_le_bytes(), code].concat();
    let answer = fs::write(&own, bytes).and_then(|()| fs::rename(&own, file));
    if answer.is_err() {
        let _ = fs::remove_file(&own);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_files_are_read() {
        let folder = std::env::temp_dir().join(format!("slimtau-cache-{}", std::process::id()));
        let file = folder.join("a.cubin");
        assert_eq!(read(&file), None);
        write(&file, b"code").unwrap();
        assert_eq!(read(&file).unwrap(), b"code");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
        for damaged in [&b""[..], b"short", b"12345678code"] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(read(&file), None);
        }
        write(&file, b"other").unwrap();
        assert_eq!(read(&file).unwrap(), b"other");
        fs::remove_dir_all(&folder).unwrap();
    }
}
