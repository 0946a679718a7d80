//! Small functions of trained tensors, from which the operands of a patch are made: transposition, products element by
//! element, sums over the last axis, scaled rows, tanh, entries scattered into zeros.
//!
//! They run over numbers of the size of an adapter, never of a batch, so they are plain loops on one thread.

#[cfg(feature = "cuda")]
use super::on_cuda;
use crate::{Device, Inputs, Need, Op, Result, Staged, Tape, Tensor, TensorError, Var, cpu_or, with_float};

struct Transpose;

fn transposed(device: &Device, x: &Tensor) -> Result<Tensor> {
    cpu_or!(device, cuda => on_cuda::transpose(cuda, x));
    let (rows, columns) = x.matrix_shape("transpose", "input")?;
    with_float!(x.dtype(), "transpose", T => {
        let x = x.as_slice::<T>()?;
        let y = (0..columns).flat_map(|j| (0..rows).map(move |i| x[i * columns + j])).collect();
        Tensor::from_vec::<T>(y, &[columns, rows])
    })
}

impl Op for Transpose {
    type Saved = ();

    fn name(&self) -> &'static str {
        "transpose"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, ())> {
        Ok((vec![transposed(device, inputs.required(0)?)?], ()))
    }

    fn backward(
        &self,
        device: &Device,
        (): (),
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        gradients.iter().map(|dy| dy.as_ref().map(|dy| transposed(device, dy)).transpose()).collect()
    }
}

/// xᵀ.
///
/// # Errors
/// When x is not a matrix.
pub fn transpose(tape: &Tape, x: &Var) -> Result<Var> {
    tape.apply1(Transpose, &[Some(x)])
}

struct Mul;

impl Op for Mul {
    type Saved = (Option<Tensor>, Option<Tensor>);

    fn name(&self) -> &'static str {
        "mul"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Self::Saved)> {
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        let y = product(device, a, b)?;
        Ok((vec![y], (need.input(1).then(|| a.clone()), need.input(0).then(|| b.clone()))))
    }

    fn backward(
        &self,
        device: &Device,
        (a, b): Self::Saved,
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = &gradients[0] else { return Ok(vec![None, None]) };
        let side = |other: Option<Tensor>| other.map(|other| product(device, dy, &other)).transpose();
        Ok(vec![side(b)?, side(a)?])
    }
}

fn product(device: &Device, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.shape() != b.shape() {
        return Err(TensorError::shape("mul", "second factor", format!("{:?}", a.shape()), b.shape()));
    }
    cpu_or!(device, cuda => on_cuda::product(cuda, a, b));
    with_float!(a.dtype(), "mul", T => {
        let y = a.as_slice::<T>()?.iter().zip(b.as_slice::<T>()?).map(|(a, b)| a * b).collect();
        Tensor::from_vec::<T>(y, a.shape())
    })
}

/// a ∘ b, of the same shape.
///
/// # Errors
/// When the shapes or element types differ.
pub fn mul(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    tape.apply1(Mul, &[Some(a), Some(b)])
}

struct SumLast;

impl Op for SumLast {
    type Saved = [usize; 2];

    fn name(&self) -> &'static str {
        "sum_last"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, [usize; 2])> {
        let x = inputs.required(0)?;
        let (rows, columns) = x.matrix_shape("sum_last", "input")?;
        cpu_or!(device, cuda => on_cuda::sum_last(cuda, inputs));
        let y = with_float!(x.dtype(), "sum_last", T => {
            let y = x.as_slice::<T>()?.chunks_exact(columns).map(|row| row.iter().copied().sum()).collect();
            Tensor::from_vec::<T>(y, &[rows])
        })?;
        Ok((vec![y], [rows, columns]))
    }

    fn backward(
        &self,
        device: &Device,
        [rows, columns]: [usize; 2],
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = &gradients[0] else { return Ok(vec![None]) };
        cpu_or!(device, cuda => Ok(vec![Some(on_cuda::sum_last_backward(cuda, dy, rows, columns)?)]));
        let dx = with_float!(dy.dtype(), "sum_last", T => {
            let dx = dy.as_slice::<T>()?.iter().flat_map(|&dy| std::iter::repeat_n(dy, columns)).collect();
            Tensor::from_vec::<T>(dx, &[rows, columns])
        })?;
        Ok(vec![Some(dx)])
    }
}

