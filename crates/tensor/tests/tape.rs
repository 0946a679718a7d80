//! The tape: what it records, what it tells operations, how it accumulates, and what it refuses.

use std::cell::RefCell;
use std::rc::Rc;

use statetune_ssm_kernels::Level;
use statetune_tensor::ops::{self, LowRankInput};
use statetune_tensor::{DType, Device, Inputs, Need, Op, Result, Staged, Tape, Tensor, TensorError, Var, Weight};

fn device() -> Device {
    Device::cpu(Level::Reference, 1).unwrap()
}

fn tensor(values: &[f64]) -> Tensor {
    Tensor::from_vec(values.to_vec(), &[values.len()]).unwrap()
}

/// What the tape did with a [`Spy`].
#[derive(Debug, Clone, PartialEq)]
enum Event {
    Forward(Vec<bool>),
    /// The mask, and which outputs had a gradient.
    Backward(Vec<bool>, Vec<bool>),
}

/// Outputs i + 1 times the sum of its inputs for each output i, and writes down how it was called.
struct Spy {
    outputs: usize,
    log: Rc<RefCell<Vec<Event>>>,
}

fn mask(need: &Need, len: usize) -> Vec<bool> {
    (0..len).map(|i| need.input(i)).collect()
}

impl Op for Spy {
    type Saved = usize; // the number of inputs

    fn name(&self) -> &'static str {
        "spy"
    }

    fn forward(&self, _: &Device, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, usize)> {
        self.log.borrow_mut().push(Event::Forward(mask(need, inputs.len())));
        let present: Vec<Vec<f64>> =
            (0..inputs.len()).filter_map(|i| inputs.optional(i)).map(Tensor::to_f64_vec).collect();
        let sum = |i: usize| present.iter().map(|x| x[i]).sum::<f64>();
        let scaled = |k: usize| (0..present[0].len()).map(|i| (k + 1) as f64 * sum(i)).collect::<Vec<_>>();
        Ok(((0..self.outputs).map(|k| tensor(&scaled(k))).collect(), inputs.len()))
    }

    fn backward(
        &self,
        _: &Device,
        inputs: usize,
        gradients: Vec<Option<Tensor>>,
        need: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let given = gradients.iter().map(Option::is_some).collect();
        self.log.borrow_mut().push(Event::Backward(mask(need, inputs), given));
        let mut sum: Vec<f64> = Vec::new();
        for (k, gradient) in gradients.iter().enumerate() {
            let Some(gradient) = gradient else { continue };
            let values = gradient.to_f64_vec();
            sum.resize(values.len(), 0.0);
            sum.iter_mut().zip(values).for_each(|(sum, dy)| *sum += (k + 1) as f64 * dy);
        }
        Ok((0..inputs).map(|i| need.input(i).then(|| tensor(&sum))).collect())
    }
}

struct Spies {
    log: Rc<RefCell<Vec<Event>>>,
}

impl Spies {
    fn new() -> Spies {
        Spies { log: Rc::default() }
    }

    fn apply(&self, tape: &Tape, outputs: usize, inputs: &[Option<&Var>]) -> Vec<Var> {
        tape.apply(Spy { outputs, log: self.log.clone() }, inputs).unwrap()
    }

    fn events(&self) -> Vec<Event> {
        self.log.borrow().clone()
    }
}

#[test]
fn records_only_what_needs_a_gradient() {
    let tape = Tape::new(&device());
    let (trained, constant) = (tape.leaf(tensor(&[1., 2.])), Var::from(tensor(&[3., 4.])));
    let frozen = ops::neg_exp(&tape, &ops::scale(&tape, &constant, 2.0).unwrap()).unwrap();
    assert!(!frozen.is_tracked());
    assert!(tape.recorded().is_empty());
    let y = ops::add(&tape, &frozen, &trained).unwrap();
    ops::scale(&tape, &y.detach(), 3.0).unwrap();
    ops::scale(&tape, &y, 3.0).unwrap();
    assert!(y.is_tracked());
    assert_eq!(tape.recorded(), ["add", "scale"]);
}

