//! A run's configuration from an experiment of the authors of State-offset Tuning and SSM-PEFT: their YAML file and the
//! PEFT file it names. What has no effect, or another one, is told in sentences.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use statetune_datasets_eval::tasks::glue;
use statetune_datasets_eval::{DataConfig, Format, Preset};
use statetune_mamba_model::checkpoint::Checkpoint;
use statetune_mamba_model::config::{MambaConfig, ModelConfig};
use statetune_peft_methods::{foreign, nearest};
use yaml_rust2::{Yaml, YamlLoader};

use crate::config::{DeviceSection, EvaluationSection, ModelSection, OutputSection};
use crate::error::io_error;
use crate::schedule::ScheduleKind;
use crate::{RunConfig, TrainError, TrainSettings};

/// The tokenizer of every experiment.
const TOKENIZER: &str = "EleutherAI/gpt-neox-20b";

/// The published models: what their names end in, `d_model` and layers.
const SIZES: [(&str, usize, usize); 5] =
    [("130m", 768, 24), ("370m", 1024, 48), ("790m", 1536, 48), ("1.4b", 2048, 48), ("2.8b", 2560, 64)];

/// Their vocabulary, padded.
const VOCABULARY: usize = 50280;

/// The folders of GLUE's files, by task.
const GLUE_FOLDERS: [(&str, &str); 8] = [
    ("cola", "CoLA"),
    ("mnli", "MNLI"),
    ("mrpc", "MRPC"),
    ("qnli", "QNLI"),
    ("qqp", "QQP"),
    ("rte", "RTE"),
    ("sst2", "SST-2"),
    ("wnli", "WNLI"),
];

/// The most tokens of an example; longer rows of `spider` are left out there too, those of others never are.
const SPIDER_TOKENS: usize = 1536;
const MANY_TOKENS: usize = 2048;

/// In the name of data of which a part is held out for scores.
const HELD_OUT: &str = "-tvt";

/// An experiment in our words.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversion {
    /// The run.
    pub config: RunConfig,
    /// What has no effect, has another one, or is left to do.
    pub notes: Vec<String>,
}

impl Conversion {
    /// The configuration as a file, with the notes as comments in front.
    pub fn to_toml(&self) -> String {
        let notes: String = self.notes.iter().map(|note| format!("# - {note}\n")).collect();
        format!("{notes}\n{}", self.config.to_toml())
    }
}

/// Reads an experiment. The PEFT file is the given one, or the one that the experiment names, looked for in the working
/// folder and in the folders that the experiment lies in.
///
/// # Errors
/// A file is missing, or no YAML or JSON; a key has the wrong type, or asks for what cannot be had here; the message
/// names file, key, what was expected and what was found.
pub fn convert(experiment: &Path, peft: Option<&Path>) -> Result<Conversion, TrainError> {
    let text = fs::read_to_string(experiment).map_err(|source| io_error(experiment, "read", source))?;
    let keys = Keys::parse(experiment, &text)?;
    let named = keys.text("peft")?.map(Path::new);
    let found = match (peft, named) {
        (Some(given), _) => Some(given.to_path_buf()),
        (None, Some(named)) => Some(beside(experiment, named).ok_or_else(|| {
            let reason = format!("`peft` names {}, which is not there: give the file by --peft", named.display());
            TrainError::Config { path: experiment.to_path_buf(), reason }
        })?),
        (None, None) => None,
    };
    let peft = match &found {
        Some(path) => {
            Some((path.as_path(), fs::read_to_string(path).map_err(|source| io_error(path, "read", source))?))
        }
        None => None,
    };
    let model = model_config(&keys, keys.required("model")?)?;
    let conversion = convert_texts(&keys, peft.as_ref().map(|(path, text)| (*path, text.as_str())), &model)?;
    RunConfig::parse(&conversion.config.to_toml(), experiment, &[])?;
    Ok(conversion)
}

/// A file by its path from the working folder or from a folder above the experiment.
fn beside(experiment: &Path, named: &Path) -> Option<PathBuf> {
    let above = experiment.ancestors().skip(1).map(|folder| folder.join(named));
    std::iter::once(named.to_path_buf()).chain(above).find(|path| path.is_file())
}

