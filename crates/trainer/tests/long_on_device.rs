//! Long sequences by chunks on a GPU: the gradients of one pass, beside captured steps too, in memory that does not grow with
//! the sequence. The first runs where `STATETUNE_TEST_DEVICE` asks for a device; the plan needs none.
#![cfg(feature = "cuda")]

#[path = "../../../tests/support/test_device.rs"]
mod test_device;

use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{Batch, DropoutStep, Mamba};
use statetune_peft_methods::{Adapter, methods};
use statetune_ssm_kernels::random::{normal, stream_of};
use statetune_ssm_kernels::runtime::Cuda;
use statetune_ssm_kernels::runtime::cuda::MemoryUse;
use statetune_tensor::{DType, Device, Tensor};
use statetune_trainer::cuda::{DeviceSteps, planned_by_chunks};
use statetune_trainer::step::{MicroBatch, gradients};
use statetune_trainer::{AdamW, AdamWSettings};

const VOCAB: u32 = 97;

fn model(device: &Device, compute: DType) -> Mamba {
    let config = MambaConfig { d_state: 16, ..MambaConfig::new(VOCAB as usize, 24, 2) };
    Mamba::random(&config, device, compute, DType::F32, 3).unwrap()
}

/// With tensors away from the start: at zeros many gradients are none.
fn adapter(model: &Mamba, method: &Value) -> Adapter {
    let adapter = Adapter::new(model, vec![methods::parse_value(method.clone()).unwrap()], 5).unwrap();
    for tensor in adapter.patches().tensors() {
        let value = tensor.buffer.tensor().to_host().unwrap();
        let mut noise = vec![0f64; value.len()];
        normal(&mut noise, 0.0, 0.1, 9, stream_of(&tensor.name));
        let sum: Vec<f64> = value.to_f64_vec().iter().zip(&noise).map(|(v, n)| v + n).collect();
        tensor.buffer.set(Tensor::from_vec(sum, value.shape()).unwrap().cast(value.dtype())).unwrap();
    }
    adapter
}

/// Every position of sequences of these lengths labelled.
fn micro(lengths: &[u32], seed: u32) -> MicroBatch {
    let token = |s: u32, i: u32| (seed * 31 + s * 17 + i * i * 5 + i) % VOCAB;
    let sequences: Vec<Vec<u32>> =
        lengths.iter().zip(0..).map(|(&length, s)| (0..length).map(|i| token(s, i)).collect()).collect();
    let batch = Batch::new(&sequences).unwrap();
    let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
    let targets = rows.iter().map(|row| (row * 7 + seed) % VOCAB).collect();
    MicroBatch { prefix: None, batch, rows, targets }
}

fn numbers(gradients: &[Option<Tensor>]) -> Vec<Vec<f64>> {
    gradients.iter().map(|gradient| gradient.as_ref().map_or(Vec::new(), Tensor::to_f64_vec)).collect()
}

/// The largest difference, relative to the largest number of its tensor.
fn apart(expected: &[Vec<f64>], found: &[Vec<f64>]) -> f64 {
    let of = |(a, b): (&Vec<f64>, &Vec<f64>)| {
        assert_eq!(a.len(), b.len());
        let scale = a.iter().fold(1e-3, |m: f64, x| m.max(x.abs()));
        a.iter().zip(b).map(|(a, b)| (a - b).abs() / scale).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
    };
    expected.iter().zip(found).map(of).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

/// The third of equal steps is captured where it is not long.
#[test]
fn by_chunks_is_one_pass_on_a_device() {
    let Some((_, Device::Cuda(cuda), compute)) = test_device::asked_for() else { return };
    let step = [micro(&[5, 20, 9], 1), micro(&[75, 13, 40], 2)];
    for method in [
        json!({"method": "state-offset-h"}),
        json!({"method": "initial-state"}),
        json!({"method": "prompt-tuning", "tokens": 3}),
        json!({"method": "additional-scan", "states": 3}),
        json!({"method": "lora", "rank": 2, "targets": ["in_proj", "x_proj", "out_proj"], "dropout": 0.2}),
        json!({"method": "full"}),
    ] {
        let dropout = Some(DropoutStep { seed: 3, step: 7 });
        let processor = model(&Device::best_cpu().unwrap(), DType::F32);
        let expected = gradients(&processor, adapter(&processor, &method).patches(), &step, dropout).unwrap();
        let model = model(&Device::Cuda(cuda.clone()), compute);
        let of = |chunk_tokens: usize| {
            let adapter = adapter(&model, &method);
            let mut optimizer = AdamW::new(&adapter, AdamWSettings::default());
            let mut steps = DeviceSteps::new(&model, &adapter, &mut optimizer, true).unwrap().by_chunks(chunk_tokens);
            let mut found = Vec::new();
            for _ in 0..3 {
                steps.gradients(&step, dropout).unwrap();
                steps.update(0.0, 0.0).unwrap();
                let loss = f64::from(steps.outcome().unwrap().unwrap().loss);
                found.push((numbers(&steps.gradients_on_host().unwrap()), loss));
            }
            found
        };
        let (close, loose) = if compute == DType::Bf16 { (5e-2, 0.25) } else { (1e-3, 2e-3) };
        let (whole, whole_loss) = of(0).pop().unwrap();
        for chunk_tokens in [1, 17, 32] {
            let all = of(chunk_tokens);
            for (chunked, loss) in &all {
                let name = format!("{method}, chunks of {chunk_tokens}");
                let difference = apart(&whole, chunked);
                assert!(difference <= close, "{name}: {difference:e} from one pass");
                assert!((loss - whole_loss).abs() <= close, "{name}: loss {loss}, in one pass {whole_loss}");
                let difference = apart(&numbers(&expected.gradients), chunked);
                assert!(difference <= loose, "{name}: {difference:e} from the processor");
                assert!((loss - expected.loss).abs() <= loose, "{name}: loss {loss}, expected {}", expected.loss);
            }
        }
    }
}

/// At the width of mamba-130m, with fewer layers and tokens: what a plan holds is made of the same parts.
#[test]
fn the_working_memory_does_not_grow_with_the_sequence() {
    let config = MambaConfig::new(1000, 768, 3);
    let plan = |tokens: usize, chunk: usize| -> MemoryUse {
        let device = Device::Cuda(Cuda::planning());
        let model = Mamba::random(&config, &device, DType::Bf16, DType::Bf16, 0).unwrap();
        let adapter = adapter(&model, &json!({"method": "state-offset-h"}));
        planned_by_chunks(&model, &adapter, AdamWSettings::default(), tokens, tokens, chunk).unwrap()
    };
    let [shorter, longer] = [65_536, 262_144].map(|tokens| plan(tokens, 8192));
    assert_eq!(shorter.peak[1], longer.peak[1], "a step's working memory");
    // conv [D, 3] and scan [D, 16] of every layer, at each of 24 more borders.
    let borders = (longer.peak[0].0 - shorter.peak[0].0) as f64 / (24 * 3 * 1536 * (3 + 16) * 4) as f64;
    assert!((1.0..1.01).contains(&borders), "{borders} of the borders' states");
    let whole = plan(65_536, 0);
    assert!(whole.peak[1].0 > 6 * shorter.peak[1].0, "one pass {}, by chunks {}", whole.peak[1], shorter.peak[1]);
}
