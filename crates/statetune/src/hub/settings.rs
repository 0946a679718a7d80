//! Where the hub is, where its files are kept, and who asks: the environment variables of Hugging Face's own tools.

use std::path::PathBuf;
use std::{env, fmt, fs};

use super::HubError;

/// The hub itself.
const ENDPOINT: &str = "https://huggingface.co";

/// What a client needs to know.
#[derive(Clone)]
pub struct Settings {
    /// Address of the server, without a `/` at the end.
    pub endpoint: String,
    /// The folder with `models--OWNER--NAME`.
    pub cache: PathBuf,
    /// The account's token.
    pub token: Option<String>,
    /// Nothing is asked of the server.
    pub offline: bool,
}

impl Settings {
    /// As the environment has them: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`,
    /// `HF_HUB_OFFLINE`; of the cache and the token the same defaults as Hugging Face's library for Python (1.0).
    ///
    /// # Errors
    /// There is neither a home folder nor a variable that names another.
    pub fn from_environment() -> Result<Settings, HubError> {
        let given = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let shared = path("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")));
        let home = path("HF_HOME").or_else(|| Some(shared?.join("huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| Some(home.as_ref()?.join("hub"))).ok_or(HubError::NoHome)?;
        let stored = || {
            let file = path("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")))?;
            fs::read_to_string(file).ok()
        };
        let token = given("HF_TOKEN").or_else(stored).map(|token| token.trim().to_owned());
        let yes = |value: String| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str());
        Ok(Settings {
            endpoint: given("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into()).trim_end_matches('/').to_owned(),
            cache,
            token: token.filter(|token| !token.is_empty()),
            offline: given("HF_HUB_OFFLINE").is_some_and(yes),
        })
    }
}

/// Without the token.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { endpoint, cache, token, offline } = self;
        let token = token.as_ref().map(|_| "…");
        f.debug_struct("Settings")
            .field("endpoint", endpoint)
            .field("cache", cache)
            .field("token", &token)
            .field("offline", offline)
            .finish()
    }
}
