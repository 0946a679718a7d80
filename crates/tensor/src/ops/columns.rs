//! Columns of activations and of matrices: joined, cut out, put in place, picked, scaled.

use std::ops::Range;

use statetune_ssm_kernels::columns as kernel;

#[cfg(feature = "cuda")]
use super::on_cuda;
use crate::{Device, Inputs, Need, Op, Result, Staged, Tape, Tensor, TensorError, Var, cpu_or, with_float};

struct Join;

impl Op for Join {
    type Saved = (usize, Vec<usize>);

    fn name(&self) -> &'static str {
        "join_columns"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, Self::Saved)> {
        let cpu = cpu_or!(device, cuda => on_cuda::join(cuda, inputs));
        let (rows, _) = inputs.required(0)?.matrix_shape("join_columns", "part")?;
        let mut widths = Vec::new();
        for i in 0..inputs.len() {
            let part = inputs.required(i)?;
            let (found, width) = part.matrix_shape("join_columns", "part")?;
            if found != rows {
                return Err(TensorError::shape("join_columns", "part", format!("[{rows}, n]"), part.shape()));
            }
            widths.push(width);
        }
        let width = widths.iter().sum();
        let y = with_float!(inputs.required(0)?.dtype(), "join_columns", T => {
            let mut y = vec![0.0 as T; rows * width];
            let mut at = 0;
            for (i, &part) in widths.iter().enumerate() {
                kernel::put_columns(cpu, &mut y, width, inputs.required(i)?.as_slice::<T>()?, at, part);
                at += part;
            }
            Tensor::from_vec(y, &[rows, width])
        })?;
        Ok((vec![y], (rows, widths)))
    }

    fn backward(
        &self,
        device: &Device,
        (rows, widths): Self::Saved,
        gradients: Vec<Option<Tensor>>,
        need: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = &gradients[0] else { return Ok(vec![None; widths.len()]) };
        let mut at = 0;
        let parts = widths.iter().enumerate().map(|(i, &width)| {
            let range = at..at + width;
            at += width;
            need.input(i).then(|| take(device, dy, rows, range)).transpose()
        });
        parts.collect()
    }
}

/// The columns of `parts` `[rows, w_i]` side by side, `[rows, Σ w_i]`.
///
/// # Errors
/// When the numbers of rows or the element types differ.
pub fn join_columns(tape: &Tape, parts: &[&Var]) -> Result<Var> {
    let inputs: Vec<Option<&Var>> = parts.iter().map(|part| Some(*part)).collect();
    tape.apply1(Join, &inputs)
}

fn take(device: &Device, x: &Tensor, rows: usize, columns: Range<usize>) -> Result<Tensor> {
    let cpu = cpu_or!(device, cuda => on_cuda::take(cuda, x, columns));
    let width = x.len() / rows.max(1);
    with_float!(x.dtype(), "take_columns", T => {
        let mut y = vec![0.0 as T; rows * columns.len()];
        kernel::take_columns(cpu, &mut y, x.as_slice::<T>()?, width, columns.start, columns.len());
        Tensor::from_vec(y, &[rows, columns.len()])
    })
}

fn place(device: &Device, x: &Tensor, rows: usize, at: usize, width: usize) -> Result<Tensor> {
    let cpu = cpu_or!(device, cuda => on_cuda::place(cuda, x, at, width));
    with_float!(x.dtype(), "place_columns", T => {
        let mut y = vec![0.0 as T; rows * width];
        kernel::put_columns(cpu, &mut y, width, x.as_slice::<T>()?, at, x.len() / rows.max(1));
        Tensor::from_vec(y, &[rows, width])
    })
}

struct Take(Range<usize>);

impl Op for Take {
    type Saved = [usize; 2];

    fn name(&self) -> &'static str {
        "take_columns"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, [usize; 2])> {
        let x = inputs.required(0)?;
        let (rows, width) = x.matrix_shape("take_columns", "input")?;
        if self.0.is_empty() || self.0.end > width {
            return Err(TensorError::shape("take_columns", "columns", format!("in 0..{width}"), &[self.0.end]));
        }
        Ok((vec![take(device, x, rows, self.0.clone())?], [rows, width]))
    }

    fn backward(
        &self,
        device: &Device,
        [rows, width]: [usize; 2],
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        gradients
            .iter()
            .map(|dy| dy.as_ref().map(|dy| place(device, dy, rows, self.0.start, width)).transpose())
            .collect()
    }
}

/// The columns `columns` of x `[rows, width]`; x itself when they are all.
///
/// # Errors
/// When a column is not below the width.
pub fn take_columns(tape: &Tape, x: &Var, columns: Range<usize>) -> Result<Var> {
    if columns == (0..x.shape().get(1).copied().unwrap_or(0)) {
        return Ok(x.clone());
    }
    tape.apply1(Take(columns), &[Some(x)])
}

struct Place {
    at: usize,
    width: usize,
}

impl Op for Place {
    type Saved = [usize; 2];

