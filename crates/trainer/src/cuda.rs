//! Training steps on a CUDA device: gradients, their judgement and the update without a word from the host, micro-batches
//! of sizes that come again as captured graphs.
//!
//! A captured graph is of one size (tokens, sequences, labelled rows), a bucket: batches are filled up to it by a dead tail.
//! The first batch of a bucket runs without a graph, which loads and allocates what the capture then finds. What differs
//! between its batches lies in device memory and is rewritten before each launch: tokens, labelled rows, the loss's divisor,
//! and where there is dropout its step and the rows' identities. What a step came to is read back while the next one runs.

use std::collections::HashMap;

use statetune_mamba_model::{Batch, Bound, DropoutStep, Mamba, Patches};
use statetune_peft_methods::Adapter;
use statetune_ssm_kernels::adamw::cuda::{Constants, Optimizer, Outcome, Parts, Trained};
use statetune_ssm_kernels::runtime::cuda::{Cuda, Graph, MemoryUse, Readback, View};
use statetune_tensor::cuda::DeviceTensor;
use statetune_tensor::ops::Divisor;
use statetune_tensor::{DType, Device, Staged, Tape, Tensor};

use crate::TrainError;
use crate::long::{self, Chunks, LongSequence};
use crate::optimizer::{AdamW, AdamWSettings};
use crate::step::{MicroBatch, hidden_states, labelled_tokens};

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
    dropout: Option<u64>, // its seed; the step is read from memory
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

/// Arrays that the optimiser's kernels and captured graphs know by address: they are kept here as long as those.
struct TrainedTensor {
    parameter: DeviceTensor,
    m: DeviceTensor,
    v: DeviceTensor,
    gradient: DeviceTensor,
}

/// Runs the steps of one adapter on one device. It keeps what a captured graph reads: model, patches and moments.
pub struct DeviceSteps {
    cuda: Cuda,
    model: Mamba,
    patches: Patches,
    optimizer: Optimizer,
    trained: Vec<TrainedTensor>,
    seen: HashMap<Bucket, Seen>,
    readback: Readback<u64>,
    graphs: bool,
    dropout_step: Staged<u64>, // [1], where dropout reads it
    eager_parts: Parts,
    chunk_tokens: usize,
    seen_long: bool,
}

/// The number of tokens, rows or sequences that a batch is filled up to: at most a sixteenth more.
fn filled(count: usize, least: usize) -> usize {
    count.next_multiple_of((count.next_power_of_two() / 16).max(least))
}

impl DeviceSteps {
    /// For a model on a CUDA device, an adapter's tensors, which it trains in place, and an optimiser's moments. Without
    /// `graphs` every step is launched anew.
    ///
    /// # Errors
    /// The model is on another device, or the device's memory does not suffice.
    pub fn new(model: &Mamba, adapter: &Adapter, moments: &mut AdamW, graphs: bool) -> Result<DeviceSteps, TrainError> {
        let Device::Cuda(cuda) = model.device().clone() else {
            return Err(TrainError::NothingToDo { reason: "the model is not on a CUDA device".into() });
        };
        moments.to(model.device())?;
        let on_device = |tensor: &Tensor| -> Result<DeviceTensor, TrainError> { Ok(tensor.on_cuda(&cuda)?.clone()) };
        let (mut trained, mut rules) = (Vec::new(), Vec::new());
        let tensors = adapter.patches().tensors().iter().zip(adapter.specs()).zip(moments.moments());
        for ((tensor, spec), (m, v)) in tensors.filter(|((tensor, _), _)| tensor.trained) {
            let parameter = on_device(&tensor.buffer.tensor())?;
            let gradient = DeviceTensor::zeros(&cuda, DType::F32, parameter.shape())?;
            trained.push(TrainedTensor { parameter, m: on_device(m)?, v: on_device(v)?, gradient });
            rules.push((spec.decay, spec.rate as f32));
        }
        let &AdamWSettings { beta1, beta2, eps, weight_decay, .. } = moments.settings();
        let constants = Constants { beta1, beta2, eps, weight_decay };
        let views: Vec<Trained> = trained
            .iter()
            .zip(&rules)
            .map(|(tensor, &(decays, rate)): (&TrainedTensor, _)| Trained {
                parameter: tensor.parameter.view(),
                m: tensor.m.view(),
                v: tensor.v.view(),
                gradient: tensor.gradient.view(),
                decays,
                rate,
            })
            .collect();
        let optimizer = Optimizer::new(&cuda, &views, constants, moments.updates())?;
        drop(views);
        Ok(DeviceSteps {
            readback: Readback::new(&cuda, Optimizer::RECORD_WORDS)?,
            eager_parts: optimizer.parts()?,
            model: model.clone(),
            patches: adapter.patches().clone(),
            seen: HashMap::new(),
            cuda,
            optimizer,
            trained,
            graphs,
            chunk_tokens: 0,
            seen_long: false,
            dropout_step: [0].into(),
        })
    }

