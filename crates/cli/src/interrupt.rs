//! Ctrl-C: what was done is kept, and who asks twice does not wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::Error;

/// A second interrupt is one only after this.
const AGAIN: Duration = Duration::from_millis(500);

/// Whether the process was asked to end.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on; once a process.
    pub(crate) fn listen() -> Result<Self, Error> {
        let this = Self(Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&this.0);
        let mut asked: Option<Instant> = None;
        ctrlc::set_handler(move || {
            flag.store(true, Ordering::Relaxed);
            // Who asks again does not want to wait for the step; one request may come as two signals.
            if asked.get_or_insert_with(Instant::now).elapsed() > AGAIN {
                std::process::exit(130);
            }
        })
        .map_err(|error| Error::Threads(error.to_string()))?;
        Ok(this)
    }

    /// Whether it was.
    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
