//! Whole training steps at batch 4: forward, loss on all positions, backward, AdamW.

use std::time::Instant;

use statetune::mamba_model::{Batch, Mamba};
use statetune::peft_methods::{Adapter, methods};
use statetune::ssm_kernels::runtime::Cuda;
use statetune::tensor::{DType, Device};
use statetune::trainer::cuda::{DeviceSteps, planned};
use statetune::trainer::step::MicroBatch;
use statetune::trainer::{AdamW, AdamWSettings};

use super::{config_of, median};

const SEQUENCES: usize = 4;

/// What a step of one method is planned to hold: needs no GPU.
pub fn plan(size: &str, method: &str, length: usize, recompute: bool) -> anyhow::Result<()> {
    let cuda = Cuda::planning();
    cuda.set_recompute(recompute);
    let device = Device::Cuda(cuda);
    let model = Mamba::random(&config_of(size)?, &device, DType::Bf16, DType::Bf16, 0)?;
    let adapter = Adapter::new(&model, vec![methods::parse_value(configuration(method))?], 0)?;
    let memory = planned(&model, &adapter, AdamWSettings::default(), SEQUENCES * length, length)?;
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let name = format!("{}/planned", name(size, method, length, recompute));
    println!("METRIC:{name}/reserved_mib:{:.0}:MiB", mib(memory.reserved.0));
    println!("METRIC:{name}/working_peak_mib:{:.0}:MiB", mib(memory.peak[1].0));
    Ok(())
}

fn name(size: &str, method: &str, length: usize, recompute: bool) -> String {
    let kept = if recompute { "" } else { "/kept" };
    format!("cuda/train/mamba-{size}/{SEQUENCES}x{length}/{method}{kept}")
}

fn configuration(method: &str) -> serde_json::Value {
    match method {
        // The authors' four sites.
        "lora" => {
            serde_json::json!({"method": "lora", "rank": 8, "targets": ["in_proj", "x_proj", "dt_proj", "out_proj"]})
        }
        other => serde_json::json!({ "method": other }),
    }
}

/// Times one method on one model, captured and launched one by one.
pub fn run(size: &str, method: &str, length: usize, recompute: bool) -> anyhow::Result<()> {
    let config = config_of(size)?;
    let method_config = configuration(method);
    for graphs in [false, true] {
        // A device of its own, so that memory is that of this case.
        let cuda = Cuda::new(0)?;
        cuda.set_recompute(recompute);
        let device = Device::Cuda(cuda.clone());
        let model = Mamba::random(&config, &device, DType::Bf16, DType::Bf16, 0)?;
        let adapter = Adapter::new(&model, vec![methods::parse_value(method_config.clone())?], 0)?;
        let mut optimizer = AdamW::new(&adapter, AdamWSettings::default());
        let mut steps = DeviceSteps::new(&model, &adapter, &mut optimizer, graphs)?;
        let token = |i: usize| (i * 7919 % 50_000) as u32;
        let sequences: Vec<Vec<u32>> =
            (0..SEQUENCES).map(|s| (0..length).map(|i| token(s * length + i)).collect()).collect();
        let batch = Batch::new(&sequences)?;
        let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
        let targets: Vec<u32> = (0..batch.tokens()).map(|i| token(i + 1)).collect();
        let micro = [MicroBatch { prefix: None, batch, rows, targets }];
        let mut times = Vec::new();
        let (mut loss, mut launches) = (0.0, 0);
        for step in 0..24 {
            let before = cuda.launches();
            let start = Instant::now();
            steps.gradients(&micro, None)?;
            steps.update(1e-3, 1.0)?;
            let outcome = steps.outcome()?.expect("started");
            let seconds = start.elapsed().as_secs_f64();
            loss = outcome.loss;
            if step == 0 {
                launches = cuda.launches() - before;
            }
            // The first ones load, allocate and capture.
            if step >= 4 {
                times.push(1e3 * seconds);
            }
        }
        if !graphs {
            let profile = cuda.profile(|| steps.gradients(&micro, None))?;
            let total: f64 = profile.iter().map(|(_, time)| time.seconds).sum();
            eprintln!("profile, {:.3} ms in all:", 1e3 * total);
            for (kernel, time) in profile.iter().take(24) {
                eprintln!("  {:9.1} us {:5} x {kernel}", 1e6 * time.seconds, time.launches);
            }
        }
        let memory = cuda.memory_use();
        let how = if graphs { "graph" } else { "eager" };
        let name = format!("{}/{how}", name(size, method, length, recompute));
        println!("METRIC:{name}/step_ms:{:.3}:ms", median(times));
        println!("METRIC:{name}/reserved_mib:{:.0}:MiB", memory.reserved.0 as f64 / f64::from(1 << 20));
        println!("METRIC:{name}/working_peak_mib:{:.0}:MiB", memory.peak[1].0 as f64 / f64::from(1 << 20));
        println!("METRIC:{name}/lasting_peak_mib:{:.0}:MiB", memory.peak[0].0 as f64 / f64::from(1 << 20));
        println!("METRIC:{name}/launches:{launches}:launches");
        eprintln!("{name}: loss {loss:.4}");
    }
    Ok(())
}
