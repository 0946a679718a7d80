//! The training step at the shape of mamba-130m (random weights in f32, vocabulary 50,280): 4 sequences of 128 tokens,
//! State-offset (h), loss on all positions. Prints `METRIC:<name>:<value>:<unit>` lines: the plain names are of the fastest
//! products of this processor (bf16 where it can, else f32), those with `f32` of single precision throughout.
//!
//! `cargo run --release -p statetune --example train_bench [-- --steps 5 --threads 2 --storage f32 --products bf16]`

use std::time::Instant;

use statetune::cli::setup::peak_memory_mib;
use statetune::mamba_model::config::MambaConfig;
use statetune::mamba_model::{Batch, DropoutStep, Mamba};
use statetune::peft_methods::{Adapter, methods};
use statetune::ssm_kernels::{Cpu, Level, Products};
use statetune::tensor::{DType, Device};
use statetune::trainer::step::{MicroBatch, gradients};
use statetune::trainer::{AdamW, AdamWSettings};

const NAME: &str = "train/mamba-130m/4x128/state-offset-h";
const SEQUENCES: usize = 4;
const LENGTH: usize = 128;

fn main() -> anyhow::Result<()> {
    statetune::ssm_kernels::runtime::keep_freed_memory();
    let option = |name: &str| {
        let arguments: Vec<String> = std::env::args().collect();
        arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1).cloned())
    };
    let steps: usize = option("--steps").map_or(Ok(5), |n| n.parse())?;
    let cores = std::thread::available_parallelism()?.get();
    let threads: usize = option("--threads").map_or(Ok(cores), |n| n.parse())?;
    let storage: DType = option("--storage").map_or(Ok(DType::F32), |name| name.parse())?;
    let wanted: Option<Products> = option("--products").map(|name| name.parse()).transpose()?;

    let level = Level::best();
    let all = [Products::F32, Products::Bf16].into_iter();
    let measured: Vec<Products> = match wanted {
        Some(products) => vec![products],
        None => all.filter(|products| products.is_available(level)).collect(),
    };
    for (i, &products) in measured.iter().enumerate() {
        let device = Device::Cpu(Cpu::new(level, threads)?.with_products(products)?);
        let median = median_step(&device, storage, steps)?;
        // The last is the fastest.
        let names = [(products == Products::F32).then_some("/f32"), (i + 1 == measured.len()).then_some("")];
        for name in names.into_iter().flatten() {
            println!("METRIC:{NAME}{name}/tokens_per_s:{:.1}:tokens/s", (SEQUENCES * LENGTH) as f64 / median);
            println!("METRIC:{NAME}{name}/step_ms:{:.1}:ms", 1000.0 * median);
        }
    }
    println!("METRIC:{NAME}/threads:{threads}:threads");
    if let Some(peak) = peak_memory_mib() {
        println!("METRIC:{NAME}/peak_mib:{peak:.0}:MiB");
    }
    Ok(())
}

/// Seconds of a training step, the median of some.
fn median_step(device: &Device, storage: DType, steps: usize) -> anyhow::Result<f64> {
    let config = MambaConfig::new(50_280, 768, 24);
    let model = Mamba::random(&config, device, DType::F32, storage, 0)?;
    let method = serde_json::from_str(r#"{"method": "state-offset-h"}"#)?;
    let adapter = Adapter::new(&model, vec![methods::parse(method)?], 0)?;
    let mut optimizer = AdamW::new(&adapter, AdamWSettings::default());

    let token = |i: usize| (i * 7919 % 50_000) as u32;
    let sequences: Vec<Vec<u32>> =
        (0..SEQUENCES).map(|s| (0..LENGTH).map(|i| token(s * LENGTH + i)).collect()).collect();
    let batch = Batch::new(&sequences)?;
    let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
    let targets: Vec<u32> = (0..batch.tokens()).map(|i| token(i + 1)).collect();
    let micro = [MicroBatch { prefix: None, batch, rows, targets }];

    let mut times = Vec::new();
    for step in 0..=steps {
        let start = Instant::now();
        let dropout = DropoutStep { seed: 0, step: step as u64 };
        let result = gradients(&model, adapter.patches(), &micro, Some(dropout))?;
        optimizer.update(device, &adapter, &result.gradients, 1e-3, 1.0)?;
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{device:?}, step {step}: loss {:.4}, {seconds:.3} s", result.loss);
        // The first one warms caches and buffers.
        if step > 0 {
            times.push(seconds);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
