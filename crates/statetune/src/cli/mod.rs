//! The command line: what can be typed, and where it goes.

/// `println!` for results: a reader that has closed the pipe ends the program, and is no error of it.
macro_rules! say {
    ($($argument:tt)*) => { $crate::cli::line(format_args!($($argument)*)) };
}

pub mod adapters;
mod average;
mod compare;
mod convert;
mod doctor;
mod eval;
mod export;
mod extract;
mod generate;
mod inspect;
mod merge;
mod methods;
pub mod methods_page;
mod named;
pub mod out;
pub mod page;
pub mod pretrain;
pub mod progress;
mod run_folder;
pub mod setup;
mod sweep;
pub mod train;
mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Fine-tune, evaluate and run state space language models.
#[derive(Debug, Parser)]
#[command(name = "statetune", version, about)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How much is said.
    #[command(flatten)]
    output: Output,
}

/// How much is said.
#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// No progress bars and no messages but errors and results.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Results as JSON on standard output.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train the methods of a configuration.
    Train(TrainArguments),
    /// Train all weights of a model on running text: one made anew, or one to go on from.
    Pretrain(TrainArguments),
    /// Train every method on every task, each at the learning rate a search finds, and print a table.
    ///
    /// Every finished run is a line of one file, `results.jsonl` in the output folder; the same command goes on from there.
    Sweep(SweepArguments),
    /// Evaluate a run's best adapter, an adapter, or a base model.
    ///
    /// Answers are generated where the data asks for written ones, and scored as `[evaluation]` says. Scores with their
    /// intervals and a line for each example are kept in a folder.
    Eval(EvalArguments),
    /// Table evaluations, and mark what is beyond chance.
    ///
    /// Each is compared with the first on the same examples, by the paired bootstrap.
    Compare(CompareArguments),
    /// Continue prompts.
    Generate(GenerateArguments),
    /// Show a model, adapter or run folder: sizes, sites, trainable counts, planned memory.
    Inspect(InspectArguments),
    /// Write adapters into their base model: a plain Hugging Face folder, which needs no adapter.
    ///
    /// Prints what rounding to a 16-bit type costs by tensor, and how far the logits of the written model are from those
    /// of model and adapter.
    Merge(MergeArguments),
    /// Write one adapter, the average of several.
    ///
    /// Of LoRA and its kind the average is exact (ranks add up); other tensors are averaged one by one.
    Average(AverageArguments),
    /// Write an adapter as a folder of Hugging Face PEFT, if PEFT computes the same with it.
    Export(ExportArguments),
    /// Try the promises on your own model and adapter, and print a table; exit code 1 if one is broken.
    ///
    /// Parallel = recurrent, packed = alone, merged = unmerged, saved = loaded, and others; of a run folder also that its
    /// newest checkpoint is whole and goes on to the same next step.
    Verify(VerifyArguments),
    /// Make a low-rank adapter from the difference of two models.
    ///
    /// The adapter changes BASE into a model near TUNED. Needs a build with the feature `lapack`.
    Extract(ExtractArguments),
    /// Write an experiment of the methods' authors (YAML and PEFT JSON) as a configuration, with what changes.
    Convert(ConvertArguments),
    /// List the fine-tuning methods and their options.
    Methods(MethodsArguments),
    /// Show what this machine has, and try whether its GPU computes what the processor does.
    Doctor(DoctorArguments),
}

#[derive(Debug, Args)]
struct TrainArguments {
    /// The configuration, a TOML file.
    config: PathBuf,
    /// Overrides a key: `--set train.learning_rate=1e-2`, `--set methods.0.rank=4`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// What it runs on: cpu, cuda, or cuda:1 for the second GPU; default: the configuration's.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Goes on from the run folder's newest checkpoint.
    #[arg(long)]
    resume: bool,
}

