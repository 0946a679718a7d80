//! A server that speaks as much of the hub's protocol as is used: revisions, files with their checksums, redirects of large
//! files to another host, ranges. It breaks off, is busy, or sends wrong bytes when a test says so.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Files from this size on are large: SHA-256, and on the other host.
pub const LARGE: usize = 4096;

/// A repository.
#[derive(Default, Clone)]
pub struct Repository {
    /// Branches and tags.
    pub revisions: BTreeMap<String, String>,
    /// Files by commit and path.
    pub commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Whose token opens it.
    pub token: Option<String>,
    /// Whether it says that it is gated rather than not there.
    pub gated: bool,
}

/// What goes on, and what shall go wrong.
#[derive(Default)]
pub struct State {
    /// By `models/OWNER/NAME` or `datasets/OWNER/NAME`.
    pub repositories: BTreeMap<String, Repository>,
    /// Every request: host, method, path, range, token.
    pub log: Vec<String>,
    /// After how many bytes the next answers with large files break off.
    pub cuts: VecDeque<usize>,
    /// How many requests are told to come again later.
    pub busy: usize,
    /// A wrong byte in large files.
    pub damaged: bool,
    /// Large files come whole, whatever range is asked for.
    pub no_ranges: bool,
    /// As a server that knows nothing of commits.
    pub plain: bool,
}

/// The server; it stops with its value.
pub struct Server {
    pub state: Arc<Mutex<State>>,
    hosts: Vec<String>,
    stopped: Arc<AtomicBool>,
}

/// A commit of one digit repeated.
pub fn commit(digit: char) -> String {
    digit.to_string().repeat(40)
}

/// Files of a commit.
pub fn files(list: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    list.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect()
}

/// Bytes that do not repeat.
pub fn noise(length: usize) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Server {
    pub fn start() -> Server {
        let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let hosts: Vec<String> =
            listeners.iter().map(|listener| format!("http://{}", listener.local_addr().expect("an address"))).collect();
        let (state, stopped) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        for (listener, kind) in listeners.into_iter().zip(["hub", "large"]) {
            let (state, stopped, large) = (state.clone(), stopped.clone(), hosts[1].clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    let (state, large) = (state.clone(), large.clone());
                    // What the client breaks off is no failure here.
                    std::thread::spawn(move || stream.and_then(|stream| answer(stream, &state, kind, &large)));
                }
            });
        }
        Server { state, hosts, stopped }
    }

    pub fn endpoint(&self) -> &str {
        &self.hosts[0]
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the state")
    }

    /// Puts a commit into a repository and lets `main` lead there.
    pub fn put(&self, repository: &str, commit: &str, files: BTreeMap<String, Vec<u8>>) {
        let mut state = self.state();
        let repository = state.repositories.entry(repository.into()).or_default();
        repository.commits.insert(commit.into(), files);
        repository.revisions.insert("main".into(), commit.into());
    }

    /// The requests since the last call.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        for host in &self.hosts {
            // Wakes the thread, which then lets the port go.
            let _ = TcpStream::connect(host.trim_start_matches("http://"));
        }
        while TcpStream::connect(self.hosts[0].trim_start_matches("http://")).is_ok() {}
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One request of a connection.
struct Request {
    method: String,
    path: String,
    from: Option<usize>,
    token: Option<String>,
}

fn read(stream: &TcpStream) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = Request { method, path, from: None, token: None };
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let from = value.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
                request.from = from.and_then(|from| from.parse().ok());
            }
            "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    Ok(request)
}

