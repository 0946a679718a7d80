//! One gradient through a single long sequence by chunks: loss on all positions, State-offset (h), bf16.

use std::time::Instant;

use statetune::mamba_model::{Batch, Mamba};
use statetune::peft_methods::{Adapter, methods};
use statetune::ssm_kernels::runtime::Cuda;
use statetune::tensor::{DType, Device};
use statetune::trainer::cuda::{DeviceSteps, planned_by_chunks};
use statetune::trainer::step::MicroBatch;
use statetune::trainer::{AdamW, AdamWSettings};

use super::{config_of, median};

const METHOD: &str = "state-offset-h";

fn subject(size: &str, cuda: &Cuda) -> anyhow::Result<(Mamba, Adapter)> {
    let config = config_of(size)?;
    let model = Mamba::random(&config, &Device::Cuda(cuda.clone()), DType::Bf16, DType::Bf16, 0)?;
    let method = methods::parse_value(serde_json::json!({ "method": METHOD }))?;
    let adapter = Adapter::new(&model, vec![method], 0)?;
    Ok((model, adapter))
}

/// A sequence of so many tokens whose every next token is labelled.
fn sequence(tokens: usize) -> anyhow::Result<[MicroBatch; 1]> {
    let token = |i: usize| (i * 7919 % 50_000) as u32;
    let batch = Batch::new(&[(0..tokens).map(token).collect::<Vec<_>>()])?;
    let targets = (1..=tokens).map(token).collect();
    Ok([MicroBatch { prefix: None, batch, rows: (0..tokens as u32).collect(), targets }])
}

/// Times sequences of these lengths, and says what memory each took. Every length has a device of its own.
pub fn run(size: &str, lengths: &[usize], chunk: usize) -> anyhow::Result<()> {
    for &tokens in lengths {
        let cuda = Cuda::new(0)?;
        let (model, adapter) = subject(size, &cuda)?;
        let mut optimizer = AdamW::new(&adapter, AdamWSettings::default());
        let mut steps = DeviceSteps::new(&model, &adapter, &mut optimizer, false)?.by_chunks(chunk);
        let mut step = |tokens: usize| -> anyhow::Result<(f64, f32)> {
            let micro = sequence(tokens)?;
            let start = Instant::now();
            steps.gradients(&micro, None)?;
            steps.update(1e-3, 1.0)?;
            let outcome = steps.outcome()?.expect("started");
            anyhow::ensure!(outcome.finite, "{tokens} tokens: the gradient is not finite");
            Ok((start.elapsed().as_secs_f64(), outcome.loss))
        };
        // Loads kernels and takes memory: chunks of both kinds, behind a border and before one.
        step(tokens.min(2 * chunk))?;
        let (mut times, mut loss) = (Vec::new(), 0.0);
        for _ in 0..(1usize << 18).div_ceil(tokens).min(5) {
            let (seconds, found) = step(tokens)?;
            times.push(1e3 * seconds);
            loss = found;
        }
        let name = format!("cuda/long/mamba-{size}/{tokens}/{METHOD}/chunks-of-{chunk}");
        let milliseconds = median(times);
        println!("METRIC:{name}/step_ms:{milliseconds:.1}:ms");
        println!("METRIC:{name}/ms_per_token:{:.6}:ms", milliseconds / tokens as f64);
        memory(&name, &cuda);
        eprintln!("{name}: loss {loss:.4}");
    }
    Ok(())
}

/// The same memory as planned: needs no GPU.
pub fn plan(size: &str, lengths: &[usize], chunk: usize) -> anyhow::Result<()> {
    for &tokens in lengths {
        let cuda = Cuda::planning();
        let (model, adapter) = subject(size, &cuda)?;
        planned_by_chunks(&model, &adapter, AdamWSettings::default(), tokens, tokens, chunk)?;
        memory(&format!("cuda/long/mamba-{size}/{tokens}/{METHOD}/chunks-of-{chunk}/planned"), &cuda);
    }
    Ok(())
}

fn memory(name: &str, cuda: &Cuda) {
    let memory = cuda.memory_use();
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!("METRIC:{name}/reserved_mib:{:.1}:MiB", mib(memory.reserved.0));
    println!("METRIC:{name}/working_peak_mib:{:.1}:MiB", mib(memory.peak[1].0));
    println!("METRIC:{name}/lasting_peak_mib:{:.1}:MiB", mib(memory.peak[0].0));
}
