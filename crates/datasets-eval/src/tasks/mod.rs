//! Tasks with a prompt form of their own, one file each. Reading their files is in `readers`.
//!
//! Each has the form of the State-offset paper, token for token as the authors' published code writes it
//! ([`Preset::Paper`](crate::Preset::Paper)), and one without that form's slips ([`Preset::Clean`](crate::Preset::Clean)).

pub mod dart;
pub mod glue;
pub mod samsum;
pub mod spider;
