//! The gradient through one long sequence by chunks: its cost is linear in the length, and its memory is that of one chunk
//! beside a recurrent state per chunk border.
//!
//! A first pass walks the chunks without a recording and keeps the state at every border. A second goes from the last chunk
//! to the first: it computes the chunk again on a tape, from its border state as leaves, and differentiates its own loss
//! together with what the chunk behind it says of this one's final states. The state is all that a sequence's past is to
//! the model, so loss and gradient are those of one pass; only the order of sums is another. A token's dropout mask is that
//! of its position, which chunks keep.

use std::borrow::Cow;
use std::ops::Range;

use statetune_mamba_model::{Batch, Bound, DropoutStep, Mamba, Patches, State, StateGradient, StateVars};
use statetune_tensor::ops::Divisor;
use statetune_tensor::{Device, Tape, Tensor};

use crate::TrainError;
use crate::step::MicroBatch;

/// The tokens of a chunk where nobody says how many. At mamba-130m's shape a chunk then works with 2.6 GiB in bf16 and a
/// border's state takes 2.7 MiB: of smaller chunks the states soon take more than is saved, and products become small.
pub const CHUNK_TOKENS: usize = 8192;

/// A sequence that is longer than a chunk.
pub(crate) struct LongSequence {
    ids: Vec<u32>, // up to the last labelled row: what follows has no part in the loss
    example: u64,
    first_position: u32,
    rows: Vec<u32>, // ascending
    targets: Vec<u32>,
}

/// Takes the sequences that are longer than `chunk_tokens` (0: none is), a shared prefix included, out of micro-batches.
pub(crate) fn split(
    micro_batches: &[MicroBatch],
    chunk_tokens: usize,
) -> Result<(Cow<'_, [MicroBatch]>, Vec<LongSequence>), TrainError> {
    let is_long = |micro: &MicroBatch, s: usize| {
        let prefix = micro.prefix.as_ref().map_or(0, Batch::tokens);
        chunk_tokens > 0 && prefix + micro.batch.offsets()[s + 1] - micro.batch.offsets()[s] > chunk_tokens
    };
    let any = |micro: &MicroBatch| (0..micro.batch.sequences()).any(|s| is_long(micro, s));
    if !micro_batches.iter().any(any) {
        return Ok((Cow::Borrowed(micro_batches), Vec::new()));
    }
    let (mut rest, mut long) = (Vec::new(), Vec::new());
    for micro in micro_batches {
        let (apart, together): (Vec<usize>, Vec<usize>) =
            (0..micro.batch.sequences()).partition(|&s| is_long(micro, s));
        long.extend(apart.into_iter().map(|s| LongSequence::new(micro, s)).filter(|long| !long.rows.is_empty()));
        if !together.is_empty() {
            rest.push(taken(micro, &together)?);
        }
    }
    Ok((Cow::Owned(rest), long))
}

/// A micro-batch as what goes through the model at once: the chunks of its only sequence where that is longer than one.
pub(crate) fn parts(micro: MicroBatch, chunk_tokens: usize) -> Result<Vec<MicroBatch>, TrainError> {
    if micro.batch.sequences() > 1 || micro.prefix.is_some() || micro.batch.tokens() <= chunk_tokens {
        return Ok(vec![micro]);
    }
    let sequence = LongSequence::new(&micro, 0);
    let part = |chunk: Range<usize>| {
        let (rows, targets) = sequence.labelled(&chunk);
        Ok(MicroBatch { prefix: None, batch: sequence.batch(&chunk)?, rows, targets })
    };
    sequence.chunks(chunk_tokens).into_iter().map(part).collect()
}

/// The rows of a sequence of a micro-batch, counted from its first token, and their targets.
fn labelled(micro: &MicroBatch, s: usize) -> (Vec<u32>, Vec<u32>) {
    let range = micro.batch.offsets()[s]..micro.batch.offsets()[s + 1];
    let pairs = micro.rows.iter().zip(&micro.targets).filter(|(row, _)| range.contains(&(**row as usize)));
    pairs.map(|(row, target)| (row - range.start as u32, *target)).unzip()
}

