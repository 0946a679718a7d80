//! The language-model head with everything patched onto it. Low-rank additions stay low-rank; only a DoRA on the head's
//! own rows, whose gains are one per token of the vocabulary, is made into a matrix.

use statetune_tensor::ops::{self, Divisor, DropoutRows, HeadAddition, LossOutput, LowRankInput};
use statetune_tensor::{Staged, Tape, Tensor, Var, Weight};

use crate::bound::{Bound, BoundLowRank};
use crate::patch::Ends;
use crate::{Mamba, ModelError};

/// The head for some hidden states.
pub(crate) struct Head<'a> {
    x: Var, // [R, d_model]
    weight: Weight,
    trained: Option<Var>,
    additions: Vec<Addition<'a>>,
}

/// `scale` · projected Bᵀ is added to the logits.
struct Addition<'a> {
    projected: Var, // [R, r]
    b: std::borrow::Cow<'a, Var>,
    scale: f64,
}

impl<'a> Head<'a> {
    /// For hidden states x `[R, d_model]`; `rows` identify them to dropout, absent in evaluation.
    pub fn new(
        tape: &Tape,
        model: &Mamba,
        bound: &'a Bound,
        x: &Var,
        rows: Option<&DropoutRows>,
    ) -> Result<Head<'a>, ModelError> {
        let id = model.ids().head;
        let mut head = Head {
            x: x.clone(),
            weight: model.weight(id)?,
            trained: bound.trained_head(model).cloned(),
            additions: Vec::new(),
        };
        let tied = model.config().tie_word_embeddings;
        for part in bound.low_rank(id).iter().filter(|part| !tied || part.is_at(Ends::Output)) {
            match &part.gain {
                Some(gain) if part.ends == Ends::Output => {
                    let base = head.trained.unwrap_or_else(|| model.value(id).cast(model.trained_type()).into());
                    let product = ops::scale(tape, &ops::matmul(tape, &part.b, &part.a)?, part.scale)?;
                    head.trained = Some(ops::scale_rows(tape, &ops::add(tape, &base, &product)?, gain)?);
                }
                Some(gain) => {
                    head.x = ops::scale_columns(tape, x, gain)?;
                    let addition = addition(tape, part, &head.x, rows)?;
                    head.additions.push(addition);
                }
                None => head.additions.push(addition(tape, part, x, rows)?),
            }
        }
        for part in bound.columns(id) {
            let projected = ops::gather_columns(tape, x, &part.columns)?;
            head.additions.push(Addition { projected, b: std::borrow::Cow::Borrowed(&part.values), scale: 1.0 });
        }
        for (_, bias) in bound.biases(id) {
            let count = x.shape()[0];
            let ones: Var =
                Tensor::from_vec(vec![1f32; count], &[count, 1])?.cast(model.compute()).to(tape.device())?.into();
            let column = ops::reshape(tape, bias, &[bias.tensor().len(), 1])?;
            head.additions.push(Addition { projected: ones, b: std::borrow::Cow::Owned(column), scale: 1.0 });
        }
        Ok(head)
    }

    /// Logits `[R, V]`.
    pub fn logits(&self, tape: &Tape) -> Result<Var, ModelError> {
        let vocab = self.weight.out_features();
        let parts: Vec<LowRankInput<'_>> = self
            .additions
            .iter()
            .map(|part| LowRankInput {
                rows: 0..vocab,
                scale: part.scale,
                x: Some(&part.projected),
                a: None,
                b: &part.b,
            })
            .collect();
        Ok(ops::linear(tape, &self.x, &self.weight, self.trained.as_ref(), None, &[vocab], &parts)?.remove(0))
    }

    /// The cross-entropy of `targets` `[R]`, summed and divided by `divisor`.
    pub fn loss(&self, tape: &Tape, targets: &Staged<u32>, divisor: &Divisor) -> Result<LossOutput, ModelError> {
        let additions: Vec<HeadAddition<'_>> = self
            .additions
            .iter()
            .map(|part| HeadAddition { projected: part.projected.clone(), b: &part.b, scale: part.scale })
            .collect();
        let trained = self.trained.as_ref();
        Ok(ops::linear_cross_entropy(tape, &self.x, &self.weight, trained, &additions, targets, divisor)?)
    }
}

fn addition<'a>(
    tape: &Tape,
    part: &'a BoundLowRank,
    x: &Var,
    rows: Option<&DropoutRows>,
) -> Result<Addition<'a>, ModelError> {
    let dropped = rows.map(|rows| part.dropped_at_head(tape, x, rows)).transpose()?.flatten();
    let projected = part.projected(tape, dropped.as_ref().unwrap_or(x))?;
    Ok(Addition { projected, b: std::borrow::Cow::Borrowed(&part.b), scale: part.scale })
}
