//! `cargo xtask`: everything the project does beyond a plain build. Each subcommand is one module.

#![forbid(unsafe_code)]

mod arm;
mod bench;
mod debian;
mod demo;
mod dist;
mod fetch;
mod golden;
mod limbeck;
mod onnx;
mod process;
mod table;
mod terrain;
mod test;
mod venv;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::process::Result;
use crate::workspace::Workspace;

/// Tasks of the Limbeck workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch real students, compile them, and show the dial: speed, compute and quality at several budgets
    Demo,
    /// Run every test of the workspace and print the totals
    Test(test::Options),
    /// Measure against llama.cpp, which is fetched and built on first use, and ONNX Runtime; reports go to
    /// target/bench
    Bench(bench::Options),
    /// Build the library for C and C++, with headers, a pkg-config file and a CMake package
    Dist(dist::Options),
    /// Fetch the students that tests and the demo use into target/students
    Fetch,
    /// Make the goldens again with PyTorch and transformers
    Golden(golden::Options),
}

fn main() -> ExitCode {
    let workspace = Workspace::locate();
    match run(Cli::parse().task, &workspace) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task, workspace: &Workspace) -> Result<()> {
    match task {
        Task::Demo => demo::run(workspace),
        Task::Test(options) => test::run(workspace, &options),
        Task::Bench(options) => bench::run(workspace, &options),
        Task::Dist(options) => dist::run(workspace, &options),
        Task::Fetch => {
            let students = fetch::students(workspace)?;
            println!("students are in {}", students.display());
            Ok(())
        }
        Task::Golden(options) => golden::run(workspace, &options),
    }
}
