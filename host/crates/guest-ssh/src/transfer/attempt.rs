//! One transfer from start to end: by the fastest way the VM offers, begun again where that is safe.
//!
//! Every attempt is whole: an upload writes the same files again, a download starts from an empty staging directory. So a
//! lost connection costs time and nothing else.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cap_std::fs::Dir;
use tokio::time::Instant;

use super::compress::Pace;
use super::facts::Facts;
use super::{
    Compress, Direction, Moved, Selection, TransferOptions, TransferProgress, TransferSummary,
};
use crate::connection::Connection;
use crate::{Error, RemotePath};

/// Pauses before each try to reach a VM again whose connection was lost.
const PAUSES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// How files travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A tar stream over one command.
    Tar,
    /// Many requests to the SFTP subsystem.
    Sftp,
}

/// What a connection has learned for its next transfer.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Learned>);

#[derive(Clone, Default)]
struct Learned {
    facts: Option<Facts>,
    /// Why commands are not used, once that is known.
    sftp_because: Option<String>,
    /// Bytes a second.
    rate: Option<f64>,
}

impl Memory {
    fn read(&self) -> Learned {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn write(&self, change: impl FnOnce(&mut Learned)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether files go by SFTP on this connection.
    pub(super) fn goes_by_sftp(&self) -> bool {
        self.read().sftp_because.is_some()
    }

    /// Uses SFTP from here on.
    pub(super) fn go_by_sftp(&self, because: &Error) {
        self.write(|learned| learned.sftp_because = Some(because.to_string()));
    }
}

/// Whether SFTP may do what commands could not.
pub(super) fn commands_unusable(problem: &Error) -> bool {
    matches!(
        problem,
        Error::ExecRefused { .. } | Error::RemoteToolMissing { .. }
    )
}

/// How an attempt ended other than well.
#[derive(Debug)]
pub(super) enum Ended {
    /// It failed.
    Failed(Error),
    /// It is better begun again compressed.
    Restart {
        /// To be noted.
        why: String,
        /// Bytes a second, as measured.
        rate: Option<f64>,
    },
    /// This was listed and is no longer there, or no longer all of it: what is there now is better looked at once more.
    Gone(String),
}

impl From<Error> for Ended {
    fn from(problem: Error) -> Self {
        Self::Failed(problem)
    }
}

/// How the next attempt is made.
pub(super) struct Plan<'a> {
    pub(super) options: &'a TransferOptions,
    pub(super) facts: Facts,
    pub(super) way: Way,
    pub(super) gzip: bool,
    /// It was begun again for what had gone away; what goes away now is left out.
    pub(super) leave_out_gone: bool,
    /// The question of compression is settled.
    judged: bool,
    rate: Option<f64>,
}

impl Plan<'_> {
    pub(super) fn pace(&self) -> Pace {
        let compress = if self.judged {
            Compress::Never
        } else {
            self.options.compress
        };
        Pace::new(compress, self.facts.gzip, self.rate)
    }
}

/// A transfer in all its attempts.
struct Transfer<'a> {
    connection: &'a Connection,
    direction: Direction,
    plan: Plan<'a>,
    /// Why commands did not do, to be told if SFTP does not either.
    first_problem: Option<Error>,
    retries_left: u32,
    notes: Vec<String>,
    started: Instant,
}

impl<'a> Transfer<'a> {
    fn new(connection: &'a Connection, direction: Direction, options: &'a TransferOptions) -> Self {
        Self {
            connection,
            direction,
            plan: Plan {
                options,
                facts: Facts::default(),
                way: Way::Tar,
                gzip: false,
                leave_out_gone: false,
                judged: false,
                rate: None,
            },
            first_problem: None,
            retries_left: options.retries,
            notes: Vec::new(),
            started: Instant::now(),
        }
    }

