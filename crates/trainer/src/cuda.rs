//! Training steps on a CUDA device: gradients, their judgement and the update without a word from the host, micro-batches
//! of sizes that come again as captured graphs.
//!
//! A captured graph is of one size (tokens, sequences, labelled rows), a bucket: batches are filled up to it by a dead tail.
//! The first batch of a bucket runs without a graph, which loads and allocates what the capture then finds. What a step came
//! to is read back while the next one runs.

use std::collections::HashMap;

use statetune_mamba_model::{Batch, Bound, DropoutStep, Mamba, Patches};
use statetune_peft_methods::Adapter;
use statetune_ssm_kernels::adamw::cuda::{Constants, Optimizer, Outcome, Parts, Trained};
use statetune_ssm_kernels::runtime::cuda::{Cuda, Graph, MemoryUse, Readback, View};
use statetune_tensor::cuda::DeviceTensor;
use statetune_tensor::ops::Divisor;
use statetune_tensor::{DType, Device, Staged, Tape, Tensor};

use crate::TrainError;
use crate::optimizer::{AdamW, AdamWSettings};
use crate::step::MicroBatch;

/// Stands for no labelled row, and for no target.
const NONE: u32 = u32::MAX;

/// A micro-batch as a forward pass takes it, filled up to its bucket.
struct Prepared {
    prefix: Option<Batch>,
    batch: Batch,
    rows: Staged<u32>,
    targets: Staged<u32>,
    divisor: Divisor,
}

/// The size of a captured graph.
#[derive(PartialEq, Eq, Hash, Clone, Copy, Debug)]
struct Bucket {
    prefix: usize,
    tokens: usize,
    sequences: usize,
    rows: usize,
}

/// What is known of a bucket.
enum Seen {
    /// It came once, and everything it needs is loaded.
    Once,
    /// It was captured, with these places for what changes.
    Captured(Box<Captured>),
}

struct Captured {
    graph: Option<Graph>, // none when planning
    inputs: Prepared,
    loss: DeviceTensor,
    parts: Parts,
}

/// Runs the steps of one adapter on one device.
pub struct DeviceSteps {
    cuda: Cuda,
    optimizer: Optimizer,
    gradients: Vec<DeviceTensor>,
    seen: HashMap<Bucket, Seen>,
    readback: Readback<u64>,
    graphs: bool,
    eager_parts: Parts,
}

/// The number of tokens, rows or sequences that a batch is filled up to: at most a sixteenth more.
fn filled(count: usize, least: usize) -> usize {
    count.next_multiple_of((count.next_power_of_two() / 16).max(least))
}

