//! Launches of `project.cu`, `state.cu` and `choose.cu`.

mod choose;
mod project;
mod state;

pub use choose::argmax;
pub use project::{Best, Conv, Input, MOST_SEQUENCES, Norm, fits, project};
pub use state::{Fused, Step, conv_step, scan_step};
