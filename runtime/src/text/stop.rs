//! Stop strings in text that arrives in pieces.

use crate::{Error, ErrorKind, Result};

/// Longest stop string, in bytes.
const MAX_STOP: usize = 4096;

/// Cuts streamed text at the first stop string.
///
/// The first is the one that is complete first; among those that end at the same place, the
/// longest. Where the pieces are cut makes no difference. Text that may still turn out to be
/// the beginning of a stop string is held back until that is known.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopMatcher {
    /// A matcher for these strings, none of which may be empty or longer than 4096 bytes. With
    /// no strings, text passes unchanged.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Result<StopMatcher> {
        let mut kept = Vec::with_capacity(stops.len());
        for stop in stops {
            let stop = stop.as_ref();
            if stop.is_empty() || stop.len() > MAX_STOP {
                let message = format!("has {} bytes; 1 to {MAX_STOP} are allowed", stop.len());
                return Err(Error::new(ErrorKind::InvalidInput, message).at("stop string"));
            }
            kept.push(stop.to_owned());
        }
        Ok(StopMatcher { stops: kept, held: String::new(), stopped: false })
    }

    /// Takes the next piece and appends to `out` what is now known to precede any stop string.
    /// Gives true once a stop string was found; all later text is dropped.
    pub fn push(&mut self, piece: &str, out: &mut String) -> bool {
        if self.stopped {
            return true;
        }
        self.held.push_str(piece);
        // Each stop's leftmost occurrence is also the one that ends first.
        let found = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at)))
            .min();
        if let Some((_, start)) = found {
            out.extend(self.held.get(..start));
            self.held = String::new();
            self.stopped = true;
            return true;
        }
        let release = self.undecided();
        out.extend(self.held.get(..release));
        self.held.drain(..release);
        false
    }

    /// Ends the text: appends what was held back, since no stop string can follow.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// Whether a stop string was found.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Byte where the longest suffix of the held text begins that could begin a stop string.
    fn undecided(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = self.held.len().saturating_sub(longest.saturating_sub(1));
        (earliest..self.held.len())
            .find(|&at| {
                let suffix = self.held.get(at..);
                suffix.is_some_and(|suffix| self.stops.iter().any(|stop| stop.starts_with(suffix)))
            })
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut matcher = StopMatcher::new(stops).unwrap();
        let mut released: Vec<String> = pieces
            .iter()
            .map(|piece| {
                let mut out = String::new();
                matcher.push(piece, &mut out);
                out
            })
            .collect();
        let mut out = String::new();
        matcher.finish(&mut out);
        released.push(out);
        (released, matcher.stopped())
    }

    #[test]
    fn holds_back_only_what_may_begin_a_stop() {
        let (released, stopped) = run(&["\nUser:"], &["Hi\nUs", "ers\n", "Us", "er", ":x", "y"]);
        assert_eq!(released, ["Hi", "\nUsers", "", "", "", "", ""]);
        assert!(stopped);
        let (released, stopped) = run(&["</s>"], &["a</", "s"]);
        assert_eq!(released, ["a", "", "</s"]);
        assert!(!stopped);
    }

    #[test]
    fn the_stop_that_is_complete_first_wins() {
        assert_eq!(run(&["abcd", "bc"], &["xabcd"]).0.concat(), "xa");
        assert_eq!(run(&["abcd", "bc"], &["xab", "cd"]).0.concat(), "xa");
        assert_eq!(run(&["c", "abc"], &["xa", "bc"]).0.concat(), "x");
    }

    #[test]
    fn no_stops_pass_everything_at_once() {
        assert_eq!(run(&[], &["a", "é"]).0, ["a", "é", ""]);
    }

    #[test]
    fn bad_stops_are_refused() {
        let error = StopMatcher::new(&["a", ""]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(StopMatcher::new(&["x".repeat(MAX_STOP + 1)]).is_err());
    }

    /// Looks at every prefix of the whole text in turn.
    fn naive(stops: &[String], text: &str) -> (String, bool) {
        for end in 1..=text.len() {
            let Some(prefix) = text.get(..end) else {
                continue;
            };
            let longest = stops
                .iter()
                .filter(|stop| prefix.ends_with(stop.as_str()))
                .max_by_key(|stop| stop.len());
            if let Some(stop) = longest {
                return (prefix[..end - stop.len()].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_search(
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            pieces in prop::collection::vec("[abé]{0,3}", 0..12),
        ) {
            let mut matcher = StopMatcher::new(&stops).unwrap();
            let mut out = String::new();
            for piece in &pieces {
                matcher.push(piece, &mut out);
                let longest = stops.iter().map(String::len).max().unwrap_or(0);
                prop_assert!(matcher.held.len() < longest.max(1));
            }
            matcher.finish(&mut out);
            prop_assert_eq!((out, matcher.stopped()), naive(&stops, &pieces.concat()));
        }
    }
}
