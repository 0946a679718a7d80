//! `cargo xtask <task>`: what a contributor or a build server types, one file per task.
//!
//! Exit codes: 0 done, 2 for a mistake in what was typed, the code of the program that failed, else 1. Checks of the
//! repository itself are tests, in `tidy`.
#![forbid(unsafe_code)]

mod bench;
mod book;
mod bundle;
mod command;
mod compare;
mod cuda;
mod docs;
mod golden;
mod lint;
mod nearest;
mod nvrtc;
mod pretrain_tiny;
mod programs;
mod quickstart;
mod test;
#[cfg(test)]
mod tidy;

use std::process::ExitCode;

use crate::command::{ChildFailed, UserError};

/// A task.
struct Task {
    name: &'static str,
    /// Its arguments.
    usage: &'static str,
    about: &'static str,
    run: fn(&[String]) -> anyhow::Result<()>,
}

const TASKS: [Task; 9] = [
    quickstart::TASK,
    test::TASK,
    golden::TASK,
    lint::TASK,
    docs::TASK,
    bench::TASK,
    compare::TASK,
    bundle::TASK,
    pretrain_tiny::TASK,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Err(error) = dispatch(&arguments) else { return ExitCode::SUCCESS };
    eprintln!("xtask: {error:#}");
    if error.is::<UserError>() {
        ExitCode::from(2)
    } else {
        ExitCode::from(error.downcast_ref::<ChildFailed>().map_or(1, ChildFailed::code))
    }
}

fn dispatch(arguments: &[String]) -> anyhow::Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        print!("{}", help());
        return Ok(());
    };
    if ["help", "--help", "-h"].contains(&name.as_str()) {
        print!("{}", help());
        return Ok(());
    }
    match TASKS.iter().find(|task| task.name == name) {
        Some(task) if rest.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--help") => {
            println!("{}\n\nusage: cargo xtask {} {}", task.about, task.name, task.usage);
            Ok(())
        }
        Some(task) => (task.run)(rest),
        None => Err(UserError(unknown("task", name, TASKS.map(|task| task.name))).into()),
    }
}

/// The message for a name that is none of the known ones.
fn unknown<const N: usize>(what: &str, found: &str, known: [&str; N]) -> String {
    let hint = nearest::nearest(found, known).map_or(".".to_owned(), |near| format!("; did you mean `{near}`?"));
    format!("unknown {what} `{found}`{hint} Known: {}", known.join(", "))
}

fn help() -> String {
    let mut text = "usage: cargo xtask <task> [arguments]\n\n".to_owned();
    for task in &TASKS {
        text += &format!("  {:<14} {}\n", task.name, task.about);
        if !task.usage.is_empty() {
            text += &format!("  {:<14}   {}\n", "", task.usage);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_task_is_the_users_error_and_names_the_nearest() {
        let error = dispatch(&["tset".to_owned()]).unwrap_err();
        assert!(error.is::<UserError>(), "{error}");
        assert!(error.to_string().contains("did you mean `test`"), "{error}");
    }

    #[test]
    fn help_names_every_task() {
        for task in &TASKS {
            assert!(help().contains(task.about), "{}", task.name);
        }
    }
}
