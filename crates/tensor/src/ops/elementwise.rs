//! Sums, scalings and -exp, element by element; and another shape for the same values.

use statetune_ssm_kernels::elementwise as kernel;

#[cfg(feature = "cuda")]
use super::on_cuda;
use crate::{DType, Device, Inputs, Need, Op, Result, Tape, Tensor, TensorError, Var, cpu_or, with_float};

struct Add;

impl Op for Add {
    type Saved = ();

    fn name(&self) -> &'static str {
        "add"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, ())> {
        let cpu = cpu_or!(device, cuda => on_cuda::add(cuda, inputs));
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        if a.shape() != b.shape() {
            return Err(TensorError::shape("add", "second input", format!("{:?}", a.shape()), b.shape()));
        }
        let y = with_float!(a.dtype(), "add", T => {
            let mut y = vec![0.0 as T; a.len()];
            kernel::add(cpu, &mut y, a.as_slice::<T>()?, b.as_slice::<T>()?);
            Tensor::from_vec(y, a.shape())
        })?;
        Ok((vec![y], ()))
    }

    fn backward(
        &self,
        _: &Device,
        (): (),
        mut gradients: Vec<Option<Tensor>>,
        need: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let dy = gradients.remove(0);
        Ok((0..2).map(|i| if need.input(i) { dy.clone() } else { None }).collect())
    }
}

/// a + b, of the same shape.
///
/// # Errors
/// When the shapes or element types differ.
pub fn add(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    tape.apply1(Add, &[Some(a), Some(b)])
}

struct Scale(f64);

impl Op for Scale {
    type Saved = ();

    fn name(&self) -> &'static str {
        "scale"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, ())> {
        let x = inputs.required(0)?;
        Ok((vec![scaled(device, x, self.0)?], ()))
    }

    fn backward(
        &self,
        device: &Device,
        (): (),
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        gradients.iter().map(|dy| dy.as_ref().map(|dy| scaled(device, dy, self.0)).transpose()).collect()
    }
}

fn scaled(device: &Device, x: &Tensor, factor: f64) -> Result<Tensor> {
    let cpu = cpu_or!(device, cuda => on_cuda::scaled(cuda, x, factor));
    with_float!(x.dtype(), "scale", T => {
        let mut y = vec![0.0 as T; x.len()];
        kernel::scale(cpu, &mut y, x.as_slice::<T>()?, factor as T);
        Tensor::from_vec(y, x.shape())
    })
}

/// factor · x.
///
/// # Errors
/// When x is of a storage type.
pub fn scale(tape: &Tape, x: &Var, factor: f64) -> Result<Var> {
    tape.apply1(Scale(factor), &[Some(x)])
}

struct NegExp;

impl Op for NegExp {
    type Saved = Tensor;

    fn name(&self) -> &'static str {
        "neg_exp"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, Tensor)> {
        let cpu = cpu_or!(device, cuda => on_cuda::neg_exp(cuda, inputs));
        let x = inputs.required(0)?;
        let y = with_float!(x.dtype(), "neg_exp", T => {
            let mut y = vec![0.0 as T; x.len()];
            kernel::neg_exp(cpu, &mut y, x.as_slice::<T>()?);
            Tensor::from_vec(y, x.shape())
        })?;
        Ok((vec![y.clone()], y))
    }

    fn backward(
        &self,
        device: &Device,
        y: Tensor,
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let cpu = cpu_or!(device, cuda => on_cuda::neg_exp_backward(cuda, &y, &gradients));
        let Some(dy) = &gradients[0] else { return Ok(vec![None]) };
        // d(-e^x)/dx is the output itself.
        let dx = with_float!(y.dtype(), "neg_exp", T => {
            let mut dx = vec![0.0 as T; y.len()];
            kernel::mul(cpu, &mut dx, dy.as_slice::<T>()?, y.as_slice::<T>()?);
            Tensor::from_vec(dx, y.shape())
        })?;
        Ok(vec![Some(dx)])
    }
}

/// -e^x: A from `A_log` (Gu and Dao 2023, section 3.6).
///
/// # Errors
/// When x is of a storage type.
pub fn neg_exp(tape: &Tape, x: &Var) -> Result<Var> {
    tape.apply1(NegExp, &[Some(x)])
}

struct Reshape(Vec<usize>);

impl Op for Reshape {
    type Saved = Vec<usize>;

    fn name(&self) -> &'static str {
        "reshape"
    }

    fn forward(&self, _: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, Vec<usize>)> {
        let x = inputs.required(0)?;
        Ok((vec![x.reshape(&self.0)?], x.shape().to_vec()))
    }

    fn backward(
        &self,
        _: &Device,
        shape: Vec<usize>,
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        gradients.iter().map(|dy| dy.as_ref().map(|dy| dy.reshape(&shape)).transpose()).collect()
    }
}

/// The same values under another shape.
///
/// # Errors
/// When the number of elements differs.
pub fn reshape(tape: &Tape, x: &Var, shape: &[usize]) -> Result<Var> {
    tape.apply1(Reshape(shape.to_vec()), &[Some(x)])
}

struct Cast(DType);

impl Op for Cast {
    /// The type that the gradient goes back to.
    type Saved = DType;

    fn name(&self) -> &'static str {
        "cast"
    }

    fn forward(&self, _: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, DType)> {
        let x = inputs.required(0)?;
        Ok((vec![x.cast(self.0)], x.dtype()))
    }

    fn backward(
        &self,
        _: &Device,
        from: DType,
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(gradients.iter().map(|dy| dy.as_ref().map(|dy| dy.cast(from))).collect())
    }
}

/// x in another element type; x itself when it has it.
///
/// # Errors
/// None.
pub fn cast(tape: &Tape, x: &Var, dtype: DType) -> Result<Var> {
    if x.tensor().dtype() == dtype {
        return Ok(x.clone());
    }
    tape.apply1(Cast(dtype), &[Some(x)])
}