#[derive(Debug, Args)]
struct SweepArguments {
    /// The sweep's configuration, a TOML file.
    config: PathBuf,
    /// Overrides a key of the configuration. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// What it runs on: cpu, cuda, or cuda:1 for the second GPU; default: the configuration's.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Starts no run after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    max_seconds: Option<u64>,
    /// Runs at once: a small model does not fill a GPU. Results do not depend on it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
    /// Runs only these entries and tasks, by name, separated by commas.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Seconds between two lines about the runs under way, the first after ten at most; 0: one for each step.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    progress: u32,
    /// Runs nothing and prints the table of what is finished.
    #[arg(long, conflicts_with_all = ["max_seconds", "workers", "only", "progress"])]
    table: bool,
    /// The file of results; default: `results.jsonl` in the output folder.
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct EvalArguments {
    /// A run folder, or a configuration (TOML).
    run: PathBuf,
    /// Another adapter than the run's best, as PATH or NAME=PATH. Several stack.
    #[arg(long = "adapter", value_name = "[NAME=]PATH", conflicts_with = "base")]
    adapters: Vec<String>,
    /// Uses only these of the adapters, by name (a folder's name, if it was given none).
    #[arg(long = "use", value_name = "NAME", value_delimiter = ',', requires = "adapters")]
    names: Vec<String>,
    /// The base model without an adapter.
    #[arg(long)]
    base: bool,
    /// Evaluates the base model and each of the adapters by itself, one after another, and compares them.
    #[arg(long, conflicts_with_all = ["base", "names"])]
    each: bool,
    /// The folder of the results; default: in the run folder, `evaluations/` and the adapter's name. With `--each` the
    /// folder of their folders.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Overrides a key of the configuration. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// What it runs on: cpu, cuda, or cuda:1 for the second GPU; default: the configuration's.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

#[derive(Debug, Args)]
struct CompareArguments {
    /// Evaluations: their folders, or run folders, which stand for all of theirs; as PATH or NAME=PATH. The first is what the
    /// others are compared with.
    #[arg(required = true, value_name = "[NAME=]PATH")]
    evaluations: Vec<String>,
}

#[derive(Debug, Args)]
struct GenerateArguments {
    /// A run folder (its best adapter is used), or a model: its folder or its name on the hub, `hf://OWNER/NAME`.
    model: PathBuf,
    /// Another adapter than the run's best, as PATH or NAME=PATH. Several stack.
    #[arg(long = "adapter", value_name = "[NAME=]PATH")]
    adapters: Vec<String>,
    /// Uses only these of the adapters, by name (a folder's name, if it was given none).
    #[arg(long = "use", value_name = "NAME", value_delimiter = ',', requires = "adapters")]
    names: Vec<String>,
    /// A prompt. May be repeated.
    #[arg(long, short, required_unless_present = "prompts")]
    prompt: Vec<String>,
    /// A file with one prompt per line.
    #[arg(long)]
    prompts: Option<PathBuf>,
    /// The most tokens to add.
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// Draws tokens at random at this temperature; without it the most probable token is taken.
    #[arg(long)]
    temperature: Option<f64>,
    /// Draws among so many most probable tokens; 0: all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Draws among the most probable tokens that together reach this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Follows so many continuations at once and takes the one of the best score, instead of token by token.
    #[arg(long, conflicts_with = "temperature")]
    beams: Option<usize>,
    /// A beam's score is its log-probability over its number of tokens to this power.
    #[arg(long, default_value_t = 1.0, requires = "beams")]
    length_penalty: f64,
    /// So many tokens come before the end of the text may.
    #[arg(long, default_value_t = 0, requires = "beams")]
    min_new_tokens: usize,
    /// Stops as soon as there are as many finished continuations as beams.
    #[arg(long, requires = "beams")]
    early_stopping: bool,
    /// So many sequences (or beams) run at once, which bounds memory; as one ends, the next prompt begins. No result depends on
    /// it.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Tokenizer file; default: `tokenizer.json` in the model folder.
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Threads; default: one per core.
    #[arg(long)]
    threads: Option<usize>,
    /// What it runs on: cpu, cuda, or cuda:1 for the second GPU; default: cpu.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// On a GPU the type of activations: bf16 or f32; default: bf16.
    #[arg(long, value_name = "TYPE")]
    compute: Option<String>,
}

#[derive(Debug, Args)]
struct InspectArguments {
    /// A model or adapter (its folder, or its name on the hub: `hf://OWNER/NAME`), a run folder, or a configuration (TOML).
    path: PathBuf,
    /// The base model of an adapter, if it is not where the adapter says.
    #[arg(long)]
    model: Option<PathBuf>,
    /// List every linear site of a model.
    #[arg(long)]
    sites: bool,
}

#[derive(Debug, Args)]
struct MergeArguments {
    /// An adapter folder, or a run folder (its best adapter is used).
    adapter: PathBuf,
    /// The model folder to write: new, or empty.
    out: PathBuf,
    /// The base model, a folder or a name on the hub, if it is not where the adapter says.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Another adapter on top, as PATH or NAME=PATH. May be repeated.
    #[arg(long = "adapter", value_name = "[NAME=]PATH")]
    adapters: Vec<String>,
    /// Threads; default: one per core.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Debug, Args)]
struct AverageArguments {
    /// The adapter folder to write: new, or empty.
    out: PathBuf,
    /// An adapter, as PATH or NAME=PATH. Two at least.
    #[arg(long = "adapter", value_name = "[NAME=]PATH", required = true)]
    adapters: Vec<String>,
    /// Their weights, separated by commas, summing to 1; default: equal ones.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    weights: Vec<f64>,
    /// The base model, if it is not where the adapters say.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Threads; default: one per core.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Debug, Args)]
struct ExportArguments {
    /// An adapter folder, or a run folder (its best adapter is used).
    adapter: PathBuf,
    /// The folder to write: new, or empty.
    out: PathBuf,
    /// The base model, a folder or a name on the hub, if it is not where the adapter says.
    #[arg(long)]
    model: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct VerifyArguments {
    /// A run folder (its best adapter is used), or an adapter folder.
    path: PathBuf,
    /// The base model, if it is not where the run or the adapter says.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Threads; default: those of the run, or one per core.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Debug, Args)]
struct ExtractArguments {
    /// The model the adapter is for: its folder, or its name on the hub.
    base: PathBuf,
    /// The model it should lead to, of the same shape: its folder, or its name on the hub.
    tuned: PathBuf,
    /// The adapter folder to write.
    out: PathBuf,
    /// Keeps so many singular values of each difference.
    #[arg(long, conflicts_with = "energy")]
    rank: Option<usize>,
    /// Keeps the fewest singular values whose squares reach this share of each difference.
    #[arg(long, default_value_t = 0.9)]
    energy: f64,
    /// Linear sites by trailing part of the path, separated by commas; default: every whole matrix.
    #[arg(long, value_delimiter = ',')]
    targets: Vec<String>,
    /// Takes along whole what differs elsewhere: norms, biases, `A_log`, convolutions.
    #[arg(long)]
    rest: bool,
    /// Threads; default: one per core.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Debug, Args)]
struct ConvertArguments {
    /// The experiment, a YAML file of State-offset Tuning's or SSM-PEFT's code.
    experiment: PathBuf,
    /// Its PEFT file (JSON); default: the one that the experiment names.
    #[arg(long)]
    peft: Option<PathBuf>,
    /// Where the configuration goes; default: standard output.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct MethodsArguments {
    /// Writes what the list says into a page of the book, between its markers. May be repeated.
    #[arg(long, hide = true, value_name = "PAGE")]
    fill: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct DoctorArguments {
    /// The GPU: cuda, or cuda:1; without it the first, if there is one.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

/// Writes a line of a result to standard output.
fn line(text: std::fmt::Arguments<'_>) {
    use std::io::{ErrorKind, Write};
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("error: cannot write to standard output: {error}");
            std::process::exit(2)
        }
        Ok(()) => {}
    }
}

/// The settings of a configuration and the device of the command line, which is one of them.
fn with_device(settings: &[String], device: Option<&String>) -> Vec<String> {
    let kind = device.map(|kind| format!("device.kind={kind}"));
    settings.iter().cloned().chain(kind).collect()
}

/// Runs a command.
///
/// # Errors
/// What the command was given cannot be used; the message says which file, key or tensor, and what to do.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let output = arguments.output;
    if output.quiet {
        crate::hub::keep_quiet();
    }
    match &arguments.command {
        Command::Train(arguments) => train::run(arguments, output),
        Command::Pretrain(arguments) => pretrain::run(arguments, output),
        Command::Sweep(arguments) => sweep::run(arguments, output),
        Command::Eval(arguments) => eval::run(arguments, output),
        Command::Compare(arguments) => compare::run(arguments, output),
        Command::Generate(arguments) => generate::run(arguments, output),
        Command::Inspect(arguments) => inspect::run(arguments, output),
        Command::Merge(arguments) => merge::run(arguments, output),
        Command::Average(arguments) => average::run(arguments, output),
        Command::Export(arguments) => export::run(arguments, output),
        Command::Verify(arguments) => verify::run(arguments, output),
        Command::Extract(arguments) => extract::run(arguments, output),
        Command::Convert(arguments) => convert::run(arguments, output),
        Command::Methods(arguments) => methods::run(arguments, output),
        Command::Doctor(arguments) => doctor::run(arguments, output),
    }
}
