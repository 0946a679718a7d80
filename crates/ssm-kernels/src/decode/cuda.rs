//! Launches of `project.cu`, `many.cu`, `wide.cu`, `norm.cu`, `state.cu` and `choose.cu`.

mod choose;
mod conv;
mod many;
mod norm;
mod project;
mod state;
mod wide;

pub use choose::argmax;
pub use conv::{Conv, conv_step};
pub use many::{project_many, suits_many};
pub use norm::{norm_fits, norm_step};
pub use project::{Best, Input, MOST_SEQUENCES, Norm, Rows, fits, project};
pub use state::{Delta, LowRank, Step, scan_step};
pub use wide::{Parts, project_parts, project_wide, suits_wide};

#[cfg(test)]
pub(crate) use {
    choose::SOURCE as CHOOSE, many::SOURCE as MANY, norm::SOURCE as NORM, project::SOURCE as PROJECT,
    state::SOURCE as STATE, wide::SOURCE as WIDE,
};
