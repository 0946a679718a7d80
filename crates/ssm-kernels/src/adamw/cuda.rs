//! Launches of `adamw.cu`: a step's gradients gathered, judged and applied, all tensors in one launch each.

use super::AdamWStep;
use crate::args;
use crate::runtime::cuda::{Array, Cuda, CudaError, Define, ElementType, Source, View};

pub(crate) static SOURCE: Source = Source::new("adamw", include_str!("adamw.cu"));

/// Elements per chunk, as the source has them.
const CHUNK: usize = 4096;

/// Words of a tensor's description.
const SLOT: usize = 8;

/// Words of the record.
const RECORD: usize = 6;

const DEFINES: [Define; 1] = [("ACT_BF16", 0)];

/// One trained tensor: its arrays, all f32 and of one length.
#[derive(Debug, Clone, Copy)]
pub struct Trained<'a> {
    /// The parameter.
    pub parameter: View<'a>,
    /// The first moment.
    pub m: View<'a>,
    /// The second moment.
    pub v: View<'a>,
    /// The gradient of the step.
    pub gradient: View<'a>,
    /// Whether it decays.
    pub decays: bool,
    /// Its multiple of the learning rate.
    pub rate: f32,
}

/// What the host sets once for a run.
#[derive(Debug, Clone, Copy)]
pub struct Constants {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay of tensors that decay.
    pub weight_decay: f64,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// The loss.
    pub loss: f32,
    /// The norm of all gradients together.
    pub norm: f32,
    /// Whether loss and gradients were finite: only then anything moved.
    pub finite: bool,
    /// Updates so far.
    pub updates: u64,
    /// Steps so far.
    pub steps: u64,
}

impl Outcome {
    /// From the words of [`Optimizer::record`].
    ///
    /// # Panics
    /// When there are not as many as a record has.
    pub fn of(words: &[u64]) -> Outcome {
        let floats = |word: u64| [f32::from_bits(word as u32), f32::from_bits((word >> 32) as u32)];
        let [loss, norm] = floats(words[0]);
        let [_, finite] = floats(words[1]);
        Outcome { loss, norm, finite: finite != 0.0, updates: words[4], steps: words[5] }
    }
}

/// The trained tensors as a launch finds them, and what a step leaves behind.
pub struct Optimizer {
    cuda: Cuda,
    lengths: Vec<usize>,
    chunks: usize,
    slots: Vec<[u64; SLOT]>,
    constants: Constants,
    descriptions: Array,
    partial: Array,
    loss: Array,
    settings: Array,
    record: Array,
}

/// The tensors with the gradients of one micro-batch.
pub struct Parts {
    descriptions: Array,
}

impl Optimizer {
    /// For these tensors, after `updates` updates. The arrays must stay where they are.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    ///
    /// # Panics
    /// When the arrays of a tensor are not f32 or of different lengths.
    #[track_caller]
    pub fn new(cuda: &Cuda, tensors: &[Trained], constants: Constants, updates: u64) -> Result<Optimizer, CudaError> {
        let (mut lengths, mut slots, mut chunks) = (Vec::new(), Vec::new(), 0usize);
        for tensor in tensors {
            let len = tensor.parameter.len();
            for (name, view) in [
                ("parameter", tensor.parameter),
                ("first moment", tensor.m),
                ("second moment", tensor.v),
                ("gradient", tensor.gradient),
            ] {
                view.check(name, ElementType::F32, len);
            }
            let numbers =
                u64::from((f32::from(u8::from(tensor.decays))).to_bits()) | u64::from(tensor.rate.to_bits()) << 32;
            let [p, m, v, g] = [tensor.parameter, tensor.m, tensor.v, tensor.gradient].map(|view| view.pointer());
            slots.push([p, m, v, g, len as u64, chunks as u64, numbers, 0]);
            lengths.push(len);
            chunks += len.div_ceil(CHUNK).max(1);
        }
        let mut record = [0u64; RECORD];
        record[4] = updates;
        Ok(Optimizer {
            descriptions: cuda.upload(&slots.concat())?,
            partial: cuda.zeros(ElementType::F64, chunks)?,
            loss: cuda.zeros(ElementType::F32, 1)?,
            settings: cuda.zeros(ElementType::F64, 2)?,
            record: cuda.upload(&record)?,
            cuda: cuda.clone(),
            lengths,
            chunks,
            slots,
            constants,
        })
    }

