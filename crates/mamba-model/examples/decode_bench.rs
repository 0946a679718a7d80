//! Decoding at the shape of mamba-130m (random weights, vocabulary 50,280): 32 unequal prompts, 64 new tokens each, one
//! sequence at a time and all at once. Prints `METRIC:<name>:<value>:<unit>` lines, by the products' precision: tokens/s of the
//! whole generation, its prefill included, their ratio (the median over rounds that run both in turn), and a step's time.
//!
//! `cargo run --release -p statetune-mamba-model --example decode_bench [-- --rounds 3 --threads 2 --storage f32 --products bf16
//! --sequences 32 --new 64 --layers 24]`

use std::time::Instant;

use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{GenerateOptions, Mamba, Patches};
use statetune_ssm_kernels::{Cpu, Level, Products};
use statetune_tensor::{DType, Device};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    statetune_ssm_kernels::runtime::keep_freed_memory();
    let option = |name: &str| {
        let arguments: Vec<String> = std::env::args().collect();
        arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1).cloned())
    };
    let number = |name: &str, default: usize| option(name).map_or(Ok(default), |n| n.parse());
    let (rounds, new, sequences) = (number("--rounds", 3)?, number("--new", 64)?, number("--sequences", 32)?);
    let threads = number("--threads", std::thread::available_parallelism()?.get())?;
    let storage: DType = option("--storage").map_or(Ok(DType::F32), |name| name.parse())?;
    let wanted: Option<Products> = option("--products").map(|name| name.parse()).transpose()?;

    let (level, config) = (Level::best(), MambaConfig::new(50_280, 768, number("--layers", 24)?));
    // Lengths of 5 to 36 tokens, in no order.
    let prompts: Vec<Vec<u32>> =
        (0..sequences).map(|s| (0..5 + s * 13 % 32).map(|i| ((s * 64 + i) * 7919 % 50_000) as u32).collect()).collect();
    let all = [Products::F32, Products::Bf16].into_iter();
    for products in all.filter(|&products| wanted.map_or(products.is_available(level), |wanted| wanted == products)) {
        let device = Device::Cpu(Cpu::new(level, threads)?.with_products(products)?);
        let model = Mamba::random(&config, &device, DType::F32, storage, 0)?;
        let name = format!("decode/mamba-130m/{products}");
        let (mut alone, mut together) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let slow = generate(&model, &prompts, new, 1)?;
            let fast = generate(&model, &prompts, new, sequences)?;
            eprintln!("{name}, round {round}: {slow:.1} s one at a time, {fast:.1} s {sequences} at once");
            alone.push(slow);
            together.push(fast);
        }
        let ratios = alone.iter().zip(&together).map(|(slow, fast)| slow / fast).collect();
        let tokens = (sequences * new) as f64;
        println!("METRIC:{name}/1/tokens_per_s:{:.1}:tokens/s", tokens / median(alone));
        println!("METRIC:{name}/{sequences}/tokens_per_s:{:.1}:tokens/s", tokens / median(together));
        println!("METRIC:{name}/{sequences}/speedup:{:.2}:x", median(ratios));
        for at_once in [1, sequences] {
            println!("METRIC:{name}/{at_once}/step_ms:{:.2}:ms", 1e3 * step(&model, &prompts[..at_once], 8 * rounds)?);
        }
    }
    println!("METRIC:decode/mamba-130m/threads:{threads}:threads");
    Ok(())
}

/// Seconds to continue the prompts.
fn generate(
    model: &Mamba,
    prompts: &[Vec<u32>],
    new: usize,
    sequences: usize,
) -> Result<f64, Box<dyn std::error::Error>> {
    let options = GenerateOptions { max_new_tokens: new, sequences, ..GenerateOptions::default() };
    let start = Instant::now();
    let generated = model.generate(&Patches::none(), prompts, &options, |_, _| {})?;
    let seconds = start.elapsed().as_secs_f64();
    assert!(generated.iter().all(|sequence| sequence.tokens.len() == new), "a sequence ended early");
    Ok(seconds)
}

/// Seconds of a step of all prompts, the median of some.
fn step(model: &Mamba, prompts: &[Vec<u32>], steps: usize) -> Result<f64, Box<dyn std::error::Error>> {
    let none = Patches::none();
    let (mut state, _) = model.prefill(&none, prompts, 2048)?;
    let mut times = Vec::new();
    for step in 0..=steps {
        let start = Instant::now();
        let tokens: Vec<u32> = (0..prompts.len()).map(|s| ((step * 64 + s) * 7919 % 50_000) as u32).collect();
        (state, _) = model.step(&none, &state, &tokens)?;
        // The first one warms caches and buffers.
        if step > 0 {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(median(times))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
