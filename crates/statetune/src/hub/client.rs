//! The hub's protocol: what a revision is, what a file is, and its bytes from a place on.
//!
//! Redirects are followed here and not by the HTTP library: what is known of a file stands in the hub's own answer, before it
//! sends on to where the bytes are, and the token is for the hub alone.

use std::io::Read;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use super::name::{Kind, Name, is_commit};
use super::{HubError, Settings};

/// Tries in a row without a byte gained.
pub(super) const TRIES: u32 = 5;
const REDIRECTS: usize = 8;
/// The longest answer about a revision that is read, in bytes: a line per file of the repository.
const LONGEST_ANSWER: u64 = 256 << 20;

/// What a revision stands for.
#[derive(Debug)]
pub(super) struct Revision {
    pub commit: String,
    /// Every file of the repository.
    pub files: Vec<String>,
}

/// What the hub says of a file.
#[derive(Debug)]
pub(super) struct FileInfo {
    /// Its checksum: SHA-256 of large files, git's SHA-1 of others.
    pub etag: String,
    pub bytes: u64,
}

/// A connection to the hub.
#[derive(Debug)]
pub(super) struct Client {
    settings: Settings,
    agent: Agent,
}

/// How a request ended without what was asked for.
pub(super) enum Trouble {
    /// The connection failed, or the server asks for patience.
    Passing(HubError),
    /// Another try would end the same.
    Lasting(HubError),
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Client {
        let seconds = |n| Some(Duration::from_secs(n));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .accept_encoding("identity")
            .user_agent(concat!("statetune/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(seconds(30))
            .timeout_connect(seconds(30))
            .timeout_recv_response(seconds(60))
            .timeout_per_read(seconds(60))
            .build();
        Client { settings: settings.clone(), agent: config.into() }
    }

    /// Looks a name's revision up.
    pub(super) fn revision(&self, name: &Name) -> Result<Revision, HubError> {
        let what = format!("{}, revision {}", name.what(), name.asked());
        let kind = if name.kind == Kind::Dataset { "datasets" } else { "models" };
        let (endpoint, asked) = (&self.settings.endpoint, encoded(name.asked(), false));
        let url = format!("{endpoint}/api/{kind}/{}/revision/{asked}", name.repository);
        let answer = patiently(|| {
            let mut answer = self.request("GET", &url, None, &what)?;
            if answer.status() != 200 {
                return Err(self.refusal(name, &what, &answer));
            }
            let mut text = String::new();
            let read = answer.body_mut().as_reader().take(LONGEST_ANSWER).read_to_string(&mut text);
            read.map_err(|error| Trouble::Passing(self.unreachable(&what, &url, &error.to_string())))?;
            Ok(text)
        })?;
        let wrong = |problem: &str| HubError::Protocol { what: what.clone(), problem: problem.into() };
        let answer: Value = serde_json::from_str(&answer).map_err(|_| wrong("the answer is no JSON"))?;
        let commit = answer["sha"].as_str().filter(|sha| is_commit(sha)).ok_or_else(|| wrong("it names no commit"))?;
        let files = answer["siblings"].as_array().ok_or_else(|| wrong("it lists no files"))?;
        let files = files.iter().filter_map(|file| file["rfilename"].as_str().map(str::to_owned)).collect();
        Ok(Revision { commit: commit.into(), files })
    }

    /// What the file of a name with a commit is.
    pub(super) fn info(&self, name: &Name) -> Result<FileInfo, HubError> {
        let what = what_file(name);
        let answer = patiently(|| {
            let answer = self.request("HEAD", &self.url(name), None, &what)?;
            match answer.status().as_u16() {
                200..400 => Ok(answer),
                _ => Err(self.refusal(name, &what, &answer)),
            }
        })?;
        let header = |names: &[&str]| names.iter().find_map(|name| header(answer.headers(), name));
        let wrong = |problem: &str| HubError::Protocol { what: what.clone(), problem: problem.into() };
        match header(&["x-repo-commit"]) {
            Some(commit) if Some(commit) == name.commit.as_deref() => {}
            Some(commit) => return Err(wrong(&format!("the file is of another commit, {commit}"))),
            None => return Err(wrong("the answer names no commit")),
        }
        let etag = header(&["x-linked-etag", "etag"]).ok_or_else(|| wrong("the answer has no checksum (ETag)"))?;
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        // It becomes the name of a file.
        let well = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if etag.is_empty() || etag.len() > 128 || !etag.chars().all(well) {
            return Err(wrong(&format!("its checksum is `{etag}`")));
        }
        let bytes = header(&["x-linked-size", "content-length"]).and_then(|size| size.parse().ok());
        Ok(FileInfo { etag: etag.into(), bytes: bytes.ok_or_else(|| wrong("the answer has no size"))? })
    }

    /// One try to get a file's bytes from a place on: where they begin, and the bytes. They begin at 0 where the server
    /// cannot begin later.
    pub(super) fn bytes(&self, name: &Name, from: u64) -> Result<(u64, impl Read + use<>), Trouble> {
        let what = what_file(name);
        let answer = self.request("GET", &self.url(name), Some(from).filter(|&from| from > 0), &what)?;
        let begin = match answer.status().as_u16() {
            200 => 0,
            206 => {
                let range = header(answer.headers(), "content-range").and_then(|range| range.strip_prefix("bytes "));
                let begin = range.and_then(|range| range.split_once('-')?.0.parse::<u64>().ok());
                begin.filter(|&begin| begin == from).ok_or_else(|| {
                    let problem = format!("bytes from {from} on were asked for, it sends others");
                    Trouble::Lasting(HubError::Protocol { what: what.clone(), problem })
                })?
            }
            _ => return Err(self.refusal(name, &what, &answer)),
        };
        Ok((begin, answer.into_body().into_reader()))
    }

    /// The error of a download that gained nothing in several tries.
    pub(super) fn broken_off(&self, name: &Name, got: u64, of: u64) -> HubError {
        let cause = format!("the connection broke off after {got} of {of} bytes, and again in {TRIES} tries");
        let hint = "the same command goes on from there";
        HubError::Unreachable { what: what_file(name), host: self.settings.endpoint.clone(), cause, hint }
    }

    fn url(&self, name: &Name) -> String {
        let kind = if name.kind == Kind::Dataset { "datasets/" } else { "" };
        let (revision, path) = (encoded(name.asked(), false), encoded(&name.path, true));
        format!("{}/{kind}{}/resolve/{revision}/{path}", self.settings.endpoint, name.repository)
    }

    /// Asks, and goes where the answer sends. A `HEAD` stays on the hub's own host.
    fn request(&self, method: &str, url: &str, from: Option<u64>, what: &str) -> Result<Response<Body>, Trouble> {
        let mut url = url.to_owned();
        let own = host(&self.settings.endpoint);
        for _ in 0..REDIRECTS {
            let token = self.settings.token.as_ref().filter(|_| host(&url) == own);
            let mut request = if method == "HEAD" { self.agent.head(&url) } else { self.agent.get(&url) };
            if let Some(token) = token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if let Some(from) = from {
                request = request.header("Range", format!("bytes={from}-"));
            }
            let failed = |error: ureq::Error| Trouble::Passing(self.unreachable(what, &url, &error.to_string()));
            let answer = request.call().map_err(failed)?;
            let location = header(answer.headers(), "location").filter(|_| answer.status().is_redirection());
            let Some(location) = location else { return Ok(answer) };
            let next = match location.strip_prefix('/') {
                Some(_) => format!("{}{location}", origin(&url)),
                None => location.to_owned(),
            };
            if method == "HEAD" && host(&next) != own {
                return Ok(answer);
            }
            if url.starts_with("https:") && !next.starts_with("https:") {
                let problem = "it sends on to a connection that is not secure".into();
                return Err(Trouble::Lasting(HubError::Protocol { what: what.into(), problem }));
            }
            url = next;
        }
        let problem = "it sends from one place to another without end".into();
        Err(Trouble::Lasting(HubError::Protocol { what: what.into(), problem }))
    }

    fn unreachable(&self, what: &str, url: &str, cause: &str) -> HubError {
        let hint = "check the network, or set HF_HUB_OFFLINE=1 to use what the cache has";
        HubError::Unreachable { what: what.into(), host: origin(url).into(), cause: cause.into(), hint }
    }

    /// The error of an answer that is a refusal.
    fn refusal(&self, name: &Name, what: &str, answer: &Response<Body>) -> Trouble {
        let status = answer.status().as_u16();
        let code = header(answer.headers(), "x-error-code").unwrap_or_default();
        let said = header(answer.headers(), "x-error-message").map_or(String::new(), |said| format!(" ({said})"));
        let error = |hint: String| HubError::Status { what: what.into(), status, said: said.clone(), hint };
        let kind = if name.kind == Kind::Dataset { "datasets/" } else { "" };
        let page = format!("{}/{kind}{}", self.settings.endpoint, name.repository);
        let token = match &self.settings.token {
            Some(_) => "the token (HF_TOKEN) is of an account that may not read it, or has expired",
            None => "give a token of an account that may read it by HF_TOKEN",
        };
        match (status, code) {
            (_, "GatedRepo") => {
                Trouble::Lasting(error(format!("it is gated: accept its conditions on {page}; {token}")))
            }
            (404, "EntryNotFound") => {
                Trouble::Lasting(error(format!("there is no such file: {page}/tree/{} lists them", name.asked())))
            }
            (404, "RevisionNotFound") => {
                Trouble::Lasting(error(format!("there is no such branch, tag or commit: {page} lists them")))
            }
            (401 | 403, _) => Trouble::Lasting(error(format!(
                "there is no such repository, or it is private: check the name; {token}"
            ))),
            (404, _) => Trouble::Lasting(error("there is no such repository: check the name".into())),
            (408 | 429 | 500..600, _) => {
                Trouble::Passing(error("the server is busy or out of order: try again later".into()))
            }
            _ => Trouble::Lasting(error("is HF_ENDPOINT a server of the hub's protocol?".into())),
        }
    }
}

/// Repository and file, for messages.
pub(super) fn what_file(name: &Name) -> String {
    format!("{}, {}", name.what(), name.path)
}

/// Tries until it is done, or it is clear that it cannot be.
fn patiently<T>(mut ask: impl FnMut() -> Result<T, Trouble>) -> Result<T, HubError> {
    let mut tries = 0;
    loop {
        match ask() {
            Ok(done) => return Ok(done),
            Err(Trouble::Lasting(error)) => return Err(error),
            Err(Trouble::Passing(error)) if tries + 1 == TRIES => return Err(error),
            Err(Trouble::Passing(_)) => wait(tries),
        }
        tries += 1;
    }
}

/// Longer after every try: 0.1 s to 1.6 s.
pub(super) fn wait(tries: u32) {
    sleep(Duration::from_millis(100 << tries.min(4)));
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Host and port of an address.
fn host(url: &str) -> Option<String> {
    Some(url.parse::<Uri>().ok()?.authority()?.as_str().to_ascii_lowercase())
}

/// An address up to its path.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find('/').map_or(url, |end| &url[..host + end])
}

/// A part of an address: all but letters, digits and `-._~` by their codes; `/` too unless it is kept.
fn encoded(text: &str, keep_slash: bool) -> String {
    let byte = |byte: u8| match byte {
        b'/' if keep_slash => "/".to_owned(),
        b'-' | b'.' | b'_' | b'~' => (byte as char).to_string(),
        byte if byte.is_ascii_alphanumeric() => (byte as char).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_addresses() {
        assert_eq!(encoded("refs/pr/1 ü", false), "refs%2Fpr%2F1%20%C3%BC");
        assert_eq!(encoded("a/b+c.txt", true), "a/b%2Bc.txt");
        assert_eq!(origin("https://h.x:1/a/b"), "https://h.x:1");
        assert_eq!(origin("http://h"), "http://h");
        assert_eq!(host("https://H.x:1/a"), Some("h.x:1".into()));
        assert_ne!(host("https://h.x/a"), host("https://h.x.evil/a"));
    }
}
