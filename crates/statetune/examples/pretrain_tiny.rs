//! Makes the small Mamba that ships in the repository: text and tokenizer from the project's own generator, random
//! weights, full training. Seeds and sizes stand below; the same machine type gives the same bytes.
//!
//! `cargo xtask pretrain-tiny [--resume] [--documents N] [--folder FOLDER] [--out FOLDER]`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use statetune::cli::{Output, setup, train};
use statetune::datasets_eval::world::{World, bpe};
use statetune::mamba_model::Mamba;
use statetune::mamba_model::config::{MambaConfig, SpecialTokens};
use statetune::tensor::{DType, Device};
use statetune::trainer::RunConfig;

/// The world that the text, the tasks of the quickstart and its database belong to.
const WORLD_SEED: u64 = 1;
const TRAIN_SEED: u64 = 1;
const HELD_OUT_SEED: u64 = 2;
const INIT_SEED: u64 = 1;
const HELD_OUT_DOCUMENTS: usize = 400;
/// Documents that the tokenizer is trained on.
const TOKENIZER_DOCUMENTS: usize = 12_000;
/// Five times the usual text, none of it twice.
const DOCUMENTS: usize = 60_000;
const VOCABULARY: usize = 2_048;
const D_MODEL: usize = 192;
const LAYERS: usize = 6;

/// The training: AdamW as in the pretraining of Mamba (Gu and Dao 2023, appendix E.2), with a linear fall to zero.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"
[model]
path = "{folder}/start"

[data]
format = "text"
train = "{folder}/text/train.jsonl"
validation = "{folder}/text/held_out.jsonl"
max_tokens = 512

[[methods]]
method = "full"

[train]
epochs = 1
batch_size = 32
micro_batch_tokens = 2560
learning_rate = 4e-3
schedule = "linear"
warmup_steps = 100
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.95
clip_norm = 1.0
seed = 1
log_every = 25
eval_every = 500
save_every = 500
share_prefix = false

[output]
folder = "{folder}/run"
"#
    )
}

fn main() -> anyhow::Result<()> {
    statetune::ssm_kernels::runtime::keep_freed_memory();
    let mut arguments = std::env::args().skip(1);
    let (mut resume, mut documents) = (false, DOCUMENTS);
    let mut folder = PathBuf::from("runs/pretrain-tiny");
    let mut out = PathBuf::from("crates/statetune/assets/mamba-tiny");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--resume" => resume = true,
            "--documents" => documents = value()?.parse().context("--documents takes a number")?,
            "--folder" => folder = value()?.into(),
            "--out" => out = value()?.into(),
            other => bail!("unknown argument `{other}`: --resume, --documents N, --folder FOLDER, --out FOLDER"),
        }
    }
    if !resume {
        start(&folder, documents)?;
    }
    let config = RunConfig::parse(&configuration(&folder), Path::new("the configuration in pretrain_tiny.rs"), &[])?;
    let trained = train::train(&config, &folder.join("run"), resume, Output { quiet: false, json: false })?;
    let model = trained.summary.adapter.merge(&trained.model)?;
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    model.save(&out, &["tokenizer.json", "tokenizer_config.json"].map(|name| folder.join("start").join(name)))?;
    let evaluation = trained.summary.evaluation.context("there is held-out text")?;
    println!(
        "{}: {} parameters; held-out loss {:.4} (perplexity {:.2}) before rounding to bf16; {} steps, {} tokens, {:.0} s",
        out.display(),
        model.size(),
        evaluation.loss,
        evaluation.perplexity,
        trained.summary.steps,
        trained.summary.tokens,
        trained.summary.seconds
    );
    Ok(())
}

/// Writes the text, and a model folder with the tokenizer and random weights.
fn start(folder: &Path, documents: usize) -> anyhow::Result<()> {
    let world = World::new(WORLD_SEED);
    let text = folder.join("text");
    fs::create_dir_all(&text).with_context(|| format!("cannot create {}", text.display()))?;
    for (name, seed, count) in [("train", TRAIN_SEED, documents), ("held_out", HELD_OUT_SEED, HELD_OUT_DOCUMENTS)] {
        let lines: String =
            world.text(seed, count).map(|text| serde_json::json!({"text": text}).to_string() + "\n").collect();
        let path = text.join(name).with_extension("jsonl");
        fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let start = folder.join("start");
    let config = MambaConfig {
        special_tokens: SpecialTokens { bos: Some(0), eos: vec![0], pad: Some(0) },
        ..MambaConfig::new(VOCABULARY, D_MODEL, LAYERS)
    };
    let device: Device = setup::device(&Default::default())?;
    Mamba::random(&config, &device, DType::F32, DType::Bf16, INIT_SEED)?.save(&start, &[])?;
    let tokenizer = bpe::train(world.text(TRAIN_SEED, TOKENIZER_DOCUMENTS), VOCABULARY)?;
    Ok(bpe::save(&tokenizer, &start)?)
}
