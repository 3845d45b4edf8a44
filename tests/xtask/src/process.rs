//! Running programs, and the one error type of xtask: a sentence for the person at the terminal.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A task that could not go on, as one sentence.
#[derive(Debug)]
pub struct Failure(String);

/// The result of a task or a part of one.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure with this sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Failure(sentence.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Adds what was being done to an I/O error.
pub trait Doing<T> {
    /// Turns the error into `cannot WHAT PATH: reason`.
    fn doing(self, what: &str, path: &Path) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(|error| Failure::new(format!("cannot {what} {}: {error}", path.display())))
    }
}

/// Makes a folder and its parents.
pub fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).doing("make the folder", path)
}

/// Runs a program to its end, its output going to the terminal; fails unless it exits with 0.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| not_started(command, &error))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("`{}` failed: {status}", line(command))))
    }
}

/// Runs a program and gives its standard output as text; its standard error goes to the terminal.
pub fn stdout_of(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| not_started(command, &error))?;
    if !output.status.success() {
        let sentence = format!("`{}` failed: {}", line(command), output.status);
        return Err(Failure::new(sentence));
    }
    Ok(text(&output.stdout))
}

/// [`stdout_of`] of a program that reads `input`.
pub fn stdout_with_input(command: &mut Command, input: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(|error| not_started(command, &error))?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            // A program that stops early is reported by its status below.
            let _ = stdin.map(|mut stdin| stdin.write_all(input.as_bytes()));
        });
        child.wait_with_output()
    });
    let output = output.map_err(|error| not_started(command, &error))?;
    if !output.status.success() {
        return Err(Failure::new(format!("`{}` failed: {}", line(command), output.status)));
    }
    Ok(text(&output.stdout))
}

/// Runs a program and gives everything it wrote; the terminal sees it only if the program fails.
pub fn quiet(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|error| not_started(command, &error))?;
    let all = both(&output);
    if output.status.success() {
        Ok(all)
    } else {
        eprint!("{all}");
        Err(Failure::new(format!("`{}` failed: {}", line(command), output.status)))
    }
}

/// Standard output and standard error of a finished program, in this order.
pub fn both(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// The failure of a program that did not start.
pub fn not_started(command: &Command, error: &io::Error) -> Failure {
    Failure::new(format!("cannot start `{}`: {error}", name(command.get_program())))
}

/// The command as a person would type it, for messages.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(name).collect::<Vec<_>>().join(" ")
}

fn name(word: &OsStr) -> String {
    word.to_string_lossy().into_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
