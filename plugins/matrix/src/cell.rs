//! One cell: from a VM config to a script that has ended, each step when the one before is done.

use orka_plugin_common::{Work, ending_of, warn_of};
use orka_plugin_sdk::cluster::{Deployment, Session, VmConfig};
use orka_plugin_sdk::console::{self, Ending, Group, Level};
use orka_plugin_sdk::ssh::{self, Command, ConnectOptions, Connecting, Connection};
use orka_plugin_sdk::wait::Waitable;
use orka_plugin_sdk::{Error, ErrorInfo, Exit, clock, phase};

use crate::cells::Wanted;

/// The environment variable that tells a script which cell it is.
const CELL: &str = "ORKA_MATRIX_CELL";

/// How a cell ended.
pub(crate) enum End {
    /// Its script ran to an end, and what was wanted of it came back. The program is asked once more in the end.
    Exited(Exit, Command),
    /// It did not come so far.
    Failed(Error),
    /// Another one failed first.
    Cancelled,
}

impl End {
    pub(crate) fn is_success(&self) -> bool {
        matches!(self, Self::Exited(exit, _) if exit.success())
    }

    pub(crate) fn is_failure(&self) -> bool {
        !self.is_success() && !matches!(self, Self::Cancelled)
    }
}

/// A cell that has a VM config, and soon a VM.
pub(crate) struct Cell {
    known: Known,
    stage: Stage,
    /// What the log shows as under way.
    group: Group,
}

/// What stays the same as long as a cell is at work.
struct Known {
    name: String,
    label: String,
    config: VmConfig,
    began_ms: u64,
}

enum Stage {
    Deploying(Deployment),
    Connecting(Connecting),
    Running(Command, Connection),
}

/// What a step made of a cell.
pub(crate) enum Step {
    /// There is more to come.
    On(Cell),
    /// It is over.
    Over(End),
}

impl Cell {
    /// Makes the VM config and begins to deploy.
    pub(crate) fn begin(session: &Session, wanted: &Wanted) -> Result<Self, Error> {
        let settings = &wanted.vm;
        let label = format!("[{}] ", wanted.name);
        console::log(Level::Info, &format!("{label}asking for {settings}"));
        let group = Group::new(&format!("{label}deploy VM"));
        let begun = session
            .create_config(&settings.vm_spec())
            .and_then(|config| {
                let known = Known {
                    name: wanted.name.clone(),
                    label,
                    config,
                    began_ms: clock::elapsed_ms(),
                };
                let deployment = known.config.start_deploy(&settings.deploy_options());
                match deployment {
                    Ok(deployment) => Ok((known, Stage::Deploying(deployment))),
                    Err(error) => Err(known.given_up(error)),
                }
            });
        match begun {
            Ok((known, stage)) => Ok(Self {
                known,
                stage,
                group,
            }),
            Err(error) => {
                group.finish(Ending::Failed);
                Err(error)
            }
        }
    }

    /// Since when it has a VM config, in milliseconds from the start of the run.
    pub(crate) fn began_ms(&self) -> u64 {
        self.known.began_ms
    }

    /// Becomes ready when the next step would not wait.
    pub(crate) fn subscribe(&self) -> Waitable {
        match &self.stage {
            Stage::Deploying(deployment) => deployment.subscribe(),
            Stage::Connecting(connecting) => connecting.subscribe(),
            Stage::Running(command, _) => command.subscribe(),
        }
    }

