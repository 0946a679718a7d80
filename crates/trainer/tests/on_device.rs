//! Training steps on a GPU: as on the processor, launched or captured, with the same bits each time. They run where
//! `STATETUNE_TEST_DEVICE` asks for a device (`cargo xtask test --cuda`, or `--cuda-emulated`), and are no tests elsewhere.
#![cfg(feature = "cuda")]

#[path = "../../../tests/support/test_device.rs"]
mod test_device;

use serde_json::{Value, json};
use statetune_datasets_eval::{Counts, Dataset, Example};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{Batch, DropoutStep, Mamba};
use statetune_peft_methods::{Adapter, methods};
use statetune_ssm_kernels::runtime::Cuda;
use statetune_tensor::{DType, Device};
use statetune_trainer::cuda::{DeviceSteps, planned};
use statetune_trainer::record::Record;
use statetune_trainer::step::{MicroBatch, gradients};
use statetune_trainer::{AdamW, AdamWSettings, Observer, Run, TrainSettings, config};

const VOCAB: u32 = 97;

fn model(device: &Device, compute: DType) -> Mamba {
    let config = MambaConfig { d_state: 16, ..MambaConfig::new(VOCAB as usize, 24, 2) };
    Mamba::random(&config, device, compute, DType::F32, 3).unwrap()
}

fn adapter(model: &Mamba, method: &Value) -> Adapter {
    Adapter::new(model, vec![methods::parse_value(method.clone()).unwrap()], 5).unwrap()
}

/// Batches of two sizes of bucket that come again, with and without a prefix that all sequences share; a step of two
/// micro-batches at the end.
fn steps() -> Vec<Vec<MicroBatch>> {
    let micro = |seed: u32, lengths: &[u32], prefix: bool| {
        let token = |s: u32, i: u32| (seed * 31 + s * 17 + i * i * 5 + i) % VOCAB;
        let sequences: Vec<Vec<u32>> =
            lengths.iter().zip(0..).map(|(&length, s)| (0..length).map(|i| token(s, i)).collect()).collect();
        let batch = Batch::new(&sequences).unwrap();
        let rows = batch.last_rows();
        let targets = rows.iter().map(|row| (row * 7 + seed) % VOCAB).collect();
        MicroBatch { prefix: prefix.then(|| Batch::new(&[[1u32, 2, 3, 4, 5]]).unwrap()), batch, rows, targets }
    };
    let mut steps = Vec::new();
    for round in 0..4 {
        steps.push(vec![micro(round, &[5, 40, 17, 1 + round], true)]);
        steps.push(vec![micro(round + 50, &[33, 9 + round, 64], false)]);
    }
    steps.push(vec![micro(90, &[5, 40, 17, 2], true), micro(91, &[33, 10, 64], false)]);
    steps
}

fn dropout(step: usize) -> DropoutStep {
    DropoutStep { seed: 11, step: step as u64 }
}

/// What the adapter's tensors are after the steps on a device, and the last loss.
fn on_device(cuda: &Cuda, compute: DType, method: &Value, graphs: bool) -> (Vec<Vec<f64>>, f64) {
    let model = model(&Device::Cuda(cuda.clone()), compute);
    let adapter = adapter(&model, method);
    let mut optimizer = AdamW::new(&adapter, AdamWSettings { weight_decay: 0.1, ..AdamWSettings::default() });
    let mut device = DeviceSteps::new(&model, &adapter, &mut optimizer, graphs).unwrap();
    let mut loss = f64::NAN;
    for (i, micro_batches) in steps().iter().enumerate() {
        device.gradients(micro_batches, Some(dropout(i))).unwrap();
        device.update(1e-2, 1.0).unwrap();
        let outcome = device.outcome().unwrap().expect("started");
        assert!(outcome.finite);
        assert_eq!((outcome.updates, outcome.steps), (i as u64 + 1, i as u64 + 1));
        loss = f64::from(outcome.loss);
    }
    (values(&adapter), loss)
}

