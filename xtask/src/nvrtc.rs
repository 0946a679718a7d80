//! `cargo xtask test --nvrtc`: every kernel compiled by NVIDIA's compiler for every generation of devices, which needs the
//! library and no device.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::command::{UserError, root, run};
use crate::cuda::KERNELS;
use crate::programs;

/// Where `.ci/run` installs the library, and what is typed to do so by hand.
const INSTALL: &str =
    "python3 -m venv target/nvrtc && target/nvrtc/bin/python -m pip install 'nvidia-cuda-nvrtc==13.0.*'";

/// Runs the test.
pub fn test(arguments: &[String]) -> anyhow::Result<()> {
    let folders = folders();
    let Some(library) = folders.iter().find_map(|folder| library_in(folder)) else {
        return Err(UserError(format!(
            "--nvrtc: no libnvrtc in LD_LIBRARY_PATH, the CUDA toolkit's folders or target/nvrtc; `{INSTALL}` gets it"
        ))
        .into());
    };
    eprintln!("NVRTC: {}", library.display());
    // The loader is asked for the name without a version, and for the builtins that lie beside the library.
    let links = root().join("target/nvrtc-links");
    fs::create_dir_all(&links).with_context(|| format!("cannot create {}", links.display()))?;
    let link = links.join("libnvrtc.so");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    std::os::unix::fs::symlink(&library, &link).with_context(|| format!("cannot make {}", link.display()))?;
    let path = std::env::join_paths([links.as_path(), library.parent().expect("a file in a folder")])?;
    let programs = programs::build(&["--lib"])?;
    let mut command = programs::find(&programs, KERNELS[0], KERNELS[1])?.command(arguments);
    command.args(["nvrtc_", "--nocapture"]).env("LD_LIBRARY_PATH", path);
    run(command)
}

/// Folders in which the library may be, the nearest first.
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("LD_LIBRARY_PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let below = |folder: &Path| -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        found.sort();
        found
    };
    // target/nvrtc/lib/python3.11/site-packages/nvidia/cu13/lib
    for python in below(&root().join("target/nvrtc/lib")) {
        folders.extend(below(&python.join("site-packages/nvidia")).into_iter().map(|package| package.join("lib")));
    }
    let toolkits = below(Path::new("/usr/local"));
    let is_toolkit = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda"));
    folders.extend(toolkits.iter().filter(is_toolkit).map(|toolkit| toolkit.join("lib64")));
    folders.push("/usr/lib/x86_64-linux-gnu".into());
    folders
}

/// The library in a folder, with or without a version in its name; never the emulator's.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let is_library = |name: &str| {
        name.strip_prefix("libnvrtc.so").is_some_and(|rest| rest.bytes().all(|b| b == b'.' || b.is_ascii_digit()))
    };
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| is_library(&entry.file_name().to_string_lossy()))
        .filter_map(|entry| entry.path().canonicalize().ok())
        .filter(|path| !path.ends_with("libcuda_emulator.so"))
        .collect();
    found.sort();
    found.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_with_a_version_in_its_name_is_found_and_the_emulators_is_not() {
        let folder = std::env::temp_dir().join(format!("statetune-nvrtc-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let make = |name: &str| fs::write(folder.join(name), "").unwrap();
        make("libcuda_emulator.so");
        std::os::unix::fs::symlink("libcuda_emulator.so", folder.join("libnvrtc.so")).unwrap();
        make("libnvrtc-builtins.so.13.0");
        assert_eq!(library_in(&folder), None);
        make("libnvrtc.so.13");
        assert!(library_in(&folder).unwrap().ends_with("libnvrtc.so.13"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