#[test]
fn an_inference_tape_records_nothing() {
    let tape = Tape::inference(&device());
    let spies = Spies::new();
    let leaf = tape.leaf(tensor(&[1.0]));
    let foreign = Tape::new(&device()).leaf(tensor(&[2.0]));
    assert!(!tape.is_recording() && !leaf.is_tracked());
    let y = spies.apply(&tape, 1, &[Some(&leaf), Some(&foreign)]).remove(0);
    assert_eq!(y.tensor().to_f64_vec(), [3.0]);
    assert!(!y.is_tracked() && tape.recorded().is_empty());
    assert_eq!(spies.events(), [Event::Forward(vec![false, false])]);
    assert!(tape.backward(&y).is_err());
}

#[test]
fn both_directions_are_told_who_needs_what() {
    let tape = Tape::new(&device());
    let spies = Spies::new();
    let (trained, constant) = (tape.leaf(tensor(&[1.0])), Var::from(tensor(&[5.0])));
    let outputs = spies.apply(&tape, 3, &[Some(&constant), None, Some(&trained)]);
    let mut gradients = tape.backward(&outputs[1]).unwrap();
    assert_eq!(gradients.take(&trained).unwrap().to_f64_vec(), [2.0]);
    assert!(gradients.take(&constant).is_none());
    let mask = vec![false, false, true];
    assert_eq!(spies.events(), [Event::Forward(mask.clone()), Event::Backward(mask, vec![false, true, false])]);
}

#[test]
fn what_the_loss_does_not_depend_on_is_not_differentiated() {
    let tape = Tape::new(&device());
    let spies = Spies::new();
    let (used, unused) = (tape.leaf(tensor(&[1.0])), tape.leaf(tensor(&[1.0])));
    spies.apply(&tape, 1, &[Some(&unused)]);
    let loss = ops::scale(&tape, &used, 4.0).unwrap();
    let mut gradients = tape.backward(&loss).unwrap();
    assert_eq!(gradients.take(&used).unwrap().to_f64_vec(), [4.0]);
    assert!(gradients.take(&unused).is_none());
    assert_eq!(spies.events(), [Event::Forward(vec![true])], "its backward never ran");
}

#[test]
fn gradients_of_a_value_used_twice_add_up() {
    let tape = Tape::new(&device());
    let x = tape.leaf(tensor(&[1., -2.]));
    // x + x + 3x, and x used through another value too: 2 (x + x).
    let twice = ops::add(&tape, &x, &x).unwrap();
    let thrice = ops::scale(&tape, &x, 3.0).unwrap();
    let sum = ops::add(&tape, &twice, &thrice).unwrap();
    let again = ops::scale(&tape, &twice, 2.0).unwrap();
    let loss = ops::add(&tape, &sum, &again).unwrap();
    let seed = tensor(&[1., 10.]);
    let mut gradients = tape.backward_from(&[(&loss, seed.clone())]).unwrap();
    assert_eq!(gradients.take(&x).unwrap().to_f64_vec(), [9., 90.]);
    assert_eq!(seed.to_f64_vec(), [1., 10.], "accumulation does not write into a shared gradient");
}

#[test]
fn several_seeds_are_one_combination() {
    let tape = Tape::new(&device());
    let (x, w) = (tape.leaf(tensor(&[1., 2.])), tape.leaf(tensor(&[3., 4.])));
    let first = ops::scale(&tape, &x, 2.0).unwrap();
    let second = ops::add(&tape, &first, &w).unwrap();
    // An inner value, an outer one twice, and a leaf.
    let seeds = [
        (&first, tensor(&[1., 0.])),
        (&second, tensor(&[0., 5.])),
        (&second, tensor(&[10., 0.])),
        (&w, tensor(&[7., 7.])),
    ];
    let mut gradients = tape.backward_from(&seeds).unwrap();
    assert_eq!(gradients.take(&x).unwrap().to_f64_vec(), [22., 10.]);
    assert_eq!(gradients.take(&w).unwrap().to_f64_vec(), [17., 12.]);
}

