use std::ffi::{c_char, c_void};

use runtime::{Level, Logger};

use crate::error::{c_string, lbk_error};
use crate::guard::Outcome;

/// How much a message matters; one of the `LBK_LOG_*` numbers.
pub type lbk_log_level = i32;

/// No message.
pub const LBK_LOG_NONE: lbk_log_level = 0;
/// Something is not as it was asked for: a budget that is not kept.
pub const LBK_LOG_WARN: lbk_log_level = 1;
/// What was chosen and opened.
pub const LBK_LOG_INFO: lbk_log_level = 2;
/// What helps to find a fault.
pub const LBK_LOG_DEBUG: lbk_log_level = 3;

/// Hears messages of an engine, each a text in UTF-8 that ends in a 0 byte and lives until the
/// callback returns. The thread that makes the call which the message is about calls it, several
/// threads perhaps at once. It must not throw or jump out, and must not use the handle of the call
/// that is in progress.
pub type lbk_log_fn = Option<
    unsafe extern "C" fn(level: lbk_log_level, message: *const c_char, user_data: *mut c_void),
>;

/// Ends what `user_data` stands for: called once, by the thread that gives up the last use of it.
pub type lbk_release_fn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// Something of the app's, released when it goes.
pub(crate) struct UserData {
    pub data: *mut c_void,
    pub release: lbk_release_fn,
}

// SAFETY: the header demands that what is given with a callback may be used from any thread.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

impl Drop for UserData {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: the app gave the two together, and this is the only call.
            unsafe { release(self.data) }
        }
    }
}

/// A logger that calls back up to a level.
pub(crate) fn logger(log: lbk_log_fn, level: lbk_log_level, user: UserData) -> Outcome<Logger> {
    let most = match level {
        LBK_LOG_NONE => None,
        LBK_LOG_WARN => Some(Level::Warn),
        LBK_LOG_INFO => Some(Level::Info),
        LBK_LOG_DEBUG => Some(Level::Debug),
        _ => {
            let message = format!("log_level: {level} is none of LBK_LOG_*");
            return Err(lbk_error::argument("log_level", &message));
        }
    };
    let (log, most) = match (log, most) {
        (Some(log), Some(most)) => (log, most),
        _ if user.release.is_none() => return Ok(Logger::default()),
        // Nobody hears anything, but what is released with the logger lives as long.
        _ => {
            return Ok(Logger::new(Level::Warn, move |_, _| {
                let _keeps = &user;
            }));
        }
    };
    Ok(Logger::new(most, move |level, message| {
        let level = match level {
            Level::Warn => LBK_LOG_WARN,
            Level::Info => LBK_LOG_INFO,
            Level::Debug => LBK_LOG_DEBUG,
        };
        // The whole is kept, not its pointer alone.
        let user = &user;
        // SAFETY: the app gave the two together; the text lives until the callback returns.
        unsafe { log(level, c_string(message).as_ptr(), user.data) }
    }))
}
