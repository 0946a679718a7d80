//! Files of the hub, from a server in the test: what is asked of it, what is kept, and what is said when it fails.
#![cfg(feature = "hub")]

#[path = "support/hub_server.rs"]
mod hub_server;

use std::fs;
use std::path::{Path, PathBuf};

use hub_server::{Repository, Server, commit, files, git_sum, hex, noise};
use sha2::{Digest, Sha256};
use statetune::hub::{Hub, HubError, Name, Settings};
use tempfile::TempDir;

/// A cache of its own for each test.
struct Place {
    folder: TempDir,
    server: Server,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap(), server: Server::start() }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    fn settings(&self) -> Settings {
        Settings { endpoint: self.server.endpoint().into(), cache: self.cache(), token: None, offline: false }
    }

    fn hub(&self) -> Hub {
        Hub::new(self.settings())
    }

    fn offline(&self) -> Hub {
        Hub::new(Settings { offline: true, ..self.settings() })
    }

    /// What is left of a download that is not whole.
    fn incomplete(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for repository in fs::read_dir(self.cache()).unwrap() {
            let Ok(blobs) = fs::read_dir(repository.unwrap().path().join("blobs")) else { continue };
            found.extend(
                blobs.map(|blob| blob.unwrap().path()).filter(|path| path.to_string_lossy().contains("incomplete")),
            );
        }
        found
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn silent(_: &str, _: u64, _: u64) {}

fn file(hub: &Hub, text: &str) -> Result<PathBuf, HubError> {
    hub.file(&name(text), &silent)
}

/// The message of an error, with these parts.
#[track_caller]
fn says<T: std::fmt::Debug>(result: Result<T, HubError>, parts: &[&str]) -> HubError {
    let error = result.unwrap_err();
    let message = error.to_string();
    parts.iter().for_each(|part| assert!(message.contains(part), "no {part:?} in: {message}"));
    error
}

const INDEX: &str =
    r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}"#;

#[test]
fn a_model_comes_whole_and_once() {
    let place = Place::new();
    let (first, second) = (noise(50_000), noise(20_000));
    let repository = files(&[
        ("sub/config.json", b"{}"),
        ("sub/model.safetensors.index.json", INDEX.as_bytes()),
        ("sub/model-1.safetensors", &first),
        ("sub/model-2.safetensors", &second),
        ("sub/tokenizer.json", b"{\"a\": 1}"),
        ("sub/pytorch_model.bin", &noise(9_000)),
        ("README.md", b"x"),
    ]);
    place.server.put("models/o/n", &commit('a'), repository.clone());
    let hub = Hub::new(Settings { token: Some("secret".into()), ..place.settings() });
    let pinned = hub.pinned(&name("hf://o/n/sub")).unwrap();
    assert_eq!(pinned.to_string(), format!("hf://o/n@main:{}/sub", commit('a')));
    let folder = hub.folder(&pinned, &silent).unwrap();
    let mut found: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    let expected =
        ["config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json", "tokenizer.json"];
    assert_eq!(found, expected);
    for file in &found {
        assert_eq!(fs::read(folder.join(file)).unwrap(), repository[&format!("sub/{file}")], "{file}");
    }
    // The token is for the hub alone.
    let log = place.server.log();
    assert!(log.iter().all(|line| line.ends_with(" with secret") == line.starts_with("hub")), "{log:#?}");
    assert_eq!(log.iter().filter(|line| line.starts_with("large")).count(), 2);

    // The layout is that of Hugging Face's library.
    let own = place.cache().join("models--o--n");
    assert_eq!(fs::read_to_string(own.join("refs/main")).unwrap(), commit('a'));
    assert_eq!(folder, own.join("snapshots").join(commit('a')).join("sub"));
    assert_eq!(fs::read(own.join("blobs").join(git_sum(b"{}"))).unwrap(), b"{}");
    assert_eq!(fs::read(own.join("blobs").join(hex(&Sha256::digest(&first)))).unwrap(), first);
    assert!(own.join(".no_exist").join(commit('a')).join("sub/merges.txt").is_file());
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(folder.join("config.json")).unwrap(),
        Path::new("../../../blobs").join(git_sum(b"{}")) //
    );

    // What is there is not asked for again, even where nobody answers.
    place.server.stop();
    assert_eq!(place.hub().folder(&pinned, &silent).unwrap(), folder);
    assert_eq!(
        place.hub().file(&pinned.with_path("sub/tokenizer.json"), &silent).unwrap(),
        folder.join("tokenizer.json")
    );
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let place = Place::new();
    let bytes = noise(100_000);
    place.server.put("datasets/o/d", &commit('a'), files(&[("x/a b.bin", &bytes)]));
    place.server.state().cuts = [30_000, 20_000].into();
    let shown = std::cell::RefCell::new(Vec::new());
    let seen = |file: &str, done, of| shown.borrow_mut().push((file.to_owned(), done, of));
    let found = place.hub().file(&name("hf://datasets/o/d/x/a b.bin"), &seen).unwrap();
    assert_eq!(fs::read(&found).unwrap(), bytes);
    let ranges = |log: Vec<String>| -> Vec<String> {
        let large = log.into_iter().filter(|line| line.starts_with("large"));
        large.map(|line| line.split_once(".bin").unwrap().1.to_owned()).collect()
    };
    assert_eq!(ranges(place.server.log()), ["", " from 30000", " from 50000"]);
    assert_eq!(shown.borrow().last(), Some(&("x/a b.bin".into(), 100_000, 100_000)));

    // Given up, and gone on with by another process; a server without ranges sends all again.
    for (no_ranges, expected) in [(false, " from 40000"), (true, " from 40000")] {
        fs::remove_dir_all(place.cache()).unwrap();
        place.server.state().cuts = [40_000, 0, 0, 0, 0, 0].into();
        let error = says(
            file(&place.hub(), "hf://datasets/o/d/x/a b.bin"),
            &["data set o/d, x/a b.bin", "after 40000 of 100000 bytes", "the same command goes on"],
        );
        assert!(matches!(error, HubError::Unreachable { .. }));
        assert_eq!(place.incomplete()[0].metadata().unwrap().len(), 40_000);
        place.server.log();
        place.server.state().no_ranges = no_ranges;
        assert_eq!(fs::read(file(&place.hub(), "hf://datasets/o/d/x/a b.bin").unwrap()).unwrap(), bytes);
        assert_eq!(ranges(place.server.log()), [expected]);
        assert_eq!(place.incomplete(), [] as [PathBuf; 0]);
    }
}