    /// Looks at what is known of the VM, asking if nothing is.
    async fn prepare(&mut self) -> Result<(), Ended> {
        let memory = &self.connection.transfers;
        let known = memory.read();
        self.plan.rate = known.rate;
        if let Some(because) = known.sftp_because {
            self.plan.way = Way::Sftp;
            self.note(format!("went by SFTP, which is slower: {because}"));
            return Ok(());
        }
        let facts = match known.facts {
            Some(facts) => facts,
            None => self.connection.ask_facts().await?,
        };
        memory.write(|learned| learned.facts = Some(facts.clone()));
        self.plan.gzip |= self.plan.options.compress == Compress::Always && facts.gzip;
        self.plan.facts = facts;
        if self.plan.facts.tar.is_none() {
            return Err(Error::RemoteToolMissing { tool: "tar" }.into());
        }
        if self.direction == Direction::Download && !self.plan.facts.find {
            return Err(Error::RemoteToolMissing { tool: "find" }.into());
        }
        Ok(())
    }

    /// What follows from the end of an attempt: a summary, another attempt, or the error.
    async fn judge(
        &mut self,
        outcome: Result<(Moved, Pace), Ended>,
    ) -> Result<Option<TransferSummary>, Error> {
        let memory = &self.connection.transfers;
        match outcome {
            Ok((moved, pace)) => {
                if pace.rate.is_some() {
                    memory.write(|learned| learned.rate = pace.rate);
                }
                self.notes.extend(pace.note);
                let elapsed = self.started.elapsed();
                let notes = std::mem::take(&mut self.notes);
                Ok(Some(TransferSummary::of(moved, notes, elapsed)))
            }
            Err(Ended::Restart { why, rate }) => {
                memory.write(|learned| learned.rate = rate.or(learned.rate));
                self.note(why);
                self.plan.gzip = true;
                self.plan.judged = true;
                Ok(None)
            }
            Err(Ended::Gone(what)) => {
                tracing::debug!(%what, "an entry went away, and the VM is asked anew what there is");
                self.plan.leave_out_gone = true;
                Ok(None)
            }
            Err(Ended::Failed(problem))
                if self.plan.way == Way::Tar && commands_unusable(&problem) =>
            {
                tracing::debug!(%problem, "transfers go by SFTP");
                self.note(format!("went by SFTP, which is slower: {problem}"));
                memory.go_by_sftp(&problem);
                self.plan.way = Way::Sftp;
                self.plan.gzip = false;
                self.first_problem = Some(problem);
                Ok(None)
            }
            Err(Ended::Failed(problem @ Error::Lost { .. })) if self.retries_left > 0 => {
                self.retries_left -= 1;
                self.reach_again(problem).await?;
                Ok(None)
            }
            Err(Ended::Failed(problem)) => {
                // A VM with neither commands nor SFTP lacks what it lacked first.
                match self.first_problem.take() {
                    Some(first) if matches!(problem, Error::ExecRefused { .. }) => {
                        memory.write(|learned| learned.sftp_because = None);
                        Err(first)
                    }
                    _ => Err(problem),
                }
            }
        }
    }