/// A micro-batch of some of the sequences of another.
fn taken(micro: &MicroBatch, sequences: &[usize]) -> Result<MicroBatch, TrainError> {
    let (offsets, identities) = (micro.batch.offsets(), micro.batch.dropout_rows());
    let (mut ids, mut starts) = (Vec::new(), vec![0]);
    let (mut examples, mut positions, mut rows, mut targets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for &s in sequences {
        let (own_rows, own_targets) = labelled(micro, s);
        rows.extend(own_rows.into_iter().map(|row| row + ids.len() as u32));
        targets.extend(own_targets);
        ids.extend_from_slice(&micro.batch.ids()[offsets[s]..offsets[s + 1]]);
        starts.push(ids.len());
        examples.push(identities.example[offsets[s]]);
        positions.push(identities.position[offsets[s]]);
    }
    let batch = Batch::packed(ids, starts, &examples, &positions)?;
    Ok(MicroBatch { prefix: micro.prefix.clone(), batch, rows, targets })
}

impl LongSequence {
    /// Sequence `s` of a micro-batch, with the prefix that it shares in front.
    fn new(micro: &MicroBatch, s: usize) -> LongSequence {
        let (start, end) = (micro.batch.offsets()[s], micro.batch.offsets()[s + 1]);
        let prefix: &[u32] = micro.prefix.as_ref().map_or(&[], |prefix| prefix.ids());
        let mut ids = [prefix, &micro.batch.ids()[start..end]].concat();
        let (mut rows, targets) = labelled(micro, s);
        rows.iter_mut().for_each(|row| *row += prefix.len() as u32);
        let mut pairs: Vec<(u32, u32)> = rows.into_iter().zip(targets).collect();
        pairs.sort_by_key(|&(row, _)| row); // stable
        ids.truncate(pairs.last().map_or(0, |&(row, _)| row as usize + 1));
        let (rows, targets) = pairs.into_iter().unzip();
        let identities = micro.batch.dropout_rows();
        let first_position = identities.position[start].saturating_sub(prefix.len() as u32);
        LongSequence { ids, example: identities.example[start], first_position, rows, targets }
    }

    /// The tokens that have a part in the loss, cut into chunks.
    fn chunks(&self, chunk_tokens: usize) -> Vec<Range<usize>> {
        let tokens = self.ids.len();
        (0..tokens).step_by(chunk_tokens).map(|start| start..tokens.min(start + chunk_tokens)).collect()
    }

    /// Some of its tokens as a batch of one sequence.
    fn batch(&self, tokens: &Range<usize>) -> Result<Batch, TrainError> {
        let first = self.first_position + tokens.start as u32;
        Ok(Batch::packed(self.ids[tokens.clone()].to_vec(), vec![0, tokens.len()], &[self.example], &[first])?)
    }

    /// The labelled rows among some of its tokens, counted from the first of these, and their targets.
    fn labelled(&self, tokens: &Range<usize>) -> (Vec<u32>, Vec<u32>) {
        let at = |token: usize| self.rows.partition_point(|&row| (row as usize) < token);
        let range = at(tokens.start)..at(tokens.end);
        let rows = self.rows[range.clone()].iter().map(|row| row - tokens.start as u32).collect();
        (rows, self.targets[range].to_vec())
    }
}

/// What the backward pass of a chunk gives.
struct Differentiated {
    loss: Option<Tensor>,
    gradients: Vec<Option<Tensor>>,
    /// Of the border state that it began from.
    before: Option<StateGradient>,
}

/// What goes through a long sequence: a model with patches in one step of training.
pub(crate) struct Chunks<'a> {
    pub model: &'a Mamba,
    pub patches: &'a Patches,
    pub dropout: Option<DropoutStep>,
    pub chunk_tokens: usize,
    pub divisor: Divisor,
}

