//! Ctrl-C and termination: a request to stop in good order.
//!
//! Owns the flag. Whoever loops looks at it; a second signal ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::Failure;

/// Whether somebody asked this process to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens for SIGINT and SIGTERM.
    pub(crate) fn on_signals() -> Result<Stop, Failure> {
        const EXIT_BY_SIGNAL: i32 = 130;
        let stop = Stop::default();
        for signal in [SIGINT, SIGTERM] {
            let armed = Arc::clone(&stop.0);
            flag::register_conditional_shutdown(signal, EXIT_BY_SIGNAL, armed)
                .and_then(|_| flag::register(signal, Arc::clone(&stop.0)))
                .map_err(|error| Failure::failed(format!("signals cannot be caught: {error}")))?;
        }
        Ok(stop)
    }

    /// Whether it has been asked.
    pub(crate) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks.
    pub(crate) fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
