//! Runs that are started, killed at random moments and gone on with.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use statetune::ssm_kernels::random::uniform;

use super::{Fixture, checkpoints};

pub const SIGKILL: i32 = 9;
/// A process that makes no progress for so long hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Random numbers of one test run. The seed is printed; `STATETUNE_KILL_SEED` repeats it.
pub struct Draws {
    seed: u64,
    count: u64,
}

impl Draws {
    pub fn new() -> Draws {
        let given = std::env::var("STATETUNE_KILL_SEED").ok().map(|seed| seed.parse().expect("a number"));
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        let seed = given.unwrap_or_else(clock);
        println!("STATETUNE_KILL_SEED={seed}");
        Draws { seed, count: 0 }
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: f64) -> f64 {
        let mut draw = [0f64];
        uniform(&mut draw, 0.0, limit, self.seed, self.count);
        self.count += 1;
        draw[0]
    }
}

/// When a process is killed.
#[derive(Debug)]
pub enum Moment {
    /// So long after its start: while it reads, before it writes, or in its first steps.
    After(Duration),
    /// So long after the checkpoint of this step or a later one appears.
    Checkpoint(u64, Duration),
    /// So long after the log has this many lines.
    Lines(usize, Duration),
}

impl Moment {
    pub fn draw(draws: &mut Draws, done: u64, of: u64) -> Moment {
        let soon = Duration::from_secs_f64(draws.below(0.03));
        match draws.below(3.0) as u32 {
            0 => Moment::After(Duration::from_secs_f64(draws.below(0.3))),
            1 => Moment::Checkpoint(done + 1 + draws.below(of as f64 / 6.0) as u64, soon),
            // Every second step is logged.
            _ => Moment::Lines((done / 2) as usize + draws.below(of as f64 / 12.0) as usize, soon),
        }
    }

    /// Waits for it; whether the process was still there.
    pub fn wait(&self, child: &mut Child, run: &Path) -> bool {
        let started = Instant::now();
        let lines = || fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
        let (rest, reached): (Duration, Box<dyn Fn() -> bool>) = match *self {
            Moment::After(rest) => (rest, Box::new(|| true)),
            Moment::Checkpoint(step, rest) => {
                (rest, Box::new(move || checkpoints(run).last().is_some_and(|(newest, _)| *newest >= step)))
            }
            Moment::Lines(count, rest) => (rest, Box::new(move || lines() > count)),
        };
        while !reached() {
            if child.try_wait().expect("its status").is_some() {
                return false;
            }
            assert!(started.elapsed() < PATIENCE, "{self:?} does not come");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(rest);
        child.try_wait().expect("its status").is_none()
    }
}

/// Starts a run, or goes on with it where there is one.
pub fn start(fixture: &Fixture, run: &str) -> Child {
    let folder = format!("output.folder={run}");
    let mut arguments = vec!["train", "run.toml", "--quiet", "--set", &folder];
    if fixture.path(run).join("config.toml").exists() {
        arguments.push("--resume");
    }
    fixture.command(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts")
}

/// Starts a run or goes on with it, to its end.
#[track_caller]
pub fn finish(fixture: &Fixture, run: &str) {
    let output = start(fixture, run).wait_with_output().expect("its end");
    assert!(output.status.success(), "{run}: {}", String::from_utf8_lossy(&output.stderr));
    let left: Vec<String> = fixture.tree(run).into_keys().filter(|name| is_leftover(name)).collect();
    assert!(left.is_empty(), "{run} has temporary files: {left:?}");
}

fn is_leftover(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.') || part.contains("tmp"))
}

/// A fixture that trains these methods in so many steps.
pub fn with_methods(methods: Vec<toml::Table>, steps: u64) -> Fixture {
    let fixture = Fixture::new();
    let mut config: toml::Table = fixture.read("run.toml").parse().expect("the configuration");
    config.insert("methods".into(), methods.into_iter().map(toml::Value::Table).collect::<Vec<_>>().into());
    config["train"]["max_steps"] = (steps as i64).into();
    fixture.write("run.toml", config.to_string());
    fixture
}

/// Goes on with the run `killed` until a moment, and kills it there.
#[track_caller]
pub fn killed_at(fixture: &Fixture, what: &str, moment: &Moment) {
    let mut child = start(fixture, "killed");
    let running = moment.wait(&mut child, &fixture.path("killed"));
    assert!(running, "{what}: {moment:?}: it ended before it could be killed");
    child.kill().expect("a process to kill");
    let output = child.wait_with_output().expect("its end");
    println!("{what}: {moment:?}: {}", output.status);
    let by_us = output.status.signal() == Some(SIGKILL);
    assert!(by_us || output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}
