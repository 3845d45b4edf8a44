//! Lines of standard input, read beside the work that they are for.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, channel};

/// The longest line that is read, in bytes.
const MAX_LINE: u64 = 16 << 20;

/// The lines of a text in UTF-8, without what ends them. One that is too long is an error.
pub fn lines_of(mut text: impl BufRead) -> impl Iterator<Item = io::Result<String>> {
    std::iter::from_fn(move || {
        let mut line = String::new();
        match text.by_ref().take(MAX_LINE + 1).read_line(&mut line) {
            Ok(0) => None,
            Ok(bytes) if bytes as u64 > MAX_LINE => {
                let message = format!("a line is longer than {} MiB", MAX_LINE >> 20);
                Some(Err(io::Error::new(io::ErrorKind::InvalidData, message)))
            }
            Ok(_) => {
                let end =
                    line.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
                line.truncate(end.map_or(line.len(), str::len));
                Some(Ok(line))
            }
            Err(e) => Some(Err(e)),
        }
    })
}

/// The lines of standard input that are to be taken in turn.
pub struct Lines(Receiver<io::Result<String>>);

impl Lines {
    /// Starts to read on a thread of its own. `at_once` hears each line as it arrives, on that
    /// thread, and says whether it took the line; the others wait here.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn read(at_once: impl Fn(&str) -> bool + Send + 'static) -> io::Result<Lines> {
        let (sender, receiver) = channel();
        std::thread::Builder::new().name("stdin".into()).spawn(move || {
            for line in lines_of(io::stdin().lock()) {
                let failed = line.is_err();
                let waits = line.as_deref().is_ok_and(|line| !at_once(line)) || failed;
                // The other end may have gone; nothing after an error can be read.
                if (waits && sender.send(line).is_err()) || failed {
                    return;
                }
            }
        })?;
        Ok(Lines(receiver))
    }
}

impl Iterator for Lines {
    type Item = io::Result<String>;

    fn next(&mut self) -> Option<io::Result<String>> {
        self.0.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_as_those_of_the_standard_library() {
        for text in ["", "\n", "a", "a\nb\r\n\r\r\n\nc\r", "\u{e9}\n"] {
            let found: Vec<String> = lines_of(text.as_bytes()).map(Result::unwrap).collect();
            let expected: Vec<String> = text.as_bytes().lines().map(Result::unwrap).collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = lines_of(io::BufReader::new(io::repeat(b'a')));
        let error = lines.next().expect("a line").expect_err("it is too long");
        assert_eq!(error.to_string(), "a line is longer than 16 MiB");
        assert!(lines_of(&b"\xff\n"[..]).next().expect("a line").is_err());
    }
}