impl Chunks<'_> {
    /// Gives the loss (`None`: no token is labelled) and the gradients of every chunk to `take`, from the last to the first;
    /// their sums are those of the sequence.
    ///
    /// # Errors
    /// The model refuses a token, the device fails, or `take` does.
    pub fn gradients(
        &self,
        sequence: &LongSequence,
        mut take: impl FnMut(Option<Tensor>, Vec<Option<Tensor>>) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let chunks = sequence.chunks(self.chunk_tokens);
        let (last, before) = chunks.split_last().expect("a labelled token");
        let rooms = before.iter().map(|_| self.room()).collect::<Result<Vec<_>, _>>()?;
        // One guard for all of it: what lies in the working memory between two chunks must stay.
        let _working = self.model.device().working();
        let like = self.tracked(sequence)?;
        let mut borders = self.borders(sequence, before, rooms)?;
        let mut behind: Option<StateGradient> = None;
        for chunk in chunks.iter().rev() {
            // There is none before the first chunk, and each is needed once more.
            let border = borders.pop();
            let from = border.as_ref().map(|state| (state, &like));
            let Differentiated { loss, gradients, before } =
                self.chunk(sequence, chunk, from, chunk == last, behind)?;
            take(loss, gradients)?;
            behind = before.zip(border).map(|(gradient, room)| self.kept_gradient(gradient, room)).transpose()?;
        }
        Ok(())
    }

    /// On a GPU, room for a border state: it outlives what a chunk works with.
    fn room(&self) -> Result<Option<State>, TrainError> {
        match self.model.device() {
            Device::Cpu(_) => Ok(None),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                let config = self.model.config();
                Ok(Some(State::room(config, &self.patches.added_states(config.num_hidden_layers), cuda)?))
            }
        }
    }

    /// The states after one token, whose only use is which of them depend on what is trained: those of any number of tokens
    /// do then, and the others never.
    fn tracked(&self, sequence: &LongSequence) -> Result<StateVars, TrainError> {
        let tape = Tape::new(self.model.device());
        let bound = Bound::new(&tape, self.model, self.patches, self.dropout)?;
        let output = self.model.forward(&tape, &bound, &sequence.batch(&(0..1))?, None, true)?;
        Ok(output.states.expect("asked for"))
    }

    /// The states behind each of these chunks, the first of which begins the sequence.
    fn borders(
        &self,
        sequence: &LongSequence,
        chunks: &[Range<usize>],
        rooms: Vec<Option<State>>,
    ) -> Result<Vec<State>, TrainError> {
        let tape = Tape::inference(self.model.device());
        let bound = Bound::new(&tape, self.model, self.patches, self.dropout)?;
        let mut borders: Vec<State> = Vec::new();
        for (chunk, room) in chunks.iter().zip(rooms) {
            let from = borders.last().map(State::vars);
            let output = self.model.forward(&tape, &bound, &sequence.batch(chunk)?, from.as_ref(), true)?;
            let state = output.states.expect("asked for").detach();
            borders.push(self.kept(state, room)?);
        }
        Ok(borders)
    }

    /// A border state where it will be found again.
    fn kept(&self, state: State, room: Option<State>) -> Result<State, TrainError> {
        match (self.model.device(), room) {
            #[cfg(feature = "cuda")]
            (Device::Cuda(cuda), Some(room)) => {
                state.copy_to(&room, cuda)?;
                Ok(room)
            }
            _ => Ok(state),
        }
    }

    /// The gradient of a border state, on a GPU in the place of the state: so a chunk finds the working memory as the one
    /// behind it did, and never takes more.
    fn kept_gradient(&self, gradient: StateGradient, room: State) -> Result<StateGradient, TrainError> {
        match self.model.device() {
            Device::Cpu(_) => {
                drop(room);
                Ok(gradient)
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => Ok(gradient.moved_to(room, cuda)?),
        }
    }

    /// Loss and gradients of one chunk, and the gradient of its border state, from which it begins; `behind` is that of the
    /// state that it ends with.
    fn chunk(
        &self,
        sequence: &LongSequence,
        tokens: &Range<usize>,
        border: Option<(&State, &StateVars)>,
        is_last: bool,
        behind: Option<StateGradient>,
    ) -> Result<Differentiated, TrainError> {
        let (model, batch) = (self.model, sequence.batch(tokens)?);
        let tape = Tape::new(model.device());
        let bound = Bound::new(&tape, model, self.patches, self.dropout)?;
        let from = border.map(|(state, like)| state.leaves(&tape, like));
        let output = model.forward(&tape, &bound, &batch, from.as_ref(), !is_last)?;
        let (rows, targets) = sequence.labelled(tokens);
        let loss = match rows.is_empty() {
            true => None,
            false => {
                let divisor = self.divisor.clone();
                Some(model.loss(&tape, &bound, &batch, &output.hidden, rows, targets, divisor)?.loss)
            }
        };
        let final_states = output.states;
        drop(output.hidden);
        let mut seeds = Vec::new();
        if let Some(loss) = loss.as_ref().filter(|loss| loss.is_tracked()) {
            seeds.push((loss, Tape::one(loss)?));
        }
        if let (Some(states), Some(gradient)) = (&final_states, behind) {
            seeds.extend(states.seeds(gradient));
        }
        let value = loss.as_ref().map(|loss| loss.tensor().clone());
        if seeds.is_empty() {
            let gradients = vec![None; self.patches.tensors().len()];
            return Ok(Differentiated { loss: value, gradients, before: None });
        }
        let mut gradients = tape.backward_from(&seeds)?;
        let before = from.map(|from| from.gradient(&mut gradients));
        Ok(Differentiated { loss: value, gradients: bound.gradients(&mut gradients), before })
    }
}

#[cfg(test)]
mod tests {
    use statetune_mamba_model::config::MambaConfig;
    use statetune_peft_methods::{Adapter, methods};
    use statetune_tensor::DType;

    use super::*;

    /// Where only the end of the model is trained no chunk asks for the gradient of a state.
    #[test]
    fn states_that_depend_on_nothing_trained_are_constants() {
        let device = Device::best_cpu().unwrap();
        let model = Mamba::random(&MambaConfig::new(11, 8, 2), &device, DType::F32, DType::F32, 1).unwrap();
        let batch = Batch::new(&[[1u32, 2, 3, 4, 5]]).unwrap();
        let micro = MicroBatch { prefix: None, batch, rows: vec![1, 4], targets: vec![2, 3] };
        let (rest, long) = split(std::slice::from_ref(&micro), 2).unwrap();
        assert!(rest.is_empty() && long.len() == 1);
        for (method, tracked) in [
            (serde_json::json!({"method": "partial", "parameters": ["norm_f.weight"]}), false),
            (serde_json::json!({"method": "state-offset-h"}), true),
        ] {
            let adapter = Adapter::new(&model, vec![methods::parse_value(method.clone()).unwrap()], 3).unwrap();
            let (patches, divisor) = (adapter.patches(), 2.0.into());
            let chunks = Chunks { model: &model, patches, dropout: None, chunk_tokens: 2, divisor };
            let like = chunks.tracked(&long[0]).unwrap();
            assert_eq!(like.is_tracked(), tracked, "{method}");
            let leaves = like.detach().leaves(&Tape::new(&device), &like);
            assert_eq!(leaves.is_tracked(), tracked, "{method}");
        }
    }
}