#[test]
fn backward_refuses_what_it_cannot_start_from() {
    let tape = Tape::new(&device());
    let x = tape.leaf(tensor(&[1., 2.]));
    assert!(matches!(tape.backward(&x), Err(TensorError::Backward { .. })), "two numbers");
    assert!(matches!(tape.backward(&Tensor::scalar(1.0).into()), Err(TensorError::Backward { .. })), "no leaf");
    let loss = ops::scale(&tape, &tape.leaf(tensor(&[1.])), 2.0).unwrap();
    tape.backward(&loss).unwrap();
    let consumed = tape.backward(&loss).unwrap_err().to_string();
    assert!(consumed.contains("consumed"), "{consumed}");
    let shape = tape.backward_from(&[(&x, tensor(&[1.]))]).unwrap_err().to_string();
    assert!(shape.contains("backward") && shape.contains("[2]") && shape.contains("[1]"), "{shape}");
    let dtype = tape.backward_from(&[(&x, tensor(&[1., 1.]).cast(DType::F32))]).unwrap_err().to_string();
    assert!(dtype.contains("backward") && dtype.contains("f32") && dtype.contains("f64"), "{dtype}");
}

/// Accumulation: the same leaves, one recording after the other.
#[test]
fn a_tape_records_again_after_a_backward() {
    let tape = Tape::new(&device());
    let x = tape.leaf(tensor(&[3.]));
    for factor in [2.0, 5.0] {
        let loss = ops::scale(&tape, &x, factor).unwrap();
        assert_eq!(tape.backward(&loss).unwrap().take(&x).unwrap().to_f64_vec(), [factor]);
        assert!(tape.recorded().is_empty());
    }
}

/// Identity forward, and no way back.
struct OneWay;

impl Op for OneWay {
    type Saved = ();
    const DIFFERENTIABLE: bool = false;

    fn name(&self) -> &'static str {
        "one_way"
    }

    fn forward(&self, _: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, ())> {
        Ok((vec![inputs.required(1)?.clone()], ()))
    }

    fn backward(&self, _: &Device, (): (), _: Vec<Option<Tensor>>, _: &Need) -> Result<Vec<Option<Tensor>>> {
        unreachable!("a tracked input is refused at forward")
    }
}

#[test]
fn an_operation_without_a_backward_refuses_tracked_inputs_at_forward() {
    let tape = Tape::new(&device());
    let (constant, tracked) = (Var::from(tensor(&[1.0])), tape.leaf(tensor(&[1.0])));
    let error = tape.apply(OneWay, &[None, Some(&tracked)]).unwrap_err();
    assert!(matches!(error, TensorError::NoBackward { op: "one_way", input: 1 }), "{error}");
    assert!(tape.apply(OneWay, &[None, Some(&constant)]).is_ok());
    assert!(tape.recorded().is_empty());
    let error = tape.apply(OneWay, &[Some(&constant)]).unwrap_err();
    assert!(matches!(error, TensorError::MissingInput { op: "one_way", index: 1 }), "{error}");
}

/// Whether anybody but the caller holds the values: changing them then copies.
fn is_held_elsewhere(mut tensor: Tensor) -> bool {
    let before = tensor.as_slice::<f64>().unwrap().as_ptr();
    tensor.make_mut::<f64>().unwrap().as_ptr() != before
}

fn matrix(rows: usize, columns: usize) -> Tensor {
    Tensor::from_vec(vec![0.5; rows * columns], &[rows, columns]).unwrap()
}

/// Runs `f` on a tracked x `[3, 4]` and tells whether the recording keeps x alive.
fn keeps_x(f: impl FnOnce(&Tape, &Var)) -> bool {
    let tape = Tape::new(&device());
    let x = tape.leaf(matrix(3, 4));
    f(&tape, &x);
    assert!(!tape.recorded().is_empty());
    let values = x.tensor().clone();
    drop(x);
    is_held_elsewhere(values)
}

