//! What can go wrong between a name on the hub and a file on disk. Every message names the repository and the file, what
//! the server or the system said, and what to do.

use std::path::PathBuf;

/// A name on the hub could not be made a file here.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Not the form of a name.
    #[error(
        "`{name}` is no name on the hub: {problem}; expected hf://OWNER/NAME[@REVISION][/PATH], or \
         hf://datasets/OWNER/NAME[@REVISION]/PATH for data"
    )]
    Name {
        /// The text.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// This build cannot look names up.
    #[error(
        "`{name}` is on the hub, and this build cannot look there: build it with the feature `hub`, or download the files \
         and give their path"
    )]
    NotBuilt {
        /// The name.
        name: String,
    },
    /// The server refused.
    #[error("{what}: the hub answered {status}{said}; {hint}")]
    Status {
        /// Repository, and revision or file.
        what: String,
        /// Status of HTTP.
        status: u16,
        /// What else the server said, in brackets.
        said: String,
        /// What to do.
        hint: String,
    },
    /// The server could not be reached, or broke off again and again.
    #[error("{what}: {host} cannot be reached ({cause}); {hint}")]
    Unreachable {
        /// Repository, and revision or file.
        what: String,
        /// Where it was looked for.
        host: String,
        /// The last failure.
        cause: String,
        /// What to do.
        hint: &'static str,
    },
    /// The server's answer is not what the hub answers.
    #[error("{what}: {problem}; is HF_ENDPOINT a server of the hub's protocol?")]
    Protocol {
        /// Repository, and revision or file.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// Nothing may be downloaded, and the cache does not have it.
    #[error("{what}: not in the cache {}, and HF_HUB_OFFLINE is set: missing {missing}; unset it for one run to download", cache.display())]
    Offline {
        /// The repository.
        what: String,
        /// The cache.
        cache: PathBuf,
        /// What is not there.
        missing: String,
    },
    /// The repository does not have it.
    #[error("{what} has no {missing}; {hint}")]
    Absent {
        /// Repository and commit.
        what: String,
        /// What it does not have.
        missing: String,
        /// What to do.
        hint: String,
    },
    /// What was downloaded is not what the repository holds.
    #[error(
        "{what}: the {kind} is {found}, expected {expected}: the download is damaged and was not kept; try again, and if it \
         happens again the server or a proxy on the way is at fault"
    )]
    Checksum {
        /// Repository and file.
        what: String,
        /// What was compared.
        kind: &'static str,
        /// What the server announced.
        expected: String,
        /// What arrived.
        found: String,
    },
    /// The system refused.
    #[error("{what}: cannot {doing} {}: {source}; {hint}", file.display())]
    Io {
        /// Repository and file.
        what: String,
        /// What was being done.
        doing: &'static str,
        /// The file on disk.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// There is no place for a cache.
    #[error("there is no folder for the hub's files: set HF_HOME to one")]
    NoHome,
}
