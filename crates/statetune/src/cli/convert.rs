//! `statetune convert`

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};

use anyhow::{Context, bail};
use serde_json::json;
use statetune_trainer::authors_experiment;

use super::{ConvertArguments, Output};

pub(super) fn run(arguments: &ConvertArguments, output: Output) -> anyhow::Result<()> {
    let conversion = authors_experiment::convert(&arguments.experiment, arguments.peft.as_deref())?;
    if let Some(path) = &arguments.out {
        let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!("{} is there already", path.display()),
            opened => opened.with_context(|| format!("cannot write {}", path.display()))?,
        };
        let written = file.write_all(conversion.to_toml().as_bytes());
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    if output.json {
        say!("{:#}", json!({"config": conversion.config, "notes": conversion.notes, "file": arguments.out}));
    } else if let Some(path) = &arguments.out {
        for note in conversion.notes.iter().filter(|_| !output.quiet) {
            eprintln!("note: {note}");
        }
        say!("{}", path.display());
    } else {
        say!("{}", conversion.to_toml().trim_end());
    }
    Ok(())
}