    async fn reach_again(&mut self, problem: Error) -> Result<(), Error> {
        tracing::warn!(direction = %self.direction, %problem, "a transfer lost its connection and is begun again");
        let mut last = None;
        for pause in PAUSES {
            tokio::time::sleep(pause).await;
            match self.connection.renew().await {
                Ok(()) => {
                    self.note(format!("begun again on a new connection: {problem}"));
                    return Ok(());
                }
                Err(again) if again.may_pass() || matches!(again, Error::Lost { .. }) => {
                    last = Some(again);
                }
                Err(other) => return Err(other),
            }
        }
        // The loss came first, and the VM has not been there since.
        tracing::debug!(
            last = last.map(|last| last.to_string()),
            "the VM could not be reached again"
        );
        Err(problem)
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

impl Connection {
    /// Sends the selected entries of `dir` into the directory `remote`, which is made if it is not there.
    ///
    /// Files of the same name are overwritten, others stay. Modes (without set-user-id and the like), times, symbolic
    /// links as they are, empty directories, and the holes of large files are kept; hard links become files of their own.
    /// Sockets, pipes and devices are left out and named in the summary; so are macOS's `._` files beside the file they
    /// belong to, which a note counts.
    ///
    /// Goes as a tar stream over a command where the VM has `sh` and `tar`, else by SFTP, with times to the second and a
    /// note that says so. A lost connection begins the transfer again on a new one, as often as the options say.
    ///
    /// # Errors
    ///
    /// [`Error::Transfer`] for an entry that cannot be read or changes while it is read, [`Error::LimitExceeded`],
    /// [`Error::RemoteToolMissing`] or [`Error::ExecRefused`] if neither way works, [`Error::RemoteFailed`] with the VM's
    /// words (a full disk, say), [`Error::Lost`]. The VM may hold a part in each case.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the transfer; the VM keeps what it has.
    pub async fn upload(
        &self,
        dir: &Dir,
        files: &Selection,
        remote: &RemotePath,
        options: impl Into<TransferOptions>,
        progress: impl Fn(&TransferProgress) + Send,
    ) -> Result<TransferSummary, Error> {
        let options = options.into();
        let mut transfer = Transfer::new(self, Direction::Upload, &options);
        loop {
            let outcome = match transfer.plan.way {
                Way::Tar => match transfer.prepare().await {
                    Ok(()) if transfer.plan.way == Way::Sftp => continue,
                    Ok(()) => {
                        self.upload_by_tar(dir, files, remote, &transfer.plan, &progress)
                            .await
                    }
                    Err(ended) => Err(ended),
                },
                Way::Sftp => {
                    self.upload_by_sftp(dir, files, remote, &transfer.plan, &progress)
                        .await
                }
            };
            if let Some(summary) = transfer.judge(outcome).await? {
                return Ok(summary);
            }
        }
    }

    /// Fetches the selected entries of the VM's directory `remote` into `target`, relative to `into`.
    ///
    /// All of it is received beside the target first and moved there when complete, so a failure leaves the workspace as
    /// it was. A target that does not exist appears at once; one that does is merged into (files replaced, nothing
    /// deleted). `.` is `into` itself. Where nothing is selected nothing is made.
    ///
    /// Regular files, directories and symbolic links come, with modes and times. Links that leave the tree are left out
    /// and named in the summary; anything else that could reach outside ends the transfer.
    ///
    /// What goes away in the VM between the listing and its turn makes the transfer begin again with a new listing, once;
    /// what goes away then is left out, with a warning. So does a file that becomes shorter while bsdtar sends it, and then
    /// the transfer fails.
    ///
    /// With [`Compare`](super::Compare) files that are the same at the target do not travel: they are counted as unchanged, and neither
    /// the entries nor the digest of the summary cover them. Ways and retries are those of [`Self::upload`].
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if `remote` is no directory; [`Error::Transfer`] naming the entry that was refused or could not
    /// be written; [`Error::LimitExceeded`]; [`Error::RemoteToolMissing`] or [`Error::ExecRefused`] if neither way works;
    /// [`Error::RemoteFailed`] with the VM's words; [`Error::Lost`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the transfer and removes what was received, unless it is being moved into place
    /// already: that is finished.
    pub async fn download(
        &self,
        remote: &RemotePath,
        what: &Selection,
        into: &Dir,
        target: &Path,
        options: impl Into<TransferOptions>,
        progress: impl Fn(&TransferProgress) + Send,
    ) -> Result<TransferSummary, Error> {
        let options = options.into();
        let mut transfer = Transfer::new(self, Direction::Download, &options);
        loop {
            let outcome = match transfer.plan.way {
                Way::Tar => match transfer.prepare().await {
                    Ok(()) if transfer.plan.way == Way::Sftp => continue,
                    Ok(()) => {
                        self.download_by_tar(remote, what, into, target, &transfer.plan, &progress)
                            .await
                    }
                    Err(ended) => Err(ended),
                },
                Way::Sftp => {
                    self.download_by_sftp(remote, what, into, target, &transfer.plan, &progress)
                        .await
                }
            };
            if let Some(summary) = transfer.judge(outcome).await? {
                return Ok(summary);
            }
        }
    }
}
