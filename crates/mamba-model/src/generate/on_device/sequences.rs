//! The sequences of a generation on a device: states and tokens in places that a captured graph knows.

use statetune_ssm_kernels::decode::cuda as kernel;
use statetune_ssm_kernels::embedding::cuda::put_rows;
use statetune_ssm_kernels::runtime::cuda::{Alone, Cuda, Graph, Readback};
use statetune_tensor::cuda::DeviceTensor;
use statetune_tensor::{Staged, Tensor};

use super::super::decoder::Decoder;
use super::super::sequences::Sequences;
use super::{DeviceStep, Want};
use crate::ModelError;
use crate::batch::Batch;
use crate::state::State;

/// Places in the device's memory for sequences, some of which may have ended.
pub(in super::super) struct DeviceSequences<'a> {
    decoder: &'a Decoder<'a>,
    step: &'a DeviceStep,
    cuda: Cuda,
    places: Places,
    /// The places of the sequences that go on.
    live: Vec<usize>,
    greedy: bool,
    _alone: Alone, // as long as the graph lives
}

/// What one captured step reads and writes.
struct Places {
    graph: Seen,
    batch: Batch,      // its ids are the tokens that come next
    rows: Staged<u32>, // counts the sequences
    state: State,
    logits: DeviceTensor,
    /// Tokens on their way to the host: those of the step before, and of this one.
    arriving: [Readback<u32>; 2],
    turn: usize,
}

/// What is known of the step.
enum Seen {
    Never,
    /// It ran once, so everything it needs is loaded.
    Once,
    Captured(Graph),
}

impl Places {
    fn new(cuda: &Cuda, state: State, logits: DeviceTensor, tokens: &[u32]) -> Result<Places, ModelError> {
        let batch = Batch::new(&tokens.chunks(1).collect::<Vec<_>>())?;
        let rows: Staged<u32> = (0..tokens.len() as u32).collect();
        // What is looked up lies where nothing else will.
        batch.stage(cuda)?;
        rows.on(cuda)?;
        let arriving = [readback(cuda, tokens.len())?, readback(cuda, tokens.len())?];
        Ok(Places { graph: Seen::Never, batch, rows, state, logits, arriving, turn: 0 })
    }

    /// Lets the next tokens go to the host.
    fn send(&mut self, cuda: &Cuda) -> Result<(), ModelError> {
        self.turn ^= 1;
        Ok(self.arriving[self.turn].start(self.batch.ids().on(cuda)?)?)
    }
}

fn readback(cuda: &Cuda, len: usize) -> Result<Readback<u32>, ModelError> {
    Ok(Readback::new(cuda, len)?)
}

impl<'a> DeviceSequences<'a> {
    /// Sequences that have consumed their prompts, with the logits of their next tokens, which the host chooses from.
    pub fn drawn(
        decoder: &'a Decoder<'a>,
        step: &'a DeviceStep,
        state: State,
        logits: Tensor,
    ) -> Result<DeviceSequences<'a>, ModelError> {
        let (cuda, alone) = (step.cuda.clone(), step.cuda.alone());
        let sequences = state.sequences();
        let logits = logits.on_cuda(&cuda)?.dense()?;
        let places = Places::new(&cuda, state.unshared(&cuda)?, logits, &vec![0; sequences])?;
        Ok(DeviceSequences {
            decoder,
            step,
            cuda,
            places,
            live: (0..sequences).collect(),
            greedy: false,
            _alone: alone,
        })
    }

    /// The same with the most probable token chosen on the device.
    pub fn greedy(
        decoder: &'a Decoder<'a>,
        step: &'a DeviceStep,
        state: State,
        logits: Tensor,
    ) -> Result<DeviceSequences<'a>, ModelError> {
        let mut own = DeviceSequences::drawn(decoder, step, state, logits)?;
        let (cuda, vocab) = (own.cuda.clone(), decoder.model.config().vocab_size);
        let chosen = own.places.batch.ids().on(&cuda)?;
        kernel::argmax(&cuda, chosen, own.places.logits.view(), own.live.len(), vocab)?;
        own.places.send(&cuda)?;
        own.greedy = true;
        Ok(own)
    }

    /// Takes all sequences on by the tokens that lie on the device.
    fn launch(&mut self) -> Result<(), ModelError> {
        let Places { graph, batch, rows, state, logits, .. } = &mut self.places;
        let want = match self.greedy {
            true => Want::Chosen(batch.ids().on(&self.cuda)?),
            false => Want::Logits(logits),
        };
        let _working = self.cuda.working();
        let take = || self.step.take(self.decoder, batch, rows, state, want);
        match graph {
            Seen::Never => {
                take()?;
                *graph = Seen::Once;
                return Ok(());
            }
            Seen::Once => match self.cuda.capture(take)? {
                Some(captured) => *graph = Seen::Captured(captured),
                None => return Ok(()), // planning
            },
            Seen::Captured(_) => {}
        }
        match graph {
            Seen::Captured(graph) => Ok(graph.launch()?),
            _ => unreachable!("just captured"),
        }
    }

    /// Moves those that go on together, once they are half of all or fewer: the others are computed along until then.
    fn compact(&mut self, tokens: &[u32]) -> Result<(), ModelError> {
        let state = self.places.state.gather(&self.live)?;
        let shape = [self.live.len(), self.decoder.model.config().vocab_size];
        let logits = DeviceTensor::unset(&self.cuda, self.places.logits.dtype(), &shape)?;
        self.places = Places::new(&self.cuda, state, logits, tokens)?;
        self.live = (0..tokens.len()).collect();
        Ok(())
    }
}