#[test]
fn wrong_bytes_are_not_kept() {
    let place = Place::new();
    let bytes = noise(10_000);
    place.server.put("datasets/o/d", &commit('a'), files(&[("a.bin", &bytes), ("b.txt", b"small")]));
    place.server.state().damaged = true;
    let sum = hex(&Sha256::digest(&bytes));
    says(file(&place.hub(), "hf://datasets/o/d/a.bin"), &["data set o/d, a.bin", "SHA-256", &sum, "not kept"]);
    assert_eq!(place.incomplete(), [] as [PathBuf; 0]);
    says(file(&place.offline(), "hf://datasets/o/d/a.bin"), &["missing a.bin"]);
    // Half of it was wrong already when it was broken off.
    place.server.state().cuts = [6_000, 0, 0, 0, 0, 0].into();
    says(file(&place.hub(), "hf://datasets/o/d/a.bin"), &["6000 of 10000"]);
    place.server.state().damaged = false;
    says(file(&place.hub(), "hf://datasets/o/d/a.bin"), &["SHA-256", "try again"]);
    assert_eq!(fs::read(file(&place.hub(), "hf://datasets/o/d/a.bin").unwrap()).unwrap(), bytes);

    // Small files have git's checksum: bytes left over from elsewhere do not match it.
    let partial = place.cache().join("datasets--o--d/blobs").join(format!("{}.incomplete", git_sum(b"small")));
    fs::write(&partial, "SMALL").unwrap();
    says(file(&place.hub(), "hf://datasets/o/d/b.txt"), &["data set o/d, b.txt", "SHA-1 (git)"]);
    assert_eq!(fs::read(file(&place.hub(), "hf://datasets/o/d/b.txt").unwrap()).unwrap(), b"small");
}

#[test]
fn refusals_say_what_to_do() {
    let place = Place::new();
    let one = Repository {
        commits: [(commit('a'), files(&[("config.json", b"{}")]))].into(),
        revisions: [("main".into(), commit('a'))].into(),
        ..Repository::default()
    };
    let closed = Repository { token: Some("mine".into()), ..one.clone() };
    let repositories = [
        ("models/o/open", one),
        ("models/o/gated", Repository { gated: true, ..closed.clone() }),
        ("models/o/closed", closed),
    ];
    place.server.state().repositories = repositories.map(|(key, value)| (key.into(), value)).into();
    let hub = place.hub();
    says(file(&hub, "hf://o/none/a"), &["model o/none, revision main", "answered 401", "check the name", "HF_TOKEN"]);
    says(file(&hub, "hf://o/closed/a"), &["answered 401 (said of RepoNotFound)", "give a token"]);
    says(file(&hub, "hf://o/gated/a"), &["answered 403", "accept its conditions on http://127.0.0.1", "/o/gated"]);
    says(
        file(&hub, "hf://o/open@v9/a"),
        &["model o/open, revision v9", "answered 404", "no such branch, tag or commit"],
    );
    says(file(&hub, "hf://o/open/a/b.json"), &["model o/open, a/b.json", "answered 404", "no such file", "tree/aaaa"]);
    says(
        hub.folder(&name("hf://o/open"), &silent),
        &["model o/open at aaaa", "has no model.safetensors", "no weights"],
    );
    says(hub.folder(&name("hf://o/open/sub"), &silent), &["aaaa, sub has no config.json or adapter_config.json"]);
    says(file(&hub, "hf://o/open"), &["a file is needed"]);
    let with = |token: &str| Hub::new(Settings { token: Some(token.into()), ..place.settings() });
    says(file(&with("other"), "hf://o/gated/a"), &["403", "the token (HF_TOKEN) is of an account that may not"]);
    assert!(file(&with("mine"), "hf://o/gated/config.json").unwrap().is_file());

    place.server.state().plain = true;
    says(
        hub.file(&name(&format!("hf://o/open@{}/config.json", commit('a'))), &silent),
        &["names no commit", "HF_ENDPOINT"],
    );
    place.server.state().plain = false;

    // Busy for a while is no matter; for long it is.
    place.server.state().busy = 3;
    assert!(file(&hub, "hf://o/open/config.json").unwrap().is_file());
    place.server.state().busy = 5;
    says(file(&hub, "hf://o/open/config.json"), &["answered 503", "try again later"]);
    place.server.stop();
    let parts = ["model o/open, revision main: http://127.0.0.1", "cannot be reached", "HF_HUB_OFFLINE=1"];
    says(file(&hub, "hf://o/open/config.json"), &parts);
}

