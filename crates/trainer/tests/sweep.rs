//! A sweep: the rate that the search finds, going on after an interruption, several runs at once, refusals, the table.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use serde_json::{Value, json};
use statetune_datasets_eval::Dataset;
use statetune_mamba_model::{Mamba, Patches};
use statetune_ssm_kernels::Level;
use statetune_tensor::{DType, Device};
use statetune_trainer::evaluate::Stage;
use statetune_trainer::sweep::{
    At, Candidate, Choice, DeviceUsed, Event, Judgement, Limits, Line, Placed, Plan, Purpose, Report, Results,
    SweepConfig, Table, TaskData, run, write_pages,
};
use statetune_trainer::{TrainError, evaluate};

/// State-offset (h) has a rate with which it cannot learn and one with which it can; BitFit's is given.
const CONFIG: &str = r#"
seeds = [0, 1]
every_method = false

[model]
path = "model"

[[tasks]]
name = "first"
title = "First"
metric = "accuracy"
data = { format = "jsonl", train = "t", validation = "v", prompt_field = "p", label_field = "l", labels = ["1", "2"] }

[[entries]]
methods = [{ method = "state-offset-h" }]
rates = [1e-7, 0.05]

[[entries]]
name = "biases"
methods = [{ method = "bitfit" }]
rates = [0.02]

[train]
batch_size = 8
warmup_steps = 2
epochs = 8

[search]
rows = 20
share = 0.5

[[references]]
entry = "state-offset-h"
task = "first"
rate = 0.01
scores = [82.6, 80.6]
"#;

/// Two rates and two seeds, and two seeds.
const RUNS: usize = 6;

fn plan(settings: &[&str]) -> Plan {
    let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
    Plan::new(SweepConfig::parse(CONFIG, Path::new("sweep.toml"), &settings).unwrap()).unwrap()
}

fn place() -> Result<Placed, TrainError> {
    let device = Device::cpu(Level::best(), 1).unwrap();
    let model = Mamba::random(&support::config(true), &device, DType::F32, DType::F32, 1).unwrap();
    let used = DeviceUsed {
        name: "a processor".into(),
        kind: "cpu".into(),
        compute: "f32".into(),
        level: Some(Level::best().to_string()),
        products: Some("f32".into()),
    };
    Ok(Placed { model, device: used })
}

/// Two classes, told by the first token; a third of the rows are of the second.
fn classification(count: usize) -> Dataset {
    let mut data = support::classification(count);
    for (i, example) in data.examples.iter_mut().enumerate() {
        let class = usize::from(i % 3 == 2);
        example.tokens[0] = 5 + class as u32;
        *example.tokens.last_mut().unwrap() = data.classes[class].token;
        example.class = Some(class);
    }
    data
}

/// Runs what is missing; returns the report and the runs that were made.
fn go_on(path: &Path, plan: &Plan, limits: &Limits, rows: usize) -> Result<(Report, Vec<Line>), TrainError> {
    let data = [TaskData { train: classification(rows), validation: classification(30) }];
    let mut results = Results::open(path, plan)?;
    let made = Mutex::new(Vec::new());
    let observe = |event: Event<'_>| {
        if let Event::Finished(_, line, _) = event {
            made.lock().unwrap().push(line.clone());
        }
        Ok(())
    };
    let report = run(plan, &data, &mut results, &|_| Ok(Vec::new()), &unjudged, &place()?, &place, limits, &observe)?;
    Ok((report, made.into_inner().unwrap()))
}

/// The lines without what another time measures otherwise.
fn timeless(path: &Path) -> Vec<Value> {
    let without = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for key in ["seconds", "peak_memory_mib", "workers"] {
            line.as_object_mut().unwrap().remove(key).unwrap();
        }
        line
    };
    fs::read_to_string(path).unwrap().lines().map(without).collect()
}

