//! The repository's own rules, as tests: openings, dependency edges, `unsafe`, leftovers, sizes, paths, links.

use std::fs;
use std::path::PathBuf;

use crate::book;
use crate::command::root;

/// Crates from the top of the house down: each may import those before it. `datasets-eval` stands beside.
const ORDER: [&str; 6] = ["ssm-kernels", "tensor", "mamba-model", "peft-methods", "trainer", "statetune"];
const BESIDE: &str = "datasets-eval";
const IMPORT_BESIDE: [&str; 2] = ["trainer", "statetune"];
const UNSAFE_CRATE: &str = "crates/ssm-kernels/";
const MAX_LINES: usize = 600;

/// Every file of the repository but build outputs and run folders, as (path from the root with `/`, path).
fn files() -> Vec<(String, PathBuf)> {
    let root = root();
    let (mut found, mut open) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let hidden = name.starts_with('.') && ![".cargo", ".ci", ".gitignore"].contains(&name.as_str());
            // What .gitignore names, and the pages that mdBook writes.
            let output = folder == root && (name.starts_with("target") || name == "runs") || name == "__pycache__";
            let output = output || folder == root.join("docs") && name == "book";
            if hidden || output || path.is_symlink() {
                continue;
            } else if path.is_dir() {
                open.push(path);
            } else {
                let parts = path.strip_prefix(&root).unwrap().components();
                let parts: Vec<_> = parts.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
                found.push((parts.join("/"), path));
            }
        }
    }
    found.sort();
    found
}

/// The files that end so, with their texts.
fn texts(ends: &[&str]) -> Vec<(String, String)> {
    let files = files().into_iter().filter(|(name, _)| ends.iter().any(|end| name.ends_with(end)));
    let found: Vec<_> = files.map(|(name, path)| (name, fs::read_to_string(path).unwrap())).collect();
    assert!(!found.is_empty(), "no file ends in {ends:?}");
    found
}

#[track_caller]
fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn every_source_file_opens_with_its_purpose() {
    let without = texts(&[".rs"]).into_iter().filter(|(_, text)| !text.starts_with("//! "));
    none("files that do not open with `//!`", without.map(|(name, _)| name).collect());
}

#[test]
fn no_source_file_is_too_long() {
    let long = texts(&[".rs"]).into_iter().map(|(name, text)| (name, text.lines().count()));
    let long = long.filter(|(_, lines)| *lines > MAX_LINES);
    none("files over 600 lines", long.map(|(name, lines)| format!("{name}: {lines}")).collect());
}

#[test]
fn nothing_is_left_over() {
    // Put together here so that this file does not contain them.
    let leftovers =
        [["TO", "DO"], ["FIX", "ME"], ["dbg", "!("], ["#[ign", "ore"], ["todo", "!("]].map(|part| part.concat());
    let mut found = Vec::new();
    for (name, text) in texts(&[".rs", ".py", ".toml", ".ci/run"]) {
        for (i, line) in text.lines().enumerate() {
            let words = leftovers.iter().filter(|leftover| line.contains(leftover.as_str()));
            found.extend(words.map(|leftover| format!("{name}:{}: {leftover}", i + 1)));
        }
    }
    none("leftovers", found);
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    let roots = ["work", "root", "home"].map(|folder| format!("/{folder}/"));
    let mut found = Vec::new();
    for (name, path) in files() {
        let Ok(text) = String::from_utf8(fs::read(path).unwrap()) else { continue };
        for (i, line) in text.lines().enumerate() {
            // A web address or a relative path may contain such a part; an absolute path begins with it.
            let begins = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~}".contains(c));
            let hits = roots.iter().filter(|root| line.match_indices(root.as_str()).any(|(at, _)| begins(at)));
            found.extend(hits.map(|root| format!("{name}:{}: {root}", i + 1)));
        }
    }
    none("absolute paths", found);
}

#[test]
fn unsafe_code_is_in_the_kernels_only() {
    let mut found = Vec::new();
    for (name, text) in texts(&[".rs"]) {
        let crate_root = name.ends_with("/src/lib.rs") || name == "xtask/src/main.rs";
        if name.starts_with(UNSAFE_CRATE) {
            continue;
        }
        if crate_root && !text.contains("#![forbid(unsafe_code)]") {
            found.push(format!("{name}: no `#![forbid(unsafe_code)]`"));
        }
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            // Quoted text is not code; every second piece lies between quotes.
            let words: Vec<&str> = code
                .split('"')
                .step_by(2)
                .flat_map(|piece| piece.split(|c: char| !(c.is_alphanumeric() || c == '_')))
                .collect();
            if words.contains(&"unsafe") {
                found.push(format!("{name}:{}: unsafe", i + 1));
            }
        }
    }
    none("unsafe outside the kernels", found);
}

