//! Which runs follow from a configuration.

use super::*;
use std::path::Path;

const TEXT: &str = "seeds = [4, 5]\n[model]\npath = \"m\"\n[train]\nbatch_size = 8\n\
    [[tasks]]\nname = \"a\"\nmetric = \"accuracy\"\ntrain.epochs = 3\n\
    [tasks.data]\nformat = \"glue\"\ntask = \"sst2\"\ntrain = \"t\"\nvalidation = \"v\"\n\
    [[tasks]]\nname = \"b\"\nmetric = \"matthews\"\n\
    [tasks.data]\nformat = \"glue\"\ntask = \"cola\"\ntrain = \"t\"\nvalidation = \"v\"\n\
    [[entries]]\nmethods = [{ method = \"lora\", rank = 4 }]\ntasks.b.rates = [0.1]\n\
    [[entries]]\nname = \"both\"\nmethods = [{ method = \"sdt\" }, { method = \"bitfit\" }]\n";

fn plan(text: &str, settings: &[&str]) -> Result<Plan, String> {
    let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
    let config = SweepConfig::parse(text, Path::new("c.toml"), &settings).map_err(|error| error.to_string())?;
    Plan::new(config).map_err(|error| error.to_string())
}

#[test]
fn every_method_is_on_every_task_and_entries_replace_or_add() {
    let plan = plan(TEXT, &[]).unwrap();
    assert_eq!(plan.units.len(), 2 * (METHODS.len() + 1));
    assert_eq!((plan.tasks[0].settings.epochs, plan.tasks[1].settings.epochs), (3, 1));
    let of = |name: &str| plan.units.iter().position(|unit| unit.name == name).unwrap();
    let lora = of("lora");
    assert_eq!(
        (plan.units[lora].methods[0]["rank"].clone(), plan.units[lora].rates.clone()),
        (json!(4), vec![0.000667, 0.002, 0.006])
    );
    assert_eq!((plan.search(lora).len(), plan.search(lora + 1).len()), (3, 0), "a single rate is not searched");
    let both = &plan.search(of("both"))[0];
    assert_eq!(plan.methods(both)[0]["warmup_steps"], 125, "a quarter of the method's own");
    assert_eq!(plan.methods(&Job { purpose: Purpose::Final, ..*both })[0]["warmup_steps"], 500);
    assert_eq!(plan.runs(), plan.units.len() * 5 - 3);
}

#[test]
fn the_untuned_model_is_evaluated_once() {
    let plan = plan(TEXT, &["base=true", "every_method=false"]).unwrap();
    let names: Vec<&str> = plan.units.iter().map(|unit| &*unit.name).collect();
    assert_eq!(names, ["base", "base", "lora", "lora", "both", "both"]);
    assert_eq!(plan.runs(), 2 + 5 + 2 + 2 * 5);
    let base = &plan.finals(1, 0.0)[..];
    assert_eq!(base, [Job { unit: 1, purpose: Purpose::Final, rate: 0.0, seed: 0 }]);
    assert_eq!((plan.search(1), plan.called(&base[0])), (vec![], "base".to_owned()));
    assert_eq!(plan.place(&base[0]), PathBuf::from("b/base"));
    let lora = &plan.finals(3, 0.1)[1];
    assert_eq!((plan.called(lora), plan.place(lora)), ("lora-5".to_owned(), PathBuf::from("b/lora-5")));
    // What trains others is nothing to it.
    let other = self::plan(TEXT, &["base=true", "every_method=false", "train.batch_size=4"]).unwrap();
    assert_eq!(plan.settings(&base[0]), other.settings(&base[0]));
    assert_ne!(plan.settings(lora), other.settings(lora));
    assert_eq!(["a/b\\c", "..", "lora + sdt"].map(as_file_name), ["a_b_c", "_.", "lora + sdt"]);
}

#[test]
fn a_task_may_be_searched_otherwise() {
    let own = "tasks.1.search={ share = 1.0, rows = 7, factors = [1.0, 2.0] }";
    let plan = plan(TEXT, &[own, "entries.0.tasks={}"]).unwrap();
    let of = |name: &str| plan.units.iter().position(|unit| unit.name == name).unwrap();
    let (a, b) = (of("lora"), of("lora") + 1);
    assert_eq!(
        (&plan.units[a].rates[..], &plan.units[b].rates[..]),
        (&[0.000667, 0.002, 0.006][..], &[0.002, 0.004][..])
    );
    let both = of("both");
    let warm_up = |unit: usize| plan.methods(&plan.search(unit)[0])[0]["warmup_steps"].as_u64();
    assert_eq!((warm_up(both), warm_up(both + 1)), (Some(125), Some(500)));
    let search = |unit: usize| plan.settings(&plan.search(unit)[0])["search"].clone();
    assert_eq!(search(a), json!({"rows": 1000, "share": 0.25, "seed": 0}));
    assert_eq!(search(b), json!({"rows": 7, "share": 1.0, "seed": 0}));
}

#[test]
fn mistakes_are_named() {
    let error = |settings: &[&str]| plan(TEXT, settings).unwrap_err();
    assert!(error(&["train.seed=1"]).contains("`train.seed`: a sweep sets it itself"));
    assert!(error(&["train.batchsize=1"]).contains("batchsize"));
    assert!(error(&["tasks.0.metric=acuracy"]).contains("did you mean \"accuracy\""));
    assert!(error(&["tasks.1.name=a"]).contains("taken"));
    assert!(error(&["tasks.1.name=\"\""]).contains("task 2: `name` is empty"));
    assert!(error(&["search.share=0"]).contains("`search.share` must be above 0"));
    assert!(error(&["search.factors=[]"]).contains("search.factors"));
    assert!(error(&["seeds=[1, 1]"]).contains("`seeds` must be different"));
    assert!(error(&["entries.0.tasks.c.rates=[1.0]"]).contains("no task `c`"));
    assert!(error(&["entries.1.name=lora", "entries.0.name=lora", "every_method=false"]).contains("two entries"));
    assert!(error(&["entries.0.methods=[]"]).contains("no methods"));
    assert!(error(&["entries.0.tasks.b.methods=[]"]).contains("`lora` has no methods on `b`"));
    assert!(error(&["base=true", "entries.1.name=base"]).contains("`base` is the untuned model"));
    assert!(error(&["entries.0.name=a/b", "entries.1.name=a_b"]).contains("would have the same folder"));
    assert!(error(&["tasks.1.search.share=2"]).contains("task `b`: `search.share` must be above 0"));
    assert!(error(&["tasks.1.search.seed=2"]).contains("unknown field `seed`"));
    assert!(error(&["sed=[1]"]).contains("did you mean `seeds`"));
    let reference = "references=[{ entry = \"lorra\", task = \"a\", rate = 0.1, scores = [1.0] }]";
    assert!(error(&[reference]).contains("no entry `lorra`"));
}