#[track_caller]
fn refused(result: Result<impl Sized, TrainError>, parts: &[&str]) {
    let error = result.err().expect("an error").to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "expected {parts:?}: {error}");
}

#[test]
fn the_search_finds_the_rate_that_learns() {
    let folder = tempfile::tempdir().unwrap();
    let (path, plan) = (folder.path().join("results.jsonl"), plan(&[]));
    let (report, made) = go_on(&path, &plan, &Limits::default(), 60).unwrap();
    assert_eq!(report, Report { done: RUNS, of: RUNS, left_out: Vec::new() });
    assert_eq!(made.len(), RUNS);
    let results = Results::read(&path, &plan).unwrap();
    assert_eq!(results.choice(&plan, 0), Choice::Rate(0.05));
    let [search, finals]: [Vec<&Line>; 2] =
        [Purpose::Search, Purpose::Final].map(|purpose| made.iter().filter(|line| line.purpose == purpose).collect());
    // Half of 8 times 60 rows in steps of 8, on 40 rows, judged on the 20 others; then all of it.
    assert!(search.iter().all(|line| (line.steps, line.rows, line.judged_on) == (32, 40, 20)), "{search:?}");
    assert!(finals.iter().all(|line| (line.steps, line.rows, line.judged_on) == (64, 60, 30)), "{finals:?}");
    let score = |rate: f64| search.iter().find(|line| line.learning_rate == rate).unwrap().score.unwrap();
    assert!(score(0.05) > score(1e-7), "{search:?}");
    assert_eq!(search.len(), 2, "BitFit has one rate, and nothing to search");
    assert!(finals[0].score != finals[1].score || finals[0].loss != finals[1].loss, "two seeds are two runs");
}

#[test]
fn going_on_repeats_nothing_and_ends_with_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, plan) = (folder.path().join("whole.jsonl"), plan(&[]));
    go_on(&whole, &plan, &Limits::default(), 60).unwrap();
    let text = fs::read_to_string(&whole).unwrap();
    let expected = timeless(&whole);
    for kept in 0..=RUNS {
        let path = folder.path().join(format!("{kept}.jsonl"));
        let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        let end = if kept == 0 { 0 } else { ends[kept - 1] };
        // A kill in the middle of a line.
        let cut_off = if kept < RUNS { end + 40 } else { end };
        fs::write(&path, &text[..cut_off]).unwrap();
        let (_, made) = go_on(&path, &plan, &Limits::default(), 60).unwrap();
        assert_eq!(made.len(), RUNS - kept, "{kept} were there");
        assert_eq!(timeless(&path), expected, "{kept} were there");
    }
}

#[test]
fn several_at_once_come_to_the_same_and_limits_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (alone, together) = (folder.path().join("1.jsonl"), folder.path().join("3.jsonl"));
    let plan = plan(&[]);
    go_on(&alone, &plan, &Limits::default(), 60).unwrap();
    // No time at all, then one entry, then the rest.
    let none = Limits { workers: 3, until: Some(std::time::Instant::now()), ..Limits::default() };
    assert_eq!(go_on(&together, &plan, &none, 60).unwrap().0, Report { done: 0, of: RUNS, left_out: Vec::new() });
    let one = Limits { workers: 3, only: vec!["biases".into()], ..Limits::default() };
    assert_eq!(go_on(&together, &plan, &one, 60).unwrap().0, Report { done: 2, of: 2, left_out: Vec::new() });
    let rest = Limits { workers: 3, ..Limits::default() };
    assert_eq!(go_on(&together, &plan, &rest, 60).unwrap().1.len(), RUNS - 2);
    let sorted = |path| {
        let mut lines: Vec<String> = timeless(path).iter().map(Value::to_string).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&alone), sorted(&together));
    let nobody = Limits { only: vec!["bias".into()], ..Limits::default() };
    refused(go_on(&together, &plan, &nobody, 60), &["no entry and no task `bias` (did you mean `biases`?)"]);
}

