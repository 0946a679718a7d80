//! The file that is kept of a bench's run: host, commit, date, command, metrics.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde_json::{Value, json};

use super::Metric;
use crate::command::root;

/// Writes `benches/runs/<date>-<bench>.json` and returns its path in the repository.
///
/// With a GPU the metrics are of another machine, whose processor is not known.
pub(super) fn write(bench: &str, command: &str, metrics: &[Metric], gpu: Option<&str>) -> anyhow::Result<PathBuf> {
    let date = Date::now()?;
    let metrics: Vec<Value> =
        metrics.iter().map(|m| json!({ "name": m.name, "value": m.value, "unit": m.unit })).collect();
    let record = json!({
        "bench": bench,
        "date": date.iso(),
        "commit": commit(),
        "host": gpu.map_or_else(host, |gpu| json!({ "gpu": gpu })),
        "command": command,
        "metrics": metrics,
    });
    let path = Path::new("benches/runs").join(format!("{}-{bench}.json", date.file()));
    let whole = root().join(&path);
    fs::create_dir_all(whole.parent().expect("a folder")).context("benches/runs")?;
    fs::write(&whole, format!("{record:#}\n")).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// The commit, and whether tracked files differ from it; null outside a git checkout.
fn commit() -> Value {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(root()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain", "--untracked-files=no"])) {
        (Some(id), Some(changes)) => json!({ "id": id, "dirty": !changes.is_empty() }),
        _ => Value::Null,
    }
}

/// The machine: what cannot be found out is null.
fn host() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let field = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim_start_matches(['\t', ' ', ':']).trim().to_owned())
    };
    let kib = field(&memory, "MemTotal").and_then(|size| size.split(' ').next()?.parse::<f64>().ok());
    json!({
        "cpu": field(&cpus, "model name").map(|name| with_family(name, field(&cpus, "cpu family"), field(&cpus, "model\t"))),
        "cores": std::thread::available_parallelism().ok().map(usize::from),
        "memory_gib": kib.map(|kib| (kib / 1024.0 / 1024.0 * 10.0).round() / 10.0),
        "os": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// Virtual machines hide the name; family and model still tell the core.
fn with_family(name: String, family: Option<String>, model: Option<String>) -> String {
    match (family, model) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name,
    }
}

/// A moment in UTC.
struct Date {
    year: i64,
    month: i64,
    day: i64,
    seconds: i64,
}

impl Date {
    fn now() -> anyhow::Result<Date> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
        Ok(Date::from_unix(i64::try_from(since.as_secs())?))
    }

    /// Gregorian calendar, with years that begin in March so that the leap day comes last.
    fn from_unix(seconds: i64) -> Date {
        let days = seconds.div_euclid(86_400) + 719_468; // since 0000-03-01
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let march = (5 * of_year + 2) / 153;
        let month = if march < 10 { march + 3 } else { march - 9 };
        Date {
            year: year + era * 400 + i64::from(month <= 2),
            month,
            day: of_year - (153 * march + 2) / 5 + 1,
            seconds: seconds.rem_euclid(86_400),
        }
    }

    fn clock(&self) -> (i64, i64, i64) {
        (self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60)
    }

    fn iso(&self) -> String {
        let (h, m, s) = self.clock();
        format!("{:04}-{:02}-{:02}T{h:02}:{m:02}:{s:02}Z", self.year, self.month, self.day)
    }

    fn file(&self) -> String {
        let (h, m, s) = self.clock();
        format!("{:04}-{:02}-{:02}-{h:02}{m:02}{s:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(Date::from_unix(0).iso(), "1970-01-01T00:00:00Z");
        assert_eq!(Date::from_unix(951_782_400).iso(), "2000-02-29T00:00:00Z");
        assert_eq!(Date::from_unix(1_767_225_599).iso(), "2025-12-31T23:59:59Z");
        assert_eq!(Date::from_unix(1_767_225_600).file(), "2026-01-01-000000");
    }

    #[test]
    fn the_host_has_cores() {
        assert!(host()["cores"].as_u64().is_some_and(|cores| cores > 0));
    }
}
