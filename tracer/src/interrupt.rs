//! Ending a running command from another thread.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A switch that ends the commands it was given to, and those that would start
/// after it was thrown.
///
/// It signals through a pidfd, so that it can never hit a process that got the
/// id of one that ended.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    triggered: bool,
    running: Vec<Arc<OwnedFd>>,
    others: Vec<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("triggered", &self.triggered)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Interrupt {
    /// A switch that has not been thrown.
    #[must_use]
    pub fn new() -> Interrupt {
        Interrupt::default()
    }

    /// Kills the main process of every command that runs with this switch;
    /// their [`run`](crate::Tracer::run) then ends the rest and says
    /// [`Interrupted`](crate::Error::Interrupted).
    pub fn trigger(&self) {
        let mut state = self.state();
        state.triggered = true;
        for pidfd in &state.running {
            crate::sys::kill_by_pidfd(pidfd);
        }
        let others = std::mem::take(&mut state.others);
        drop(state);
        others.into_iter().for_each(|other| other());
    }

    /// Has something else ended by the same switch; at once if it was thrown before.
    pub fn also(&self, other: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        if state.triggered {
            drop(state);
            other();
        } else {
            state.others.push(Box::new(other));
        }
    }

    /// Whether the switch was thrown.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.state().triggered
    }

    /// Puts a main process under the switch until the guard is dropped.
    pub(crate) fn enroll(&self, pidfd: OwnedFd) -> Enrolled<'_> {
        let pidfd = Arc::new(pidfd);
        let mut state = self.state();
        if state.triggered {
            crate::sys::kill_by_pidfd(&pidfd);
        }
        state.running.push(Arc::clone(&pidfd));
        Enrolled { interrupt: self, pidfd }
    }

    /// The state; a thread that panicked while it held the lock left it whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a process under an [`Interrupt`].
pub(crate) struct Enrolled<'a> {
    interrupt: &'a Interrupt,
    pidfd: Arc<OwnedFd>,
}

impl Drop for Enrolled<'_> {
    fn drop(&mut self) {
        self.interrupt.state().running.retain(|fd| !Arc::ptr_eq(fd, &self.pidfd));
    }
}
