//! What is crossed with what, and which combinations mean nothing.

use std::fmt;

use serde::Serialize;

/// A release of Orka that differs in what a build sends or owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum World {
    /// The last release with a token for each login: a build revokes its own.
    Orka210,
    /// One token for each user, which no build may revoke.
    Orka240,
    /// Service account tokens, no VM configs.
    Orka3,
}

impl World {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Orka210, Self::Orka240, Self::Orka3];

    /// Whether the cluster stores VM configs.
    pub fn stores_configs(self) -> bool {
        self != Self::Orka3
    }

    /// Whether a build's token is its own, so that it must be revoked.
    pub fn revokes(self) -> bool {
        self == Self::Orka210
    }
}

/// A host call of a build, in the order in which it makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named like the calls")]
pub enum Call {
    SignIn,
    CreateConfig,
    Deploy,
    Connect,
    Upload,
    WriteFile,
    Exec,
    Wait,
    Download,
    Purge,
    SignOut,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::SignIn,
        Self::CreateConfig,
        Self::Deploy,
        Self::Connect,
        Self::Upload,
        Self::WriteFile,
        Self::Exec,
        Self::Wait,
        Self::Download,
        Self::Purge,
        Self::SignOut,
    ];

    /// Method and path of the request that the call is about, where it makes one.
    pub(crate) fn request(self, world: World) -> Option<(&'static str, &'static str)> {
        const VMS: &str = "/api/v1/namespaces/orka-default/vms";
        const VM: &str = "/api/v1/namespaces/orka-default/vms/*";
        Some(match (self, world) {
            (Self::SignIn, World::Orka3) => ("GET", VMS),
            (Self::SignIn, _) => ("POST", "/token"),
            (Self::CreateConfig, World::Orka210 | World::Orka240) => {
                ("POST", "/resources/vm/create")
            }
            (Self::Deploy, World::Orka3) => ("POST", VMS),
            (Self::Deploy, _) => ("POST", "/resources/vm/deploy"),
            (Self::Purge, World::Orka3) => ("DELETE", VM),
            (Self::Purge, _) => ("DELETE", "/resources/vm/purge"),
            (Self::SignOut, World::Orka210) => ("DELETE", "/token"),
            _ => return None,
        })
    }
}

/// Where at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// The guest is about to make it.
    Before,
    /// The other side has done what it was asked and not answered yet.
    During,
    /// The guest has its answer.
    After,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::During, Self::After];
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The guest hands back an error of its own.
    GuestError,
    /// The guest traps.
    Trap,
    /// The guest computes for ever.
    Spin,
    /// The next API request is never answered.
    ApiTimeout,
    /// The next API request is answered with 500.
    Api500,
    /// The next API request is carried out, and its connection closed without an answer.
    ReplyLost,
    /// The API's port is closed, its connections with it, and opened again after a moment.
    Refused,
    /// The VM's SSH connections break.
    SshDropped,
    /// Nothing passes any more between the VM and anybody, and nothing is closed.
    SshFrozen,
    /// SIGTERM.
    Sigterm,
    /// SIGTERM, and again as soon as the first one was noted.
    SigtermTwice,
    /// The process that does the work crashes (SIGABRT).
    Crash,
    /// SIGKILL, and then `orka-step reap --run`.
    SigkillReap,
    /// The run's own deadline passes.
    Deadline,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::GuestError,
        Self::Trap,
        Self::Spin,
        Self::ApiTimeout,
        Self::Api500,
        Self::ReplyLost,
        Self::Refused,
        Self::SshDropped,
        Self::SshFrozen,
        Self::Sigterm,
        Self::SigtermTwice,
        Self::Crash,
        Self::SigkillReap,
        Self::Deadline,
    ];

    /// Whether the guest itself does it.
    pub fn is_of_guest(self) -> bool {
        matches!(self, Self::GuestError | Self::Trap | Self::Spin)
    }

    /// Whether the API does it.
    pub fn is_of_api(self) -> bool {
        matches!(
            self,
            Self::ApiTimeout | Self::Api500 | Self::ReplyLost | Self::Refused
        )
    }

    /// Whether the built program is sent signals for it.
    pub fn is_signal(self) -> bool {
        matches!(
            self,
            Self::Sigterm | Self::SigtermTwice | Self::Crash | Self::SigkillReap
        )
    }

    /// What the guest `steps` calls it; `wait` where somebody else does it.
    pub(crate) fn act(self) -> &'static str {
        match self {
            Self::GuestError => "error",
            Self::Trap => "trap",
            Self::Spin => "spin",
            _ => "wait",
        }
    }
}

