//! What a sweep says while it goes: a line for each finished run, and now and then one about those under way.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::HumanDuration;
use statetune_trainer::evaluate::Stage;
use statetune_trainer::sweep::{At, Event, Job, Line, Plan, Purpose};

use crate::cli::progress::Pace;

/// After so long the first line about a run comes, where others come less often.
const FIRST: Duration = Duration::from_secs(10);

/// Says it on standard error, unless quiet.
pub struct Told<'a> {
    plan: &'a Plan,
    quiet: bool,
    /// Whether several runs go on at once.
    several: bool,
    every: Duration,
    state: Mutex<State>,
}

struct State {
    /// Runs finished, runs in all.
    runs: (usize, usize),
    /// When the next line about those under way is due.
    due: Option<Instant>,
    under_way: Vec<UnderWay>,
}

struct UnderWay {
    job: Job,
    at: At,
    /// Since it is at this part.
    pace: Pace,
}

impl<'a> Told<'a> {
    /// `runs`: finished and in all; `every`: the time between two lines about runs under way.
    pub fn new(plan: &'a Plan, runs: (usize, usize), workers: usize, every: Duration, quiet: bool) -> Told<'a> {
        let state = Mutex::new(State { runs, due: None, under_way: Vec::new() });
        Told { plan, quiet, several: workers > 1, every, state }
    }

    /// Hears what happens.
    pub fn hear(&self, event: &Event<'_>) {
        if let Some(line) = self.line(event).filter(|_| !self.quiet) {
            eprintln!("{line}");
        }
    }

    /// What there is to say of it.
    fn line(&self, event: &Event<'_>) -> Option<String> {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match *event {
            Event::Note(note) => Some(note.to_owned()),
            Event::Finished(job, line, results) => {
                state.under_way.retain(|run| run.job != *job);
                state.runs = results.runs(self.plan);
                Some(format!("[{}/{}] {}", state.runs.0, state.runs.1, finished(&called(self.plan, job), line)))
            }
            Event::UnderWay(job, at) => {
                let now = Instant::now();
                state.note(job, at);
                if at == At::Begun {
                    let first = now + FIRST.min(self.every);
                    state.due = state.due.filter(|_| self.several).or(Some(first));
                    return None;
                }
                if state.due.is_some_and(|due| now < due) {
                    return None;
                }
                state.due = Some(now + self.every);
                Some(if self.several { self.all(&state) } else { self.one(&state, job) })
            }
        }
    }

    /// The one run that goes on.
    fn one(&self, state: &State, job: &Job) -> String {
        // Rows are answered in groups, which end together: before the first has, they tell nothing of the time left.
        let judge = &self.plan.task(&self.plan.units[job.unit]).judge;
        let group = judge.as_ref().map_or(1, |judge| judge.evaluation.sequences);
        let run = state.under_way.iter().find(|run| run.job == *job);
        let place = run.map_or(String::new(), |run| run.place(group));
        format!("run {} of {}, {}: {place}", state.runs.0 + 1, state.runs.1, called(self.plan, job))
    }

    /// All that go on.
    fn all(&self, state: &State) -> String {
        let told = |run: &UnderWay| format!("{}: {}", called(self.plan, &run.job), run.place_in_short());
        let under_way: Vec<String> = state.under_way.iter().map(told).collect();
        format!("{} of {} runs are finished; under way: {}", state.runs.0, state.runs.1, under_way.join("; "))
    }
}

impl State {
    fn note(&mut self, job: &Job, at: At) {
        let (done, tokens) = match at {
            At::Begun => (0, 0),
            At::Step { done, tokens, .. } => (done, tokens),
            At::Evaluation { done, .. } => (done as u64, 0),
        };
        let begun = |job: &Job| UnderWay { job: *job, at, pace: Pace::new(done, tokens) };
        match self.under_way.iter_mut().find(|run| run.job == *job) {
            Some(run) if same_part(run.at, at) => run.at = at,
            Some(run) => *run = begun(job),
            None => self.under_way.push(begun(job)),
        }
    }
}

fn same_part(a: At, b: At) -> bool {
    match (a, b) {
        (At::Step { .. }, At::Step { .. }) => true,
        (At::Evaluation { stage: a, .. }, At::Evaluation { stage: b, .. }) => a == b,
        _ => false,
    }
}

/// What is done in an evaluation, and of what.
fn names(stage: Stage) -> (&'static str, &'static str) {
    match stage {
        Stage::Likelihood => ("evaluating", "examples"),
        Stage::Generation => ("generating", "rows"),
        Stage::Scoring => ("scoring", "scores"),
    }
}

