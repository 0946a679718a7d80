//! `statetune doctor`: what this machine has, and whether its GPU computes what the processor does.

use anyhow::bail;
use serde_json::{Value, json};
use statetune_trainer::config::DeviceSection;

use super::{DoctorArguments, Output, setup};

/// A method, the largest difference on the GPU, and how much is allowed.
type Compared = (String, f64, f64);

pub(super) fn run(arguments: &DoctorArguments, output: Output) -> anyhow::Result<()> {
    let mut found = json!({ "processor": format!("{:?}", setup::device(&DeviceSection::default())?) });
    let kind = arguments.device.clone().unwrap_or_else(|| "cuda".into());
    let mut failed = Vec::new();
    match gpu(&kind, output) {
        Ok((gpu, differences)) => {
            found["gpu"] = gpu;
            for (what, difference, tolerance) in &differences {
                // What is no number is no agreement.
                if !matches!(
                    difference.partial_cmp(tolerance),
                    Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)
                ) {
                    failed.push(format!("{what}: {difference:e}, allowed {tolerance:e}"));
                }
            }
            found["self_test"] = json!({
                "compared": "loss and gradients of every method on the GPU in f32 with the processor's",
                "methods": differences.len(),
                "largest_difference": differences.iter().map(|(_, d, _)| *d).fold(0.0, f64::max),
                "failed": failed,
            });
        }
        Err(error) if arguments.device.is_some() => return Err(error),
        Err(error) => found["gpu"] = json!(format!("none: {error:#}")),
    }
    super::inspect::show(&found, output);
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("the GPU does not compute what the processor does: {}", failed.join("; ")),
    }
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: &str, _: Output) -> anyhow::Result<(Value, Vec<Compared>)> {
    bail!("this build has no CUDA: build it with the feature `cuda`")
}

#[cfg(feature = "cuda")]
fn gpu(kind: &str, output: Output) -> anyhow::Result<(Value, Vec<Compared>)> {
    use statetune_tensor::Device;

    let device = setup::device(&DeviceSection { kind: Some(kind.to_owned()), ..DeviceSection::default() })?;
    let Device::Cuda(cuda) = &device else { bail!("`--device {kind}` is no GPU") };
    let info = cuda.info().expect("a device that is there");
    let described = json!({
        "device": info.name,
        "number": info.ordinal,
        "architecture": info.arch,
        "multiprocessors": info.multiprocessors,
        "memory": info.memory.to_string(),
        "driver_speaks_cuda": format!("{}.{}", info.driver_version / 1000, info.driver_version % 1000 / 10),
        "nvrtc": info.nvrtc.map_or("not found".to_owned(), |(major, minor)| format!("{major}.{minor}")),
        "cublaslt": if info.cublaslt { "found" } else { "not found" },
    });
    Ok((described, self_test::compare(&device, output)?))
}

#[cfg(feature = "cuda")]
mod self_test {
    use anyhow::Context;
    use statetune_mamba_model::config::MambaConfig;
    use statetune_mamba_model::{Batch, Bound, Mamba};
    use statetune_peft_methods::{Adapter, METHODS, PeftError, methods};
    use statetune_ssm_kernels::random::{normal, stream_of};
    use statetune_tensor::{DType, Device, Tape, Tensor};

    use super::super::Output;
    use super::super::progress::Bar;

    /// Of the largest value of each tensor, or of 1e-3 where all are smaller.
    const TOLERANCE: f64 = 2e-3;

    /// The largest difference of loss and gradients by method.
    pub fn compare(device: &Device, output: Output) -> anyhow::Result<Vec<super::Compared>> {
        let host = Device::best_cpu()?;
        let config = MambaConfig { d_state: 16, use_bias: true, ..MambaConfig::new(97, 24, 2) };
        let on = |device: &Device| Mamba::random(&config, device, DType::F32, DType::F32, 1);
        let (reference, model) = (on(&host)?, on(device)?);
        let mut bar = Bar::new("self-test", output.quiet);
        let mut found = Vec::new();
        for (i, info) in METHODS.iter().enumerate() {
            for mut example in (info.examples)() {
                example["method"] = info.tag.into();
                let name = example.to_string();
                let expected = match values(&reference, &example) {
                    // A start that needs LAPACK; its kernels are those of LoRA.
                    Err(error) if matches!(error.downcast_ref(), Some(PeftError::MissingFeature { .. })) => continue,
                    other => other?,
                };
                let values = values(&model, &example).with_context(|| name.clone())?;
                let worst = expected
                    .iter()
                    .zip(&values)
                    .map(|(a, b)| difference(a, b))
                    .fold(0.0, |worst: f64, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) });
                found.push((name, worst, TOLERANCE));
            }
            bar.at(i as u64 + 1, METHODS.len() as u64, String::new);
        }
        Ok(found)
    }

    fn difference(a: &[f64], b: &[f64]) -> f64 {
        let largest = a.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
        a.iter().zip(b).map(|(a, b)| (a - b).abs() / largest).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
    }

    /// The loss and the gradients of one method's tensors, moved off their start, on unequal sequences.
    fn values(model: &Mamba, example: &serde_json::Value) -> anyhow::Result<Vec<Vec<f64>>> {
        let adapter = Adapter::new(model, vec![methods::parse_value(example.clone())?], 3)?;
        for (tensor, _) in adapter.patches().tensors().iter().zip(adapter.specs()).filter(|(_, spec)| spec.saved) {
            let value = tensor.buffer.tensor();
            let mut noise = vec![0f64; value.len()];
            normal(&mut noise, 0.0, 0.05, 9, stream_of(&tensor.name));
            let sum: Vec<f64> = value.to_f64_vec().iter().zip(&noise).map(|(v, n)| v + n).collect();
            tensor.buffer.set(Tensor::from_vec(sum, value.shape())?.cast(value.dtype()))?;
        }
        let sequence = |length: u32| (0..length).map(|i| (i * 7 + i * i + length) % 97).collect::<Vec<u32>>();
        let batch = Batch::new(&[sequence(1), sequence(75), sequence(17)])?;
        let tape = Tape::new(model.device());
        let bound = Bound::new(&tape, model, adapter.patches(), None)?;
        let hidden = model.forward(&tape, &bound, &batch, None, false)?.hidden;
        let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
        let targets: Vec<u32> = rows.iter().map(|row| row * 5 % 97).collect();
        let loss = model.loss(&tape, &bound, &batch, &hidden, rows, targets, batch.tokens() as f64)?.loss;
        let mut values = vec![vec![loss.tensor().item()?]];
        let gradients = bound.gradients(&mut tape.backward(&loss)?);
        values.extend(gradients.iter().flatten().map(Tensor::to_f64_vec));
        Ok(values)
    }
}