/// An answer but for what a large file breaks off.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn refused(status: u16, code: &str) -> Answer {
        let headers = [("X-Error-Code", code.to_owned()), ("X-Error-Message", format!("said of {code}"))];
        let headers = headers.into_iter().filter(|_| !code.is_empty()).collect();
        Answer { status, headers, body: Vec::new() }
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, host: &str, large: &str) -> std::io::Result<()> {
    let request = read(&stream)?;
    let (answer, cut) = {
        let mut state = state.lock().expect("the state");
        let range = request.from.map_or(String::new(), |from| format!(" from {from}"));
        let token = request.token.as_ref().map_or(String::new(), |token| format!(" with {token}"));
        state.log.push(format!("{host} {} {}{range}{token}", request.method, request.path));
        if state.busy > 0 {
            state.busy -= 1;
            (Answer::refused(503, ""), None)
        } else if host == "large" {
            let cut = state.cuts.pop_front();
            (large_file(&state, &request), cut)
        } else {
            (of_hub(&state, &request, large), None)
        }
    };
    let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", answer.status);
    head += &format!("Content-Length: {}\r\n", answer.body.len());
    answer.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&answer.body[..cut.unwrap_or(usize::MAX).min(answer.body.len())])?;
    }
    stream.flush()
}

/// `/api/KIND/OWNER/NAME/revision/REVISION`, `[/datasets]/OWNER/NAME/resolve/REVISION/PATH`.
fn of_hub(state: &State, request: &Request, large: &str) -> Answer {
    let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
    let (key, rest) = match parts[..] {
        ["api", kind, owner, name, ..] => (format!("{kind}/{owner}/{name}"), &parts[4..]),
        ["datasets", owner, name, ..] => (format!("datasets/{owner}/{name}"), &parts[3..]),
        [owner, name, ..] => (format!("models/{owner}/{name}"), &parts[2..]),
        _ => return Answer::refused(404, ""),
    };
    let Some(repository) = state.repositories.get(&key) else {
        // The hub does not say to strangers what there is.
        return Answer::refused(401, "RepoNotFound");
    };
    if repository.token.is_some() && repository.token != request.token {
        return if repository.gated { Answer::refused(403, "GatedRepo") } else { Answer::refused(401, "RepoNotFound") };
    }
    let revision = rest.get(1).copied().unwrap_or_default().replace("%2F", "/");
    let commit = repository.revisions.get(&revision).unwrap_or(&revision);
    let Some(files) = repository.commits.get(commit) else { return Answer::refused(404, "RevisionNotFound") };
    if rest[0] == "revision" {
        let siblings: Vec<_> = files.keys().map(|path| json!({"rfilename": path})).collect();
        let body = json!({"id": key, "sha": commit, "siblings": siblings}).to_string().into();
        return Answer { status: 200, headers: Vec::new(), body };
    }
    let path = rest[2..].join("/");
    let Some(bytes) = files.get(&path.replace("%20", " ")) else { return Answer::refused(404, "EntryNotFound") };
    let mut headers = vec![("X-Repo-Commit", commit.clone())];
    if state.plain {
        return Answer { status: 200, headers: Vec::new(), body: bytes.clone() };
    }
    if bytes.len() < LARGE {
        headers.push(("ETag", format!("\"{}\"", git_sum(bytes))));
        return Answer { status: 200, headers, body: bytes.clone() };
    }
    headers.push(("X-Linked-ETag", format!("\"{}\"", hex(&Sha256::digest(bytes)))));
    headers.push(("X-Linked-Size", bytes.len().to_string()));
    headers.push(("Location", format!("{large}/{key}/{commit}/{path}")));
    Answer { status: 302, headers, body: b"elsewhere".to_vec() }
}

/// Git's checksum of a file.
pub fn git_sum(bytes: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

fn large_file(state: &State, request: &Request) -> Answer {
    let parts: Vec<&str> = request.path.trim_start_matches('/').splitn(5, '/').collect();
    let [kind, owner, name, commit, path] = parts[..] else { return Answer::refused(404, "") };
    let mut bytes =
        state.repositories[&format!("{kind}/{owner}/{name}")].commits[commit][&path.replace("%20", " ")].clone();
    if state.damaged {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }
    match request.from.filter(|_| !state.no_ranges) {
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Answer { status: 206, headers: vec![("Content-Range", range)], body: bytes[from..].to_vec() }
        }
        None => Answer { status: 200, headers: Vec::new(), body: bytes },
    }
}