/// No task here is judged by answers.
fn unjudged(candidate: &Candidate<'_>) -> Result<Option<Judgement>, TrainError> {
    assert!(candidate.task.judge.is_none());
    Ok(None)
}

#[test]
fn without_memory_for_more_one_runs_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (path, plan) = (folder.path().join("results.jsonl"), plan(&[]));
    let data = [TaskData { train: classification(60), validation: classification(30) }];
    let mut results = Results::open(&path, &plan).unwrap();
    let notes = Mutex::new(Vec::new());
    let observe = |event: Event<'_>| {
        if let Event::Note(note) = event {
            notes.lock().unwrap().push(note.to_owned());
        }
        Ok(())
    };
    let nobody = || -> Result<Placed, TrainError> { panic!("a further worker has no room") };
    let limits = Limits { workers: 3, memory: Some(0), ..Limits::default() };
    let report =
        run(&plan, &data, &mut results, &|_| Ok(Vec::new()), &unjudged, &place().unwrap(), &nobody, &limits, &observe)
            .unwrap();
    assert_eq!(report.done, RUNS, "alone every run is started all the same");
    let notes = notes.into_inner().unwrap();
    assert!(notes[0].starts_with("1 at once instead of 3") && notes[1].contains("state-offset-h on first runs alone"));
    assert_eq!(notes.len(), 1 + RUNS, "{notes:?}");
}

#[test]
fn the_results_are_a_table_and_a_page_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let (path, plan) = (folder.path().join("results.jsonl"), plan(&[]));
    go_on(&path, &plan, &Limits { only: vec!["biases".into()], ..Limits::default() }, 60).unwrap();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let write = || {
        let results = Results::read(&path, &plan).unwrap();
        write_pages(folder.path(), &plan, &results, &Table::new(&plan, &results)).unwrap();
    };
    write();
    let results = Results::read(&path, &plan).unwrap();
    let table = Table::new(&plan, &results);
    assert_eq!(read("table.md"), table.markdown);
    let csv: Vec<String> = read("table.csv").lines().map(str::to_owned).collect();
    assert_eq!(csv.len(), 3, "a line per entry and task after the names: {csv:?}");
    assert!(csv[1].starts_with("state-offset-h,first,accuracy %,,,"), "nothing is known yet: {}", csv[1]);
    let cells: Vec<&str> = csv[2].split(',').collect();
    let (names, mean) = (csv[0].split(',').count(), table.rows[1].mean.unwrap());
    assert_eq!((cells.len(), cells[0], cells[3]), (names, "biases", "0.02"));
    assert_eq!((cells[5].parse(), cells[7].split(' ').count()), (Ok(mean), 2));
    let page = read("report.html");
    for text in ["First: score by trained numbers", "First: loss in training", "biases, seed 0", "2 of 6", "<polyline"]
    {
        assert!(page.contains(text), "{text}");
    }
    // A curve falls where something is learnt, and lines without one, of an older program, are read.
    let line = results.lines(&plan)[0];
    let (first, last) = (line.curve[0], line.curve[line.curve.len() - 1]);
    assert!(last.0 == line.steps && last.1 < first.1, "{:?}", line.curve);
    let without: String = lines_without(&fs::read_to_string(&path).unwrap(), "curve");
    fs::write(&path, without).unwrap();
    write();
    assert!(!read("report.html").contains("loss in training") && read("report.html").contains("score by"));
}

/// The lines without a key.
fn lines_without(text: &str, key: &str) -> String {
    let without = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove(key).expect(key);
        line.to_string() + "\n"
    };
    text.lines().map(without).collect()
}