/// Why a combination means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Absent {
    /// A guest does nothing while the host works for it.
    GuestWaits,
    /// The call has no request that could be held up.
    NoRequest,
    /// Neither side can tell that it is in the middle of this call.
    NoMiddle,
    /// The row `before` strikes this call's request already.
    StruckBefore,
    /// No API request is left to be struck.
    NoRequestFollows,
    /// There is no VM, or no connection to it, yet.
    NoConnection,
    /// The VM is gone.
    VmGone,
    /// The call has nothing to do with SSH.
    NotSsh,
}

impl Absent {
    /// All of them, in the order of their numbers in a table.
    pub const ALL: [Self; 8] = [
        Self::GuestWaits,
        Self::NoRequest,
        Self::NoMiddle,
        Self::StruckBefore,
        Self::NoRequestFollows,
        Self::NoConnection,
        Self::VmGone,
        Self::NotSsh,
    ];

    /// Its number in a table.
    pub fn number(self) -> usize {
        1 + Self::ALL
            .iter()
            .position(|&reason| reason == self)
            .unwrap_or_default()
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GuestWaits => "a guest does nothing while the host works for it",
            Self::NoRequest => "this release has no such request: Orka 3 stores no VM configs, and a token is revoked up to Orka 2.1.0 alone",
            Self::NoMiddle => "nobody can tell that this call is half done; `before` and `after` are as near as one can get",
            Self::StruckBefore => "the row `before` strikes the same request",
            Self::NoRequestFollows => "no request to the API follows",
            Self::NoConnection => "there is no connection to a VM yet",
            Self::VmGone => "the VM is gone",
            Self::NotSsh => "the call has nothing to do with SSH; the rows around it have the fault",
        })
    }
}

/// The request that a fault of the API strikes: the first one after a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Struck {
    Probe,
    Create,
    Deploy,
    Purge,
    SignOut,
}

/// One build that ends in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The cluster.
    pub world: World,
    /// The call.
    pub call: Call,
    /// Where at the call.
    pub moment: Moment,
    /// What goes wrong there.
    pub fault: Fault,
}

