//! A library that the loader did not find, but that lies somewhere under a name it does not look for, as pip's packages do.

use std::path::{Path, PathBuf};

use super::CudaError;

/// The error, which says what to type where the library is there after all.
pub(super) fn missing(library: &'static str, hint: &str) -> CudaError {
    CudaError::MissingLibrary { library, hint: found_in(&folders(), library).unwrap_or_else(|| hint.to_owned()) }
}

/// Folders where libraries usually are: the loader's, the toolkits', those of an active Python environment.
fn folders() -> Vec<PathBuf> {
    let below = |folder: &Path| -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        found.sort();
        found
    };
    let mut folders: Vec<PathBuf> =
        std::env::var_os("LD_LIBRARY_PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let is_toolkit = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda"));
    folders.extend(below(Path::new("/usr/local")).into_iter().filter(is_toolkit).map(|toolkit| toolkit.join("lib64")));
    if let Some(environment) = std::env::var_os("VIRTUAL_ENV").or_else(|| std::env::var_os("CONDA_PREFIX")) {
        for python in below(&Path::new(&environment).join("lib")) {
            folders.extend(below(&python.join("site-packages/nvidia")).into_iter().map(|package| package.join("lib")));
        }
    }
    folders
}

/// What to type so that the first of these folders with the library serves.
fn found_in(folders: &[PathBuf], library: &str) -> Option<String> {
    let plain = format!("{library}.so");
    folders.iter().find_map(|folder| {
        let path = format!("`export LD_LIBRARY_PATH={}:$LD_LIBRARY_PATH`", folder.display());
        if folder.join(&plain).exists() {
            return Some(format!("it lies in {}, where the loader does not look: {path}", folder.display()));
        }
        let entries = std::fs::read_dir(folder).ok()?.flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        let file = names.into_iter().find(|name| name.starts_with(&format!("{plain}.")))?;
        let link = format!("`ln -s {file} {}`", folder.join(&plain).display());
        Some(format!("{file} lies in {}, whose name is not the one looked for: {link}, then {path}", folder.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_under_another_name_is_found_and_how_to_link_it_said() {
        let folder = std::env::temp_dir().join(format!("statetune-libraries-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let folders = [PathBuf::from("/no/such/folder"), folder.clone()];
        std::fs::write(folder.join("libnvrtc-builtins.so.13.0"), "").unwrap();
        assert_eq!(found_in(&folders, "libnvrtc"), None);
        std::fs::write(folder.join("libnvrtc.so.13"), "").unwrap();
        let said = found_in(&folders, "libnvrtc").unwrap();
        let link = format!("`ln -s libnvrtc.so.13 {}/libnvrtc.so`", folder.display());
        assert!(said.contains(&link) && said.contains("export LD_LIBRARY_PATH="), "{said}");
        std::fs::write(folder.join("libnvrtc.so"), "").unwrap();
        let said = found_in(&folders, "libnvrtc").unwrap();
        assert!(said.contains("does not look") && !said.contains("ln -s"), "{said}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