/// The shape of the base model: that of its folder if it is there, else that of the published model of this name.
fn model_config(keys: &Keys, model: &str) -> Result<MambaConfig, TrainError> {
    if Path::new(model).is_dir() {
        let checkpoint = Checkpoint::open(Path::new(model))?;
        return match checkpoint.config() {
            ModelConfig::Mamba(config) => Ok(config.clone()),
            _ => Err(keys.wrong("model", "a Mamba of the first generation")),
        };
    }
    let name = model.trim_end_matches("-hf");
    let size = SIZES.iter().find(|(size, ..)| name.ends_with(&format!("mamba-{size}")));
    let known = SIZES.map(|(size, ..)| format!("mamba-{size}")).join(", ");
    let (_, d_model, layers) =
        size.ok_or_else(|| keys.wrong("model", &format!("a folder, or a published model ({known})")))?;
    Ok(MambaConfig::new(VOCABULARY, *d_model, *layers))
}

/// The conversion proper. `peft` is the PEFT file's path and text. First comes what is left to do.
fn convert_texts(keys: &Keys, peft: Option<(&Path, &str)>, model: &MambaConfig) -> Result<Conversion, TrainError> {
    let mut notes = Vec::new();
    let name = keys.required("model")?;
    let mut left = vec![format!("`model`: put {name} into the folder of that name, or set model.path")];
    let tokenizer = keys.text("tokenizer")?.unwrap_or(TOKENIZER);
    left.push(format!("`tokenizer`: put {tokenizer}'s tokenizer.json into the model's folder, or set model.tokenizer"));
    let (data, metric) = data(keys, &mut left, &mut notes)?;
    let methods = methods(peft, model, &mut notes)?;
    let train = training(keys, metric, &mut notes)?;
    idle(keys, &mut notes)?;
    keys.rest(&mut notes);
    let config = RunConfig {
        model: ModelSection { path: name.into(), tokenizer: None },
        data,
        methods,
        train,
        evaluation: EvaluationSection::default(),
        device: DeviceSection::default(),
        output: OutputSection::default(),
    };
    left.extend(notes);
    Ok(Conversion { config, notes: left })
}

/// The methods of a PEFT file; full fine-tuning without one.
fn methods(
    peft: Option<(&Path, &str)>,
    model: &MambaConfig,
    notes: &mut Vec<String>,
) -> Result<Vec<Map<String, Value>>, TrainError> {
    let Some((path, text)) = peft else {
        notes.push("no `peft` is named: every tensor of the model is trained".into());
        return Ok(vec![Map::from_iter([("method".into(), "full".into())])]);
    };
    let fail = |reason: String| TrainError::Config { path: path.to_path_buf(), reason };
    let value: Value = serde_json::from_str(text).map_err(|error| fail(format!("not JSON: {error}")))?;
    let list = match value {
        Value::Array(list) => {
            notes.push(
                "the PEFT file is a list, which the authors' published code cannot read; here all are applied".into(),
            );
            list
        }
        single => vec![single],
    };
    let mut methods = Vec::new();
    for value in list {
        let Value::Object(config) = value else {
            return Err(fail(format!("a table with `peft_type` was expected, found {value}")));
        };
        let (found, said) = foreign::configs(path, &config, model)?;
        methods.extend(found);
        notes.extend(said);
    }
    if methods.iter().any(|method| method.get("init") == Some(&json!("released"))) {
        notes.push(
            "additional-scan: in the authors' code A_log of the new states starts at N, where the paper's reasoning asks \
             for ln N; they have no memory then. `init = \"log\"` is the other start"
                .into(),
        );
    }
    Ok(methods)
}

