//! How a build must end, by which call is hit and by what: written down from what a client can know, not from what ours
//! does.

use orka_step::outcome::{EXIT_CONFIG, EXIT_LEFTOVERS, EXIT_NO_CAPACITY, EXIT_ORKA, Outcome};

use crate::faults::{Fault, Lasting, Signal};
use crate::requests::Call;
use crate::world::World;

/// How a build may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// It may succeed.
    pub success: bool,
    /// It may fail with this exit code.
    pub failure: Option<u8>,
}

impl Expected {
    const SUCCESS: Self = Self {
        success: true,
        failure: None,
    };

    fn fails(code: u8) -> Self {
        Self {
            success: false,
            failure: Some(code),
        }
    }

    /// Failing is right, and so is to get round the trouble.
    fn may_fail(code: u8) -> Self {
        Self {
            success: true,
            failure: Some(code),
        }
    }

    /// Whether this end is one of those.
    pub fn admits(self, code: u8, outcome: Outcome) -> bool {
        let outcome_of = |code| match code {
            EXIT_NO_CAPACITY => Outcome::NoCapacity,
            _ => Outcome::InfraFailed,
        };
        (self.success && (code, outcome) == (0, Outcome::Succeeded))
            || self
                .failure
                .is_some_and(|wanted| (code, outcome) == (wanted, outcome_of(wanted)))
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.success, self.failure) {
            (true, Some(code)) => write!(f, "0 or {code}"),
            (false, Some(code)) => write!(f, "{code}"),
            _ => f.write_str("0"),
        }
    }
}

/// How a build must end in this world when this call is hit by this fault.
pub fn expected(world: World, call: Call, fault: &Fault) -> Expected {
    if fault.signal == Signal::Harmless {
        return Expected::SUCCESS;
    }
    match call {
        // Only the answer of the API that the cluster speaks counts.
        Call::ProbeThree if !world.is_orka3() => Expected::SUCCESS,
        Call::ProbeTwo if world.is_orka3() => Expected::SUCCESS,
        Call::ProbeThree | Call::ProbeTwo => read(fault, EXIT_ORKA),
        Call::SignIn if world.is_orka3() => read(fault, EXIT_CONFIG),
        Call::SignIn => login(fault),
        Call::Create | Call::Deploy => making(world, fault),
        Call::Purge => removal(world, fault),
        Call::LookForVm | Call::LookForConfig => look(world, fault),
        // Signing out is a courtesy, and the build is done.
        Call::SignOut => Expected::SUCCESS,
    }
}

/// A read before anything exists. `refused` is the code where the login is declined.
fn read(fault: &Fault, refused: u8) -> Expected {
    let once = fault.lasting == Lasting::Once;
    match fault.signal {
        // Reads are safe to repeat, and this may pass.
        Signal::Trouble | Signal::TooFast if once => Expected::SUCCESS,
        // To repeat it is no sin, but nothing says that it helps.
        Signal::Nonsense | Signal::NoSuchCall if once => Expected::may_fail(EXIT_ORKA),
        Signal::Unauthorized | Signal::Forbidden if once && !fault.ends_the_token() => {
            Expected::may_fail(refused)
        }
        Signal::Unauthorized | Signal::Forbidden => Expected::fails(refused),
        _ => Expected::fails(EXIT_ORKA),
    }
}

/// The login with a password: never repeated after a refusal, which may lock the user out.
fn login(fault: &Fault) -> Expected {
    match (fault.signal, fault.lasting) {
        (Signal::Unauthorized | Signal::Forbidden, _) => Expected::fails(EXIT_CONFIG),
        (Signal::TooFast, Lasting::Once) => Expected::SUCCESS,
        (_, Lasting::Once) => Expected::may_fail(EXIT_ORKA),
        _ => Expected::fails(EXIT_ORKA),
    }
}

/// A request that makes something: repeated only if it certainly was not carried out.
fn making(world: World, fault: &Fault) -> Expected {
    let once = fault.lasting == Lasting::Once;
    match fault.signal {
        // With a password there is another token to be had; a service account's token is the only one.
        Signal::Unauthorized if once && !world.is_orka3() => Expected::SUCCESS,
        Signal::Unauthorized if once && !fault.ends_the_token() => Expected::may_fail(EXIT_ORKA),
        Signal::TooFast | Signal::Full if once => Expected::SUCCESS,
        Signal::Full => Expected::fails(EXIT_NO_CAPACITY),
        Signal::Unauthorized | Signal::Forbidden | Signal::TooFast => Expected::fails(EXIT_ORKA),
        // The name can be looked up, or another one taken.
        Signal::Trouble
        | Signal::Nonsense
        | Signal::NoSuchCall
        | Signal::Unusable
        | Signal::Taken
            if once || fault.takes_effect =>
        {
            Expected::may_fail(EXIT_ORKA)
        }
        _ => Expected::fails(EXIT_ORKA),
    }
}

/// Removing what the build made: what heals changes nothing, what does not is told.
fn removal(world: World, fault: &Fault) -> Expected {
    if world.is_orka3() && fault.ends_the_token() {
        return Expected::fails(EXIT_LEFTOVERS);
    }
    match fault.lasting {
        Lasting::Once | Lasting::Twice | Lasting::Third => Expected::SUCCESS,
        // Each answer is lost, but a look shows that the VM is gone.
        Lasting::Always if fault.takes_effect => Expected::may_fail(EXIT_LEFTOVERS),
        Lasting::Always => Expected::fails(EXIT_LEFTOVERS),
    }
}

/// The look after a removal: as long as it cannot be made, nobody knows that nothing is left.
fn look(world: World, fault: &Fault) -> Expected {
    let blind = fault.lasting == Lasting::Always || (world.is_orka3() && fault.ends_the_token());
    if blind && fault.signal == Signal::NoSuchCall {
        // Where nobody can ever look, the answer to the removal itself has to do.
        Expected::may_fail(EXIT_LEFTOVERS)
    } else if blind {
        Expected::fails(EXIT_LEFTOVERS)
    } else {
        Expected::SUCCESS
    }
}