#[test]
fn how_far_runs_are_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (path, plan) = (folder.path().join("results.jsonl"), plan(&["base=true"]));
    let data = [TaskData { train: classification(60), validation: classification(30) }];
    let mut results = Results::open(&path, &plan).unwrap();
    let heard = Mutex::new(Vec::new());
    let observe = |event: Event<'_>| {
        match event {
            Event::UnderWay(job, at) => heard.lock().unwrap().push((*job, Some(at))),
            Event::Finished(job, line, _) => {
                assert_eq!((job.rate, job.seed, job.purpose), (line.learning_rate, line.seed, line.purpose));
                heard.lock().unwrap().push((*job, None));
            }
            Event::Note(note) => panic!("{note}"),
        }
        Ok(())
    };
    let (placed, limits) = (place().unwrap(), Limits::default());
    run(&plan, &data, &mut results, &|_| Ok(Vec::new()), &unjudged, &placed, &place, &limits, &observe).unwrap();
    let heard = heard.into_inner().unwrap();
    let runs: Vec<_> = heard.chunk_by(|(a, _), (b, _)| a == b).collect();
    assert_eq!(runs.len(), RUNS + 1);
    for (i, run) in runs.iter().enumerate() {
        assert_eq!((run[0].1, run[run.len() - 1].1), (Some(At::Begun), None), "{run:?}");
        let steps: Vec<(u64, u64)> = run
            .iter()
            .filter_map(|(_, at)| match at {
                Some(At::Step { done, of, loss, .. }) if loss.is_finite() => Some((*done, *of)),
                _ => None,
            })
            .collect();
        // The untuned model, two runs of a search, and four for the table.
        let of = [0, 32, 32, 64, 64, 64, 64][i];
        assert_eq!(steps, (1..=of).map(|done| (done, of)).collect::<Vec<_>>());
        let rows = if (1..=2).contains(&i) { 20 } else { 30 };
        let whole = At::Evaluation { stage: Stage::Likelihood, done: rows, of: rows };
        assert_eq!(run[run.len() - 2].1, Some(whole));
    }
    // Who hears it may end the sweep: the run goes on to its end, and no other is begun.
    let other = folder.path().join("other.jsonl");
    let mut results = Results::open(&other, &plan).unwrap();
    let refuse = |event: Event<'_>| match event {
        Event::UnderWay(_, At::Begun) => Err(TrainError::NothingToDo { reason: "enough".into() }),
        _ => Ok(()),
    };
    let ended = run(&plan, &data, &mut results, &|_| Ok(Vec::new()), &unjudged, &placed, &place, &limits, &refuse);
    refused(ended, &["enough"]);
    assert_eq!(results.runs(&plan), (1, RUNS + 1));
}

#[test]
fn a_file_that_was_cut_off_inside_a_letter_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (path, plan) = (folder.path().join("results.jsonl"), plan(&["entries.1.name=bi\u{e4}ses"]));
    go_on(&path, &plan, &Limits::default(), 60).unwrap();
    let whole = fs::read(&path).unwrap();
    let lines = whole.iter().filter(|byte| **byte == b'\n').count();
    let letter = whole.iter().rposition(|byte| *byte > 127).unwrap();
    fs::write(&path, &whole[..letter]).unwrap();
    assert_eq!(Results::read(&path, &plan).unwrap().runs(&plan), (lines - 1, RUNS));
    assert_eq!(go_on(&path, &plan, &Limits::default(), 60).unwrap().1.len(), 1);
    // What is no text before the last line is named.
    let mut broken = whole.clone();
    let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    broken[second + 3] = 0xff;
    fs::write(&path, broken).unwrap();
    refused(Results::read(&path, &plan), &["line 2 is no text"]);
}

#[test]
fn one_sweep_at_a_time_has_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, plan) = (folder.path().join("results.jsonl"), plan(&[]));
    let first = Results::open(&path, &plan).unwrap();
    refused(Results::open(&path, &plan), &["another sweep is writing it"]);
    assert!(Results::read(&path, &plan).is_ok(), "a table of it may be made");
    drop(first);
    assert!(Results::open(&path, &plan).is_ok());
}

