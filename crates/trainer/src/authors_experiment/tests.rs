//! Experiments of our own words in the authors' form.

use super::*;

const EXPERIMENT: &str = "\
model: state-spaces/mamba-130m
data: glue_rte
learning_rate: 4.0e-05
num_epochs: 3
batch_size: 8
prec: fp32
peft: methods/offset.json
no_save: false
";

const OFFSET: &str = r#"{"peft_type": "SUFFIX_TUNING", "bias_init": "ZERO", "bias_type": "SILU_Z_C", "dropout": 0.1}"#;

fn converted(experiment: &str, peft: Option<&str>) -> Result<Conversion, String> {
    let keys = Keys::parse(Path::new("theirs.yaml"), experiment).map_err(|error| error.to_string())?;
    let model = model_config(&keys, keys.required("model").map_err(|error| error.to_string())?);
    let peft = peft.map(|text| (Path::new("theirs.json"), text));
    model.and_then(|model| convert_texts(&keys, peft, &model)).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(experiment: &str, peft: Option<&str>, parts: &[&str]) {
    let error = converted(experiment, peft).unwrap_err();
    for part in parts {
        assert!(error.contains(part), "{error}");
    }
}

#[track_caller]
fn noted(conversion: &Conversion, parts: &[&str]) {
    for part in parts {
        assert!(conversion.notes.iter().any(|note| note.contains(part)), "{part}: {:#?}", conversion.notes);
    }
}

#[test]
fn an_experiment_becomes_a_run() {
    let conversion = converted(EXPERIMENT, Some(OFFSET)).unwrap();
    let RunConfig { model, data, methods, train, .. } = &conversion.config;
    assert_eq!(model.path, Path::new("state-spaces/mamba-130m"));
    assert_eq!((data.task.as_deref(), data.train.as_deref()), (Some("rte"), Some(Path::new("data/RTE/train.tsv"))));
    assert_eq!(json!(methods), json!([{"method": "state-offset-h"}]));
    assert_eq!((train.learning_rate, train.epochs, train.batch_size), (4e-5, 3, 8));
    assert_eq!((train.seed, train.warmup_steps, train.metric.as_str()), (42, 0, "accuracy"));
    noted(
        &conversion,
        &[
            "put state-spaces/mamba-130m into",
            "put EleutherAI/gpt-neox-20b's tokenizer.json",
            "looked for in data/RTE",
            "`dropout` of SUFFIX_TUNING has no effect in the authors' code",
            "an answer that is no class is left out",
        ],
    );
    assert_eq!(conversion.notes.len(), 5, "{:#?}", conversion.notes);
    // The file reads back, with the notes as comments.
    let text = conversion.to_toml();
    assert!(text.starts_with("# - `model`: put"), "{text}");
    assert_eq!(RunConfig::parse(&text, Path::new("run.toml"), &[]).unwrap(), conversion.config);
}

#[test]
fn every_kind_is_converted() {
    for (kind, tags) in [
        (r#"{"peft_type": "SUFFIX_TUNING", "bias_type": "SILU_Z", "bias_init": "ZERO"}"#, &["state-offset-y"][..]),
        (r#"{"peft_type": "SSMPEFT", "scan": {"type": "init_state", "init": "zero"}}"#, &["initial-state"]),
        (r#"{"peft_type": "DIM_EXTEND", "d_state": 4}"#, &["additional-scan"]),
        (r#"{"peft_type": "BITFIT", "target_modules": ["dt_proj"]}"#, &["bitfit"]),
        (r#"{"peft_type": "LAYER_FREEZE", "trainable_layers": ["A_log"]}"#, &["partial"]),
        (r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["x_proj_dt"]}"#, &["lora"]),
        (
            r#"{"peft_type": "SD_LORA", "num_zero": {"state": 0, "channel": 0}, "num_warmup_it": 7, "proj_lora_r": 2,
                "num_freeze": {"state": 0.5, "channel": 0.9}, "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"]}"#,
            &["sdt", "lora"],
        ),
        (
            r#"[{"peft_type": "BITFIT", "target_modules": ["conv1d"]}, {"peft_type": "DIM_EXTEND", "d_state": 1}]"#,
            &["bitfit", "additional-scan"],
        ),
    ] {
        let conversion = converted(EXPERIMENT, Some(kind)).unwrap();
        let found: Vec<_> = conversion.config.methods.iter().map(|method| method["method"].as_str().unwrap()).collect();
        assert_eq!(found, tags);
        conversion.to_toml();
    }
    let conversion = converted(EXPERIMENT, Some(r#"{"peft_type": "DIM_EXTEND", "d_state": 4}"#)).unwrap();
    noted(&conversion, &["`init = \"log\"` is the other start"]);
    let conversion = converted(EXPERIMENT, None).unwrap();
    assert_eq!(json!(conversion.config.methods), json!([{"method": "full"}]));
    noted(&conversion, &["every tensor of the model is trained"]);
}

#[test]
fn what_has_no_effect_is_told() {
    let more = "\
seed: 7
gradient_accumulation_steps: 2
val_data_split: test
eval_gen:
  num_beams: 5
backend: cuda
num_data_workers: 8
eval_batch_size: 1
repeat: 3
model_transform: null
min_eval_metric_after_epoch: {1: 0.5}
eval_epochs: 2
optim: sgd
log_speed: no
colour: blue
lerning_rate: 1
";
    let conversion = converted(&format!("{}{more}", EXPERIMENT.replace("fp32", "fp16")), Some(OFFSET)).unwrap();
    noted(
        &conversion,
        &[
            "2 times the epochs",
            "data.validation should be the file of that split",
            "`eval_gen`",
            "`backend` has no effect",
            "`num_data_workers`",
            "`eval_batch_size`",
            "`repeat`",
            "`min_eval_metric_after_epoch`",
            "`eval_epochs`",
            "`optim` = sgd",
            "`prec` = fp16 (which is bf16 there)",
            "`colour` is not known and has no effect",
            "`lerning_rate` is not known and has no effect (is `learning_rate` meant?)",
        ],
    );
    assert!(!conversion.notes.iter().any(|note| note.contains("log_speed") || note.contains("model_transform")));
    let train = &conversion.config.train;
    assert_eq!((train.seed, train.epochs, train.batch_size), (7, 6, 16));
}

#[test]
fn data_sets() {
    let with = |data: &str| converted(&EXPERIMENT.replace("glue_rte", data), Some(OFFSET)).unwrap();
    let conversion = with("glue-tvt_cola");
    assert_eq!((conversion.config.train.metric.as_str(), conversion.config.data.limit), ("matthews", None));
    noted(&conversion, &["a fifth of the training file is held out and scored", "SSM-PEFT puts ### behind"]);
    let conversion = with("glue_mnli_1000");
    assert_eq!(conversion.config.data.validation.as_deref(), Some(Path::new("data/MNLI/dev_matched.tsv")));
    assert_eq!(conversion.config.data.limit, Some(1000));
    noted(&conversion, &["first 1000 of each file", "matched and mismatched"]);
    let conversion = with("samsum");
    let data = &conversion.config.data;
    assert_eq!((data.format, data.preset), (Format::Samsum, Preset::Paper));
    assert_eq!(data.train.as_deref(), Some(Path::new("data/samsum/train.csv")));
    assert_eq!(conversion.config.train.metric, "loss");
    noted(&conversion, &["the files of samsum are looked for in data/samsum", "metric of samsum"]);
    let data = with("spider-tvt").config.data;
    assert_eq!((data.format, data.preset, data.max_tokens), (Format::Spider, Preset::Paper, 1536));
    assert_eq!(data.train.as_deref(), Some(Path::new("data/spider/train_spider.json")));
    assert_eq!(data.tables.as_deref(), Some(Path::new("data/spider/tables.json")));
    assert_eq!(with("dart").config.data.format, Format::Dart);
    assert_eq!(with("alpaca_eval").config.data.train.as_deref(), Some(Path::new("data/alpaca_eval/train.jsonl")));
    let silent = converted(&format!("{EXPERIMENT}skip_eval: true\n"), Some(OFFSET)).unwrap();
    assert_eq!(silent.config.data.validation, None);
}

#[test]
fn mistakes_name_file_key_expected_and_found() {
    let with = |from: &str, to: &str| EXPERIMENT.replace(from, to);
    refused(&with("glue_rte", "glue_rtee"), None, &["theirs.yaml", "`data`", "did you mean glue_rte?", "glue_rtee"]);
    refused(&with("4.0e-05", "fast"), None, &["theirs.yaml: `learning_rate` should be a number, found \"fast\""]);
    refused(
        &with("learning_rate: 4.0e-05\n", ""),
        None,
        &["`learning_rate` should be a number above 0, found nothing"],
    );
    refused(
        &with("num_epochs: 3", "num_epochs: 0.5"),
        None,
        &["`num_epochs` should be a whole number above 0, found 0.5"],
    );
    refused(&with("prec: fp32", "prec: int8"), None, &["`prec`", "bf16", "found \"int8\""]);
    refused(&with("mamba-130m", "mamba-1b"), None, &["`model`", "mamba-1.4b", "found \"state-spaces/mamba-1b\""]);
    refused(&format!("{EXPERIMENT}from_scratch: true\n"), None, &["`from_scratch`", "false", "found true"]);
    refused("- 1\n", None, &["theirs.yaml: a table of keys"]);
    refused("a: [", None, &["theirs.yaml: not YAML"]);
    refused(EXPERIMENT, Some("["), &["theirs.json: not JSON"]);
    refused(EXPERIMENT, Some("3"), &["theirs.json: a table with `peft_type` was expected, found 3"]);
    refused(
        EXPERIMENT,
        Some("{\"peft_type\": \"PREFIX_TUNING\"}"),
        &["theirs.json: `peft_type`", "found \"PREFIX_TUNING\""],
    );
}

#[test]
fn the_peft_file_is_found_from_the_experiments_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (experiments, methods) = (folder.path().join("experiments/small"), folder.path().join("methods"));
    fs::create_dir_all(&experiments).unwrap();
    fs::create_dir_all(&methods).unwrap();
    let (experiment, other) = (experiments.join("one.yaml"), folder.path().join("other.json"));
    fs::write(&experiment, EXPERIMENT).unwrap();
    let error = convert(&experiment, None).unwrap_err().to_string();
    assert!(error.contains("`peft` names methods/offset.json") && error.contains("--peft"), "{error}");
    fs::write(methods.join("offset.json"), OFFSET).unwrap();
    assert_eq!(convert(&experiment, None).unwrap().config.methods[0]["method"], "state-offset-h");
    fs::write(&other, OFFSET.replace("SILU_Z_C", "SILU_Z")).unwrap();
    assert_eq!(convert(&experiment, Some(&other)).unwrap().config.methods[0]["method"], "state-offset-y");
}
