//! Ctrl-C, SIGTERM and SIGHUP: the first asks the work to stop, the second ends the process at once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::output;

/// 128 + SIGINT, as a shell reports it.
pub(crate) const EXIT_CODE: u8 = 130;

static REQUESTED: AtomicBool = AtomicBool::new(false);
static SINCE: OnceLock<Instant> = OnceLock::new();

/// Signals so close to the first say the same.
const ONE_REQUEST: Duration = Duration::from_millis(300);

/// The user asked to stop; what was finished stays.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// # Errors
/// The signal handler cannot be installed.
pub(crate) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            // `timeout` and shells signal a process and then its group: that is one request.
            if SINCE.get().is_some_and(|first| first.elapsed() < ONE_REQUEST) {
                return;
            }
            // A forward pass may take long and cannot be cut short; who asks twice does not want to wait for it.
            output::remove_all_pending();
            // SAFETY: ends the process. Other threads still work, so libtorch's statics must not be destroyed under them, as
            // `std::process::exit` would.
            unsafe { libc::_exit(i32::from(EXIT_CODE)) };
        }
        let _ = SINCE.set(Instant::now());
    })
    .context("cannot install the Ctrl-C handler")
}

/// # Errors
/// [`Interrupted`] once the user has asked to stop.
pub(crate) fn check() -> Result<(), Interrupted> {
    if REQUESTED.load(Ordering::SeqCst) {
        Err(Interrupted)
    } else {
        Ok(())
    }
}