    /// The same where a sequence of more than so many tokens (0: none) goes through the model that many at a time, launched
    /// anew each time: see [`gradients_by_chunks`](crate::step::gradients_by_chunks).
    pub fn by_chunks(mut self, chunk_tokens: usize) -> DeviceSteps {
        self.chunk_tokens = chunk_tokens;
        self
    }

    /// Launches the gradients of a step, summed over its micro-batches; [`DeviceSteps::update`] applies them.
    ///
    /// # Errors
    /// There is no labelled token; the model refuses a batch; the device fails.
    pub fn gradients(&mut self, micro_batches: &[MicroBatch], dropout: Option<DropoutStep>) -> Result<(), TrainError> {
        let labelled = labelled_tokens(micro_batches)?;
        let dropout = dropout.filter(|_| self.patches.has_dropout());
        if let Some(DropoutStep { step, .. }) = dropout {
            self.dropout_step.rewrite(&self.cuda, &[step])?;
        }
        let captures = self.graphs;
        let (whole, long) = long::split(micro_batches, self.chunk_tokens)?;
        for (i, micro) in whole.iter().filter(|micro| !micro.rows.is_empty()).enumerate() {
            let first = i == 0;
            let (bucket, prepared) = self.prepare(micro, labelled, dropout)?;
            let seen = if captures { self.seen.remove(&bucket) } else { None };
            let captured = match seen {
                None => {
                    self.eager(&prepared, dropout, first)?;
                    if self.seen.is_empty() {
                        self.cuda.consolidate_working()?;
                    }
                    self.seen.insert(bucket, Seen::Once);
                    continue;
                }
                Some(Seen::Once) => Box::new(self.capture(prepared, dropout)?),
                Some(Seen::Captured(captured)) => {
                    captured.rewrite(&self.cuda, &prepared)?;
                    captured
                }
            };
            let _working = self.cuda.working();
            if let Some(graph) = &captured.graph {
                graph.launch().map_err(statetune_tensor::TensorError::from)?;
            }
            self.optimizer.take(&captured.parts, captured.loss.view(), first)?;
            self.seen.insert(bucket, Seen::Captured(captured));
        }
        let first = whole.iter().all(|micro| micro.rows.is_empty());
        self.chunk_by_chunk(&long, labelled, dropout, first)
    }

    /// Launches the gradients of sequences that are longer than a chunk; the first may be the first of the step.
    fn chunk_by_chunk(
        &mut self,
        sequences: &[LongSequence],
        labelled: usize,
        dropout: Option<DropoutStep>,
        mut first: bool,
    ) -> Result<(), TrainError> {
        let (model, patches, chunk_tokens) = (&self.model, &self.patches, self.chunk_tokens);
        let chunks = Chunks { model, patches, dropout, chunk_tokens, divisor: (labelled as f64).into() };
        for sequence in sequences {
            chunks.gradients(sequence, |loss, gradients| {
                let loss = match loss {
                    Some(loss) => loss.on_cuda(&self.cuda)?.clone(),
                    None => DeviceTensor::zeros(&self.cuda, DType::F32, &[])?,
                };
                self.place(&self.eager_parts, &gradients)?;
                self.optimizer.take(&self.eager_parts, loss.view(), first)?;
                first = false;
                Ok(())
            })?;
            if !self.seen_long {
                self.cuda.consolidate_working()?;
                self.seen_long = true;
            }
        }
        Ok(())
    }

