//! Launches of `project.cu`, `state.cu` and `choose.cu`.

mod choose;
mod conv;
mod project;
mod state;

pub use choose::argmax;
pub use conv::{Conv, conv_step};
pub use project::{Best, Input, MOST_SEQUENCES, Norm, fits, project};
pub use state::{Delta, LowRank, Step, scan_step};

#[cfg(test)]
pub(crate) use {choose::SOURCE as CHOOSE, project::SOURCE as PROJECT, state::SOURCE as STATE};
