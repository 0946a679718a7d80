//! Where the golden cases are. Included by path into the tests of several crates; a case is recognised by its files, never
//! by its folder's name.
#![allow(dead_code)] // every test binary uses its own part

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The folder of golden cases: `STATETUNE_GOLDEN`, else `shared/golden` beside the repository, else the selection in it.
pub fn root() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    match std::env::var_os("STATETUNE_GOLDEN") {
        // A relative path is relative to where the runner was started: the workspace.
        Some(root) if Path::new(&root).is_relative() => workspace.join(root),
        Some(root) => PathBuf::from(root),
        None => {
            let beside = workspace.join("../shared/golden");
            if beside.is_dir() { beside } else { workspace.join("tests/golden") }
        }
    }
}

/// All folders under the root that hold a file of this name; sorted.
pub fn folders_with(file: &str) -> Vec<PathBuf> {
    let root = root();
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(folder) = open.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        open.extend(entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()));
        if folder.join(file).is_file() {
            found.push(folder);
        }
    }
    found.sort();
    found
}

/// How a case is called in the output: its path under the root.
pub fn name_of(folder: &Path) -> String {
    folder.strip_prefix(root()).unwrap_or(folder).display().to_string()
}

/// A JSON file, which must be readable.
pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files by which cases of any family are recognised.
const MARKS: [&str; 5] = ["config.json", "expected.json", "method.json", "adapter_config.json", "cases.json"];

/// Prints how many cases of a family were compared, and fails where there were none. A folder that `STATETUNE_GOLDEN`
/// names may hold some families only, but not nothing.
#[track_caller]
pub fn count(family: &str, cases: usize) {
    println!("golden {family}: {cases} cases");
    let partial =
        std::env::var_os("STATETUNE_GOLDEN").is_some() && MARKS.iter().any(|mark| !folders_with(mark).is_empty());
    assert!(cases > 0 || partial, "no golden case of {family} under {}", root().display());
}
