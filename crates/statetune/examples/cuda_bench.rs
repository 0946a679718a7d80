//! Speed and memory on an NVIDIA GPU: the scan's kernels at the shapes that mamba_ssm was measured at, whole training steps,
//! decoding, and one gradient through a long sequence by chunks. Prints `METRIC:<name>:<value>:<unit>` lines.
//!
//! `cargo run --release -p statetune --example cuda_bench [-- kernels | steps | decode | long | all [--model 130m|1.4b]
//! [--methods a,b] [--lengths n,m] [--batches n,m] [--chunk n] [--keep]]`; `plan-steps` and `plan-long` say what memory those take,
//! without a GPU; with `--keep` steps keep what they would compute again; `padding --run RUN.toml` times packed against padded
//! batches of a run's data.

#[path = "cuda_bench/decode.rs"]
mod decode;
#[path = "cuda_bench/kernels.rs"]
mod kernels;
#[path = "cuda_bench/long.rs"]
mod long;
#[path = "cuda_bench/padding.rs"]
mod padding;
#[path = "cuda_bench/steps.rs"]
mod steps;

use statetune::mamba_model::config::MambaConfig;
use statetune::ssm_kernels::runtime::Cuda;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1).cloned());
    let part = arguments.first().map_or("all", String::as_str);
    let model = option("--model").unwrap_or_else(|| "130m".into());
    let lengths = |default: &str| -> anyhow::Result<Vec<usize>> {
        let lengths = option("--lengths").unwrap_or_else(|| default.into());
        Ok(lengths.split(',').map(str::parse).collect::<Result<_, _>>()?)
    };
    let long_lengths = || lengths("16384,65536,262144,1048576");
    let chunk = option("--chunk").map_or(Ok(8192), |chunk| chunk.parse())?;
    if part == "plan-long" {
        return long::plan(&model, &long_lengths()?, chunk);
    }
    let methods = option("--methods");
    let recompute = !arguments.iter().any(|argument| argument == "--keep");
    let step_cases = || -> anyhow::Result<Vec<(String, usize)>> {
        let methods = methods.clone().unwrap_or_else(|| "state-offset-h,initial-state,lora".into());
        let lengths = lengths("128,512,2048")?;
        let of = |method: &str| lengths.iter().map(|&length| (method.to_owned(), length)).collect::<Vec<_>>();
        Ok(methods.split(',').flat_map(of).collect())
    };
    if part == "plan-steps" {
        return step_cases()?.iter().try_for_each(|(method, length)| steps::plan(&model, method, *length, recompute));
    }
    let cuda = Cuda::new(0)?;
    let info = cuda.info().expect("a device that is there");
    println!("GPU:{} ({}, driver for CUDA {})", info.name, info.arch, info.driver_version);
    if ["kernels", "all"].contains(&part) {
        kernels::run(&cuda)?;
    }
    drop(cuda);
    if ["steps", "all"].contains(&part) {
        step_cases()?.iter().try_for_each(|(method, length)| steps::run(&model, method, *length, recompute))?;
    }
    if ["decode", "all"].contains(&part) {
        let methods = methods.clone().unwrap_or_else(|| "base,state-offset-h,lora".into());
        let batches = option("--batches").unwrap_or_else(|| "1,4,64".into());
        for method in methods.split(',') {
            for sequences in batches.split(',') {
                decode::run(&model, Some(method).filter(|method| *method != "base"), sequences.parse()?)?;
            }
        }
    }
    if part == "padding" {
        let run = option("--run").ok_or_else(|| anyhow::anyhow!("padding needs --run RUN.toml"))?;
        padding::run(run.as_ref())?;
    }
    if part == "long" || part == "all" && option("--lengths").is_none() {
        long::run(&model, &long_lengths()?, chunk)?;
    }
    Ok(())
}

/// The shape of a published model.
fn config_of(size: &str) -> anyhow::Result<MambaConfig> {
    Ok(match size {
        "31m" => MambaConfig::new(50_280, 384, 12),
        "130m" => MambaConfig::new(50_280, 768, 24),
        "370m" => MambaConfig::new(50_280, 1024, 48),
        "1.4b" => MambaConfig::new(50_280, 2048, 48),
        other => anyhow::bail!("no model `{other}`: 31m, 130m, 370m or 1.4b"),
    })
}

/// The median of some numbers.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
