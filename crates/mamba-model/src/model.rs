//! The Mamba-1 language model: its tensors in memory and its forward pass.

use std::path::{Path, PathBuf};

use statetune_tensor::ops::{self, Divisor, LossOutput};
use statetune_tensor::{DType, Device, Staged, Tape, Tensor, TensorError, Var, Weight};

use crate::ModelError;
use crate::batch::Batch;
use crate::block::{Context, InitialStates};
use crate::bound::Bound;
use crate::checkpoint::{Checkpoint, RawTensor, SaveOptions, TensorToSave, expected_tensors, save_hugging_face};
use crate::config::MambaConfig;
use crate::head::Head;
use crate::parameters::{Id, Ids, Parameter, stays_in_storage_type};
use crate::site::Ends;
use crate::state::StateVars;

/// A Mamba-1 language model on a device. It is never changed in place by training: patches are.
#[derive(Debug, Clone)]
pub struct Mamba {
    config: MambaConfig,
    device: Device,
    compute: DType,
    parameters: Vec<Parameter>,
    placed: Vec<Tensor>, // the parameters where the device computes
    ids: Ids,
    a: Vec<Tensor>, // per layer -exp(A_log) [D, N]
}

/// What a forward pass returns.
pub struct Output {
    /// `[T, d_model]`, after the last norm: what the head multiplies.
    pub hidden: Var,
    /// The same of the soft tokens `[k, d_model]` that were put in front of the sequences, once for all.
    pub soft_hidden: Option<Var>,
    /// The final states of the sequences, if asked for.
    pub states: Option<StateVars>,
}