/// The sums of the rows of x `[m, n]`, `[m]`.
///
/// # Errors
/// When x is not a matrix.
pub fn sum_last(tape: &Tape, x: &Var) -> Result<Var> {
    tape.apply1(SumLast, &[Some(x)])
}

struct ScaleRows;

impl Op for ScaleRows {
    /// x, if the scale is trained; the scale, if x is.
    type Saved = (Option<Tensor>, Option<Tensor>);

    fn name(&self) -> &'static str {
        "scale_rows"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Self::Saved)> {
        let (x, scale) = (inputs.required(0)?, inputs.required(1)?);
        let (rows, _) = x.matrix_shape("scale_rows", "input")?;
        if scale.shape() != [rows] {
            return Err(TensorError::shape("scale_rows", "scale", format!("[{rows}]"), scale.shape()));
        }
        let y = rows_scaled(device, x, scale)?;
        Ok((vec![y], (need.input(1).then(|| x.clone()), need.input(0).then(|| scale.clone()))))
    }

    fn backward(
        &self,
        device: &Device,
        (x, scale): Self::Saved,
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = &gradients[0] else { return Ok(vec![None, None]) };
        let (rows, columns) = dy.matrix_shape("scale_rows", "gradient")?;
        let dscale = x.map(|x| {
            cpu_or!(device, cuda => on_cuda::row_dots(cuda, dy, &x));
            with_float!(dy.dtype(), "scale_rows", T => {
                let (dy, x) = (dy.as_slice::<T>()?, x.as_slice::<T>()?);
                let dot = |(dy, x): (&[T], &[T])| dy.iter().zip(x).map(|(dy, x)| dy * x).sum();
                let dscale = dy.chunks_exact(columns).zip(x.chunks_exact(columns)).map(dot).collect();
                Tensor::from_vec::<T>(dscale, &[rows])
            })
        });
        Ok(vec![scale.map(|scale| rows_scaled(device, dy, &scale)).transpose()?, dscale.transpose()?])
    }
}

fn rows_scaled(device: &Device, x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    cpu_or!(device, cuda => on_cuda::rows_scaled(cuda, x, scale));
    let columns = x.shape()[1];
    with_float!(x.dtype(), "scale_rows", T => {
        let rows = x.as_slice::<T>()?.chunks_exact(columns).zip(scale.as_slice::<T>()?);
        let y = rows.flat_map(|(row, &scale)| row.iter().map(move |&x| scale * x)).collect();
        Tensor::from_vec::<T>(y, x.shape())
    })
}

/// diag(scale `[m]`) · x `[m, n]`.
///
/// # Errors
/// When the sizes or the element types differ.
pub fn scale_rows(tape: &Tape, x: &Var, scale: &Var) -> Result<Var> {
    tape.apply1(ScaleRows, &[Some(x), Some(scale)])
}

struct Tanh;

impl Op for Tanh {
    type Saved = Tensor;

