//! A linear layer with everything that patches hang on its matrix: low-rank additions, DoRA's gains, chosen columns,
//! biases. Nothing here makes W + sBA.

use std::ops::Range;

use statetune_tensor::ops::{self, DropoutRows, LowRankInput};
use statetune_tensor::{Tape, Var, Weight};

use crate::ModelError;
use crate::bound::{BoundColumns, BoundLowRank};

/// A matrix and its patches.
pub(crate) struct PatchedLinear<'a> {
    pub weight: Weight,
    pub trained: Option<&'a Var>,
    pub bias: Option<Var>,
    pub low_rank: &'a [BoundLowRank],
    pub columns: &'a [BoundColumns],
    pub biases: &'a [(Range<usize>, Var)],
}

impl PatchedLinear<'_> {
    /// x Wᵀ + bias and what is patched onto them, cut into `splits`. `rows` identify x's rows to dropout.
    pub fn apply(&self, tape: &Tape, x: &Var, splits: &[usize], rows: &DropoutRows) -> Result<Vec<Var>, ModelError> {
        let outputs: usize = splits.iter().sum();
        let mut bias = self.bias.clone();
        for (rows, part) in self.biases {
            let row = ops::reshape(tape, part, &[1, rows.len()])?;
            let placed = ops::reshape(tape, &ops::place_columns(tape, &row, rows.start, outputs)?, &[outputs])?;
            bias = Some(match bias {
                Some(bias) => ops::add(tape, &bias, &placed)?,
                None => placed,
            });
        }
        let own_inputs = self.low_rank.iter().map(|part| OwnInput::of(tape, part, x, rows));
        let own_inputs = own_inputs.collect::<Result<Vec<_>, _>>()?;
        let picked = self.columns.iter().map(|part| ops::gather_columns(tape, x, &part.columns));
        let picked = picked.collect::<Result<Vec<_>, _>>()?;
        let low_rank = self.low_rank.iter().zip(&own_inputs);
        let gained = low_rank.clone().filter(|(part, _)| part.gain.is_some()).map(|(part, x)| x.to(part));
        let plain = low_rank.filter(|(part, _)| part.gain.is_none()).map(|(part, x)| x.to(part));
        let columns = self.columns.iter().zip(&picked).map(|(part, x)| LowRankInput {
            rows: part.rows.clone(),
            scale: 1.0,
            x: Some(x),
            a: None,
            b: &part.values,
        });
        let (gained, plain): (Vec<_>, Vec<_>) = (gained.collect(), plain.chain(columns).collect());
        if gained.is_empty() {
            return Ok(ops::linear(tape, x, &self.weight, self.trained, bias.as_ref(), splits, &plain)?);
        }
        // A gain is for the matrix and its own addition: all else comes after it.
        let mut ys = ops::linear(tape, x, &self.weight, self.trained, None, splits, &gained)?;
        let ranges: Vec<Range<usize>> = splits
            .iter()
            .scan(0, |start, &size| {
                let range = *start..*start + size;
                *start += size;
                Some(range)
            })
            .collect();
        let within = |split: &Range<usize>, rows: &Range<usize>| rows.start <= split.start && split.end <= rows.end;
        for part in self.low_rank {
            let Some(gain) = &part.gain else { continue };
            for (y, split) in ys.iter_mut().zip(&ranges).filter(|(_, split)| within(split, &part.rows)) {
                let gain = cut(tape, gain, split.start - part.rows.start..split.end - part.rows.start)?;
                *y = ops::scale_columns(tape, y, &gain)?;
            }
        }
        for part in &plain {
            let projected = match (part.x.unwrap_or(x), part.a) {
                (x, Some(a)) => product(tape, x, a)?,
                (x, None) => x.clone(),
            };
            let covered: Vec<usize> = (0..ranges.len()).filter(|&i| within(&ranges[i], &part.rows)).collect();
            let sizes: Vec<usize> = covered.iter().map(|&i| splits[i]).collect();
            let weight = Weight::new(part.b.tensor().clone())?;
            let additions = ops::linear(tape, &projected, &weight, Some(part.b), None, &sizes, &[])?;
            for (i, addition) in covered.into_iter().zip(additions) {
                ys[i] = ops::add(tape, &ys[i], &ops::scale(tape, &addition, part.scale)?)?;
            }
        }
        if let Some(bias) = &bias {
            for (y, split) in ys.iter_mut().zip(ranges) {
                *y = ops::add_row(tape, y, &cut(tape, bias, split)?)?;
            }
        }
        Ok(ys)
    }
}

/// What a low-rank addition multiplies that the layer does not.
enum OwnInput {
    /// Nothing: A multiplies the layer's input.
    None,
    /// A multiplies it after dropout.
    Dropped(Var),
    /// B multiplies what A and a diagonal have made.
    Projected(Var),
}

impl OwnInput {
    fn of(tape: &Tape, part: &BoundLowRank, x: &Var, rows: &DropoutRows) -> Result<OwnInput, ModelError> {
        let dropped = part.dropped(tape, x, rows)?;
        Ok(match (&part.diagonal, dropped) {
            (Some(_), dropped) => OwnInput::Projected(part.projected(tape, dropped.as_ref().unwrap_or(x))?),
            (None, Some(dropped)) => OwnInput::Dropped(dropped),
            (None, None) => OwnInput::None,
        })
    }

    fn to<'a>(&'a self, part: &'a BoundLowRank) -> LowRankInput<'a> {
        let (x, a) = match self {
            OwnInput::None => (None, Some(&part.a)),
            OwnInput::Dropped(x) => (Some(x), Some(&part.a)),
            OwnInput::Projected(x) => (Some(x), None),
        };
        LowRankInput { rows: part.rows.clone(), scale: part.scale, x, a, b: &part.b }
    }
}

/// Some elements of a vector.
fn cut(tape: &Tape, x: &Var, range: Range<usize>) -> Result<Var, ModelError> {
    let (row, count) = (ops::reshape(tape, x, &[1, x.tensor().len()])?, range.len());
    Ok(ops::reshape(tape, &ops::take_columns(tape, &row, range)?, &[count])?)
}

/// x `[T, n]` · wᵀ with w `[m, n]` a value of the tape.
pub(crate) fn product(tape: &Tape, x: &Var, w: &Var) -> Result<Var, ModelError> {
    let (weight, rows) = (Weight::new(w.tensor().clone())?, w.shape()[0]);
    let trained = w.is_tracked().then_some(w);
    Ok(ops::linear(tape, x, &weight, trained, None, &[rows], &[])?.remove(0))
}
