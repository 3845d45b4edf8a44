//! What commands print, and how they fail.

use std::fmt;
use std::io::{self, Read, Write};

use serde::Serialize;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// One sentence for stderr.
    Message(String),
    /// Options that do not go together: one sentence for stderr.
    Usage(String),
    /// Whoever read stdout has gone: no failure of ours.
    ClosedPipe,
}

impl Failure {
    /// A failure with this sentence.
    pub fn new(message: impl fmt::Display) -> Failure {
        Failure::Message(message.to_string())
    }

    /// A wrong usage with this sentence.
    pub fn usage(message: impl fmt::Display) -> Failure {
        Failure::Usage(message.to_string())
    }
}

impl From<limbeck::Error> for Failure {
    fn from(e: limbeck::Error) -> Failure {
        Failure::new(e)
    }
}

impl From<limbeck_compiler::Error> for Failure {
    fn from(e: limbeck_compiler::Error) -> Failure {
        Failure::new(e)
    }
}

/// Prints text to stdout at once.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
        _ => Failure::new(format!("stdout: {e}")),
    })
}

/// Prints a line to stdout.
pub fn print_line(text: impl fmt::Display) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// Prints one JSON object to stdout.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print_line(serde_json::to_string_pretty(value).map_err(Failure::new)?)
}

/// A line for the person at the terminal, on stderr. Where no one reads it, nothing is lost.
pub fn say(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A remark for the person at the terminal.
pub fn note(text: impl fmt::Display) {
    say(format_args!("limbeck: note: {text}"));
}

/// Names the file that an operation failed on.
pub fn at_file<T, E: fmt::Display>(path: &std::path::Path, r: Result<T, E>) -> Result<T, Failure> {
    r.map_err(|e| Failure::new(format!("{}: {e}", path.display())))
}

/// Refuses a place for a result where a plan stands.
pub fn check_result(path: &std::path::Path) -> Result<(), Failure> {
    let mut start = [0; limbeck::plan::MAGIC.len()];
    let begins = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    if begins.is_ok() && start == limbeck::plan::MAGIC {
        let message = "this is a plan: it is not replaced by another kind of file";
        return Err(Failure::new(format!("{}: {message}", path.display())));
    }
    Ok(())
}

/// Writes a result, which must not take the place of a plan.
pub fn write_result(path: &std::path::Path, bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
    check_result(path)?;
    at_file(path, std::fs::write(path, bytes))
}