fn on_processor(method: &Value) -> (Vec<Vec<f64>>, f64) {
    let device = Device::best_cpu().unwrap();
    let model = model(&device, DType::F32);
    let adapter = adapter(&model, method);
    let mut optimizer = AdamW::new(&adapter, AdamWSettings { weight_decay: 0.1, ..AdamWSettings::default() });
    let mut loss = f64::NAN;
    for (i, micro_batches) in steps().iter().enumerate() {
        let result = gradients(&model, adapter.patches(), micro_batches, Some(dropout(i))).unwrap();
        let scale = (1.0 / (result.norm(&device).unwrap() + 1e-6)).min(1.0);
        optimizer.update(&device, &adapter, &result.gradients, 1e-2, scale).unwrap();
        loss = result.loss;
    }
    (values(&adapter), loss)
}

fn values(adapter: &Adapter) -> Vec<Vec<f64>> {
    adapter.patches().tensors().iter().map(|tensor| tensor.buffer.tensor().to_f64_vec()).collect()
}

/// The largest difference of two sets of tensors, relative to how far they have moved: about 0.1 here.
fn difference(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

fn subjects() -> Vec<Value> {
    vec![
        json!({"method": "state-offset-h"}),
        json!({"method": "initial-state"}),
        json!({"method": "lora", "rank": 2, "targets": ["in_proj", "x_proj", "out_proj", "embeddings"]}),
        json!({"method": "lora", "rank": 2, "targets": ["in_proj", "x_proj", "out_proj", "embeddings"], "dropout": 0.3}),
        json!({"method": "prompt-tuning", "tokens": 3}),
        json!({"method": "full"}),
    ]
}

#[test]
fn a_run_is_that_of_the_processor_and_captured_that_of_launches() {
    let Some((_, Device::Cuda(cuda), compute)) = test_device::asked_for() else { return };
    for method in subjects() {
        let (launched, loss) = on_device(&cuda, compute, &method, false);
        let (captured, captured_loss) = on_device(&cuda, compute, &method, true);
        let (again, _) = on_device(&cuda, compute, &method, true);
        assert!(captured == again, "{method}: other bits in a second run");
        // A bucket is another shape, and its products may add in another order.
        let (apart, tolerance) = (difference(&launched, &captured), if compute == DType::Bf16 { 2e-2 } else { 2e-3 });
        assert!(apart <= tolerance, "{method}: captured and launched differ by {apart:e}");
        assert!((loss - captured_loss).abs() <= tolerance, "{method}: loss {loss} and {captured_loss}");
        let (processor, expected) = on_processor(&method);
        let apart = difference(&processor, &captured);
        // An element whose gradient is about zero may be pushed either way by AdamW: 9 steps of 0.01 at most.
        let allowed = if compute == DType::Bf16 { 0.18 } else { 2e-2 };
        assert!(apart <= allowed, "{method}: processor and device differ by {apart:e}");
        let bound = if compute == DType::Bf16 { 0.1 } else { 2e-3 };
        assert!((expected - captured_loss).abs() <= bound, "{method}: loss {expected} and {captured_loss}");
    }
}

#[test]
fn what_is_kept_is_what_would_be_computed_again() {
    let Some((_, Device::Cuda(cuda), compute)) = test_device::asked_for() else { return };
    for method in subjects() {
        let of = |recompute: bool| {
            cuda.set_recompute(recompute);
            let before = cuda.launches();
            let result = on_device(&cuda, compute, &method, false);
            (result, cuda.launches() - before)
        };
        let ((recomputed, launches), (kept, fewer)) = (of(true), of(false));
        cuda.set_recompute(true);
        assert!(recomputed == kept, "{method}: other bits");
        // Where all weights are trained, both are kept for their gradients.
        let both_kept = method["method"] == "full";
        assert!(
            if both_kept { fewer == launches } else { fewer < launches },
            "{method}: {fewer} and {launches} launches"
        );
    }
}

#[test]
fn what_is_kept_is_planned() {
    let peak = |recompute: bool| {
        let cuda = Cuda::planning();
        cuda.set_recompute(recompute);
        let config = MambaConfig::new(VOCAB as usize, 768, 6);
        let model = Mamba::random(&config, &Device::Cuda(cuda), DType::Bf16, DType::Bf16, 0).unwrap();
        let adapter = adapter(&model, &json!({"method": "state-offset-h"}));
        planned(&model, &adapter, AdamWSettings::default(), 4096, 512).unwrap().peak[1].0
    };
    // Of each layer u and Δ, two bytes per token and channel; the backward has those of one at a time, and more besides.
    let layer = 2 * 2 * 4096 * 1536;
    assert!(peak(false) - peak(true) >= 4 * layer, "{} and {}", peak(false), peak(true));
}

#[test]
fn a_step_that_is_not_finite_moves_nothing() {
    let Some((_, Device::Cuda(cuda), compute)) = test_device::asked_for() else { return };
    let model = model(&Device::Cuda(cuda.clone()), compute);
    let adapter = adapter(&model, &json!({"method": "state-offset-y"}));
    let mut optimizer = AdamW::new(&adapter, AdamWSettings::default());
    let mut device = DeviceSteps::new(&model, &adapter, &mut optimizer, true).unwrap();
    let steps = steps();
    let buffer = &adapter.patches().tensors()[0].buffer;
    let good = buffer.tensor().to_host().unwrap();
    let mut bad = good.clone();
    bad.make_mut::<f32>().unwrap()[3] = f32::INFINITY;
    buffer.set(bad).unwrap();
    let before = values(&adapter);
    device.gradients(&steps[0], None).unwrap();
    device.update(1e-2, 0.0).unwrap();
    let outcome = device.outcome().unwrap().unwrap();
    assert!(!outcome.finite && outcome.updates == 0 && outcome.steps == 1, "{outcome:?}");
    assert!(before == values(&adapter), "a step that is not finite moved something");
    buffer.set(good).unwrap();
    device.gradients(&steps[0], None).unwrap();
    device.update(1e-2, 0.0).unwrap();
    let outcome = device.outcome().unwrap().unwrap();
    assert!(outcome.finite && outcome.updates == 1, "{outcome:?}");
    assert!(before != values(&adapter));
}

/// A plan needs no device, and says what a step will hold.
#[test]
fn a_plan_is_what_a_step_takes() {
    let plan = Cuda::planning();
    let model = model(&Device::Cuda(plan.clone()), DType::Bf16);
    let adapter = adapter(&model, &json!({"method": "state-offset-h"}));
    let mut optimizer = AdamW::new(&adapter, AdamWSettings::default());
    let mut device = DeviceSteps::new(&model, &adapter, &mut optimizer, false).unwrap();
    device.gradients(&steps()[0], None).unwrap();
    device.update(1e-2, 1.0).unwrap();
    let planned = plan.memory_use();
    assert!(planned.peak[0].0 > 0 && planned.peak[1].0 > 0);
    let Some((_, Device::Cuda(cuda), _)) = test_device::asked_for() else { return };
    let fresh = Cuda::new(0).unwrap();
    drop(cuda);
    let model = self::model(&Device::Cuda(fresh.clone()), DType::Bf16);
    let adapter = self::adapter(&model, &json!({"method": "state-offset-h"}));
    let mut optimizer = AdamW::new(&adapter, AdamWSettings::default());
    fresh.reserve_working(planned.peak[1]).unwrap();
    let mut device = DeviceSteps::new(&model, &adapter, &mut optimizer, false).unwrap();
    device.gradients(&steps()[0], None).unwrap();
    device.update(1e-2, 1.0).unwrap();
    device.outcome().unwrap();
    let found = fresh.memory_use();
    assert!(found.peak[1] <= planned.peak[1], "planned {}, taken {}", planned.peak[1], found.peak[1]);
}

/// All weights in rows of one length, as pretraining has them, by the loop: the losses that it logs, with one row per
/// micro-batch and with all in one.
#[test]
fn a_pretraining_logs_the_losses_of_the_processor() {
    let Some((_, cuda, compute)) = test_device::asked_for() else { return };
    let row = |id: u64| {
        let token = |i: u64| ((id * 13 + i * (i + id % 3)) % u64::from(VOCAB)) as u32;
        Example { id, tokens: (0..25).map(token).collect(), labelled_from: 1, class: None }
    };
    let counts = Counts { rows: 1, kept: 10, ..Counts::default() };
    let data = Dataset { examples: (0..10).map(row).collect(), counts, ..Dataset::default() };
    let logged = |device: &Device, compute: DType, micro_batch_tokens: usize| {
        let model = model(device, compute);
        let settings = TrainSettings {
            epochs: 2,
            batch_size: 4,
            micro_batch_tokens,
            learning_rate: 1e-2,
            warmup_steps: 2,
            log_every: 1,
            ..config::pretraining()
        };
        let (train, validation) = (&data, Some(&data));
        let run = Run {
            model: &model,
            base_model: "base",
            train,
            validation,
            settings: &settings,
            folder: None,
            keeps_adapters: false,
        };
        let mut losses = Losses::default();
        let summary = run.train(adapter(&model, &json!({"method": "full"})), false, &mut losses).unwrap();
        assert_eq!((summary.steps, summary.skipped_steps, summary.tokens), (6, 0, 2 * 10 * 24));
        losses.0.push(summary.evaluation.expect("there is validation data").loss);
        losses.0
    };
    let expected = logged(&Device::best_cpu().unwrap(), DType::F32, 24);
    assert!(expected.len() == 7 && expected[5] < expected[0], "{expected:?}");
    for micro_batch_tokens in [24, 96] {
        let found = logged(&cuda, compute, micro_batch_tokens);
        let apart = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let allowed = if compute == DType::Bf16 { 0.05 } else { 1e-3 };
        assert!(apart <= allowed, "micro-batches of {micro_batch_tokens}: {expected:?} on the processor, {found:?}");
    }
}

/// The losses of single steps.
#[derive(Default)]
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn record(&mut self, record: &Record) {
        if let Record::Step(step) = record {
            self.0.push(step.loss);
        }
    }
}

