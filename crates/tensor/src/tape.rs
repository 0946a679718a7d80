//! The tape: records operations whose inputs need a gradient, and differentiates them in one loop.
//!
//! The loop is all there is: prune what nobody needs, run each backward once in reverse order, accumulate, free.

use std::cell::RefCell;
use std::collections::HashMap;
#[cfg(feature = "cuda")]
use std::rc::Rc;

use statetune_ssm_kernels::elementwise;

#[cfg(feature = "cuda")]
use crate::ops::LateGradients;
use crate::{Device, Result, Tensor, TensorError, cpu_or, with_float};

/// Which inputs of an operation somebody wants a gradient for.
#[derive(Debug, Clone)]
pub struct Need {
    mask: Vec<bool>,
    // Which inputs are leaves, whose gradients may come late.
    #[cfg(feature = "cuda")]
    late: Option<(Vec<bool>, Rc<LateGradients>)>,
}

impl Need {
    /// A mask, one entry per input.
    pub fn new(mask: Vec<bool>) -> Need {
        Need {
            mask,
            #[cfg(feature = "cuda")]
            late: None,
        }
    }

    /// Whether input `i` needs a gradient.
    pub fn input(&self, i: usize) -> bool {
        self.mask[i]
    }

    /// Whether any input needs one.
    pub fn any(&self) -> bool {
        self.mask.contains(&true)
    }

    /// Where the gradients of these inputs may be left to be made later, if those that are needed may.
    #[cfg(feature = "cuda")]
    pub(crate) fn late(&self, inputs: &[usize]) -> Option<&LateGradients> {
        let (leaves, late) = self.late.as_ref()?;
        inputs.iter().all(|&i| leaves[i] || !self.mask[i]).then_some(&**late)
    }
}

/// The inputs of an operation, some of which may be absent.
pub struct Inputs<'a> {
    op: &'static str,
    tensors: Vec<Option<&'a Tensor>>,
}

impl<'a> Inputs<'a> {
    /// Input `i`.
    ///
    /// # Errors
    /// When it is absent.
    pub fn required(&self, i: usize) -> Result<&'a Tensor> {
        self.optional(i).ok_or(TensorError::MissingInput { op: self.op, index: i })
    }

    /// Input `i`, if present.
    pub fn optional(&self, i: usize) -> Option<&'a Tensor> {
        self.tensors.get(i).copied().flatten()
    }

    /// How many inputs the operation was given, absent ones included.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }
}

/// An operation with any number of inputs and outputs.
///
/// Both directions are told which inputs need a gradient, so that an operation saves and computes only the sides
/// somebody asked for. Gradients that arrive as `None` are zero.
pub trait Op: 'static {
    /// What backward needs of forward. Keep as little as the mask allows.
    type Saved: 'static;

    /// Whether there is a backward. Without one, a tracked input is an error at forward.
    const DIFFERENTIABLE: bool = true;

    /// The name used in errors and profiles.
    fn name(&self) -> &'static str;

    /// Computes the outputs and what backward will need.
    ///
    /// # Errors
    /// When an input has the wrong shape or element type.
    fn forward(&self, device: &Device, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Self::Saved)>;

    /// Computes the gradients of the needed inputs from those of the outputs (`None`: zero).
    ///
    /// # Errors
    /// When a gradient has the wrong shape or element type.
    fn backward(
        &self,
        device: &Device,
        saved: Self::Saved,
        gradients: Vec<Option<Tensor>>,
        need: &Need,
    ) -> Result<Vec<Option<Tensor>>>;

    /// The same where inputs may have gradients already: an operation that can add to one in place takes it out of `onto` and
    /// returns the sum. What it leaves is added afterwards.
    ///
    /// # Errors
    /// As [`Op::backward`].
    fn backward_onto(
        &self,
        device: &Device,
        saved: Self::Saved,
        gradients: Vec<Option<Tensor>>,
        need: &Need,
        onto: &mut [Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let _ = onto;
        self.backward(device, saved, gradients, need)
    }
}

/// A value in a computation: a tensor, and its place on the tape if it needs a gradient.
#[derive(Debug, Clone)]
pub struct Var {
    tensor: Tensor,
    id: Option<usize>,
}

impl Var {
    /// The value.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The shape of the value.
    pub fn shape(&self) -> &[usize] {
        self.tensor.shape()
    }

    /// Whether a gradient flows through it.
    pub fn is_tracked(&self) -> bool {
        self.id.is_some()
    }

    /// The value without its history.
    pub fn detach(&self) -> Var {
        Var { tensor: self.tensor.clone(), id: None }
    }
}

impl From<Tensor> for Var {
    fn from(tensor: Tensor) -> Var {
        Var { tensor, id: None }
    }
}