impl Mamba {
    /// Reads a model folder and checks it whole, the weights' finiteness included.
    ///
    /// `compute` is f32, or f64 for the reference path (weights are then widened).
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`] and [`Checkpoint::validate`]; `compute` is a storage type.
    pub fn load(folder: &Path, device: &Device, compute: DType) -> Result<Mamba, ModelError> {
        let checkpoint = Checkpoint::open(folder)?;
        checkpoint.validate()?;
        Mamba::from_checkpoint(&checkpoint, device, compute)
    }

    /// The same from a checkpoint that was validated.
    ///
    /// # Errors
    /// A tensor is missing, or does not fit its type.
    pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device, compute: DType) -> Result<Mamba, ModelError> {
        let config = checkpoint.config().mamba()?.clone();
        let mut parameters = Vec::new();
        for (name, _) in expected_tensors(&config) {
            let raw = checkpoint.tensor(&name)?;
            let wide = Device::trained_type(compute);
            let dtype = if wide == DType::F32 && stays_in_storage_type(&name) { raw.dtype() } else { wide };
            // Double precision on disk is computed in single precision like everything else.
            let dtype = if wide == DType::F32 && dtype == DType::F64 { DType::F32 } else { dtype };
            parameters.push(Parameter { value: read(raw, dtype)?, stored: raw.dtype(), name });
        }
        Mamba::new(config, device, compute, parameters)
    }

    /// A model over given tensors, in the order of [`expected_tensors`].
    ///
    /// # Errors
    /// When the device does not compute in `compute`, or its memory does not suffice.
    pub(crate) fn new(
        config: MambaConfig,
        device: &Device,
        compute: DType,
        parameters: Vec<Parameter>,
    ) -> Result<Mamba, ModelError> {
        check_compute(device, compute)?;
        let ids = Ids::new(&config);
        let tape = Tape::inference(device);
        // In one piece, with the A of every layer.
        #[cfg(feature = "cuda")]
        if let Device::Cuda(cuda) = device {
            let bytes = |parameter: &Parameter| parameter.value.len() * placed_type(parameter, compute).bytes();
            let a = ids.layers.iter().map(|layer| bytes(&parameters[layer.a_log]));
            cuda.reserve_lasting(parameters.iter().map(bytes).chain(a)).map_err(TensorError::from)?;
        }
        let placed: Vec<Tensor> =
            parameters.iter().map(|parameter| place(parameter, device, compute)).collect::<Result<_, ModelError>>()?;
        let a = ids.layers.iter().map(|layer| {
            let a_log = placed[layer.a_log].clone().into();
            Ok(ops::neg_exp(&tape, &a_log)?.tensor().clone())
        });
        let a = a.collect::<Result<_, ModelError>>()?;
        Ok(Mamba { config, device: device.clone(), compute, parameters, placed, ids, a })
    }

    /// Shapes and options.
    pub fn config(&self) -> &MambaConfig {
        &self.config
    }

    /// The device it computes on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type it computes in.
    pub fn compute(&self) -> DType {
        self.compute
    }

    /// The type of trained tensors and their gradients: the compute type, or single precision beside bf16 activations.
    pub fn trained_type(&self) -> DType {
        Device::trained_type(self.compute)
    }

    /// A device of the host, for work on the stored tensors: the model's own where it is one.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn host(&self) -> Result<Device, ModelError> {
        match &self.device {
            Device::Cpu(_) => Ok(self.device.clone()),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => Ok(Device::best_cpu()?),
        }
    }

    /// The stored tensors in the memory of the host, in the order of the computation.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The stored tensor of this name.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.ids.find(name).map(|id| &self.parameters[id])
    }

    /// The number of stored numbers.
    pub fn size(&self) -> usize {
        self.parameters.iter().map(|p| p.value.len()).sum()
    }

    /// The same model with some stored tensors replaced (merging, full fine-tuning). Values are rounded to the storage
    /// type of the tensor they replace.
    ///
    /// # Errors
    /// When there is no such tensor or the shape differs.
    pub fn with_parameters(&self, replaced: Vec<(String, Tensor)>) -> Result<Mamba, ModelError> {
        let mut parameters = self.parameters.clone();
        for (name, value) in replaced {
            let fail = |reason: String| ModelError::Patch { name: name.clone(), reason };
            let id = self.ids.find(&name).ok_or_else(|| fail("the model has no such tensor".into()))?;
            let parameter = &mut parameters[id];
            if parameter.value.shape() != value.shape() {
                return Err(fail(format!("shape {:?}, expected {:?}", value.shape(), parameter.value.shape())));
            }
            parameter.value = value.to_host()?.cast(parameter.value.dtype());
        }
        Mamba::new(self.config.clone(), &self.device, self.compute, parameters)
    }

    /// A model of another configuration made from this one: tensors that are given replace its own, or are new. New ones
    /// get the storage type of the embedding.
    ///
    /// # Errors
    /// When a tensor of the new configuration is neither given nor there, or of another shape; one that is given is not in
    /// the configuration.
    pub fn rebuilt(
        &self,
        config: MambaConfig,
        mut given: std::collections::BTreeMap<String, Tensor>,
    ) -> Result<Mamba, ModelError> {
        let fail = |name: &str, reason: String| ModelError::Patch { name: name.to_owned(), reason };
        let mut parameters = Vec::new();
        for (name, shape) in expected_tensors(&config) {
            let own = self.parameter(&name);
            let embedding = &self.parameters[self.ids.embedding];
            let like = own.unwrap_or(embedding);
            let wide = self.trained_type();
            let dtype = if stays_in_storage_type(&name) || own.is_some() { like.value.dtype() } else { wide };
            let value = given
                .remove(&name)
                .map(|given| given.to_host())
                .transpose()?
                .or_else(|| own.map(|own| own.value.clone()));
            let value = value.ok_or_else(|| fail(&name, "the configuration calls for it, but there is none".into()))?;
            if value.shape() != shape {
                return Err(fail(&name, format!("shape {:?}, expected {shape:?}", value.shape())));
            }
            parameters.push(Parameter { value: value.cast(dtype), stored: like.stored, name });
        }
        if let Some(name) = given.keys().next() {
            return Err(fail(name, "the configuration has no such tensor".into()));
        }
        Mamba::new(config, &self.device, self.compute, parameters)
    }

    /// The same model with its head as a tensor of its own, so that embedding and head can differ.
    ///
    /// # Errors
    /// None for a valid model.
    pub fn untied(&self) -> Result<Mamba, ModelError> {
        if !self.config.tie_word_embeddings {
            return Ok(self.clone());
        }
        let config = MambaConfig { tie_word_embeddings: false, ..self.config.clone() };
        let mut parameters = self.parameters.clone();
        let embedding = &self.parameters[self.ids.embedding];
        parameters.push(Parameter { name: crate::checkpoint::LM_HEAD.into(), ..embedding.clone() });
        Mamba::new(config, &self.device, self.compute, parameters)
    }

    /// The same model stored in the type that it computes in: nothing that is written into it is rounded to a narrower one.
    ///
    /// # Errors
    /// None for a valid model.
    pub fn widened(&self) -> Result<Mamba, ModelError> {
        let wide = |parameter: &Parameter| Parameter {
            name: parameter.name.clone(),
            value: parameter.value.cast(self.trained_type()),
            stored: self.trained_type(),
        };
        let parameters = self.parameters.iter().map(wide).collect();
        Mamba::new(self.config.clone(), &self.device, self.compute, parameters)
    }

    /// The same model, to be saved in another type: its values are rounded to it. `A_log` and D stay f32, as the published
    /// kernels keep them.
    ///
    /// # Errors
    /// None for a valid model.
    pub fn stored_as(&self, dtype: DType) -> Result<Mamba, ModelError> {
        let stored = |parameter: &Parameter| {
            let is_f32 = parameter.name.ends_with(".A_log") || parameter.name.ends_with(".D");
            let stored = if is_f32 { DType::F32 } else { dtype };
            let value = parameter.value.cast(stored).cast(parameter.value.dtype());
            Parameter { name: parameter.name.clone(), value, stored }
        };
        let parameters = self.parameters.iter().map(stored).collect();
        Mamba::new(self.config.clone(), &self.device, self.compute, parameters)
    }

    /// Writes a Hugging Face folder in the storage types; `companions` (such as `tokenizer.json`) are copied beside.
    ///
    /// # Errors
    /// Those of [`save_hugging_face`].
    pub fn save(&self, folder: &Path, companions: &[PathBuf]) -> Result<(), ModelError> {
        let tensors = self.parameters.iter().map(|parameter| {
            Ok(TensorToSave {
                name: parameter.name.clone(),
                dtype: parameter.stored,
                shape: parameter.value.shape().to_vec(),
                bytes: parameter.value.cast(parameter.stored).to_le_bytes().into(),
            })
        });
        let options = SaveOptions { companions: companions.to_vec(), ..SaveOptions::default() };
        save_hugging_face(folder, &self.config, tensors, &options)
    }

    /// Computes the hidden states of a packed batch.
    ///
    /// `states` continues sequences (see [`crate::State`]); without it sequences begin, from the trained initial states,
    /// virtual inputs and soft tokens if there are any: what comes before the tokens is run once, for all sequences.
    /// `final_states` asks for the states after the last tokens.
    ///
    /// # Errors
    /// A token id is not below the vocabulary's size; the states are not those of this model and batch.
    pub fn forward(
        &self,
        tape: &Tape,
        bound: &Bound,
        batch: &Batch,
        states: Option<&StateVars>,
        final_states: bool,
    ) -> Result<Output, ModelError> {
        self.check_batch(batch, states.map(|states| (states.layers.len(), states.row_of.len())))?;
        let (mut soft_hidden, mut begun) = (None, None);
        if let (None, Some(tokens)) = (states, bound.soft_tokens()) {
            let alone = Batch::virtual_inputs(tokens.shape()[0]);
            let context = Context { tape, model: self, bound, batch: &alone };
            let tokens = ops::cast(tape, tokens, self.compute)?;
            let output = self.layers(&context, tokens, None, true)?;
            begun = Some(output.states.expect("asked for").shared_by(batch.sequences())?);
            soft_hidden = Some(output.hidden);
        }
        let context = Context { tape, model: self, bound, batch };
        let embedded = self.embed(&context)?;
        let output = self.layers(&context, embedded, states.or(begun.as_ref()), final_states)?;
        Ok(Output { soft_hidden, ..output })
    }

    /// Checks the tokens, and the layers and sequences of the states that the batch goes on from.
    pub(crate) fn check_batch(&self, batch: &Batch, states: Option<(usize, usize)>) -> Result<(), ModelError> {
        if let Some((at, &id)) = batch.ids().iter().enumerate().find(|&(_, &id)| id as usize >= self.config.vocab_size)
        {
            return Err(ModelError::TokenOutOfRange { id, at, vocab_size: self.config.vocab_size });
        }
        let expected = (self.config.num_hidden_layers, batch.sequences());
        if let Some((layers, sequences)) = states.filter(|&found| found != expected) {
            let reason = format!(
                "{layers} layers and {sequences} sequences for a model of {} layers and a batch of {} sequences",
                expected.0, expected.1
            );
            return Err(ModelError::State { reason });
        }
        Ok(())
    }

    /// From embedded inputs `[T, d_model]` to hidden states.
    fn layers(
        &self,
        context: &Context<'_>,
        mut hidden: Var,
        states: Option<&StateVars>,
        final_states: bool,
    ) -> Result<Output, ModelError> {
        let (tape, eps) = (context.tape, self.config.layer_norm_epsilon);
        let mut residual: Option<Var> = None;
        let mut final_layers = Vec::new();
        for layer in 0..self.config.num_hidden_layers {
            let weight = context.value(self.ids.layers[layer].norm);
            let (normed, sum) = ops::add_rms_norm(tape, &hidden, residual.as_ref(), &weight, eps)?;
            let initial = states.map(|s| {
                let (conv, ssm) = &s.layers[layer];
                InitialStates { conv, ssm, row_of: &s.row_of }
            });
            let (out, layer_states) = context.mixer(layer, &normed, initial, final_states)?;
            final_layers.extend(layer_states);
            (hidden, residual) = (out, Some(sum));
        }
        let weight = context.value(self.ids.norm_f);
        let (hidden, _) = ops::add_rms_norm(tape, &hidden, residual.as_ref(), &weight, eps)?;
        let states = final_states.then(|| StateVars { layers: final_layers, row_of: context.batch.own_rows() });
        Ok(Output { hidden, soft_hidden: None, states })
    }

    /// The embedded tokens `[T, d_model]` with everything patched onto the embedding.
    pub(crate) fn embed(&self, context: &Context<'_>) -> Result<Var, ModelError> {
        let (tape, ids, id) = (context.tape, context.batch.ids(), self.ids.embedding);
        let weight = self.weight(id)?;
        let mut x = ops::embedding(tape, &weight, context.bound.trained(id), ids, self.compute)?;
        let parts = || context.bound.low_rank(id).iter().filter(|part| part.is_at(Ends::Input));
        // A gain is for the matrix and its own addition: all else comes after it.
        for part in parts().filter(|part| part.gain.is_some()).chain(parts().filter(|part| part.gain.is_none())) {
            // Row `id` of B A: a lookup in B, then the small product.
            let rows = ops::embedding(tape, &weight, Some(&part.b), ids, self.compute)?;
            let rows = part.dropped(tape, &rows, context.batch.dropout_rows())?.unwrap_or(rows);
            let rows = part.with_diagonal(tape, rows)?;
            let addition = ops::scale(tape, &ops::matmul(tape, &rows, &part.a)?, part.scale)?;
            x = ops::add(tape, &x, &addition)?;
            if let Some(gain) = &part.gain {
                x = ops::scale_columns(tape, &x, gain)?;
            }
        }
        Ok(x)
    }

    /// Logits `[R, vocab_size]` of some rows of the hidden states.
    ///
    /// # Errors
    /// When a row is not below T.
    pub fn logits(
        &self,
        tape: &Tape,
        bound: &Bound,
        hidden: &Var,
        rows: impl Into<Staged<u32>>,
    ) -> Result<Var, ModelError> {
        let x = ops::select_rows(tape, hidden, &rows.into())?;
        Head::new(tape, self, bound, &x, None)?.logits(tape)
    }

    /// The cross-entropy of the tokens `targets` `[R]` at `rows` `[R]` of the batch's hidden states, summed and divided by
    /// `divisor`.
    ///
    /// # Errors
    /// When a row is not below T or a target not below the vocabulary's size.
    pub fn loss(
        &self,
        tape: &Tape,
        bound: &Bound,
        batch: &Batch,
        hidden: &Var,
        rows: impl Into<Staged<u32>>,
        targets: impl Into<Staged<u32>>,
        divisor: impl Into<Divisor>,
    ) -> Result<LossOutput, ModelError> {
        let (rows, targets, divisor) = (rows.into(), targets.into(), divisor.into());
        let every_row = rows.len() == hidden.shape()[0] && rows.iter().enumerate().all(|(i, &row)| i == row as usize);
        let selected;
        let x = if every_row {
            hidden
        } else {
            selected = ops::select_rows(tape, hidden, &rows)?;
            &selected
        };
        let identities = patched_at_head(self, bound).then(|| batch.dropout_rows_of(&rows));
        Head::new(tape, self, bound, x, identities.as_ref())?.loss(tape, &targets, &divisor)
    }

    pub(crate) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// A parameter where the device computes.
    pub(crate) fn value(&self, id: Id) -> &Tensor {
        &self.placed[id]
    }

    pub(crate) fn weight(&self, id: Id) -> Result<Weight, ModelError> {
        Ok(Weight::new(self.value(id).clone())?)
    }

    /// A = -exp(`A_log`) of a layer.
    pub(crate) fn a(&self, layer: usize) -> &Tensor {
        &self.a[layer]
    }
}

/// Whether the head has a patch that may drop its inputs.
fn patched_at_head(model: &Mamba, bound: &Bound) -> bool {
    !bound.low_rank(model.ids.head).is_empty()
}

/// A tensor of a file, in memory.
fn read(raw: &RawTensor, dtype: DType) -> Result<Tensor, ModelError> {
    let shape = raw.shape();
    Ok(match dtype {
        DType::F32 => Tensor::from_vec(raw.to_f32()?, shape)?,
        DType::F64 => Tensor::from_vec(raw.to_f64(), shape)?,
        DType::Bf16 => Tensor::from_vec(raw.to_bf16()?, shape)?,
        DType::F16 => Tensor::from_vec(raw.to_f16()?, shape)?,
    })
}

/// A parameter where the device computes.
fn place(parameter: &Parameter, device: &Device, compute: DType) -> Result<Tensor, ModelError> {
    if matches!(device, Device::Cpu(_)) {
        return Ok(parameter.value.clone());
    }
    Ok(parameter.value.cast(placed_type(parameter, compute)).to(device)?)
}

/// The type of a parameter on a CUDA device: matrices are of the compute type, all else is f32.
fn placed_type(parameter: &Parameter, compute: DType) -> DType {
    if stays_in_storage_type(&parameter.name) { compute } else { Device::trained_type(compute) }
}

/// Checks that the device computes in this type.
pub(crate) fn check_compute(device: &Device, compute: DType) -> Result<(), ModelError> {
    match device.computes(compute) {
        true => Ok(()),
        false => Err(TensorError::NotComputed { op: "model", found: compute }.into()),
    }
}