/// Each trains with captured graphs, whose replays write to places that the device's arena counts as free.
#[test]
fn threads_that_share_a_device_do_not_disturb_each_other() {
    let Some((_, Device::Cuda(cuda), compute)) = test_device::asked_for() else { return };
    let method = json!({"method": "state-offset-h"});
    let alone = on_device(&cuda, compute, &method, true);
    let run = || assert!(on_device(&cuda, compute, &method, true) == alone, "other bits beside other threads");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(run);
        }
    });
}

/// As the workers of a comparison: handles of one device, each with a stream, a pool and a model of its own. One captures while
/// others allocate, load kernels and launch.
#[test]
fn handles_of_one_device_do_not_disturb_each_other() {
    let Some((_, Device::Cuda(cuda), compute)) = test_device::asked_for() else { return };
    let dropped = json!({"method": "lora", "rank": 2, "targets": ["x_proj", "out_proj"], "dropout": 0.3});
    for method in [json!({"method": "state-offset-h"}), dropped] {
        let alone = on_device(&cuda, compute, &method, true);
        let run = || {
            let own = Cuda::new(0).unwrap();
            for _ in 0..2 {
                assert!(on_device(&own, compute, &method, true) == alone, "{method}: other bits beside other handles");
                own.start_peak();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(run);
            }
        });
    }
}