#[test]
fn where_files_lie_is_nothing_to_the_results() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.jsonl");
    let of =
        |place: &str| plan(&[&format!("tasks.0.evaluation={{ metrics = [\"accuracy\"], wordnet = \"{place}\" }}")]);
    let scored = |_: &Candidate<'_>| Ok(Some(Judgement { score: 0.5, metrics: Vec::new() }));
    let data = [TaskData { train: classification(60), validation: classification(30) }];
    let (here, limits) = (of("here"), Limits::default());
    let mut results = Results::open(&path, &here).unwrap();
    run(&here, &data, &mut results, &|_| Ok(Vec::new()), &scored, &place().unwrap(), &place, &limits, &|_| Ok(()))
        .unwrap();
    drop(results);
    assert_eq!(Results::open(&path, &of("there")).unwrap().runs(&here), (RUNS, RUNS));
    let without = plan(&["tasks.0.evaluation={ metrics = [\"accuracy\"] }"]);
    let differs = ["`evaluation.wordnet` was \"a path\" then, is null now"];
    refused(Results::open(&path, &without), &differs);
}

#[test]
fn results_of_other_settings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.jsonl");
    let whole = plan(&[]);
    go_on(&path, &whole, &Limits::default(), 60).unwrap();
    let open = |settings: &[&str]| Results::open(&path, &plan(settings));
    let before = fs::read_to_string(&path).unwrap();
    refused(open(&["train.batch_size=4"]), &["line 1", "state-offset-h on first", "`train.batch_size` was 8", "4 now"]);
    refused(open(&["entries.0.methods.0.rank=2"]), &["`methods.0.rank` was null"]);
    refused(open(&["tasks.0.data.max_tokens=100"]), &["`data.max_tokens` was 512"]);
    refused(open(&["entries.0.rates=[1e-7, 0.07]"]), &["rate 0.05", "no such run"]);
    refused(open(&["seeds=[0]"]), &["seed 1", "no such run"]);
    refused(open(&["entries.1.name=other"]), &["line 5", "biases on first is not in this configuration"]);
    assert!(open(&["seeds=[0, 1, 2]", "tasks.0.data.train=elsewhere", "model.path=moved"]).is_ok());
    refused(go_on(&path, &whole, &Limits::default(), 61), &["line 1", "other data"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), before, "a refusal changes nothing");
    fs::write(&path, before.replacen("\"kind\":\"cpu\"", "\"kind\":\"cuda\"", 1)).unwrap();
    refused(open(&[]), &["line 2", "`device.kind` was \"cuda\""]);
    fs::write(&path, before.replacen("\"score\":", "\"scored\":", 1)).unwrap();
    refused(open(&[]), &["line 1", "scored"]);
    // Two files put together: the same run twice is one, unless they disagree.
    let first = before.lines().next().unwrap();
    fs::write(&path, format!("{before}{first}\n")).unwrap();
    assert_eq!(open(&[]).unwrap().lines(&whole).len(), RUNS);
    let mut other: Value = serde_json::from_str(first).unwrap();
    other["score"] = json!(0.123);
    fs::write(&path, format!("{before}{other}\n")).unwrap();
    refused(open(&[]), &["line 7", "another result"]);
}

