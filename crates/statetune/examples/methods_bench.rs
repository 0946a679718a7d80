//! What each method costs in a training step, against a step that trains one bias per layer (`out_proj`'s) and nothing else:
//! the shape of mamba-130m with random weights, 4 sequences of 512 tokens, loss on all positions, each method with its
//! default options. Prints `METRIC:<name>:<value>:<unit>` lines.
//!
//! Rounds of one step of every method in turn, so that what else the machine does falls on all alike; a method's cost is the
//! median over the rounds of its step's time over the control's in the same round. Memory is of a process of its own.
//!
//! `cargo run --release -p statetune --example methods_bench [-- --rounds 5 --products f32 --only initial-state --length 512]`

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};
use statetune::cli::setup::peak_memory_mib;
use statetune::mamba_model::config::MambaConfig;
use statetune::mamba_model::{Batch, DropoutStep, Mamba};
use statetune::peft_methods::{Adapter, METHODS, PeftError, methods};
use statetune::ssm_kernels::{Cpu, Level, Products};
use statetune::tensor::{DType, Device};
use statetune::trainer::step::{MicroBatch, gradients};
use statetune::trainer::{AdamW, AdamWSettings};

const CONTROL: &str = "control";
const SEQUENCES: usize = 4;

fn option(name: &str) -> Option<String> {
    let arguments: Vec<String> = std::env::args().collect();
    arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1).cloned())
}

/// A method's configuration.
fn configuration(tag: &str) -> String {
    match tag {
        CONTROL => r#"{"method": "bitfit", "targets": ["out_proj"], "add_missing": true}"#.to_owned(),
        tag => format!(r#"{{"method": "{tag}"}}"#),
    }
}

struct Bench {
    model: Mamba,
    micro: [MicroBatch; 1],
}

impl Bench {
    fn new() -> anyhow::Result<Bench> {
        let length: usize = option("--length").map_or(Ok(512), |n| n.parse())?;
        let products: Option<Products> = option("--products").map(|name| name.parse()).transpose()?;
        let level = Level::best();
        let fastest = if Products::Bf16.is_available(level) { Products::Bf16 } else { Products::F32 };
        let device = Device::Cpu(Cpu::new(level, 0)?.with_products(products.unwrap_or(fastest))?);
        let model = Mamba::random(&MambaConfig::new(50_280, 768, 24), &device, DType::F32, DType::F32, 0)?;
        let token = |i: usize| (i * 7919 % 50_000) as u32;
        let sequences: Vec<Vec<u32>> =
            (0..SEQUENCES).map(|s| (0..length).map(|i| token(s * length + i)).collect()).collect();
        let batch = Batch::new(&sequences)?;
        let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
        let targets: Vec<u32> = (0..batch.tokens()).map(|i| token(i + 1)).collect();
        Ok(Bench { model, micro: [MicroBatch { prefix: None, batch, rows, targets }] })
    }

    /// Seconds of a step of a method that starts anew.
    fn step(&self, tag: &str) -> anyhow::Result<f64> {
        let method = methods::parse_value(serde_json::from_str(&configuration(tag))?)?;
        let adapter = Adapter::new(&self.model, vec![method], 0)?;
        let mut optimizer = AdamW::new(&adapter, AdamWSettings::default());
        let start = Instant::now();
        let dropout = Some(DropoutStep { seed: 0, step: 0 });
        let result = gradients(&self.model, adapter.patches(), &self.micro, dropout)?;
        optimizer.update(self.model.device(), &adapter, &result.gradients, 1e-3, 1.0)?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn tokens(&self) -> f64 {
        self.micro[0].tokens() as f64
    }
}

fn main() -> anyhow::Result<()> {
    statetune::ssm_kernels::runtime::keep_freed_memory();
    if let Some(tag) = option("--memory-of") {
        let bench = Bench::new()?;
        bench.step(&tag)?;
        println!("{}", peak_memory_mib().context("this system does not tell a process's peak memory")?);
        return Ok(());
    }
    let rounds: usize = option("--rounds").map_or(Ok(5), |n| n.parse())?;
    let only = option("--only");
    let wanted = |tag: &str| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == tag));
    let mut tags: Vec<&str> = METHODS.iter().map(|info| info.tag).filter(|tag| wanted(tag)).collect();
    let mut memory = Vec::new();
    tags.insert(0, CONTROL);
    tags.retain(|tag| *tag == CONTROL || !needs_a_feature(tag));
    for tag in &tags {
        memory.push(memory_of(tag)?);
    }
    let bench = Bench::new()?;
    bench.step(CONTROL)?; // warms caches and buffers
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); tags.len()];
    for round in 0..rounds {
        for (tag, times) in tags.iter().zip(&mut times) {
            let seconds = bench.step(tag)?;
            eprintln!("round {round}, {tag}: {seconds:.3} s");
            times.push(seconds);
        }
    }
    for ((tag, own), peak) in tags.iter().zip(&times).zip(&memory) {
        let name = format!("methods/mamba-130m/{}x{}/{tag}", SEQUENCES, bench.tokens() as usize / SEQUENCES);
        let ratios = own.iter().zip(&times[0]).map(|(own, control)| own / control).collect();
        println!("METRIC:{name}/tokens_per_s:{:.1}:tokens/s", bench.tokens() / median(own.clone()));
        println!("METRIC:{name}/time_over_control:{:.3}:ratio", median(ratios));
        println!("METRIC:{name}/peak_mib:{peak:.0}:MiB");
        println!("METRIC:{name}/memory_over_control:{:.3}:ratio", peak / memory[0]);
    }
    Ok(())
}

/// Whether this build cannot start the method.
fn needs_a_feature(tag: &str) -> bool {
    let config = MambaConfig::new(16, 8, 1);
    let started = || -> Result<(), PeftError> {
        let device = Device::Cpu(Cpu::new(Level::Portable, 1).map_err(statetune::tensor::TensorError::from)?);
        let model = Mamba::random(&config, &device, DType::F32, DType::F32, 0)?;
        let value = serde_json::json!({"method": tag, "rank": 1});
        Adapter::new(&model, vec![methods::parse_value(value)?], 0).map(drop)
    };
    let missing = matches!(started(), Err(PeftError::MissingFeature { .. }));
    if missing {
        eprintln!("left out: {tag} needs the feature lapack to start");
    }
    missing
}

/// Peak MiB of one step in a process of its own.
fn memory_of(tag: &str) -> anyhow::Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args().skip(1)).args(["--memory-of", tag]);
    let output = command.output()?;
    if !output.status.success() {
        bail!("{tag}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
