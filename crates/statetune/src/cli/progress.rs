//! Progress bars: shown for anything that takes over two seconds, with tokens/s and the time left.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use statetune_trainer::Observer;
use statetune_trainer::record::Record;

use super::Output;

/// How long something may take without a bar.
const PATIENCE: Duration = Duration::from_secs(2);

/// A bar that appears after two seconds, on standard error, unless quiet.
pub struct Bar {
    quiet: bool,
    started: Instant,
    first: Option<u64>,
    bar: Option<ProgressBar>,
    what: &'static str,
}

impl Bar {
    /// A bar over something called `what`.
    pub fn new(what: &'static str, quiet: bool) -> Bar {
        Bar { quiet, started: Instant::now(), first: None, bar: None, what }
    }

    /// Moves on; `message` stands at the end.
    pub fn at(&mut self, done: u64, of: u64, message: impl FnOnce() -> String) {
        let first = *self.first.get_or_insert(done);
        if self.quiet || self.bar.is_none() && self.started.elapsed() < PATIENCE {
            return;
        }
        let what = self.what;
        let bar = self.bar.get_or_insert_with(|| {
            let style =
                ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len}  {elapsed} elapsed, {eta} left  {msg}");
            let bar = ProgressBar::new(of).with_style(style.expect("a valid template")).with_prefix(what);
            bar.with_position(first).with_elapsed(self.started.elapsed())
        });
        bar.set_length(of);
        bar.set_position(done);
        bar.set_message(message());
        if done >= of {
            bar.finish_and_clear();
        }
    }

    /// Writes a line without disturbing the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) if !bar.is_finished() && !bar.is_hidden() => bar.println(line),
            _ => eprintln!("{line}"),
        }
    }
}

/// How fast something goes, from when it was first heard of.
pub struct Pace {
    since: Instant,
    done: u64,
    tokens: u64,
}

impl Pace {
    /// From now on; so much is done by now, in so many tokens.
    pub fn new(done: u64, tokens: u64) -> Pace {
        Pace { since: Instant::now(), done, tokens }
    }

    /// With so many tokens by now.
    pub fn tokens_per_second(&self, tokens: u64) -> f64 {
        tokens.saturating_sub(self.tokens) as f64 / self.since.elapsed().as_secs_f64().max(1e-9)
    }

    /// The time that what is left of `of` takes if it goes on like this; `None` as long as nothing tells, and at the end.
    pub fn left(&self, done: u64, of: u64) -> Option<Duration> {
        let known = done.checked_sub(self.done).filter(|known| *known > 0)?;
        let rest = of.checked_sub(done).filter(|rest| *rest > 0)?;
        let seconds = self.since.elapsed().as_secs_f64() * rest as f64 / known as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// Shows a run: a bar for the training, one for each evaluation, a line for what is recorded.
pub struct RunProgress {
    quiet: bool,
    training: Bar,
    evaluating: Option<Bar>,
    pace: Option<Pace>,
    lines: bool,
}

impl RunProgress {
    /// `lines`: whether logged steps are printed as lines, for terminals without bars.
    pub fn new(output: Output) -> RunProgress {
        let lines = !output.quiet && !std::io::IsTerminal::is_terminal(&std::io::stderr());
        RunProgress {
            quiet: output.quiet,
            training: Bar::new("training", output.quiet),
            evaluating: None,
            pace: None,
            lines,
        }
    }
}

impl Observer for RunProgress {
    fn step(&mut self, done: u64, of: u64, tokens: u64, loss: f64) {
        let speed = self.pace.get_or_insert_with(|| Pace::new(done, tokens)).tokens_per_second(tokens);
        self.training.at(done, of, || format!("loss {loss:.4}  {speed:.0} tokens/s"));
    }

    fn record(&mut self, record: &Record) {
        match record {
            Record::Step(step) if self.lines => {
                let (speed, loss) = (step.tokens_per_second, step.loss);
                eprintln!("step {:>6}  epoch {:.3}  loss {loss:.4}  {speed:.0} tokens/s", step.step, step.epoch);
            }
            Record::Step(_) => {}
            Record::Evaluation { step, evaluation } => {
                self.evaluating = None;
                let scores = evaluation.classification.as_ref().map_or(String::new(), |scores| {
                    format!(
                        "  accuracy {:.2}% (labels only {:.2}%)  matthews {:.3}  outside the labels {}",
                        100.0 * scores.over_all_vocabulary.accuracy,
                        100.0 * scores.over_labels.accuracy,
                        scores.over_all_vocabulary.matthews,
                        scores.out_of_class
                    )
                });
                self.training.say(&format!("evaluation after step {step}: loss {:.4}{scores}", evaluation.loss));
            }
            Record::Skipped { step, reason } => self.training.say(&format!("step {step} skipped: {reason}")),
            Record::Note { note, .. } => self.training.say(&format!("note: {note}")),
        }
    }

    fn evaluating(&mut self, done: usize, of: usize) {
        let quiet = self.quiet;
        self.evaluating.get_or_insert_with(|| Bar::new("evaluating", quiet)).at(done as u64, of as u64, String::new);
    }
}
