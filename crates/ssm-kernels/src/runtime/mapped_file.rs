//! A file mapped read-only into memory, so that a checkpoint is never held twice.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// The bytes of a file, mapped read-only. Dereferences to `[u8]`.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the whole file; an empty one is an empty slice.
    ///
    /// # Errors
    /// When the file cannot be opened or mapped, or is a folder, a pipe or a device.
    pub fn open(path: &Path) -> io::Result<MappedFile> {
        // Asked before opening: opening a pipe would wait for a writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(path)?;
        // SAFETY: the mapping is private and read-only. Another process that truncates the file while we read it can
        // still raise a bus error; model files are not edited in place, and every writer of ours renames a new file.
        unsafe { memmap2::Mmap::map(&file) }.map(MappedFile)
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_length_are_mapped_and_folders_refused() {
        let folder = std::env::temp_dir().join(format!("statetune-mapped-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for bytes in [&b""[..], b"x", &[7; 5000]] {
            let path = folder.join("file");
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(&*MappedFile::open(&path).unwrap(), bytes);
        }
        assert_eq!(MappedFile::open(&folder).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(MappedFile::open(&folder.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
