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
        let dropped = self.low_rank.iter().map(|part| part.dropped(tape, x, rows)).collect::<Result<Vec<_>, _>>()?;
        let picked = self.columns.iter().map(|part| ops::gather_columns(tape, x, &part.columns));
        let picked = picked.collect::<Result<Vec<_>, _>>()?;
        let low_rank = self.low_rank.iter().zip(&dropped);
        let gained = low_rank.clone().filter(|(part, _)| part.gain.is_some()).map(|(part, x)| low_rank_input(part, x));
        let plain = low_rank.filter(|(part, _)| part.gain.is_none()).map(|(part, x)| low_rank_input(part, x));
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
        let mut start = 0;
        for (y, &size) in ys.iter_mut().zip(splits) {
            let split = start..start + size;
            start += size;
            let within = |rows: &Range<usize>| rows.start <= split.start && split.end <= rows.end;
            for part in self.low_rank.iter().filter(|part| within(&part.rows)) {
                if let Some(gain) = &part.gain {
                    let gain = cut(tape, gain, split.start - part.rows.start..split.end - part.rows.start)?;
                    *y = ops::scale_columns(tape, y, &gain)?;
                }
            }
            for part in plain.iter().filter(|part| within(&part.rows)) {
                let projected = match (part.x.unwrap_or(x), part.a) {
                    (x, Some(a)) => product(tape, x, a)?,
                    (x, None) => x.clone(),
                };
                let mut sizes = vec![split.start - part.rows.start, size, part.rows.end - split.end];
                let at = usize::from(sizes[0] > 0);
                sizes.retain(|&size| size > 0);
                let weight = Weight::new(part.b.tensor().clone())?;
                let all = ops::linear(tape, &projected, &weight, Some(part.b), None, &sizes, &[])?;
                *y = ops::add(tape, y, &ops::scale(tape, &all[at], part.scale)?)?;
            }
            if let Some(bias) = &bias {
                *y = ops::add_row(tape, y, &cut(tape, bias, split)?)?;
            }
        }
        Ok(ys)
    }
}

fn low_rank_input<'a>(part: &'a BoundLowRank, x: &'a Option<Var>) -> LowRankInput<'a> {
    LowRankInput { rows: part.rows.clone(), scale: part.scale, x: x.as_ref(), a: Some(&part.a), b: &part.b }
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
