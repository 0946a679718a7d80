//! Decoding: a prompt of 128 tokens and 256 more, greedy, at one sequence and at many.

use std::time::Instant;

use statetune::mamba_model::{GenerateOptions, Mamba, Patches};
use statetune::peft_methods::{Adapter, methods};
use statetune::ssm_kernels::runtime::Cuda;
use statetune::tensor::{DType, Device};

use super::{config_of, median};

const PROMPT: usize = 128;
const NEW: usize = 256;

/// Times one model, bare and with a method.
pub fn run(size: &str, method: Option<&str>, sequences: usize) -> anyhow::Result<()> {
    let cuda = Cuda::new(0)?;
    let device = Device::Cuda(cuda.clone());
    let model = Mamba::random(&config_of(size)?, &device, DType::Bf16, DType::Bf16, 0)?;
    let adapter = method
        .map(|method| {
            let method = methods::parse_value(serde_json::json!({ "method": method }))?;
            Adapter::new(&model, vec![method], 0)
        })
        .transpose()?;
    let none = Patches::none();
    let patches = adapter.as_ref().map_or(&none, Adapter::patches);
    let prompts: Vec<Vec<u32>> =
        (0..sequences).map(|s| (0..PROMPT).map(|i| ((s * PROMPT + i) * 7919 % 50_000) as u32).collect()).collect();
    let options = GenerateOptions { max_new_tokens: NEW, sequences, ..GenerateOptions::default() };
    let (mut whole, mut steps) = (Vec::new(), Vec::new());
    for round in 0..6 {
        let (start, mut first) = (Instant::now(), None);
        let generated = model.generate(patches, &prompts, &options, |_, _| {
            first.get_or_insert_with(Instant::now);
        })?;
        let end = Instant::now();
        anyhow::ensure!(generated.iter().all(|sequence| sequence.tokens.len() == NEW), "a sequence ended early");
        // The first one loads kernels.
        if round > 0 {
            let first = first.expect("tokens were made");
            whole.push((end - start).as_secs_f64());
            steps.push((end - first).as_secs_f64() / (NEW - 1) as f64);
        }
    }
    let name = format!("cuda/decode/mamba-{size}/{sequences}/{}", method.unwrap_or("base"));
    let (whole, step) = (median(whole), median(steps));
    println!("METRIC:{name}/tokens_per_s:{:.0}:tokens/s", (sequences * NEW) as f64 / whole);
    println!("METRIC:{name}/step_ms:{:.4}:ms", 1e3 * step);
    println!("METRIC:{name}/steps_tokens_per_s:{:.0}:tokens/s", sequences as f64 / step);
    println!("METRIC:{name}/reserved_mib:{:.0}:MiB", cuda.memory_use().reserved.0 as f64 / f64::from(1 << 20));
    // Where the time goes: steps launched one by one.
    let (state, _) = model.prefill(patches, &prompts, 2048)?;
    let tokens = vec![1; sequences];
    model.step(patches, &state, &tokens)?;
    let profile = cuda.profile(|| model.step(patches, &state, &tokens).map(drop))?;
    let total: f64 = profile.iter().map(|(_, time)| time.seconds).sum();
    eprintln!("{name}: one step launch by launch, {:.3} ms in its kernels:", 1e3 * total);
    for (kernel, time) in profile.iter().take(12) {
        eprintln!("  {:9.1} us {:5} x {kernel}", 1e6 * time.seconds, time.launches);
    }
    Ok(())
}