#[test]
fn another_search_is_run_anew_and_what_it_confirms_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.jsonl");
    let whole = plan(&[]);
    go_on(&path, &whole, &Limits::default(), 60).unwrap();
    let before = fs::read_to_string(&path).unwrap();
    // Two runs of the search with all steps; they find the same rate, so the runs for the table are there.
    let longer = plan(&["tasks.0.search.share=1.0"]);
    let results = Results::open(&path, &longer).unwrap();
    assert_eq!((results.choice(&longer, 0), results.lines(&longer).len()), (Choice::Open, 2), "only BitFit's");
    let table = Table::new(&longer, &results);
    assert!(table.runs == (2, RUNS) && table.markdown.contains("feature `lapack`: state-offset-h."), "{table:?}");
    drop(results);
    let (report, made) = go_on(&path, &longer, &Limits::default(), 60).unwrap();
    assert_eq!(report.done, RUNS);
    assert!(made.len() == 2 && made.iter().all(|line| line.purpose == Purpose::Search && line.steps == 64), "{made:?}");
    assert!(fs::read_to_string(&path).unwrap().starts_with(&before), "what was there stays");
    // Both ways find what is theirs.
    for (plan, steps) in [(&longer, 64), (&whole, 32)] {
        let results = Results::open(&path, plan).unwrap();
        let lines = results.lines(plan);
        let searched = lines.iter().filter(|line| line.purpose == Purpose::Search);
        assert!(lines.len() == RUNS && searched.clone().count() == 2 && searched.clone().all(|l| l.steps == steps));
    }
    // A rate that the new search does not choose is no result of it; one that was never asked for is still refused.
    let made_up = |rate: f64| {
        fs::read_to_string(&path).unwrap().replace("\"learning_rate\":0.05", &format!("\"learning_rate\":{rate}"))
    };
    fs::write(&path, made_up(0.07)).unwrap();
    let other = plan(&["tasks.0.search.share=0.75", "entries.0.rates=[1e-7, 0.05]"]);
    assert_eq!(Results::open(&path, &other).unwrap().lines(&other).len(), 2);
    refused(Results::open(&path, &whole), &["rate 0.07", "no such run"]);
}

#[test]
fn the_untuned_model_is_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let (path, plan) = (folder.path().join("results.jsonl"), plan(&["base=true"]));
    let (report, made) = go_on(&path, &plan, &Limits::default(), 60).unwrap();
    assert_eq!((report.done, report.of, made.len()), (RUNS + 1, RUNS + 1, RUNS + 1));
    let base = &made[0];
    assert_eq!((&*base.entry, base.trained, base.steps, base.judged_on), ("base", 0, 0, 30));
    // What it scores is what the model scores.
    let (model, rows) = (place().unwrap().model, classification(30));
    let found = evaluate(&model, &Patches::none(), &rows, 2048, true, |_, _| {}).unwrap();
    assert_eq!((base.score, base.loss), (found.metric("accuracy").map(|(value, _)| value), Some(found.loss)));
    assert!(go_on(&path, &plan, &Limits::default(), 60).unwrap().1.is_empty(), "nothing is evaluated twice");
    let results = Results::read(&path, &plan).unwrap();
    let table = Table::new(&plan, &results);
    assert_eq!((table.rows[0].learning_rate, table.rows[0].seconds, table.rows.len()), (None, None, 3));
    let score = format!("{:.1}", 100.0 * base.score.unwrap());
    assert!(table.markdown.contains(&format!("| base | 0 | – | {score} | – |")), "{}", table.markdown);
    assert!(table.markdown.contains("First: 60 rows"), "{}", table.markdown);
    write_pages(folder.path(), &plan, &results, &table).unwrap();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(
        read("table.csv").lines().nth(1).unwrap().starts_with("base,first,accuracy %,,0,"),
        "{}",
        read("table.csv")
    );
    let page = read("report.html");
    assert!(page.contains("<td>base</td>") && page.contains("7 of 7"), "{page}");
    let left = Limits { only: vec!["biases".into()], ..Limits::default() };
    assert_eq!(go_on(&folder.path().join("other.jsonl"), &plan, &left, 60).unwrap().1.len(), 2);
    // A metric that the data has not is told of it too.
    let unlabelled = Dataset { classes: Vec::new(), ..classification(30) };
    let data = [TaskData { train: classification(60), validation: unlabelled }];
    let mut results = Results::open(&folder.path().join("none.jsonl"), &plan).unwrap();
    let (placed, alone) = (place().unwrap(), Limits { only: vec!["base".into()], ..Limits::default() });
    let none = run(&plan, &data, &mut results, &|_| Ok(vec![]), &unjudged, &placed, &place, &alone, &|_| Ok(()));
    refused(none, &["task `first`: `metric` is \"accuracy\"", "no classes"]);
}