    /// Does what has become possible.
    pub(crate) fn step(self, work: &Work) -> Step {
        let Self {
            known,
            stage,
            group,
        } = self;
        let next = match stage {
            Stage::Deploying(deployment) => deployment.finish().and_then(|vm| {
                let name = vm.info().name;
                console::log(Level::Info, &format!("{}VM `{name}`", known.label));
                let connecting = ssh::start_connect(&vm, &ConnectOptions::default())?;
                Ok((Stage::Connecting(connecting), "wait for SSH"))
            }),
            Stage::Connecting(connecting) => connecting.finish().and_then(|connection| {
                group.finish(Ending::Done);
                let command = known.start(work, &connection)?;
                Ok((Stage::Running(command, connection), "run script"))
            }),
            Stage::Running(command, connection) => {
                let exit = command.exit();
                group.finish(match &exit {
                    Ok(Some(exit)) => ending_of(exit),
                    _ => Ending::Failed,
                });
                return Step::Over(match known.ended(work, exit, command, &connection) {
                    End::Failed(error) => End::Failed(known.given_up(error)),
                    end => {
                        known.purge();
                        end
                    }
                });
            }
        };
        match next {
            Ok((stage, title)) => {
                group.finish(Ending::Done);
                let group = Group::new(&format!("{}{title}", known.label));
                Step::On(Self {
                    known,
                    stage,
                    group,
                })
            }
            Err(error) => {
                group.finish(Ending::Failed);
                Step::Over(End::Failed(known.given_up(error)))
            }
        }
    }

    /// Ends it because another one failed. Says whether nothing of it can appear any more.
    pub(crate) fn cancel(self) -> bool {
        if let Stage::Running(command, _) = &self.stage {
            // Its VM goes in a moment; what it still writes belongs to the log.
            warn_of(command.signal("TERM"));
        }
        self.group.finish(Ending::Skipped);
        self.known.purge() && !matches!(self.stage, Stage::Deploying(_))
    }

    /// Ends what is under way since the run is being stopped, and copies back what there is, in the little time that the
    /// host gives for it. The script, which the host has asked to stop, may take `patience_ms` of it.
    pub(crate) fn stop(self, work: &Work, patience_ms: u64) {
        self.group.finish(Ending::Failed);
        if let Stage::Running(command, connection) = &self.stage
            && work.wants_back(false)
        {
            // What it still writes then belongs to the evidence.
            let _ended = command.wait(Some(patience_ms));
            warn_of(self.known.copy_back(work, connection));
        }
    }
}

impl Known {
    fn phase<T>(&self, title: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        phase(&format!("{}{title}", self.label), work)
    }

    /// Copies in and starts the script.
    fn start(&self, work: &Work, connection: &Connection) -> Result<Command, Error> {
        self.phase("copy in", || work.copy_in(connection))?;
        connection.label_output(&self.label);
        work.start(connection, &[(CELL.to_owned(), self.name.clone())])
    }

    /// How the script ended, and its files. A script that failed is what the cell is told by, whatever becomes of its
    /// files.
    fn ended(
        &self,
        work: &Work,
        exit: Result<Option<Exit>, Error>,
        command: Command,
        connection: &Connection,
    ) -> End {
        let exit = match exit {
            Ok(Some(exit)) => exit,
            Ok(None) => {
                let message = "the script was said to have ended and runs on";
                return End::Failed(Error::Other(ErrorInfo::new("matrix.running", message)));
            }
            Err(error) => {
                // What a silent script has written may say what it waited for.
                if error.code() == ssh::COMMAND_SILENT && work.wants_back(false) {
                    warn_of(self.copy_back(work, connection));
                }
                return End::Failed(error);
            }
        };
        if work.wants_back(exit.success()) {
            match self.copy_back(work, connection) {
                Err(error) if exit.success() || error.is_final() => return End::Failed(error),
                copied => {
                    warn_of(copied);
                }
            }
        }
        End::Exited(exit, command)
    }

    fn copy_back(&self, work: &Work, connection: &Connection) -> Result<(), Error> {
        self.phase("copy back", || work.copy_back(connection, &self.name))
    }

    /// Purges what there is of a cell that failed, unless the run is being stopped: then the host does.
    fn given_up(&self, error: Error) -> Error {
        if !error.is_final() {
            self.purge();
        }
        error
    }

    /// Purges config and VM. What fails the host does at the end.
    fn purge(&self) -> bool {
        warn_of(self.phase("purge VM", || self.config.purge()))
    }
}
