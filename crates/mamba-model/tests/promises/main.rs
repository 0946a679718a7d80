//! The promises of the base model, on small random models of every shape: parallel = recurrent, chunked = whole,
//! packed = alone, a shared prefix = each sequence whole, the same bits on any number of threads, saved = loaded.
//!
//! In `f64` on the reference and in `f32` at every level of this processor. What methods owe on top is tested with them.

mod beams;
mod continuous;
mod generation;
mod gradients;
mod packed;
mod prefixed;
mod recurrent;
mod saved;
mod states;
mod support;
mod threads;
