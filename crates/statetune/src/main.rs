//! The `statetune` command: arguments in, one readable cause out. The work is in `statetune::cli`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    statetune::ssm_kernels::runtime::keep_freed_memory();
    let arguments = statetune::cli::Arguments::parse();
    match statetune::cli::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line per cause; nothing is repeated that the one above said already.
            eprintln!("error: {error}");
            let mut said = error.to_string();
            for cause in error.chain().skip(1) {
                let cause = cause.to_string();
                if !said.contains(&cause) {
                    eprintln!("  because: {cause}");
                    said = cause;
                }
            }
            // All that the commands return is about what they were given; what is ours panics, with 101.
            ExitCode::from(2)
        }
    }
}