    /// Room for the places of a micro-batch's gradients, which [`Optimizer::place`] fills: a captured graph needs the room
    /// before the places are known.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn parts(&self) -> Result<Parts, CudaError> {
        let descriptions = self.cuda.array(ElementType::U64, self.slots.len() * SLOT)?;
        Ok(Parts { descriptions })
    }

    /// Says where a micro-batch's gradients are, in the order of the tensors.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When a gradient is not f32, or of another length than its tensor.
    #[track_caller]
    pub fn place(&self, parts: &Parts, gradients: &[Option<View>]) -> Result<(), CudaError> {
        assert_eq!(gradients.len(), self.slots.len(), "one gradient per tensor");
        let mut slots = self.slots.clone();
        for ((slot, gradient), len) in slots.iter_mut().zip(gradients).zip(&self.lengths) {
            if let Some(gradient) = gradient {
                gradient.check("gradient of a micro-batch", ElementType::F32, *len);
                slot[7] = gradient.pointer();
            }
        }
        self.cuda.write(parts.descriptions.view(), &slots.concat())
    }

    /// Adds a micro-batch's gradients and loss to the step's; the first overwrites them.
    ///
    /// # Errors
    /// When the launch fails.
    pub fn take(&self, parts: &Parts, loss: View, first: bool) -> Result<(), CudaError> {
        loss.check("loss", ElementType::F32, 1);
        let count = self.slots.len() as i32;
        let args = args![parts.descriptions.view(), count, self.loss.view(), loss, i32::from(first)];
        self.cuda.launch(&SOURCE, &DEFINES, "take_gradients", self.grid(), 256, 0, &args)
    }

    /// Sets what the next step reads: its learning rate and the largest norm of its gradient (0: any).
    ///
    /// # Errors
    /// When the device fails.
    pub fn set(&self, lr: f64, clip_norm: f64) -> Result<(), CudaError> {
        self.cuda.write(self.settings.view(), &[lr, clip_norm])
    }

    /// Judges the step's gradients and applies them.
    ///
    /// # Errors
    /// When a launch fails.
    pub fn update(&self) -> Result<(), CudaError> {
        let (count, c) = (self.slots.len() as i32, &self.constants);
        let descriptions = self.descriptions.view();
        let args = args![descriptions, count, self.partial.view()];
        self.cuda.launch(&SOURCE, &DEFINES, "squares", self.grid(), 256, 0, &args)?;
        let (settings, record) = (self.settings.view(), self.record.view());
        let chunks = self.chunks as i32;
        let args = args![record, self.partial.view(), chunks, self.loss.view(), settings, c.beta1, c.beta2];
        self.cuda.launch(&SOURCE, &DEFINES, "decide", [1, 1, 1], 256, 0, &args)?;
        let (of_gradient, of_square) = ((1.0 - c.beta1) as f32, (1.0 - c.beta2) as f32);
        let (beta2, eps) = (c.beta2 as f32, c.eps as f32);
        let args = args![descriptions, count, record, settings, c.weight_decay, of_gradient, beta2, of_square, eps];
        self.cuda.launch(&SOURCE, &DEFINES, "update", self.grid(), 256, 0, &args)
    }

    /// What the last step came to, on the device: for [`Outcome::of`].
    pub fn record(&self) -> View<'_> {
        self.record.view()
    }

    /// Words of a record.
    pub const RECORD_WORDS: usize = RECORD;

    fn grid(&self) -> [u32; 3] {
        [self.chunks as u32, 1, 1]
    }
}

/// One update of one tensor: what [`super::adamw`] does.
///
/// # Errors
/// When the device fails.
///
/// # Panics
/// When the arrays are not f32 or of different lengths, or `step` is 0.
#[track_caller]
pub fn adamw(cuda: &Cuda, parameter: View, m: View, v: View, gradient: View, s: &AdamWStep) -> Result<(), CudaError> {
    assert!(s.step > 0, "steps count from 1");
    let constants = Constants { beta1: s.beta1, beta2: s.beta2, eps: s.eps, weight_decay: s.weight_decay };
    let scaled;
    let gradient = if s.grad_scale == 1.0 {
        gradient
    } else {
        scaled = cuda.array(ElementType::F32, gradient.len())?;
        crate::elementwise::cuda::scale(cuda, scaled.view(), gradient, s.grad_scale as f32)?;
        scaled.view()
    };
    let tensor = Trained { parameter, m, v, gradient, decays: true, rate: 1.0 };
    let optimizer = Optimizer::new(cuda, &[tensor], constants, s.step - 1)?;
    optimizer.set(s.lr, 0.0)?;
    optimizer.update()
}
