//! One thread hands out jobs, workers do them, one thread writes what they made,
//! in the order of the jobs. Every queue is bounded, and so is the memory.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A job, and where its result goes.
type Job<J, D> = (J, SyncSender<io::Result<D>>);

/// The results of the jobs, in their order.
pub(crate) type Results<D> = Receiver<Receiver<io::Result<D>>>;

/// Where jobs are handed out.
pub(crate) struct Jobs<J, D> {
    waiting: SyncSender<Job<J, D>>,
    order: SyncSender<Receiver<io::Result<D>>>,
}

impl<J, D> Jobs<J, D> {
    /// Hands one out, once there is room for it.
    pub(crate) fn hand_out(&self, job: J) -> io::Result<()> {
        let (done, result) = sync_channel(1);
        self.order.send(result).map_err(|_| cut_off())?;
        self.waiting.send((job, done)).map_err(|_| cut_off())
    }
}

/// The next result.
pub(crate) fn next<D>(results: &Results<D>) -> Option<io::Result<D>> {
    let result = results.recv().ok()?;
    Some(result.recv().unwrap_or_else(|_| Err(cut_off())))
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the compressor stopped")
}

/// Runs the three beside each other, with at least one worker; `worker` makes each of them. An error
/// of the writer is given in preference to that of the `feed` it cut off.
pub(crate) fn run<J, D, F, O, T, E>(
    threads: usize,
    worker: impl Fn() -> F + Sync,
    write: impl FnOnce(&Results<D>) -> io::Result<O> + Send,
    feed: impl FnOnce(Jobs<J, D>) -> Result<T, E>,
) -> Result<(O, T), E>
where
    J: Send,
    D: Send,
    F: FnMut(J) -> io::Result<D>,
    O: Send,
    E: From<io::Error>,
{
    let threads = threads.max(1);
    let (jobs, waiting) = sync_channel(threads);
    let (order, ordered) = sync_channel(2 * threads);
    thread::scope(|scope| {
        // The workers own the receiver: when all are gone, sending fails.
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..threads {
            let (waiting, worker) = (Arc::clone(&waiting), &worker);
            scope.spawn(move || work(&waiting, worker()));
        }
        drop(waiting);
        let writer = scope.spawn(move || write(&ordered));
        let fed = feed(Jobs { waiting: jobs, order });
        match (fed, writer.join().expect("the writer does not panic")) {
            (Ok(told), Ok(out)) => Ok((out, told)),
            (Err(why), Ok(_)) => Err(why),
            (_, Err(why)) if why.kind() != io::ErrorKind::BrokenPipe => Err(why.into()),
            (Err(why), Err(_)) => Err(why),
            (Ok(_), Err(why)) => Err(why.into()),
        }
    })
}

fn work<J, D>(waiting: &Mutex<Receiver<Job<J, D>>>, mut worker: impl FnMut(J) -> io::Result<D>) {
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, done)) = job else { return };
        // Nobody waits for the result once the writer failed.
        let _ = done.send(worker(job));
    }
}