type Backward = Box<dyn FnOnce(&Device, Vec<Option<Tensor>>, &mut [Option<Tensor>]) -> Result<Vec<Option<Tensor>>>>;

struct Node {
    name: &'static str,
    inputs: Vec<Option<usize>>,
    outputs: std::ops::Range<usize>,
    backward: Backward,
}

/// Records one computation on one device.
pub struct Tape {
    device: Device,
    recording: bool,
    state: RefCell<State>,
    #[cfg(feature = "cuda")]
    late: Rc<LateGradients>,
}

#[derive(Default)]
struct State {
    next_id: usize,
    leaves: Vec<usize>,
    nodes: Vec<Node>,
}

impl Tape {
    /// A tape that records.
    pub fn new(device: &Device) -> Tape {
        Tape::with(device, true)
    }

    /// A tape that records nothing: its leaves are constants. For evaluation and decoding.
    pub fn inference(device: &Device) -> Tape {
        Tape::with(device, false)
    }

    fn with(device: &Device, recording: bool) -> Tape {
        Tape {
            device: device.clone(),
            recording,
            state: RefCell::default(),
            #[cfg(feature = "cuda")]
            late: Rc::default(),
        }
    }

    /// The device the computation runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether leaves are tracked.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// A value whose gradient is wanted.
    pub fn leaf(&self, tensor: Tensor) -> Var {
        let id = self.recording.then(|| self.state.borrow_mut().take_leaf());
        Var { tensor, id }
    }

