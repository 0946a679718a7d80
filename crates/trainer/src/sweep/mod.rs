//! A sweep: every method on every task, its learning rate searched on rows cut from the training data, then several
//! seeds with the rate found, and a table. In one process: model and data are loaded once, several runs may go on at once.
//!
//! - [`SweepConfig`]: the TOML file; [`Plan`]: the runs that follow from it.
//! - [`Results`]: one line per finished run in one file, which is all that going on needs.
//! - [`run()`]: runs what is missing; [`Table`]: what came out; [`write_pages`]: the same as files.
//! - [`Judge`]: the model's own answers as what a task is judged by; [`compared()`]: these evaluations beside each other.

mod compared;
mod config;
mod curve;
mod judge;
mod one;
mod pages;
mod plan;
mod results;
mod room;
mod run;
mod table;

pub use compared::{Compared, compared};
pub use config::{EntrySection, Reference, SearchOnTask, SearchSection, SweepConfig, SweepOutput, TaskSection};
pub use judge::{Candidate, Judge, Judgement, Judging};
pub use one::At;
pub use pages::write_pages;
pub use plan::{Job, Plan, PlannedTask, Purpose, Unit};
pub use results::{Choice, DeviceUsed, Line, Results};
pub use run::{Event, Limits, Placed, Report, TaskData, run};
pub use table::Table;