    fn name(&self) -> &'static str {
        "tanh"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, Tensor)> {
        let x = inputs.required(0)?;
        cpu_or!(device, cuda => {
            let y = on_cuda::tanh(cuda, x)?;
            Ok((vec![y.clone()], y))
        });
        let y = with_float!(x.dtype(), "tanh", T => {
            Tensor::from_vec::<T>(x.as_slice::<T>()?.iter().map(|x| x.tanh()).collect(), x.shape())
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
        let Some(dy) = &gradients[0] else { return Ok(vec![None]) };
        cpu_or!(device, cuda => Ok(vec![Some(on_cuda::tanh_backward(cuda, dy, &y)?)]));
        let dx = with_float!(dy.dtype(), "tanh", T => {
            let pairs = dy.as_slice::<T>()?.iter().zip(y.as_slice::<T>()?);
            Tensor::from_vec::<T>(pairs.map(|(dy, y)| dy * (1.0 - y * y)).collect(), dy.shape())
        })?;
        Ok(vec![Some(dx)])
    }
}

/// tanh, element by element.
///
/// # Errors
/// When x is of a storage type.
pub fn tanh(tape: &Tape, x: &Var) -> Result<Var> {
    tape.apply1(Tanh, &[Some(x)])
}

struct AddRow;

impl Op for AddRow {
    type Saved = ();

    fn name(&self) -> &'static str {
        "add_row"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, ())> {
        let (x, row) = (inputs.required(0)?, inputs.required(1)?);
        let (_, width) = x.matrix_shape("add_row", "input")?;
        if row.shape() != [width] {
            return Err(TensorError::shape("add_row", "row", format!("[{width}]"), row.shape()));
        }
        cpu_or!(device, cuda => Ok((vec![on_cuda::add_row(cuda, x, row)?], ())));
        let y = with_float!(x.dtype(), "add_row", T => {
            let row = row.as_slice::<T>()?;
            let y = x.as_slice::<T>()?.chunks_exact(width).flat_map(|x| x.iter().zip(row).map(|(x, r)| x + r)).collect();
            Tensor::from_vec::<T>(y, x.shape())
        })?;
        Ok((vec![y], ()))
    }

    fn backward(
        &self,
        device: &Device,
        (): (),
        mut gradients: Vec<Option<Tensor>>,
        need: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = gradients.remove(0) else { return Ok(vec![None, None]) };
        let width = dy.shape()[1];
        let drow = need.input(1).then(|| {
            cpu_or!(device, cuda => on_cuda::add_row_backward(cuda, &dy));
            with_float!(dy.dtype(), "add_row", T => {
                let mut sums = vec![0.0 as T; width];
                for row in dy.as_slice::<T>()?.chunks_exact(width) {
                    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
                Tensor::from_vec(sums, &[width])
            })
        });
        Ok(vec![need.input(0).then_some(dy), drow.transpose()?])
    }
}

/// x `[m, n]` with the row `[n]` added to each of its rows.
///
/// # Errors
/// When the sizes or the element types differ.
pub fn add_row(tape: &Tape, x: &Var, row: &Var) -> Result<Var> {
    tape.apply1(AddRow, &[Some(x), Some(row)])
}

struct Scatter {
    entries: Staged<u32>,
    shape: Vec<usize>,
}

impl Op for Scatter {
    type Saved = ();

    fn name(&self) -> &'static str {
        "scatter"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, ())> {
        let values = inputs.required(0)?;
        let size = self.shape.iter().product::<usize>();
        if values.shape() != [self.entries.len()] {
            return Err(TensorError::shape("scatter", "values", format!("[{}]", self.entries.len()), values.shape()));
        }
        if let Some(&entry) = self.entries.iter().find(|&&entry| entry as usize >= size) {
            return Err(TensorError::shape("scatter", "entry", format!("below {size}"), &[entry as usize]));
        }
        cpu_or!(device, cuda => Ok((vec![on_cuda::scatter(cuda, values, &self.entries, &self.shape)?], ())));
        let y = with_float!(values.dtype(), "scatter", T => {
            let mut y = vec![0.0 as T; size];
            let values = values.as_slice::<T>()?;
            self.entries.iter().zip(values).for_each(|(&entry, value)| y[entry as usize] += value);
            Tensor::from_vec(y, &self.shape)
        })?;
        Ok((vec![y], ()))
    }

    fn backward(
        &self,
        device: &Device,
        (): (),
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = gradients[0].as_ref() else { return Ok(vec![None]) };
        cpu_or!(device, cuda => Ok(vec![Some(on_cuda::scatter_backward(cuda, dy, &self.entries)?)]));
        let dx = with_float!(dy.dtype(), "scatter", T => {
            let dy = dy.as_slice::<T>()?;
            let dx = self.entries.iter().map(|&entry| dy[entry as usize]).collect();
            Tensor::from_vec::<T>(dx, &[self.entries.len()])
        })?;
        Ok(vec![Some(dx)])
    }
}

/// Zeros of shape `shape` with `values` `[n]` at the flat places `entries` `[n]`.
///
/// # Errors
/// When the numbers differ or an entry is not below the size.
pub fn scatter(tape: &Tape, values: &Var, entries: &Staged<u32>, shape: &[usize]) -> Result<Var> {
    tape.apply1(Scatter { entries: entries.clone(), shape: shape.to_vec() }, &[Some(values)])
}