    fn name(&self) -> &'static str {
        "place_columns"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, [usize; 2])> {
        let x = inputs.required(0)?;
        let (rows, part) = x.matrix_shape("place_columns", "input")?;
        if part == 0 || self.at + part > self.width {
            return Err(TensorError::shape(
                "place_columns",
                "input",
                format!("inside {} columns", self.width),
                x.shape(),
            ));
        }
        Ok((vec![place(device, x, rows, self.at, self.width)?], [rows, part]))
    }

    fn backward(
        &self,
        device: &Device,
        [rows, part]: [usize; 2],
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let columns = self.at..self.at + part;
        gradients.iter().map(|dy| dy.as_ref().map(|dy| take(device, dy, rows, columns.clone())).transpose()).collect()
    }
}

/// x `[rows, w]` as the columns from `at` on of `[rows, width]` that is zero elsewhere; x itself when it fills it.
///
/// # Errors
/// When x does not fit.
pub fn place_columns(tape: &Tape, x: &Var, at: usize, width: usize) -> Result<Var> {
    if at == 0 && x.shape().get(1) == Some(&width) {
        return Ok(x.clone());
    }
    tape.apply1(Place { at, width }, &[Some(x)])
}

struct Gather(Staged<u32>);

impl Op for Gather {
    type Saved = [usize; 2];

    fn name(&self) -> &'static str {
        "gather_columns"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, [usize; 2])> {
        let cpu = cpu_or!(device, cuda => on_cuda::gather(cuda, inputs, &self.0));
        let x = inputs.required(0)?;
        let (rows, width) = x.matrix_shape("gather_columns", "input")?;
        if self.0.is_empty() || self.0.iter().any(|&column| column as usize >= width) {
            return Err(TensorError::shape(
                "gather_columns",
                "columns",
                format!("some, below {width}"),
                &[self.0.len()],
            ));
        }
        let y = with_float!(x.dtype(), "gather_columns", T => {
            let mut y = vec![0.0 as T; rows * self.0.len()];
            kernel::gather_columns(cpu, &mut y, x.as_slice::<T>()?, width, &self.0);
            Tensor::from_vec(y, &[rows, self.0.len()])
        })?;
        Ok((vec![y], [rows, width]))
    }

    fn backward(
        &self,
        device: &Device,
        [rows, width]: [usize; 2],
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let cpu = cpu_or!(device, cuda => on_cuda::gather_backward(cuda, &gradients, &self.0, rows, width));
        let Some(dy) = &gradients[0] else { return Ok(vec![None]) };
        let dx = with_float!(dy.dtype(), "gather_columns", T => {
            let mut dx = vec![0.0 as T; rows * width];
            kernel::scatter_add_columns(cpu, &mut dx, dy.as_slice::<T>()?, width, &self.0);
            Tensor::from_vec(dx, &[rows, width])
        })?;
        Ok(vec![Some(dx)])
    }
}

/// The named columns of x `[T, width]`, in the order given, `[T, columns]`.
///
/// # Errors
/// When there are none or one is not below the width.
pub fn gather_columns(tape: &Tape, x: &Var, columns: &Staged<u32>) -> Result<Var> {
    tape.apply1(Gather(columns.clone()), &[Some(x)])
}

struct Scale;

impl Op for Scale {
    /// x, if the gain is trained; the gain, if x needs a gradient.
    type Saved = (Option<Tensor>, Option<Tensor>);

    fn name(&self) -> &'static str {
        "scale_columns"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Self::Saved)> {
        let cpu = cpu_or!(device, cuda => on_cuda::scale(cuda, inputs, need));
        let (x, gain) = (inputs.required(0)?, inputs.required(1)?);
        let (_, width) = x.matrix_shape("scale_columns", "input")?;
        if gain.shape() != [width] {
            return Err(TensorError::shape("scale_columns", "gain", format!("[{width}]"), gain.shape()));
        }
        let y = with_float!(x.dtype(), "scale_columns", T => {
            let mut y = vec![0.0 as T; x.len()];
            kernel::scale_columns(cpu, &mut y, x.as_slice::<T>()?, gain.as_slice::<T>()?);
            Tensor::from_vec(y, x.shape())
        })?;
        Ok((vec![y], (need.input(1).then(|| x.clone()), need.input(0).then(|| gain.clone()))))
    }

    fn backward(
        &self,
        device: &Device,
        (x, gain): Self::Saved,
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let cpu = cpu_or!(device, cuda => on_cuda::scale_backward(cuda, x, gain, &gradients));
        let Some(dy) = &gradients[0] else { return Ok(vec![None, None]) };
        with_float!(dy.dtype(), "scale_columns", T => {
            let values = dy.as_slice::<T>()?;
            let dx = gain.map(|gain| -> Result<Tensor> {
                let mut dx = vec![0.0 as T; dy.len()];
                kernel::scale_columns(cpu, &mut dx, values, gain.as_slice::<T>()?);
                Tensor::from_vec(dx, dy.shape())
            });
            let dgain = x.map(|x| -> Result<Tensor> {
                let width = dy.shape()[1];
                let mut dgain = vec![0.0 as T; width];
                kernel::scale_columns_gain_gradient(cpu, &mut dgain, values, x.as_slice::<T>()?);
                Tensor::from_vec(dgain, &[width])
            });
            Ok(vec![dx.transpose()?, dgain.transpose()?])
        })
    }
}

/// x `[T, n]` ∘ gain `[n]`, row by row.
///
/// # Errors
/// When the sizes or the element types differ.
pub fn scale_columns(tape: &Tape, x: &Var, gain: &Var) -> Result<Var> {
    tape.apply1(Scale, &[Some(x), Some(gain)])
}