#[test]
fn a_pinned_name_stays_where_its_branch_was() {
    let place = Place::new();
    place.server.put("datasets/o/d", &commit('a'), files(&[("a.txt", b"old"), ("b.txt", b"same")]));
    let hub = place.hub();
    let before = hub.pinned(&name("hf://datasets/o/d/a.txt")).unwrap();
    place.server.put("datasets/o/d", &commit('b'), files(&[("a.txt", b"new"), ("b.txt", b"same")]));
    let after = hub.pinned(&name("hf://datasets/o/d/a.txt")).unwrap();
    let text = |name: &Name| fs::read_to_string(hub.file(name, &silent).unwrap()).unwrap();
    assert_eq!((text(&before), text(&after)), ("old".into(), "new".into()));
    assert_eq!(before.asked(), commit('a'));
    // Contents that stayed the same are kept once.
    place.server.log();
    let [one, two] = [&before, &after].map(|name| hub.file(&name.with_path("b.txt"), &silent).unwrap());
    assert_ne!(one, two);
    assert_eq!(place.server.log().iter().filter(|line| line.contains("GET")).count(), 1);
    // A revision with a slash.
    place
        .server
        .state()
        .repositories
        .get_mut("datasets/o/d")
        .unwrap()
        .revisions
        .insert("refs/pr/1".into(), commit('a'));
    let pull = hub.pinned(&name("hf://datasets/o/d@refs/pr/1/a.txt")).unwrap();
    assert_eq!((pull.asked(), text(&pull)), (&*commit('a'), "old".into()));
    assert!(before.answers(&name("hf://datasets/o/d/a.txt")) && !pull.answers(&name("hf://datasets/o/d/a.txt")));
}

#[test]
fn offline_the_cache_is_all_there_is() {
    let place = Place::new();
    // As another program has left it.
    let own = place.cache().join("models--o--n");
    let snapshot = own.join("snapshots").join(commit('c'));
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(own.join("refs")).unwrap();
    fs::write(own.join("refs/main"), commit('c')).unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    let hub = place.offline();
    says(
        hub.folder(&name("hf://o/n"), &silent),
        &["model o/n", "not in the cache", "HF_HUB_OFFLINE", "model.safetensors"],
    );
    fs::write(snapshot.join("model.safetensors.index.json"), INDEX).unwrap();
    fs::write(snapshot.join("model-1.safetensors"), "x").unwrap();
    says(hub.folder(&name("hf://o/n"), &silent), &["missing model-2.safetensors at cccc"]);
    fs::write(snapshot.join("model-2.safetensors"), "x").unwrap();
    assert_eq!(hub.folder(&name("hf://o/n"), &silent).unwrap(), snapshot);
    let commits = format!("revision v1, of which it has {}", commit('c'));
    says(hub.folder(&name("hf://o/n@v1"), &silent), &["missing", &commits]);
    says(file(&hub, "hf://datasets/o/d/a"), &["data set o/d", "revision main, of which it has nothing"]);
    assert_eq!(place.server.log(), [] as [String; 0]);
}

#[test]
fn an_index_leads_nowhere_else() {
    let place = Place::new();
    for index in ["{\"weight_map\": {\"a\": \"../../x\"}}", "{\"weight_map\": {\"a\": \"/x\"}}", "{}", "["] {
        let repository = files(&[("config.json", b"{}"), ("model.safetensors.index.json", index.as_bytes())]);
        place.server.put("models/o/n", &commit('a'), repository);
        fs::remove_dir_all(place.cache()).ok();
        says(place.hub().folder(&name("hf://o/n"), &silent), &["model.safetensors.index.json", "no index of files"]);
    }
}

#[test]
fn processes_wait_for_each_other() {
    let place = Place::new();
    let bytes = noise(300_000);
    place.server.put("datasets/o/d", &commit('a'), files(&[("a.bin", &bytes)]));
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| file(&place.hub(), "hf://datasets/o/d/a.bin"))).collect();
        all.into_iter().for_each(|one| assert_eq!(fs::read(one.join().unwrap().unwrap()).unwrap(), bytes));
    });
    assert_eq!(place.server.log().iter().filter(|line| line.starts_with("large")).count(), 1);
}
