//! Lines of standard input, read beside the work that they are for.

use std::io::{self, BufRead};
use std::sync::mpsc::{Receiver, channel};

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
            for line in io::stdin().lock().lines() {
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
