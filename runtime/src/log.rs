//! What the runtime tells beside results: a logger that belongs to an engine, never to the process.

use std::fmt;
use std::sync::Arc;

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Something is not as it was asked for: a budget that is not kept.
    Warn,
    /// What was chosen and opened.
    Info,
    /// What helps to find a fault.
    Debug,
}

impl Level {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

type Sink = dyn Fn(Level, &str) + Send + Sync;

/// Hears messages up to a level. Clones share one sink, which any thread may call, in the midst of a
/// call of the runtime: it should be quick, and must not call the session that it hears of.
#[derive(Clone, Default)]
pub struct Logger(Option<(Level, Arc<Sink>)>);

impl Logger {
    /// A logger that gives messages up to `most` to `sink`.
    pub fn new(most: Level, sink: impl Fn(Level, &str) + Send + Sync + 'static) -> Logger {
        Logger(Some((most, Arc::new(sink))))
    }

    /// Tells a message, which is written only where someone hears it.
    pub(crate) fn tell<T: fmt::Display>(&self, level: Level, message: impl FnOnce() -> T) {
        if let Some((most, sink)) = &self.0
            && level <= *most
        {
            sink(level, &message().to_string());
        }
    }
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((most, _)) => write!(f, "Logger({})", most.name()),
            None => f.write_str("Logger(none)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn messages_beyond_the_level_are_not_even_written() {
        let heard: Arc<Mutex<Vec<(Level, String)>>> = Arc::default();
        let sink = heard.clone();
        let logger = Logger::new(Level::Info, move |level, message| {
            sink.lock().unwrap().push((level, message.to_owned()));
        });
        logger.tell(Level::Warn, || "a");
        logger.clone().tell(Level::Info, || "b");
        logger.tell(Level::Debug, || -> &str { panic!("written for no one") });
        Logger::default().tell(Level::Warn, || -> &str { panic!("written for no one") });
        let heard = heard.lock().unwrap();
        assert_eq!(*heard, [(Level::Warn, "a".to_owned()), (Level::Info, "b".to_owned())]);
    }
}
