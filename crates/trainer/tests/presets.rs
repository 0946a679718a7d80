//! The sweeps in `benches`, those of the paper's experiments in `paper-grid` and those of the pages: every file is understood and
//! planned, without models and data.

use std::fs;
use std::path::{Path, PathBuf};

use statetune_trainer::sweep::{Plan, SweepConfig};

fn presets() -> Vec<(PathBuf, Plan)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/paper-grid");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let plan = |path: PathBuf| {
        let plan = SweepConfig::read(&path, &[]).and_then(Plan::new);
        (path.clone(), plan.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    };
    files.into_iter().map(plan).collect()
}

#[test]
fn every_method_has_the_chosen_rate_on_every_task() {
    let presets = presets();
    let names: Vec<_> = presets.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["mamba-1.4b.toml", "mamba-130m.toml"]);
    for ((path, plan), tasks) in presets.iter().zip([2, 8]) {
        assert_eq!((plan.tasks.len(), plan.units.len()), (tasks, 5 * tasks), "{}", path.display());
        // One rate each: nothing is searched, and a run per seed is all there is.
        assert!(plan.units.iter().all(|unit| unit.rates.len() == 1), "{}", path.display());
        assert_eq!(plan.runs(), 5 * tasks * plan.config.seeds.len());
        for unit in &plan.units {
            let rate = unit.rates[0];
            assert!((1e-5..=0.1).contains(&rate), "{} on {}: {rate}", unit.name, plan.task(unit).name);
        }
    }
}

#[test]
fn written_answers_are_judged_as_in_the_paper() {
    for (path, plan) in presets() {
        for task in &plan.tasks {
            let judge = task.judge.as_ref().map(|judge| judge.measure.key());
            let expected = match task.name.as_str() {
                "samsum" => Some("rougeL"),
                "spider" => Some("execution"),
                "dart" => Some("bleu"),
                _ => None,
            };
            assert_eq!(judge.as_deref(), expected, "{} in {}", task.name, path.display());
        }
    }
}

#[test]
fn some_numbers_as_the_authors_have_them() {
    let presets = presets();
    let unit = |preset: usize, entry: &str, task: &str| {
        let plan = &presets[preset].1;
        let unit = plan.units.iter().find(|unit| unit.name == entry && plan.task(unit).name == task).unwrap();
        (unit.rates[0], plan.task(unit).settings.epochs, unit.methods[0].clone())
    };
    // cfg/final/exps/mamba-130m/glue_qqp/state_tuning.yaml, glue_cola/lora.yaml, mamba-1.4b/spider/output_tuning.yaml.
    let (rate, epochs, _) = unit(1, "state-offset-h", "qqp");
    assert_eq!((rate, epochs), (4e-5, 3));
    let (rate, epochs, lora) = unit(1, "lora", "cola");
    assert_eq!((rate, epochs, lora["rank"].as_u64(), lora["alpha"].as_f64()), (4e-5, 10, Some(8), Some(8.0)));
    let (rate, _, _) = unit(0, "state-offset-y", "spider");
    assert_eq!(rate, 2e-3);
}

#[test]
fn three_tasks_are_one_command_each() {
    for (name, first, rows) in [("dart", "bleu", 5), ("samsum", "rouge1", 4), ("spider", "exact_set_match", 4)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../benches/{name}.toml"));
        let plan = SweepConfig::read(&path, &[]).and_then(Plan::new).unwrap_or_else(|error| panic!("{name}: {error}"));
        let entries: Vec<&str> = plan.units.iter().map(|unit| &*unit.name).collect();
        assert_eq!(entries, ["base", "state-offset-h", "lora"], "{name}");
        assert!(plan.runs() == 3 && plan.config.output.keep_adapters, "{name}: an evaluation and two runs");
        // The methods' own rates.
        assert_eq!((plan.units[1].rates[0], plan.units[2].rates[0]), (3e-3, 2e-3), "{name}");
        let judge = plan.tasks[0].judge.as_ref().unwrap();
        let measures = judge.evaluation.measures(&plan.tasks[0].data).unwrap();
        assert_eq!((&*judge.measure.key(), measures.len()), (first, rows), "{name}");
    }
}

#[test]
fn the_comparison_searches_each_task_as_long_as_it_takes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/sweep-glue.toml");
    let plan = SweepConfig::read(&path, &[]).and_then(Plan::new).unwrap();
    assert_eq!(plan.tasks.iter().map(|task| task.search.share).collect::<Vec<_>>(), [0.25, 1.0]);
}
