//! Speed and memory on an NVIDIA GPU: the scan's kernels at the shapes that mamba_ssm was measured at, and whole training
//! steps. Prints `METRIC:<name>:<value>:<unit>` lines.
//!
//! `cargo run --release -p statetune --example cuda_bench [-- kernels | steps | all [--model 130m|1.4b] [--methods a,b]]`

#[path = "cuda_bench/kernels.rs"]
mod kernels;
#[path = "cuda_bench/steps.rs"]
mod steps;

use statetune::ssm_kernels::runtime::Cuda;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1).cloned());
    let part = arguments.first().map_or("all", String::as_str);
    let cuda = Cuda::new(0)?;
    let info = cuda.info().expect("a device that is there");
    println!("GPU:{} ({}, driver for CUDA {})", info.name, info.arch, info.driver_version);
    if ["kernels", "all"].contains(&part) {
        kernels::run(&cuda)?;
    }
    drop(cuda);
    if ["steps", "all"].contains(&part) {
        let model = option("--model").unwrap_or_else(|| "130m".into());
        let methods = option("--methods").unwrap_or_else(|| "state-offset-h,initial-state,lora".into());
        let lengths = option("--lengths").unwrap_or_else(|| "128,512,2048".into());
        let lengths = lengths.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
        for method in methods.split(',') {
            for &length in &lengths {
                steps::run(&model, method, length)?;
            }
        }
    }
    Ok(())
}

/// The median of some numbers.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
