//! The `davit` command: parse, call the engine, print.

#![forbid(unsafe_code)]
// This crate is the one that owns the process: its arguments, environment and exit code.
#![allow(clippy::disallowed_methods, reason = "the command reads the environment for the engine")]

mod arguments;
mod cli;
mod commands;
mod environment;
mod error;
mod filter;
mod format;
mod plugin;
mod printer;
mod progress;
mod reference;
mod units;
mod usage;
mod warnings;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    davit_engine::process::prepare(&arguments);
    // Helpers are this binary, executed again; they bypass the command line for start-up time.
    if let Some(code) = davit_engine::process::run_helper(&arguments) {
        return ExitCode::from(code);
    }
    if arguments.get(1).is_some_and(|verb| verb == "__exec") {
        return ExitCode::from(commands::container::exec::helper());
    }
    if arguments.get(1).is_some_and(|verb| verb == "__drain") {
        return ExitCode::from(commands::container::exec::drain());
    }
    if arguments.get(1).is_some_and(|verb| verb == commands::registry::TASK) {
        return ExitCode::from(davit_registry::autobuild::task::run());
    }
    let outcome = plugin::call(&arguments).and_then(|call| match call {
        Some(plugin::Call::Answer(text)) => printer::data(&text).map(|()| 0),
        Some(plugin::Call::Verb(words)) => cli::run(&words),
        None => cli::run(&arguments),
    });
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => error.report(),
    }
}