impl Sequences for DeviceSequences<'_> {
    /// The step after is under way when the host learns of these.
    fn greedy(&mut self, more: bool) -> Result<Vec<u32>, ModelError> {
        let turn = self.places.turn;
        if more {
            self.launch()?;
            self.places.send(&self.cuda)?;
        }
        let tokens = self.places.arriving[turn].take()?.expect("sent before");
        Ok(self.live.iter().map(|&place| tokens[place]).collect())
    }

    fn logits(&mut self) -> Result<Vec<f64>, ModelError> {
        let vocab = self.decoder.model.config().vocab_size;
        let all = self.places.logits.to_host()?.to_f64_vec();
        Ok(self.live.iter().flat_map(|&place| &all[place * vocab..][..vocab]).copied().collect())
    }

    /// Where others wait, the places stay for them.
    fn keep(&mut self, rows: &[usize], others_wait: bool) -> Result<(), ModelError> {
        self.live = rows.iter().map(|&row| self.live[row]).collect();
        if others_wait || self.live.is_empty() || self.live.len() * 2 > self.places.state.sequences() {
            return Ok(());
        }
        if !self.greedy {
            // Their next tokens are about to be written.
            return self.compact(&vec![0; rows.len()]);
        }
        // The next step has been taken already: its tokens are what goes on.
        let turn = self.places.turn;
        let tokens = self.places.arriving[turn].take()?.expect("sent before");
        let tokens: Vec<u32> = self.live.iter().map(|&place| tokens[place]).collect();
        self.compact(&tokens)?;
        self.places.send(&self.cuda)
    }

    /// In place: only the states of those that go on from another are copied.
    fn reorder(&mut self, from: &[usize]) -> Result<(), ModelError> {
        assert!(!self.greedy, "a greedy step is under way when the host learns of its tokens");
        let moved =
            || self.live.iter().zip(from).map(|(&to, &from)| (self.live[from], to)).filter(|(from, to)| from != to);
        let (sources, targets): (Vec<usize>, Vec<usize>) = moved().unzip();
        match sources.is_empty() {
            true => Ok(()),
            false => self.places.state.move_rows(&self.cuda, &sources, &targets),
        }
    }

    /// The tokens of a greedy generation are on the device already, and the step under way.
    fn advance(&mut self, tokens: &[u32]) -> Result<(), ModelError> {
        if self.greedy {
            return Ok(());
        }
        let mut all = vec![0; self.places.state.sequences()];
        for (&place, &token) in self.live.iter().zip(tokens) {
            all[place] = token;
        }
        self.places.batch.ids().rewrite(&self.cuda, &all)?;
        self.launch()
    }

    /// In free places, which the captured graph knows already.
    fn join(&mut self, state: State, logits: Tensor) -> Result<(), ModelError> {
        let Places { batch, state: own, logits: own_logits, arriving, turn, .. } = &mut self.places;
        let free = (0..own.sequences()).filter(|place| !self.live.contains(place));
        let free: Vec<usize> = free.take(state.sequences()).collect();
        assert_eq!(free.len(), state.sequences(), "more sequences join than have left");
        own.put_rows(&self.cuda, &state, &free)?;
        if self.greedy {
            // Those under way have chosen their next tokens: the newcomers' go beside them.
            let mut tokens = arriving[*turn].take()?.unwrap_or_else(|| vec![0; own.sequences()]);
            for (&place, token) in free.iter().zip(logits.argmax_rows()?) {
                tokens[place] = token;
            }
            batch.ids().rewrite(&self.cuda, &tokens)?;
            self.places.send(&self.cuda)?;
        } else {
            let vocab = self.decoder.model.config().vocab_size;
            let to = self.cuda.upload(&free.iter().map(|&place| place as u32).collect::<Vec<_>>())?;
            let logits = logits.on_cuda(&self.cuda)?.dense()?;
            put_rows(&self.cuda, own_logits.view(), logits.view(), to.view(), own.sequences(), vocab)?;
        }
        self.live.extend(free);
        Ok(())
    }
}
