//! Machine code kept on disk.
//!
//! A file holds all that its content depends on (architecture, NVRTC's version, options, source) and its length in front of
//! the machine code, and is used only if all of it is equal: no hash decides, and a file that was cut short is none.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The place of one build of one source.
pub(super) struct Kept {
    path: PathBuf,
    key: String,
}

impl Kept {
    /// In the user's cache, by a name and by what must be equal; `None` where the user has none.
    pub(super) fn new(name: &str, key: String) -> Option<Kept> {
        Some(Kept::at(&folder()?, name, key))
    }

    fn at(folder: &Path, name: &str, key: String) -> Kept {
        // File names have a limit; what is cut off is compared in the file.
        let hash = crate::random::stream_of(name);
        Kept { path: folder.join(format!("{}-{hash:016x}.cubin", &name[..name.len().min(120)])), key }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The machine code, if it is there and whole.
    pub(super) fn read(&self) -> Option<Vec<u8>> {
        let file = std::fs::read(&self.path).ok()?;
        let (length, image) = file.strip_prefix(self.key.as_bytes())?.split_first_chunk()?;
        (!image.is_empty() && u64::from_le_bytes(*length) == image.len() as u64).then(|| image.to_vec())
    }

    /// Keeps it: whoever reads meanwhile finds the file as it was before, or all of the new one.
    pub(super) fn write(&self, image: &[u8]) -> std::io::Result<()> {
        // Devices of one process may compile the same source at once.
        static WRITES: AtomicUsize = AtomicUsize::new(0);
        let own = format!("{}-{}.new", std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed));
        let folder = self.path.parent().expect("a file in a folder");
        std::fs::create_dir_all(folder)?;
        let beside = folder.join(own);
        let length = (image.len() as u64).to_le_bytes();
        let written = std::fs::write(&beside, [self.key.as_bytes(), &length, image].concat())
            .and_then(|()| std::fs::rename(&beside, &self.path));
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        written
    }
}

/// `$STATETUNE_KERNEL_CACHE`, or `statetune/kernels` in the user's cache folder.
fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("STATETUNE_KERNEL_CACHE") {
        return Some(folder.into());
    }
    let caches = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(caches.join("statetune").join("kernels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("statetune-kernels-{name}-{}", std::process::id()))
    }

    #[test]
    fn only_a_whole_file_of_the_same_key_is_read() {
        let folder = folder("whole");
        let kept = Kept::at(&folder, "scan-sm_90", "key 1\n".into());
        assert!(kept.read().is_none(), "nothing was kept");
        kept.write(&[7; 1000]).unwrap();
        assert_eq!(kept.read().unwrap(), [7; 1000]);
        assert!(Kept::at(&folder, "scan-sm_90", "key 2\n".into()).read().is_none(), "another key");
        let file = std::fs::read(kept.path()).unwrap();
        for length in 0..file.len() {
            std::fs::write(kept.path(), &file[..length]).unwrap();
            assert!(kept.read().is_none(), "cut to {length} of {} bytes", file.len());
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_read_while_others_write_is_whole() {
        let folder = folder("writers");
        let kept = Kept::at(&folder, "scan-sm_90", "key\n".into());
        let image = vec![7; 1 << 20];
        kept.write(&image).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        kept.write(&image).unwrap();
                        assert!(kept.read().is_some_and(|read| read == image));
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "files of writers were left");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
