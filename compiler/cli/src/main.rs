//! The `limbeck` command: compiles students to plans and runs them.
//!
//! Results go to stdout, messages to stderr. Exit status: 0 done, 1 failed (with one sentence),
//! 2 wrong usage.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod calibration;
mod chat;
mod compile;
mod devices;
mod embed;
mod forward;
mod generate;
mod image;
mod inspect;
mod lines;
mod memory;
mod npz;
mod output;
mod perplexity;
mod run;
mod score;
mod tune;
mod values;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use output::{Failure, say};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Compile(args) => compile::execute(args),
        Command::Inspect(args) => inspect::execute(args),
        Command::Run(args) => run::execute(args),
        Command::Chat(args) => chat::execute(args),
        Command::Embed(args) => embed::execute(args),
        Command::Perplexity(args) => perplexity::execute(args),
        Command::Forward(args) => forward::execute(args),
        Command::Generate(args) => generate::execute(args),
        Command::Bench(args) => bench::execute(args),
        Command::Tune(args) => tune::execute(args),
        Command::Devices(args) => devices::execute(args),
    };
    let (message, status) = match result {
        Ok(()) | Err(Failure::ClosedPipe) => return ExitCode::SUCCESS,
        Err(Failure::Message(message)) => (message, 1),
        Err(Failure::Usage(message)) => (message, 2),
    };
    say(format_args!("limbeck: {message}"));
    ExitCode::from(status)
}