impl DeviceSteps {
    /// For an adapter's tensors and an optimiser's moments, which must stay where they are. Without `graphs` every step is
    /// launched anew.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn new(cuda: &Cuda, adapter: &Adapter, moments: &mut AdamW, graphs: bool) -> Result<DeviceSteps, TrainError> {
        moments.to(&Device::Cuda(cuda.clone()))?;
        let moments = &*moments;
        let settings: &AdamWSettings = moments.settings();
        let on_device = |tensor: &Tensor| -> Result<DeviceTensor, TrainError> { Ok(tensor.on_cuda(cuda)?.clone()) };
        let mut arrays = Vec::new();
        let tensors = adapter.patches().tensors().iter().zip(adapter.specs()).zip(moments.moments());
        for ((tensor, spec), (m, v)) in tensors.filter(|((tensor, _), _)| tensor.trained) {
            let parameter = on_device(&tensor.buffer.tensor())?;
            let gradient = DeviceTensor::zeros(cuda, DType::F32, parameter.shape())?;
            arrays.push((parameter, on_device(m)?, on_device(v)?, gradient, spec.decay, spec.rate as f32));
        }
        let trained: Vec<Trained> = arrays
            .iter()
            .map(|(parameter, m, v, gradient, decays, rate)| Trained {
                parameter: parameter.view(),
                m: m.view(),
                v: v.view(),
                gradient: gradient.view(),
                decays: *decays,
                rate: *rate,
            })
            .collect();
        let constants = Constants {
            beta1: settings.beta1,
            beta2: settings.beta2,
            eps: settings.eps,
            weight_decay: settings.weight_decay,
        };
        let optimizer = Optimizer::new(cuda, &trained, constants, moments.updates())?;
        let readback = Readback::new(cuda, Optimizer::RECORD_WORDS)?;
        let eager_parts = optimizer.parts()?;
        drop(trained);
        let gradients = arrays.into_iter().map(|array| array.3).collect();
        let (cuda, seen) = (cuda.clone(), HashMap::new());
        Ok(DeviceSteps { cuda, optimizer, gradients, seen, readback, graphs, eager_parts })
    }

    /// Launches the gradients of a step, summed over its micro-batches; [`DeviceSteps::update`] applies them.
    ///
    /// # Errors
    /// There is no labelled token; the model refuses a batch; the device fails.
    pub fn gradients(
        &mut self,
        model: &Mamba,
        patches: &Patches,
        micro_batches: &[MicroBatch],
        dropout: Option<DropoutStep>,
    ) -> Result<(), TrainError> {
        let labelled: usize = micro_batches.iter().map(|micro| micro.rows.len()).sum();
        if labelled == 0 {
            return Err(TrainError::NothingToDo {
                reason: "a step has no labelled token: there is nothing to learn".into(),
            });
        }
        // A dropout mask depends on the step, which a captured graph would not see.
        let captures = self.graphs && !patches.has_dropout();
        for (i, micro) in micro_batches.iter().filter(|micro| !micro.rows.is_empty()).enumerate() {
            let (bucket, prepared) = self.prepare(micro, labelled, captures)?;
            // What is looked up lies where nothing else will: a graph keeps using the working pool's places.
            if !self.is_captured(bucket) {
                prepared.stage(&self.cuda)?;
            }
            if !captures || !self.seen.contains_key(&bucket) {
                self.eager(model, patches, &prepared, dropout, i == 0)?;
                if self.seen.is_empty() {
                    self.cuda.consolidate_working()?;
                }
                self.seen.entry(bucket).or_insert(Seen::Once);
                continue;
            }
            if let Some(Seen::Once) = self.seen.get(&bucket) {
                let captured = self.capture(model, patches, prepared)?;
                self.seen.insert(bucket, Seen::Captured(Box::new(captured)));
            } else if let Some(Seen::Captured(captured)) = self.seen.get(&bucket) {
                captured.rewrite(&self.cuda, &prepared)?;
            }
            let Some(Seen::Captured(captured)) = self.seen.get(&bucket) else { unreachable!("captured above") };
            if let Some(graph) = &captured.graph {
                graph.launch().map_err(statetune_tensor::TensorError::from)?;
            }
            self.optimizer.take(&captured.parts, captured.loss.view(), i == 0)?;
        }
        Ok(())
    }

    fn is_captured(&self, bucket: Bucket) -> bool {
        matches!(self.seen.get(&bucket), Some(Seen::Captured(_)))
    }

    /// Fills a micro-batch up to its bucket.
    fn prepare(&self, micro: &MicroBatch, labelled: usize, fill_up: bool) -> Result<(Bucket, Prepared), TrainError> {
        let (tokens, sequences, rows) = (micro.batch.tokens(), micro.batch.sequences(), micro.rows.len());
        let prefix = micro.prefix.as_ref().map_or(0, Batch::tokens);
        let mut bucket = Bucket { prefix, tokens, sequences, rows };
        if fill_up {
            bucket.tokens = filled(tokens, 64);
            bucket.rows = filled(rows, 8);
            if bucket.tokens > tokens {
                bucket.sequences = filled(sequences + 1, 4);
            }
        }
        let batch = match bucket.tokens > tokens {
            true => micro.batch.with_dead_tail(bucket.tokens, bucket.sequences)?,
            false => micro.batch.clone(),
        };
        let none = std::iter::repeat_n(NONE, bucket.rows - rows);
        let prepared = Prepared {
            prefix: micro.prefix.clone(),
            batch,
            rows: micro.rows.iter().copied().chain(none.clone()).collect(),
            targets: micro.targets.iter().copied().chain(none).collect(),
            divisor: Divisor::from(labelled as f64),
        };
        Ok((bucket, prepared))
    }

    /// Gradients of a micro-batch, launched one by one.
    fn eager(
        &self,
        model: &Mamba,
        patches: &Patches,
        prepared: &Prepared,
        dropout: Option<DropoutStep>,
        first: bool,
    ) -> Result<(), TrainError> {
        let _working = self.cuda.working();
        let (loss, gradients) = micro_gradients(model, patches, prepared, dropout)?;
        self.place(patches, &self.eager_parts, &gradients)?;
        Ok(self.optimizer.take(&self.eager_parts, loss.on_cuda(&self.cuda)?.view(), first)?)
    }

    fn capture(&self, model: &Mamba, patches: &Patches, inputs: Prepared) -> Result<Captured, TrainError> {
        let parts = self.optimizer.parts()?;
        let _working = self.cuda.working();
        let mut result = None;
        let graph = self.cuda.capture(|| -> Result<(), TrainError> {
            result = Some(micro_gradients(model, patches, &inputs, None)?);
            Ok(())
        })?;
        let (loss, gradients) = result.expect("the work ran");
        self.place(patches, &parts, &gradients)?;
        let loss = loss.on_cuda(&self.cuda)?.clone();
        Ok(Captured { graph, inputs, loss, parts })
    }

    /// Tells the optimiser where a micro-batch's gradients are.
    fn place(&self, patches: &Patches, parts: &Parts, gradients: &[Option<Tensor>]) -> Result<(), TrainError> {
        let trained = patches.tensors().iter().zip(gradients).filter(|(tensor, _)| tensor.trained);
        let mut dense = Vec::new();
        for (_, gradient) in trained {
            dense.push(gradient.as_ref().map(|gradient| gradient.on_cuda(&self.cuda)).transpose()?);
        }
        let views: Vec<Option<View>> = dense.iter().map(|gradient| gradient.map(DeviceTensor::view)).collect();
        Ok(self.optimizer.place(parts, &views)?)
    }

    /// The gradients of the step on the host, in the order of the adapter's tensors; `None` for constants.
    ///
    /// # Errors
    /// When the device fails.
    pub fn gradients_on_host(&self, patches: &Patches) -> Result<Vec<Option<Tensor>>, TrainError> {
        let mut own = self.gradients.iter();
        let mut found = Vec::new();
        for tensor in patches.tensors() {
            found.push(match tensor.trained {
                true => Some(own.next().expect("one per trained tensor").to_host()?),
                false => None,
            });
        }
        Ok(found)
    }

    /// Judges the step's gradients and applies them at this learning rate, with their norm cut to `clip_norm` (0: as it is).
    ///
    /// # Errors
    /// When the device fails.
    pub fn update(&mut self, lr: f64, clip_norm: f64) -> Result<(), TrainError> {
        self.optimizer.set(lr, clip_norm)?;
        self.optimizer.update()?;
        Ok(self.readback.start(self.optimizer.record())?)
    }

    /// What the last step came to, once the device is through with it; `None` if that is known already.
    ///
    /// # Errors
    /// When the device fails.
    pub fn outcome(&mut self) -> Result<Option<Outcome>, TrainError> {
        Ok(self.readback.take()?.map(|words| Outcome::of(&words)))
    }
}

