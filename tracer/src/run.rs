//! One run, from fork to the last reaped process.
use crate::{Command, Error, Interrupt, Outcome};

pub(crate) fn probe() -> Result<(), Error> {
    Err(Error::NotAvailable { backend: "ptrace", why: "not built yet".to_owned() })
}

pub(crate) fn run(
    _traced: bool,
    _command: &Command,
    _interrupt: &Interrupt,
) -> Result<Outcome, Error> {
    probe().and(Err(Error::KeeperLost))
}