    /// Fills a micro-batch up to its bucket.
    fn prepare(
        &self,
        micro: &MicroBatch,
        labelled: usize,
        dropout: Option<DropoutStep>,
    ) -> Result<(Bucket, Prepared), TrainError> {
        let (tokens, sequences, rows) = (micro.batch.tokens(), micro.batch.sequences(), micro.rows.len());
        let prefix = micro.prefix.as_ref().map_or(0, Batch::tokens);
        let mut bucket = Bucket { prefix, tokens, sequences, rows, dropout: dropout.map(|step| step.seed) };
        if self.graphs {
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
        let rows = micro.rows.iter().copied().chain(none.clone()).collect();
        let (mut prefix, mut batch) = (micro.prefix.clone(), batch);
        if dropout.is_some() {
            prefix = prefix.map(|prefix| prefix.for_dropout(&[].into()));
            batch = batch.for_dropout(&rows);
        }
        let prepared = Prepared {
            prefix,
            batch,
            rows,
            targets: micro.targets.iter().copied().chain(none).collect(),
            divisor: Divisor::from(labelled as f64),
        };
        Ok((bucket, prepared))
    }

    /// Gradients of a micro-batch, launched one by one.
    fn eager(&self, prepared: &Prepared, dropout: Option<DropoutStep>, first: bool) -> Result<(), TrainError> {
        prepared.stage(&self.cuda)?;
        let _working = self.cuda.working();
        let (loss, gradients) = self.micro_gradients(prepared, dropout)?;
        self.place(&self.eager_parts, &gradients)?;
        Ok(self.optimizer.take(&self.eager_parts, loss.on_cuda(&self.cuda)?.view(), first)?)
    }

    fn capture(&self, inputs: Prepared, dropout: Option<DropoutStep>) -> Result<Captured, TrainError> {
        // What is looked up lies where nothing else will: a graph keeps using the working pool's places.
        inputs.stage(&self.cuda)?;
        let parts = self.optimizer.parts()?;
        let _working = self.cuda.working();
        let mut result = None;
        let graph = self.cuda.capture_tuned(|| -> Result<(), TrainError> {
            result = Some(self.micro_gradients(&inputs, dropout)?);
            Ok(())
        })?;
        let (loss, gradients) = result.expect("the work ran");
        self.place(&parts, &gradients)?;
        let loss = loss.on_cuda(&self.cuda)?.clone();
        Ok(Captured { graph, inputs, loss, parts })
    }

    /// The loss and the gradients of one micro-batch.
    fn micro_gradients(
        &self,
        micro: &Prepared,
        dropout: Option<DropoutStep>,
    ) -> Result<(Tensor, Vec<Option<Tensor>>), TrainError> {
        let tape = Tape::new(self.model.device());
        let bound = Bound::new(&tape, &self.model, &self.patches, dropout)?.reading_step(&self.dropout_step);
        let hidden = hidden_states(&self.model, &tape, &bound, micro.prefix.as_ref(), &micro.batch)?;
        let (rows, targets) = (micro.rows.clone(), micro.targets.clone());
        let divisor = micro.divisor.clone();
        let loss = self.model.loss(&tape, &bound, &micro.batch, &hidden, rows, targets, divisor)?.loss;
        drop(hidden);
        let gradients = match loss.is_tracked() {
            true => bound.gradients(&mut tape.backward(&loss)?),
            false => vec![None; self.patches.tensors().len()],
        };
        Ok((loss.tensor().clone(), gradients))
    }

    /// Tells the optimiser where a micro-batch's gradients are.
    fn place(&self, parts: &Parts, gradients: &[Option<Tensor>]) -> Result<(), TrainError> {
        let trained = self.patches.tensors().iter().zip(gradients).filter(|(tensor, _)| tensor.trained);
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
    pub fn gradients_on_host(&self) -> Result<Vec<Option<Tensor>>, TrainError> {
        let mut own = self.trained.iter();
        let mut found = Vec::new();
        for tensor in self.patches.tensors() {
            found.push(match tensor.trained {
                true => Some(own.next().expect("one per trained tensor").gradient.to_host()?),
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
    planned_by_chunks(model, adapter, settings, tokens, length, 0)
}

/// The same where sequences of more than `chunk_tokens` tokens go through the model that many at a time.
///
/// # Errors
/// As [`planned`].
pub fn planned_by_chunks(
    model: &Mamba,
    adapter: &Adapter,
    settings: AdamWSettings,
    tokens: usize,
    length: usize,
    chunk_tokens: usize,
) -> Result<MemoryUse, TrainError> {
    let Device::Cuda(cuda) = model.device() else {
        return Err(TrainError::NothingToDo { reason: "a plan needs a model on a planning device".into() });
    };
    let mut moments = AdamW::new(adapter, settings);
    let mut steps = DeviceSteps::new(model, adapter, &mut moments, false)?.by_chunks(chunk_tokens);
    let whole = tokens / length.max(1);
    let lengths = std::iter::repeat_n(length, whole).chain(Some(tokens - whole * length)).filter(|&length| length > 0);
    let batch = Batch::new(&lengths.map(|length| vec![0u32; length]).collect::<Vec<_>>())?;
    let (rows, targets) = ((0..tokens as u32).collect(), vec![0; tokens]);
    steps.gradients(&[MicroBatch { prefix: None, batch, rows, targets }], None)?;
    steps.update(0.0, 0.0)?;
    Ok(cuda.memory_use())
}