#[test]
fn a_run_that_diverges_is_a_result() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.jsonl");
    let plan = plan(&["entries.0.rates=[1e39, 0.05]", "train.clip_norm=0", "entries.1.rates=[1e39]"]);
    let (report, made) = go_on(&path, &plan, &Limits::default(), 60).unwrap();
    assert_eq!(report.done, RUNS);
    assert!(made[0].failed.is_some() && made[0].score.is_none(), "{:?}", made[0]);
    let table = Table::new(&plan, &Results::read(&path, &plan).unwrap());
    assert_eq!((table.rows[0].learning_rate, table.rows[0].failed, table.rows[1].failed), (Some(0.05), false, true));
    assert!(table.markdown.contains("| biases | ") && table.markdown.contains("diverged"), "{}", table.markdown);
    // Where every rate diverges there is none for the table, and nothing is left to do.
    let (path, plan) =
        (folder.path().join("none.jsonl"), self::plan(&["entries.0.rates=[1e39, 1e38]", "train.clip_norm=0"]));
    let (report, made) = go_on(&path, &plan, &Limits::default(), 60).unwrap();
    assert_eq!((report.done, report.of, made.len()), (4, 4, 4));
    let table = Table::new(&plan, &Results::read(&path, &plan).unwrap());
    assert!(table.runs == (4, 4) && !table.markdown.contains("runs are finished"), "{}", table.markdown);
    assert!(go_on(&path, &plan, &Limits::default(), 60).unwrap().1.is_empty());
}

#[test]
fn the_table() {
    let folder = tempfile::tempdir().unwrap();
    let (path, plan) = (folder.path().join("results.jsonl"), plan(&[]));
    go_on(&path, &plan, &Limits::default(), 60).unwrap();
    // Numbers that do not depend on the machine.
    let lines: Vec<String> = timeless(&path)
        .into_iter()
        .enumerate()
        .map(|(i, mut line)| {
            line["seconds"] = json!(1.5 + i as f64);
            line["workers"] = json!(3);
            line["peak_memory_mib"] = json!(100.4 + i as f64);
            line["score"] = json!(0.5 + 0.05 * i as f64);
            line.to_string() + "\n"
        })
        .collect();
    fs::write(&path, lines.concat()).unwrap();
    let table = Table::new(&plan, &Results::read(&path, &plan).unwrap());
    let expected = "\
On a processor, activations in f32, products in f32. First: 60 rows, judged on the 30 of the validation file, epochs: \
8, batch 8. The learning rate is the best of several (where nothing else is said, the method's default times 0.33, 1.00, 3.00) \
on 20 rows cut from the training rows, after 50 % of the steps on the others. Seeds 0, 1; mean ± standard deviation. Seconds \
are those of a run's training steps, with up to 3 runs on the device at once.

| method | trained | First rate | First accuracy % | First s | peak MiB |
|---|---|---|---|---|---|
| state-offset-h | 240 | 0.05 | 62.5 ± 3.5 | 4.0 | 103 |
| biases | 96 | 0.02 | 72.5 ± 3.5 | 6.0 | 105 |

| reference | method | metric | its rate | its scores | here: rate | here |
|---|---|---|---|---|---|---|
| First | state-offset-h | accuracy % | 0.01 | 82.6, 80.6 | 0.05 | 62.5 ± 3.5 |
";
    assert_eq!(table.markdown, expected);
    fs::write(&path, lines[..3].concat()).unwrap();
    let text = Table::new(&plan, &Results::read(&path, &plan).unwrap()).markdown;
    assert!(text.contains("| state-offset-h | 240 | 0.05 | 60.0 (1 of 2 seeds) | 3.5 | 102 |"), "{text}");
    assert!(text.contains("lapack`: biases.\n\n3 of 6 runs are finished.\n"), "{text}");
}