impl UnderWay {
    /// Where it is; of rows, `group` are answered at once.
    fn place(&self, group: usize) -> String {
        let left = |done: u64, of: u64| {
            self.pace.left(done, of).map_or(String::new(), |left| format!(", {:#} left", HumanDuration(left)))
        };
        match self.at {
            At::Begun => "begins".into(),
            At::Step { done, of, tokens, loss } => {
                let speed = self.pace.tokens_per_second(tokens);
                format!("step {done} of {of}, loss {loss:.4}, {speed:.0} tokens/s{}", left(done, of))
            }
            At::Evaluation { stage, done, of } => {
                let (doing, what) = names(stage);
                let known = stage != Stage::Generation || done >= group;
                let left = if known { left(done as u64, of as u64) } else { String::new() };
                format!("{doing}, {done} of {of} {what}{left}")
            }
        }
    }

    fn place_in_short(&self) -> String {
        match self.at {
            At::Begun => "begins".into(),
            At::Step { done, of, .. } => format!("step {done}/{of}"),
            At::Evaluation { stage, done, of } => format!("{} {done}/{of}", names(stage).0),
        }
    }
}

/// A run's entry, task and, but for the untuned model, what tells it from others of them.
fn called(plan: &Plan, job: &Job) -> String {
    let unit = &plan.units[job.unit];
    let what = format!("{} on {}", unit.name, plan.task(unit).name);
    match job.purpose {
        Purpose::Final if unit.is_base() => what,
        Purpose::Search => format!("{what}, search, rate {}", job.rate),
        Purpose::Final => format!("{what}, seed {}, rate {}", job.seed, job.rate),
    }
}

/// A finished run in a line.
fn finished(called: &str, line: &Line) -> String {
    let outcome = match (line.score, &line.failed) {
        (Some(score), _) => format!("{score:.4}"),
        (None, failed) => failed.clone().unwrap_or_default(),
    };
    // The untuned model was trained on no rows.
    match line.rows {
        0 => format!("{called}: {outcome}"),
        _ => format!("{called}: {outcome} ({} steps in {:.1} s)", line.steps, line.seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use statetune_trainer::sweep::SweepConfig;

    const TEXT: &str = "every_method = false\n[model]\npath = \"m\"\n[[tasks]]\nname = \"a\"\nmetric = \"loss\"\n\
        [tasks.data]\nformat = \"text\"\ntrain = \"t\"\nvalidation = \"v\"\n\
        [[entries]]\nmethods = [{ method = \"lora\" }]\nrates = [0.1, 0.2]\n";

    fn plan() -> Plan {
        Plan::new(SweepConfig::parse(TEXT, "c.toml".as_ref(), &[]).unwrap()).unwrap()
    }

    fn step(done: u64) -> At {
        At::Step { done, of: 9, tokens: 0, loss: 1.5 }
    }

    #[test]
    fn several_runs_are_told_in_one_line() {
        let plan = plan();
        let told = Told::new(&plan, (0, 5), 2, Duration::ZERO, false);
        let (first, second) = (plan.search(0)[0], plan.search(0)[1]);
        let say = |job: &Job, at: At| told.line(&Event::UnderWay(job, at));
        assert_eq!((say(&first, At::Begun), say(&second, At::Begun)), (None, None));
        say(&first, step(3)).unwrap();
        let all =
            "0 of 5 runs are finished; under way: lora on a, search, rate 0.1: step 3/9; lora on a, search, rate 0.2: ";
        let at = At::Evaluation { stage: Stage::Generation, done: 7, of: 8 };
        assert_eq!(say(&second, at).unwrap(), format!("{all}generating 7/8"));
    }

    #[test]
    fn lines_are_seldom() {
        let plan = plan();
        let job = plan.search(0)[0];
        let say = |told: &Told<'_>, at: At| told.line(&Event::UnderWay(&job, at));
        // The first is due after ten seconds, further ones after what was asked for.
        let told = Told::new(&plan, (0, 5), 1, Duration::from_secs(30), false);
        assert_eq!((say(&told, At::Begun), say(&told, step(1))), (None, None));
        let due = |told: &Told<'_>| told.state.lock().unwrap().due.unwrap() - Instant::now();
        assert!((Duration::from_secs(5)..=FIRST).contains(&due(&told)));
        told.state.lock().unwrap().due = Some(Instant::now());
        let line = say(&told, step(2)).unwrap();
        assert!(line.starts_with("run 1 of 5, lora on a, search, rate 0.1: step 2 of 9, loss 1.5000, "), "{line}");
        assert!(due(&told) > Duration::from_secs(20) && say(&told, step(3)).is_none());
    }

    #[test]
    fn the_time_left_is_told_once_a_group_is_answered() {
        let job = plan().search(0)[0];
        let place = |done: usize| {
            let at = At::Evaluation { stage: Stage::Generation, done, of: 8 };
            UnderWay { job, at, pace: Pace::new(0, 0) }.place(4)
        };
        assert_eq!((place(3), place(8)), ("generating, 3 of 8 rows".into(), "generating, 8 of 8 rows".into()));
        assert_eq!(place(4), "generating, 4 of 8 rows, 0s left");
    }
}
