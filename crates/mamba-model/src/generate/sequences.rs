//! The sequences of a generation under way: what they are to the loop, wherever their states are.

use statetune_tensor::Tensor;

use super::decoder::Decoder;
use crate::ModelError;
use crate::batch::Batch;
use crate::state::State;

/// What the loops ask of their sequences, in this order for every token: the choice, who stays and where from, the step, who
/// joins.
pub(super) trait Sequences {
    /// The most probable token of each. `more`: whether any of them may go on after it.
    fn greedy(&mut self, more: bool) -> Result<Vec<u32>, ModelError>;
    /// The logits of each, one after the other.
    fn logits(&mut self) -> Result<Vec<f64>, ModelError>;
    /// Goes on with these only, in rising order. `others_wait`: whether others will join in place of those that leave.
    fn keep(&mut self, rows: &[usize], others_wait: bool) -> Result<(), ModelError>;
    /// Lets each go on from the state of the one named for it.
    fn reorder(&mut self, from: &[usize]) -> Result<(), ModelError>;
    /// Takes each on by one token.
    fn advance(&mut self, tokens: &[u32]) -> Result<(), ModelError>;
    /// Takes in sequences that have consumed their prompts, after those that are here: at most as many as have left while
    /// others waited.
    fn join(&mut self, state: State, logits: Tensor) -> Result<(), ModelError>;
}

/// Sequences whose every step makes a new state. Who stays and where from is a matter of which rows the next step reads: no
/// state is copied for it.
pub(super) struct Stepping<'a> {
    decoder: &'a Decoder<'a>,
    state: State,
    /// The row of the state that each goes on from.
    rows: Vec<usize>,
    logits: Tensor,
}

impl<'a> Stepping<'a> {
    pub fn new(decoder: &'a Decoder<'a>, state: State, logits: Tensor) -> Stepping<'a> {
        Stepping { decoder, rows: (0..state.sequences()).collect(), state, logits }
    }
}

impl Sequences for Stepping<'_> {
    fn greedy(&mut self, _more: bool) -> Result<Vec<u32>, ModelError> {
        Ok(self.logits.argmax_rows()?)
    }

    fn logits(&mut self) -> Result<Vec<f64>, ModelError> {
        Ok(self.logits.to_f64_vec())
    }

    fn keep(&mut self, rows: &[usize], _others_wait: bool) -> Result<(), ModelError> {
        self.rows = rows.iter().map(|&row| self.rows[row]).collect();
        Ok(())
    }

    fn reorder(&mut self, from: &[usize]) -> Result<(), ModelError> {
        self.rows = from.iter().map(|&row| self.rows[row]).collect();
        Ok(())
    }

    fn advance(&mut self, tokens: &[u32]) -> Result<(), ModelError> {
        let batch = Batch::new(&tokens.chunks(1).collect::<Vec<_>>())?;
        let before = self.state.vars_of(&self.rows);
        (self.state, self.logits) = self.decoder.advance(&batch, Some(&before))?;
        self.rows = (0..tokens.len()).collect();
        Ok(())
    }

    fn join(&mut self, state: State, logits: Tensor) -> Result<(), ModelError> {
        (self.state, self.logits) = match self.rows.is_empty() {
            true => (state, logits),
            false => (State::concat(&[&self.state, &state])?, Tensor::stacked(&[self.logits.clone(), logits])?),
        };
        self.rows = (0..self.state.sequences()).collect();
        Ok(())
    }
}