/// The data, and the metric a best adapter is chosen by.
fn data(
    keys: &Keys,
    left: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Result<(DataConfig, &'static str), TrainError> {
    let name = keys.required("data")?;
    let rows = name.rsplit_once('_').and_then(|(_, rows)| rows.parse::<usize>().ok()).filter(|&rows| rows > 0);
    let base = rows.map_or(name, |_| name.rsplit_once('_').expect("a number behind it").0);
    if let Some(rows) = rows {
        notes.push(format!(
            "`data` = {name}: there {rows} rows are drawn at random, and a tenth as many for validation; here the first \
             {rows} of each file are taken"
        ));
    }
    let split = keys.one_of("val_data_split", &["val", "test", "train"])?.unwrap_or("val");
    if base.contains(HELD_OUT) {
        let scored = if split == "test" { "not trained on" } else { "scored" };
        notes.push(format!(
            "`data` = {name}: there a fifth of the training file is held out and {scored}; here the whole file is \
             trained on and the validation file scored. Split the files to do the same"
        ));
    } else if split != "val" {
        left.push(format!("`val_data_split` = {split}: data.validation should be the file of that split"));
    }
    if let Some(other) = keys.text("val_data")?.filter(|other| *other != name) {
        left.push(format!("`val_data` = {other}: data.validation should be a file of that data, in the same form"));
    }
    let evaluate = !keys.flag("skip_eval")?;
    let (mut config, metric) = match base.replacen(HELD_OUT, "", 1).split_once('_') {
        Some(("glue", task)) => glue_task(keys, task, base.contains(HELD_OUT), left, notes)?,
        _ => match base.replacen(HELD_OUT, "", 1).as_str() {
            family @ ("dart" | "samsum" | "spider") => published(family, left, notes),
            family => rows_to_write(name, family, left, notes),
        },
    };
    config.limit = rows;
    config.validation = config.validation.filter(|_| evaluate);
    Ok((config, metric))
}

/// A task of GLUE, whose files are read as they come.
fn glue_task(
    keys: &Keys,
    task: &str,
    held_out: bool,
    left: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Result<(DataConfig, &'static str), TrainError> {
    let known = || glue::TASKS.iter().map(|task| task.name);
    let Some((_, folder)) = GLUE_FOLDERS.iter().find(|(known, _)| *known == task) else {
        let near = nearest(task, known()).map_or(String::new(), |near| format!(" (did you mean glue_{near}?)"));
        return Err(keys.wrong("data", &format!("glue_ and one of {}{near}", known().collect::<Vec<_>>().join(", "))));
    };
    left.push(format!(
        "`data`: GLUE's files are looked for in data/{folder}; data.train and data.validation say where"
    ));
    if held_out {
        notes.push(format!(
            "prompts: SSM-PEFT puts {} behind the instruction, State-offset Tuning and this program do not",
            glue::SEPARATOR
        ));
    }
    if task == "mnli" {
        notes
            .push("scores: there MNLI's matched and mismatched rows are scored together, here the matched ones".into());
    }
    notes.push("scores: there an answer that is no class is left out of the score, here it is wrong".into());
    let validation = if task == "mnli" { "dev_matched" } else { "dev" };
    let config = DataConfig {
        format: Format::Glue,
        task: Some(task.to_owned()),
        train: Some(format!("data/{folder}/train.tsv").into()),
        validation: Some(format!("data/{folder}/{validation}.tsv").into()),
        max_tokens: MANY_TOKENS,
        ..DataConfig::default()
    };
    Ok((config, if task == "cola" { "matthews" } else { "accuracy" }))
}

/// A data set whose files are read as they are published, in the authors' prompt form.
fn published(family: &str, left: &mut Vec<String>, notes: &mut Vec<String>) -> (DataConfig, &'static str) {
    let (format, train, validation) = match family {
        "dart" => (Format::Dart, "dart-v1.1.1-full-train.json", "dart-v1.1.1-full-dev.json"),
        "samsum" => (Format::Samsum, "train.csv", "validation.csv"),
        _ => (Format::Spider, "train_spider.json", "dev.json"),
    };
    let file = |name: &str| PathBuf::from(format!("data/{family}/{name}"));
    let spider = format == Format::Spider;
    let more = if spider { "; data.tables too" } else { "" };
    left.push(format!(
        "`data`: the files of {family} are looked for in data/{family}; data.train and data.validation say where{more}"
    ));
    notes.push(format!("scores: the metric of {family} does not choose the best adapter; it has the least loss"));
    let config = DataConfig {
        format,
        preset: Preset::Paper,
        tables: spider.then(|| file("tables.json")),
        train: Some(file(train)),
        validation: Some(file(validation)),
        max_tokens: if spider { SPIDER_TOKENS } else { MANY_TOKENS },
        ..DataConfig::default()
    };
    (config, "loss")
}

/// Data that is not read in its own form: what a row asks and answers has to be written out.
fn rows_to_write(
    name: &str,
    family: &str,
    left: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> (DataConfig, &'static str) {
    let (prompt, completion) = ("prompt", "completion");
    left.push(format!(
        "`data` = {name}: write its rows as JSON lines with the fields `{prompt}` and `{completion}`, into the files \
         that data.train and data.validation name"
    ));
    notes.push(format!("scores: the metric of {family} is not computed here; the best adapter has the least loss"));
    let config = DataConfig {
        format: Format::Jsonl,
        train: Some(format!("data/{family}/train.jsonl").into()),
        validation: Some(format!("data/{family}/validation.jsonl").into()),
        prompt_field: Some(prompt.to_owned()),
        completion_field: Some(completion.to_owned()),
        max_tokens: MANY_TOKENS,
        ..DataConfig::default()
    };
    (config, "loss")
}

/// Optimiser and schedule: those of Hugging Face's trainer, with which the authors train.
fn training(keys: &Keys, metric: &str, notes: &mut Vec<String>) -> Result<TrainSettings, TrainError> {
    let epochs = match keys.whole("num_epochs")? {
        Some(epochs) => epochs,
        None => {
            notes.push("`num_epochs` is not given: 10, the default of SSM-PEFT".into());
            10
        }
    };
    let batch = keys.whole("batch_size")?.unwrap_or(4);
    let accumulated = keys.whole("gradient_accumulation_steps")?.unwrap_or(1);
    if accumulated > 1 {
        notes.push(format!(
            "`gradient_accumulation_steps` = {accumulated}: there as many steps are made as without it, each of \
             {accumulated} batches: {accumulated} times the epochs"
        ));
    }
    let rate = keys.number("learning_rate")?.filter(|rate| *rate > 0.0);
    // The two codes have different defaults.
    let rate = rate.ok_or_else(|| keys.wrong("learning_rate", "a number above 0"))?;
    if let Some(optimizer) =
        keys.text("optim")?.filter(|name| !["adamw_torch", "adamw_hf", "adamw_torch_fused"].contains(name))
    {
        notes.push(format!("`optim` = {optimizer}: here it is AdamW"));
    }
    if keys.number("eval_epochs")?.is_some_and(|epochs| epochs != 1.0) {
        notes.push("`eval_epochs`: here the run is evaluated after each epoch; train.eval_every counts steps".into());
    }
    let precision = keys.one_of("prec", &["bf16", "fp16", "fp32"])?.unwrap_or("bf16");
    if precision != "fp32" {
        let also = if precision == "fp16" { " (which is bf16 there)" } else { "" };
        notes.push(format!(
            "`prec` = {precision}{also}: there model and adapters are stored in it; here adapters, sums and optimiser are \
             f32. device.products = \"bf16\" rounds the operands of products"
        ));
    }
    Ok(TrainSettings {
        epochs: epochs * accumulated,
        batch_size: (batch * accumulated) as usize,
        learning_rate: rate,
        schedule: ScheduleKind::Linear,
        warmup_steps: 0,
        weight_decay: 0.0,
        clip_norm: 1.0,
        seed: keys.seed()?.unwrap_or(42),
        metric: metric.into(),
        ..TrainSettings::default()
    })
}

/// Keys that change nothing here, or cannot be had.
fn idle(keys: &Keys, notes: &mut Vec<String>) -> Result<(), TrainError> {
    for key in ["from_scratch", "train_all_peft"] {
        if keys.flag(key)? {
            return Err(keys.wrong(key, "false: a run here starts from a base model and new adapters"));
        }
    }
    let sentences = [
        ("eval_gen", ": texts are not generated for evaluation here, the loss is taken on the references"),
        ("min_eval_metric_after_epoch", ": there a low score ends the run; here train.early_stop counts evaluations"),
        ("repeat", ": there the run is repeated, with the same seed; here it is one run"),
        ("no_save", ": here the newest checkpoints are always kept"),
        ("model_transform", " has no effect in the authors' code, and none here"),
        ("backend", " has no effect: there is one scan, with the same result"),
        ("resume", " has no effect: `statetune train --resume` goes on"),
        ("num_data_workers", " has no effect here"),
        ("eval_batch_size", " has no effect here"),
        ("skip_metrics", " has no effect here"),
        ("log_speed", " has no effect here"),
        ("debug", " has no effect here"),
        ("overwrite", " has no effect here"),
        ("lock", " has no effect here"),
    ];
    for (key, sentence) in sentences {
        // What is switched off asks for nothing.
        if keys.get(key).is_some_and(|value| value != &Value::Bool(false)) {
            notes.push(format!("`{key}`{sentence}"));
        }
    }
    // Written by the authors' program into the configuration that it leaves beside its results.
    for key in ["output_dir", "cfg_path", "is_sdlora", "sdt", "peft", "device"] {
        keys.get(key);
    }
    Ok(())
}

/// The experiment's keys.
struct Keys {
    path: PathBuf,
    map: Map<String, Value>,
    seen: RefCell<Vec<String>>,
}

impl Keys {
    fn parse(path: &Path, text: &str) -> Result<Keys, TrainError> {
        let fail = |reason: String| TrainError::Config { path: path.to_path_buf(), reason };
        let documents = YamlLoader::load_from_str(text).map_err(|error| fail(format!("not YAML: {error}")))?;
        match documents.first().map(json_of) {
            Some(Ok(Value::Object(map))) => Ok(Keys { path: path.to_path_buf(), map, seen: RefCell::default() }),
            Some(Err(what)) => Err(fail(format!("{what} is not understood"))),
            _ => Err(fail("a table of keys was expected".into())),
        }
    }

    /// The value of a key that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.seen.borrow_mut().push(key.to_owned());
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, expected: &str) -> TrainError {
        let found = self.map.get(key).map_or("nothing".to_owned(), Value::to_string);
        let reason = format!("`{key}` should be {expected}, found {found}");
        TrainError::Config { path: self.path.clone(), reason }
    }

    fn text(&self, key: &str) -> Result<Option<&str>, TrainError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a text"))
    }

    fn required(&self, key: &str) -> Result<&str, TrainError> {
        self.text(key)?.ok_or_else(|| self.wrong(key, "a text"))
    }

    fn one_of(&self, key: &str, words: &[&str]) -> Result<Option<&str>, TrainError> {
        match self.text(key)? {
            Some(word) if !words.contains(&word) => Err(self.wrong(key, &format!("one of {}", words.join(", ")))),
            word => Ok(word),
        }
    }

    /// A whole number above 0; `3.0` is one.
    fn whole(&self, key: &str) -> Result<Option<u64>, TrainError> {
        let Some(number) = self.number(key)? else { return Ok(None) };
        let whole = number.fract() == 0.0 && (1.0..1e9).contains(&number);
        if whole { Ok(Some(number as u64)) } else { Err(self.wrong(key, "a whole number above 0")) }
    }

    fn seed(&self) -> Result<Option<u64>, TrainError> {
        let Some(value) = self.get("seed") else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| self.wrong("seed", "a whole number, at least 0"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, TrainError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(key, "a number"))
    }

    fn flag(&self, key: &str) -> Result<bool, TrainError> {
        self.get(key).map_or(Some(false), Value::as_bool).ok_or_else(|| self.wrong(key, "true or false"))
    }

    /// A sentence for each key that nobody looked at.
    fn rest(&self, notes: &mut Vec<String>) {
        let seen = self.seen.borrow();
        for key in self.map.keys().filter(|key| !seen.contains(key)) {
            let near = nearest(key, seen.iter().map(String::as_str));
            let hint = near.map_or(String::new(), |near| format!(" (is `{near}` meant?)"));
            notes.push(format!("`{key}` is not known and has no effect{hint}"));
        }
    }
}

/// A YAML value as JSON; what it is called if there is no such thing. `yes` and `no` are booleans, as for the authors'
/// reader.
fn json_of(yaml: &Yaml) -> Result<Value, String> {
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Boolean(value) => json!(value),
        Yaml::Integer(value) => json!(value),
        Yaml::Real(text) => match yaml.as_f64().filter(|number| number.is_finite()) {
            Some(number) => json!(number),
            None => return Err(format!("the number {text}")),
        },
        Yaml::String(text) => match text.as_str() {
            "yes" | "Yes" | "on" | "On" => json!(true),
            "no" | "No" | "off" | "Off" => json!(false),
            _ => json!(text),
        },
        Yaml::Array(list) => Value::Array(list.iter().map(json_of).collect::<Result<_, _>>()?),
        Yaml::Hash(table) => {
            let mut map = Map::new();
            for (key, value) in table {
                let key = match json_of(key)? {
                    Value::String(key) => key,
                    other => other.to_string(),
                };
                map.insert(key, json_of(value)?);
            }
            Value::Object(map)
        }
        Yaml::Alias(_) | Yaml::BadValue => return Err("an alias".into()),
    })
}

#[cfg(test)]
mod tests;