/// The project's crates that a manifest names as dependencies of any kind.
fn siblings(manifest: &toml::Table) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in manifest {
        let Some(table) = value.as_table() else { continue };
        if ["dependencies", "dev-dependencies", "build-dependencies"].contains(&key.as_str()) {
            for (name, dependency) in table {
                let name = dependency.get("package").and_then(|package| package.as_str()).unwrap_or(name);
                found.extend(
                    name.strip_prefix("statetune-").or((name == "statetune").then_some("statetune")).map(str::to_owned),
                );
            }
        } else if key == "target" {
            found.extend(table.values().filter_map(toml::Value::as_table).flat_map(siblings));
        }
    }
    found
}

/// Whether the crate may import the sibling.
fn allowed(importer: &str, sibling: &str) -> bool {
    let place = |name: &str| ORDER.iter().position(|entry| *entry == name);
    match (place(importer), place(sibling)) {
        _ if sibling == BESIDE => IMPORT_BESIDE.contains(&importer),
        (Some(importer), Some(sibling)) => sibling < importer,
        _ => false,
    }
}

#[test]
fn crates_import_only_those_above_them() {
    let mut found = Vec::new();
    let mut crates = Vec::new();
    for (name, text) in texts(&["Cargo.toml"]) {
        let manifest: toml::Table = text.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        let importer = match name.split('/').collect::<Vec<_>>()[..] {
            ["Cargo.toml"] => continue,
            ["xtask", _] => "xtask".to_owned(),
            ["crates", folder, _] => folder.to_owned(),
            _ => panic!("{name}: a package outside crates and xtask"),
        };
        let package = manifest["package"]["name"].as_str().unwrap_or_default();
        let expected = if ["xtask", "statetune"].contains(&importer.as_str()) {
            importer.clone()
        } else {
            format!("statetune-{importer}")
        };
        assert_eq!(package, expected, "{name}: the package's name");
        let edges = siblings(&manifest).into_iter().filter(|sibling| !allowed(&importer, sibling));
        found.extend(edges.map(|sibling| format!("{importer} imports {sibling}")));
        crates.push(importer);
    }
    none("edges against the order", found);
    for name in ORDER.iter().chain([&BESIDE]) {
        assert!(crates.contains(&(*name).to_owned()), "crates/{name} is missing");
    }
}

#[test]
fn the_order_refuses_edges_downwards_and_to_the_side() {
    assert!(allowed("tensor", "ssm-kernels") && allowed("trainer", "datasets-eval") && allowed("statetune", "tensor"));
    for (importer, sibling) in [
        ("ssm-kernels", "tensor"),
        ("tensor", "tensor"),
        ("peft-methods", "datasets-eval"),
        ("datasets-eval", "tensor"),
        ("xtask", "statetune"),
        ("trainer", "unheard-of"),
    ] {
        assert!(!allowed(importer, sibling), "{importer} -> {sibling}");
    }
    let manifest = "[target.'cfg(unix)'.dev-dependencies]\nother = { package = \"statetune-tensor\" }\nserde = \"1\"";
    assert_eq!(siblings(&manifest.parse().unwrap()), ["tensor"]);
}

#[test]
fn links_of_the_pages_resolve() {
    let mut found = book::broken(&root().join("docs")).unwrap();
    for (name, path) in files().into_iter().filter(|(name, _)| name.ends_with(".md")) {
        // The golden cases are a selection: their pages may speak of cases that stayed behind.
        if !name.starts_with("docs/src/") && !name.starts_with("tests/golden/") {
            found.extend(book::broken_links(&path).unwrap());
        }
    }
    none("broken links", found);
}

#[test]
fn no_page_waits_for_a_number() {
    let mut found = Vec::new();
    for (name, text) in texts(&[".md"]) {
        for (i, line) in text.lines().enumerate() {
            let names = line.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(name, _)| name);
            let word = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            found.extend(
                names.filter(|name| !name.is_empty() && word(name)).map(|word| format!("{name}:{}: {word}", i + 1)),
            );
        }
    }
    none("placeholders", found);
}

#[test]
fn the_changelog_has_a_place_for_what_is_not_released() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(text.lines().any(|line| line.starts_with("## ") && line.contains("Unreleased")));
}

#[test]
fn the_golden_selection_stays_small() {
    let sizes = files().into_iter().filter(|(name, _)| name.starts_with("tests/golden/"));
    let bytes: u64 = sizes.map(|(_, path)| path.metadata().unwrap().len()).sum();
    assert!((1..=7 << 19).contains(&bytes), "tests/golden holds {bytes} bytes");
}