impl Prepared {
    fn stage(&self, cuda: &Cuda) -> Result<(), TrainError> {
        if let Some(prefix) = &self.prefix {
            prefix.stage(cuda)?;
        }
        self.batch.stage(cuda)?;
        self.rows.on(cuda)?;
        self.targets.on(cuda)?;
        self.divisor.inverse().on(cuda)?;
        Ok(())
    }
}

impl Captured {
    /// Puts another batch of the bucket where the graph reads.
    fn rewrite(&self, cuda: &Cuda, other: &Prepared) -> Result<(), TrainError> {
        if let (Some(own), Some(other)) = (&self.inputs.prefix, &other.prefix) {
            own.rewrite(cuda, other)?;
        }
        self.inputs.batch.rewrite(cuda, &other.batch)?;
        self.inputs.rows.rewrite(cuda, &other.rows)?;
        self.inputs.targets.rewrite(cuda, &other.targets)?;
        Ok(self.inputs.divisor.inverse().rewrite(cuda, other.divisor.inverse())?)
    }
}

/// What a step of so many tokens, all of them labelled, in sequences of so many, will hold on a device: the model must be on a
/// planning one, so nothing is computed.
///
/// # Errors
/// When the model is on another device.
pub fn planned(
    model: &Mamba,
    adapter: &Adapter,
    settings: AdamWSettings,
    tokens: usize,
    length: usize,
) -> Result<MemoryUse, TrainError> {
    let Device::Cuda(cuda) = model.device() else {
        return Err(TrainError::NothingToDo { reason: "a plan needs a model on a planning device".into() });
    };
    let mut moments = AdamW::new(adapter, settings);
    let mut steps = DeviceSteps::new(cuda, adapter, &mut moments, false)?;
    let whole = tokens / length.max(1);
    let lengths = std::iter::repeat_n(length, whole).chain(Some(tokens - whole * length)).filter(|&length| length > 0);
    let batch = Batch::new(&lengths.map(|length| vec![0u32; length]).collect::<Vec<_>>())?;
    let (rows, targets) = ((0..tokens as u32).collect(), vec![0; tokens]);
    steps.gradients(model, adapter.patches(), &[MicroBatch { prefix: None, batch, rows, targets }], None)?;
    steps.update(0.0, 0.0)?;
    Ok(cuda.memory_use())
}

/// The loss and the gradients of one micro-batch.
fn micro_gradients(
    model: &Mamba,
    patches: &Patches,
    micro: &Prepared,
    dropout: Option<DropoutStep>,
) -> Result<(Tensor, Vec<Option<Tensor>>), TrainError> {
    let tape = Tape::new(model.device());
    let bound = Bound::new(&tape, model, patches, dropout)?;
    let states = match &micro.prefix {
        Some(prefix) => {
            let output = model.forward(&tape, &bound, prefix, None, true)?;
            Some(output.states.expect("asked for").shared_by(micro.batch.sequences())?)
        }
        None => None,
    };
    let hidden = model.forward(&tape, &bound, &micro.batch, states.as_ref(), false)?.hidden;
    let (rows, targets) = (micro.rows.clone(), micro.targets.clone());
    let loss = model.loss(&tape, &bound, &micro.batch, &hidden, rows, targets, micro.divisor.clone())?.loss;
    drop(hidden);
    let gradients = match loss.is_tracked() {
        true => bound.gradients(&mut tape.backward(&loss)?),
        false => vec![None; patches.tensors().len()],
    };
    Ok((loss.tensor().clone(), gradients))
}
