//! The thread that writes the ledger's file.
//!
//! A workspace may be a network volume that stops answering. Whoever enters something waits for it, but not for ever:
//! the task that enters is the one that would see a signal.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::record::{self, Head, What};

/// How long an entry may take to reach the disk. A healthy volume takes milliseconds; Kubernetes' patience after a signal
/// is 30 s.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long the process waits at its end for what is still to be written.
const PATIENCE_AT_THE_END: Duration = Duration::from_millis(500);

/// A file that can be waited for.
pub(super) trait Durable: Write + Send + 'static {
    /// Returns once what was written survives a sudden end.
    fn sync(&mut self) -> io::Result<()>;
}

impl Durable for std::fs::File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

struct Job {
    bytes: Vec<u8>,
    /// Told once the bytes are on disk; none where nobody waits.
    done: Option<Sender<io::Result<()>>>,
}

/// Writes in order, beside whoever gives it something to write. Dropping it closes the file, and with that ends its lock.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<Sender<Job>>,
    /// In a mutex only so that the writer can be shared.
    ended: Mutex<Receiver<()>>,
}

impl Writer {
    /// Begins to write to `file`, which has a head by now.
    ///
    /// # Errors
    ///
    /// There is no thread to be had.
    pub(super) fn start(file: impl Durable, head: Head) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (ends, ended) = mpsc::channel();
        thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || {
                work(file, &head, &queue);
                // Nobody waiting any more is fine.
                let _ = ends.send(());
            })?;
        Ok(Self {
            jobs: Some(jobs),
            ended: Mutex::new(ended),
        })
    }

    /// Writes in turn, as soon as the file system lets it. What must last is on disk once [`Ticket::wait`] returns.
    ///
    /// # Errors
    ///
    /// The thread is gone.
    pub(super) fn queue(&self, bytes: Vec<u8>, must_last: bool) -> io::Result<Ticket> {
        let (done, is_done) = must_last.then(mpsc::channel).unzip();
        self.give(Job { bytes, done })?;
        Ok(Ticket(is_done))
    }

    fn give(&self, job: Job) -> io::Result<()> {
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(job).ok())
            .ok_or_else(gone)
    }
}

/// What was given to be written.
#[derive(Default)]
pub(super) struct Ticket(Option<Receiver<io::Result<()>>>);

impl Ticket {
    /// Waits until it is on disk, if it has to last.
    ///
    /// # Errors
    ///
    /// What the file system said, or that it says nothing. It may be written after all then.
    pub(super) fn wait(self) -> io::Result<()> {
        let Some(is_done) = self.0 else {
            return Ok(());
        };
        match is_done.recv_timeout(PATIENCE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "the workspace's volume did not answer within {} s",
                    PATIENCE.as_secs()
                ),
            )),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(PATIENCE_AT_THE_END).is_err() {
            tracing::debug!("the ledger's volume does not answer; its last lines may be missing");
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("nothing writes the ledger any more")
}

/// Takes jobs until nobody has any more, and closes the file.
fn work(mut file: impl Durable, head: &Head, queue: &Receiver<Job>) {
    let mut torn = false;
    for job in queue {
        let result = append(&mut file, head, &mut torn, &job);
        match job.done {
            // Nobody waiting any more is fine.
            Some(done) => drop(done.send(result)),
            None => {
                if let Err(error) = result {
                    tracing::warn!(%error, "the ledger in the workspace is behind");
                }
            }
        }
    }
}

fn append(file: &mut impl Durable, head: &Head, torn: &mut bool, job: &Job) -> io::Result<()> {
    let mut bytes = Vec::new();
    if *torn {
        // Half a line may be there. A head after it says what one after a killed process says: that it never mattered.
        bytes.push(b'\n');
        bytes.extend(record::line(What::Head { head: head.clone() })?);
    }
    bytes.extend_from_slice(&job.bytes);
    let written = file.write_all(&bytes);
    *torn = written.is_err();
    written?;
    if job.done.is_some() {
        file.sync()
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Record, State, Thing, step};
    use super::*;

    /// A volume with room for so many bytes, until there is more.
    #[derive(Clone, Default)]
    struct Volume(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Volume {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut volume = self.0.lock().unwrap();
            let room = volume.1 - volume.0.len();
            if room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = room.min(bytes.len());
            volume.0.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Durable for Volume {
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(name: &str) -> Vec<u8> {
        record::line(What::Step(step(name, Thing::Vm, State::Intent))).unwrap()
    }

    #[test]
    fn half_a_line_on_a_full_volume_takes_nothing_else_with_it() {
        let volume = Volume::default();
        let head = Head::new("tekton", "run", "pod", Some("task"));
        volume.0.lock().unwrap().1 = 1_000_000;
        let writer = Writer::start(volume.clone(), head.clone()).unwrap();
        let write = |bytes| writer.queue(bytes, true).unwrap().wait();
        write(record::line(What::Head { head }).unwrap()).unwrap();
        write(line("before")).unwrap();
        {
            let mut volume = volume.0.lock().unwrap();
            volume.1 = volume.0.len() + 20;
        }
        assert!(write(line("torn")).is_err());
        assert!(write(line("torn again")).is_err());
        // Room for half of the head that is to heal it.
        volume.0.lock().unwrap().1 += 20;
        assert!(write(line("torn a third time")).is_err());
        volume.0.lock().unwrap().1 = 1_000_000;
        write(line("after")).unwrap();
        writer.queue(line("later"), false).unwrap();
        drop(writer);
        let text = String::from_utf8(volume.0.lock().unwrap().0.clone()).unwrap();
        let record = Record::parse(&text);
        let names: Vec<_> = record.entries.iter().map(|entry| &entry.name).collect();
        assert_eq!(names, ["before", "after", "later"], "{text}");
        assert_eq!((record.unreadable, record.task()), (0, Some("task")));
    }
}
