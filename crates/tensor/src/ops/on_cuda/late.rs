//! Gradients of low-rank factors that may wait: where a factor is a leaf of the tape, nobody needs them before the backward pass
//! ends, and those of several layers take one launch. Alone, one site's fill the device badly where tokens are few.

use std::cell::RefCell;

use statetune_ssm_kernels::low_rank::cuda::{Factors, MOST_TOGETHER, Outer, Sides, gradients};

use super::low_rank::columns;
use super::*;

/// Up to so many tokens as many wait as one launch takes; of more, a few fill the device, and what waits is kept.
const FEW_TOKENS: usize = 4096;
const FEW: usize = 4;

/// One factor's: its gradient, to be written, and what it is made of, which is kept until it is.
#[derive(Debug)]
pub struct LateFactor {
    pub gradient: DeviceTensor,
    pub x: Vec<DeviceTensor>,
    pub projected: DeviceTensor,
}

/// One addition's.
#[derive(Debug)]
pub struct LateFactors {
    pub up: Option<LateFactor>,
    pub down: Option<LateFactor>,
    pub scale: f64,
    pub rank: usize,
    pub tokens: usize,
}

/// Those of a tape that have not been made.
#[derive(Debug, Default)]
pub struct LateGradients(RefCell<Vec<LateFactors>>);

impl LateGradients {
    /// Makes them together with others, before the tape reads them.
    pub fn push(&self, cuda: &Cuda, factors: LateFactors) -> Result<()> {
        let fits = |first: &LateFactors| (first.rank, first.tokens) == (factors.rank, factors.tokens);
        if !self.0.borrow().first().is_none_or(fits) {
            self.finish(cuda)?;
        }
        let together = if factors.tokens > FEW_TOKENS { FEW } else { MOST_TOGETHER };
        self.0.borrow_mut().push(factors);
        if self.0.borrow().len() >= together {
            self.finish(cuda)?;
        }
        Ok(())
    }

    /// Makes all that wait.
    pub fn finish(&self, cuda: &Cuda) -> Result<()> {
        make(cuda, &self.0.take())
    }
}

/// The gradients of additions of one rank, over the same tokens.
pub fn make(cuda: &Cuda, all: &[LateFactors]) -> Result<()> {
    let Some(first) = all.first() else { return Ok(()) };
    let factors: Vec<Factors> = all.iter().map(LateFactors::views).collect();
    Ok(gradients(cuda, &factors, first.rank, first.tokens)?)
}

impl LateFactor {
    fn views(&self) -> Outer<'_> {
        let x = Sides::new(&self.x.iter().map(columns).collect::<Vec<_>>());
        Outer { gradient: self.gradient.view(), x, projected: self.projected.view() }
    }
}

impl LateFactors {
    fn views(&self) -> Factors<'_> {
        let [up, down] = [&self.up, &self.down].map(|factor| factor.as_ref().map(LateFactor::views));
        Factors { up, down, scale: self.scale }
    }
}
