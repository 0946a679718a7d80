//! The sequences of a generation under way: what they are to the loop, wherever their states are.

use statetune_tensor::Tensor;

use super::decoder::Decoder;
use crate::ModelError;
use crate::state::State;

/// What the loops ask of their sequences, in this order for every token: the choice, who stays and where from, the step.
pub(super) trait Sequences {
    /// The most probable token of each.
    fn greedy(&mut self) -> Result<Vec<u32>, ModelError>;
    /// The logits of each, one after the other.
    fn logits(&mut self) -> Result<Vec<f64>, ModelError>;
    /// Goes on with these only, in rising order.
    fn keep(&mut self, rows: &[usize]) -> Result<(), ModelError>;
    /// Lets each go on from the state of the one named for it.
    fn reorder(&mut self, from: &[usize]) -> Result<(), ModelError>;
    /// Takes each on by one token.
    fn advance(&mut self, tokens: &[u32]) -> Result<(), ModelError>;
}

/// Sequences whose every step makes a new state.
pub(super) struct Stepping<'a> {
    pub decoder: &'a Decoder<'a>,
    pub state: State,
    pub logits: Tensor,
}

impl Sequences for Stepping<'_> {
    fn greedy(&mut self) -> Result<Vec<u32>, ModelError> {
        Ok(self.logits.argmax_rows()?)
    }

    fn logits(&mut self) -> Result<Vec<f64>, ModelError> {
        Ok(self.logits.to_f64_vec())
    }

    fn keep(&mut self, rows: &[usize]) -> Result<(), ModelError> {
        self.state = self.state.gather(rows)?;
        Ok(())
    }

    fn reorder(&mut self, from: &[usize]) -> Result<(), ModelError> {
        if from.iter().enumerate().any(|(place, &from)| place != from) {
            self.state = self.state.gather(from)?;
        }
        Ok(())
    }

    fn advance(&mut self, tokens: &[u32]) -> Result<(), ModelError> {
        (self.state, self.logits) = self.decoder.step(&self.state, tokens)?;
        Ok(())
    }
}