    /// The names of the recorded operations, in order.
    pub fn recorded(&self) -> Vec<&'static str> {
        self.state.borrow().nodes.iter().map(|n| n.name).collect()
    }

    /// Runs an operation, and records it if an input is tracked.
    ///
    /// # Errors
    /// The operation's own, or [`TensorError::NoBackward`].
    pub fn apply<O: Op>(&self, op: O, inputs: &[Option<&Var>]) -> Result<Vec<Var>> {
        // Without recording nothing is tracked, not even what another tape tracks.
        let ids: Vec<Option<usize>> = inputs.iter().map(|v| v.and_then(|v| v.id).filter(|_| self.recording)).collect();
        let need = self.need(&ids);
        if let (false, Some(input)) = (O::DIFFERENTIABLE, ids.iter().position(Option::is_some)) {
            return Err(TensorError::NoBackward { op: op.name(), input });
        }
        let tensors = Inputs { op: op.name(), tensors: inputs.iter().map(|v| v.map(|v| &v.tensor)).collect() };
        let (outputs, saved) = op.forward(&self.device, &tensors, &need).map_err(|e| e.in_op(op.name()))?;
        if !need.any() {
            return Ok(outputs.into_iter().map(Var::from).collect());
        }
        let mut state = self.state.borrow_mut();
        let output_ids = state.take_ids(outputs.len());
        state.nodes.push(Node {
            name: op.name(),
            inputs: ids,
            outputs: output_ids.clone(),
            backward: Box::new(move |device, gradients, onto| op.backward_onto(device, saved, gradients, &need, onto)),
        });
        Ok(outputs.into_iter().zip(output_ids).map(|(tensor, id)| Var { tensor, id: Some(id) }).collect())
    }

    fn need(&self, ids: &[Option<usize>]) -> Need {
        Need {
            mask: ids.iter().map(Option::is_some).collect(),
            #[cfg(feature = "cuda")]
            late: matches!(self.device, Device::Cuda(_))
                .then(|| (ids.iter().map(|id| id.is_some_and(|id| self.is_leaf(id))).collect(), self.late.clone())),
        }
    }

    fn is_leaf(&self, id: usize) -> bool {
        self.state.borrow().leaves.binary_search(&id).is_ok()
    }

    /// Makes the gradients of leaves that wait for others: they are about to be read.
    fn finish_late(&self) -> Result<()> {
        match &self.device {
            Device::Cpu(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => self.late.finish(cuda),
        }
    }

    /// Runs an operation with one output.
    ///
    /// # Errors
    /// As [`Tape::apply`].
    pub fn apply1<O: Op>(&self, op: O, inputs: &[Option<&Var>]) -> Result<Var> {
        let mut outputs = self.apply(op, inputs)?;
        assert_eq!(outputs.len(), 1, "apply1 is for operations with one output");
        Ok(outputs.remove(0))
    }

    /// Differentiates `loss` (one element) with respect to every leaf, consuming the recording.
    ///
    /// # Errors
    /// When the loss is not one tracked element, or an operation fails.
    pub fn backward(&self, loss: &Var) -> Result<Gradients> {
        self.backward_from(&[(loss, Tape::one(loss)?)])
    }

    /// The gradient 1 of a loss, with which [`Tape::backward`] begins: for [`Tape::backward_from`], beside others.
    ///
    /// # Errors
    /// When the loss is not one element.
    pub fn one(loss: &Var) -> Result<Tensor> {
        if loss.tensor.len() != 1 {
            return Err(TensorError::Backward { reason: "the loss must be a single number" });
        }
        with_float!(loss.tensor.dtype(), "backward", T => {
            Tensor::from_vec(vec![<T as crate::Element>::from_f64(1.0)], loss.shape())
        })
    }

    /// Differentiates from given gradients of several values: what [`Tape::backward`] does with the gradient 1.
    ///
    /// # Errors
    /// When a value is not tracked, its recording was consumed by an earlier backward, a gradient is not of its value's
    /// shape and element type, or an operation fails.
    pub fn backward_from(&self, seeds: &[(&Var, Tensor)]) -> Result<Gradients> {
        let mut gradients: HashMap<usize, Tensor> = HashMap::new();
        for (var, gradient) in seeds {
            let id = var.id.ok_or(TensorError::Backward { reason: "the value does not depend on any leaf" })?;
            if !self.state.borrow().knows(id) {
                return Err(TensorError::Backward { reason: "an earlier backward consumed the value's recording" });
            }
            if gradient.shape() != var.shape() {
                return Err(TensorError::shape("backward", "gradient", format!("{:?}", var.shape()), gradient.shape()));
            }
            let (expected, found) = (var.tensor.dtype(), gradient.dtype());
            if expected != found {
                return Err(TensorError::DType { what: "backward: gradient".into(), expected, found });
            }
            self.accumulate(&mut gradients, id, gradient.clone())?;
        }
        let nodes = std::mem::take(&mut self.state.borrow_mut().nodes);
        for node in nodes.into_iter().rev() {
            let outputs: Vec<Option<Tensor>> = node.outputs.map(|id| gradients.remove(&id)).collect();
            if outputs.iter().all(Option::is_none) {
                continue;
            }
            let mut onto: Vec<Option<Tensor>> =
                node.inputs.iter().map(|id| id.and_then(|id| gradients.remove(&id))).collect();
            // The operation may add to them.
            if node.inputs.iter().zip(&onto).any(|(id, there)| there.is_some() && id.is_some_and(|id| self.is_leaf(id)))
            {
                self.finish_late()?;
            }
            let inputs = (node.backward)(&self.device, outputs, &mut onto)?;
            for (id, left) in node.inputs.iter().zip(onto) {
                if let (Some(id), Some(left)) = (id, left) {
                    gradients.insert(*id, left);
                }
            }
            assert_eq!(inputs.len(), node.inputs.len(), "{}: one gradient per input", node.name);
            for (i, (id, gradient)) in node.inputs.iter().zip(inputs).enumerate() {
                // What nobody asked for must not be computed: it is the whole performance model of fine-tuning.
                assert!(id.is_some() || gradient.is_none(), "{}: input {i} needs no gradient, but got one", node.name);
                if let (Some(id), Some(gradient)) = (id, gradient) {
                    self.accumulate(&mut gradients, *id, gradient)?;
                }
            }
        }
        self.finish_late()?;
        Ok(Gradients(gradients))
    }

    fn accumulate(&self, gradients: &mut HashMap<usize, Tensor>, id: usize, gradient: Tensor) -> Result<()> {
        let Some(sum) = gradients.get_mut(&id) else {
            gradients.insert(id, gradient);
            return Ok(());
        };
        if self.is_leaf(id) {
            self.finish_late()?;
        }
        let cpu = cpu_or!(&self.device, cuda => {
            // A new tensor: another gradient may share the old one.
            *sum = crate::ops::sum_on_cuda(cuda, sum, &gradient)?;
            Ok(())
        });
        with_float!(sum.dtype(), "accumulate", T => {
            elementwise::add_assign(cpu, sum.make_mut::<T>()?, gradient.as_slice::<T>()?);
            Ok(())
        })
    }
}

impl State {
    fn take_leaf(&mut self) -> usize {
        let id = self.take_ids(1).start;
        self.leaves.push(id);
        id
    }

    /// Whether a backward pass can start from this value.
    fn knows(&self, id: usize) -> bool {
        self.leaves.binary_search(&id).is_ok() || self.nodes.iter().any(|node| node.outputs.contains(&id))
    }

    fn take_ids(&mut self, count: usize) -> std::ops::Range<usize> {
        let first = self.next_id;
        self.next_id += count;
        first..self.next_id
    }
}

/// The gradients of the leaves after a backward pass.
#[derive(Debug)]
pub struct Gradients(HashMap<usize, Tensor>);

impl Gradients {
    /// Takes the gradient of a leaf; `None` if nothing depended on it.
    pub fn take(&mut self, leaf: &Var) -> Option<Tensor> {
        self.0.remove(&leaf.id?)
    }
}