impl Cell {
    /// Every combination, also those that mean nothing.
    pub fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for world in World::ALL {
            for call in Call::ALL {
                for moment in Moment::ALL {
                    cells.extend(Fault::ALL.map(|fault| Self {
                        world,
                        call,
                        moment,
                        fault,
                    }));
                }
            }
        }
        cells
    }

    /// Whether every word is part of its name, which is `RELEASE/CALL/MOMENT/FAULT`.
    pub fn is_meant_by(&self, words: &[String]) -> bool {
        let name = self.to_string();
        let parts: Vec<&str> = name.split('/').collect();
        words
            .iter()
            .all(|word| parts.contains(&word.as_str()) || name.contains(word.as_str()))
    }

    /// Whether it is not before that place.
    pub(crate) fn is_from(&self, call: Call, moment: Moment) -> bool {
        (self.call, self.moment) >= (call, moment)
    }

    /// The request that a fault of the API would strike.
    pub(crate) fn struck(&self) -> Option<Struck> {
        let last = |call| !self.is_from(call, Moment::During);
        if last(Call::SignIn) {
            Some(Struck::Probe)
        } else if last(Call::CreateConfig) && self.world.stores_configs() {
            Some(Struck::Create)
        } else if last(Call::Deploy) {
            Some(Struck::Deploy)
        } else if last(Call::Purge) {
            Some(Struck::Purge)
        } else if last(Call::SignOut) && self.world.revokes() {
            Some(Struck::SignOut)
        } else {
            None
        }
    }

    /// Why there is no such build, if there is none.
    pub fn absent(&self) -> Option<Absent> {
        if self.moment == Moment::During {
            self.absent_during()
        } else if self.fault.is_of_api() {
            self.struck().is_none().then_some(Absent::NoRequestFollows)
        } else {
            self.absent_ssh()
        }
    }

    fn absent_during(&self) -> Option<Absent> {
        let of_orka = matches!(
            self.call,
            Call::SignIn | Call::CreateConfig | Call::Deploy | Call::Purge | Call::SignOut
        );
        if self.fault.is_of_guest() {
            Some(Absent::GuestWaits)
        } else if !of_orka && self.call != Call::Wait {
            Some(Absent::NoMiddle)
        } else if of_orka && self.call.request(self.world).is_none() {
            Some(Absent::NoRequest)
        } else if self.fault.is_of_api() {
            Some(Absent::StruckBefore)
        } else if of_orka && matches!(self.fault, Fault::SshDropped | Fault::SshFrozen) {
            Some(Absent::NotSsh)
        } else {
            None
        }
    }

    fn absent_ssh(&self) -> Option<Absent> {
        let first = match self.fault {
            Fault::SshDropped => (Call::Connect, Moment::After),
            Fault::SshFrozen => (Call::Deploy, Moment::After),
            _ => return None,
        };
        if !self.is_from(first.0, first.1) {
            Some(Absent::NoConnection)
        } else if self.is_from(Call::Purge, Moment::During) {
            Some(Absent::VmGone)
        } else {
            None
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}/{}",
            self.world, self.call, self.moment, self.fault
        )
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Orka210 => "orka-2.1.0",
            Self::Orka240 => "orka-2.4.0",
            Self::Orka3 => "orka-3",
        })
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SignIn => "sign-in",
            Self::CreateConfig => "create-config",
            Self::Deploy => "deploy",
            Self::Connect => "connect",
            Self::Upload => "upload",
            Self::WriteFile => "write-file",
            Self::Exec => "exec",
            Self::Wait => "wait",
            Self::Download => "download",
            Self::Purge => "purge",
            Self::SignOut => "sign-out",
        })
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::During => "during",
            Self::After => "after",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GuestError => "guest-error",
            Self::Trap => "trap",
            Self::Spin => "spin",
            Self::ApiTimeout => "api-timeout",
            Self::Api500 => "api-500",
            Self::ReplyLost => "reply-lost",
            Self::Refused => "refused",
            Self::SshDropped => "ssh-dropped",
            Self::SshFrozen => "ssh-frozen",
            Self::Sigterm => "sigterm",
            Self::SigtermTwice => "sigterm-twice",
            Self::Crash => "crash",
            Self::SigkillReap => "sigkill-reap",
            Self::Deadline => "deadline",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_meets_every_fault_on_both_sides_or_says_why_not() {
        let cells = Cell::all();
        assert_eq!(cells.len(), 3 * 11 * 3 * 14);
        let exist = |fault: Fault| {
            let of = cells.iter().filter(|cell| cell.fault == fault);
            of.filter(|cell| cell.absent().is_none()).count()
        };
        for always in [Fault::GuestError, Fault::Trap, Fault::Spin] {
            assert_eq!(exist(always), 3 * 11 * 2, "{always}");
        }
        // Held up half done: sign-in, deploy, wait and purge everywhere, create-config on Orka 2, sign-out on 2.1.0.
        for held in [
            Fault::Sigterm,
            Fault::SigtermTwice,
            Fault::Crash,
            Fault::SigkillReap,
            Fault::Deadline,
        ] {
            assert_eq!(exist(held), 3 * (11 * 2 + 4) + 2 + 1, "{held}");
        }
        // From connect/after to purge/before, and in the middle of wait; a connection that freezes also from deploy/after.
        assert_eq!(exist(Fault::SshDropped), 3 * (12 + 1));
        assert_eq!(exist(Fault::SshFrozen), 3 * (12 + 2 + 1));
    }

    #[test]
    fn the_request_struck_is_the_next_one() {
        let struck = |world, call, moment| {
            let fault = Fault::Api500;
            Cell {
                world,
                call,
                moment,
                fault,
            }
            .struck()
        };
        use Moment::{After, Before};
        for (world, call, moment, expected) in [
            (World::Orka210, Call::SignIn, Before, Some(Struck::Probe)),
            (World::Orka210, Call::SignIn, After, Some(Struck::Create)),
            (World::Orka3, Call::SignIn, After, Some(Struck::Deploy)),
            (World::Orka240, Call::Deploy, Before, Some(Struck::Deploy)),
            (World::Orka240, Call::Deploy, After, Some(Struck::Purge)),
            (World::Orka3, Call::Purge, Before, Some(Struck::Purge)),
            (World::Orka210, Call::Purge, After, Some(Struck::SignOut)),
            (World::Orka3, Call::Purge, After, None),
            (World::Orka210, Call::SignOut, After, None),
        ] {
            assert_eq!(
                struck(world, call, moment),
                expected,
                "{world} {call} {moment}"
            );
        }
    }
}