#[test]
fn inputs_are_saved_only_for_a_gradient_that_reads_them() {
    let w = Weight::new(matrix(2, 4)).unwrap();
    let linear = |tape: &Tape, x: &Var, trained: Option<&Var>, bias: Option<&Var>, parts: &[LowRankInput<'_>]| {
        ops::linear(tape, x, &w, trained, bias, &[2], parts).unwrap();
    };
    assert!(!keeps_x(|tape, x| linear(tape, x, None, None, &[])), "frozen weight");
    let bias = |tape: &Tape| tape.leaf(tensor(&[0., 0.]));
    assert!(!keeps_x(|tape, x| linear(tape, x, None, Some(&bias(tape)), &[])), "trained bias");
    assert!(keeps_x(|tape, x| linear(tape, x, Some(&tape.leaf(matrix(2, 4))), None, &[])), "trained weight");
    let low_rank = |tape: &Tape, x: &Var, a: Var, b: Var| {
        linear(tape, x, None, None, &[LowRankInput { rows: 0..2, scale: 1.0, x: None, a: Some(&a), b: &b }]);
    };
    assert!(keeps_x(|tape, x| low_rank(tape, x, tape.leaf(matrix(1, 4)), tape.leaf(matrix(2, 1)))), "A trained");
    assert!(!keeps_x(|tape, x| low_rank(tape, x, matrix(1, 4).into(), tape.leaf(matrix(2, 1)))), "only B trained");
    let targets = Staged::from([0, 1, 1]);
    let loss =
        |tape: &Tape, x: &Var| drop(ops::linear_cross_entropy(tape, x, &w, None, &[], &targets, &1.0.into()).unwrap());
    assert!(!keeps_x(loss), "the loss's gradients are made in its forward pass");
    assert!(!keeps_x(|tape, x| drop(ops::select_rows(tape, x, &Staged::from([1])).unwrap())), "select_rows");
    assert!(!keeps_x(|tape, x| drop(ops::add(tape, x, x).unwrap())), "add");
    let matmul = |tape: &Tape, first: Var, x: &Var| drop(ops::matmul(tape, &first, x).unwrap());
    assert!(!keeps_x(|tape, x| matmul(tape, matrix(2, 3).into(), x)), "matmul, the other factor constant");
    assert!(keeps_x(|tape, x| matmul(tape, tape.leaf(matrix(2, 3)), x)), "matmul, both tracked");
}

#[test]
fn a_trained_weight_is_saved_only_if_x_is_tracked() {
    let frozen = Weight::new(matrix(2, 4)).unwrap();
    for x_tracked in [false, true] {
        let tape = Tape::new(&device());
        let w = tape.leaf(matrix(2, 4));
        let x = if x_tracked { tape.leaf(matrix(3, 4)) } else { matrix(3, 4).into() };
        ops::linear(&tape, &x, &frozen, Some(&w), None, &[2], &[]).unwrap();
        let values = w.tensor().clone();
        drop(w);
        assert_eq!(is_held_elsewhere(values), x_tracked);
    }
}

/// Returns a gradient for both inputs, asked for or not.
struct Wasteful;

impl Op for Wasteful {
    type Saved = ();

    fn name(&self) -> &'static str {
        "wasteful"
    }

    fn forward(&self, _: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, ())> {
        Ok((vec![inputs.required(0)?.clone()], ()))
    }

    fn backward(&self, _: &Device, (): (), gradients: Vec<Option<Tensor>>, _: &Need) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![gradients[0].clone(); 2])
    }
}

/// Work for what is frozen is a fault of the operation, found by whatever runs it.
#[test]
#[should_panic(expected = "wasteful: input 1 needs no gradient, but got one")]
fn a_gradient_that_nobody_asked_for_is_found() {
    let tape = Tape::new(&device());
    let x = tape.leaf(tensor(&[1.0]));
    let y = tape.apply1(Wasteful, &[Some(&x), Some(&tensor(&[2.0]).into())]).unwrap();
    let _ = tape.backward(&y);
}
