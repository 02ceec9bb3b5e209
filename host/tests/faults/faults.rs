//! The faults: what is done to a request, and what a client can know of it afterwards.

use std::time::Duration;

use orka_sim::{FaultAction, FaultRule, Occurrence};
use serde_json::json;

use crate::requests::Call;
use crate::world::World;

/// What the client of a spoilt request knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Everything: the answer is right, if odd.
    Harmless,
    /// The login does not count any more.
    Unauthorized,
    /// The login has not the right to this.
    Forbidden,
    /// Refused for the pace alone.
    TooFast,
    /// Refused, since no node has room.
    Full,
    /// Refused, since the name is taken.
    Taken,
    /// That the same may work in a moment: the other side is down, or the connection broke.
    Trouble,
    /// Nothing: no answer in time, or one that means nothing.
    Nonsense,
    /// That the server does not have this call, or a proxy does not pass it on.
    NoSuchCall,
    /// A VM was made that nobody can use.
    Unusable,
    /// A removal says that there was nothing to remove, though there was.
    NothingThere,
}

/// How often a request of the kind is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    Once,
    Twice,
    /// The third alone.
    Third,
    Always,
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Fault {
    pub name: &'static str,
    pub signal: Signal,
    pub lasting: Lasting,
    /// Whether the work is done nevertheless.
    pub takes_effect: bool,
    action: FaultAction,
}

impl Fault {
    fn new(name: &'static str, signal: Signal, action: FaultAction) -> Self {
        Self {
            name,
            signal,
            lasting: Lasting::Once,
            takes_effect: false,
            action,
        }
    }

    fn after_the_work(self) -> Self {
        Self {
            takes_effect: true,
            ..self
        }
    }

    pub fn lasting(&self, lasting: Lasting) -> Self {
        Self {
            lasting,
            ..self.clone()
        }
    }

    /// The rule that hits this call.
    pub fn rule(&self, world: World, call: Call) -> FaultRule {
        let (method, path) = call.target(world).unwrap();
        FaultRule::new(method, path, self.action.clone()).on(match self.lasting {
            Lasting::Once => Occurrence::Nth(1),
            Lasting::Twice => Occurrence::First(2),
            Lasting::Third => Occurrence::Nth(3),
            Lasting::Always => Occurrence::Always,
        })
    }

    /// Whether the work, if it is done at all, may be done after the client has given up.
    pub fn is_slow(&self) -> bool {
        matches!(
            self.action,
            FaultAction::Delay { .. } | FaultAction::DelayReply { .. }
        )
    }

    /// Whether the token of the request is worth nothing from then on.
    pub fn ends_the_token(&self) -> bool {
        self.action == FaultAction::RevokeToken
    }

    /// How it reads in a table.
    pub fn shown(&self) -> String {
        let lasting = match self.lasting {
            Lasting::Once => "once",
            Lasting::Twice => "twice",
            Lasting::Third => "at the third time",
            Lasting::Always => "always",
        };
        format!("{} {lasting}", self.name)
    }
}

/// Every fault that makes sense at this call, where a client waits `limit` for an answer.
pub fn at(world: World, call: Call, limit: Duration) -> Vec<Fault> {
    let mut faults = of_transport(limit);
    faults.extend(of_login(world, call));
    match call {
        Call::Create => faults.push(taken()),
        Call::Deploy => faults.extend(of_deploy(world)),
        Call::Purge => faults.extend(of_removal(world)),
        _ => {}
    }
    let always: Vec<Fault> = faults
        .iter()
        .filter(|fault| lasts(fault))
        .map(|fault| fault.lasting(Lasting::Always))
        .collect();
    faults.extend(always);
    if call == Call::Purge {
        let failing = error("500", Signal::Trouble, 500, "Internal Server Error");
        faults.push(failing.lasting(Lasting::Twice));
    }
    faults
}

/// A token is revoked only once, and an odd answer that lasts is no other case than the odd answer.
fn lasts(fault: &Fault) -> bool {
    !fault.ends_the_token()
        && !matches!(fault.signal, Signal::Harmless | Signal::NothingThere)
        && !matches!(fault.action, FaultAction::Delay { .. })
}

fn error(name: &'static str, signal: Signal, status: u16, message: &str) -> Fault {
    let message = message.to_owned();
    Fault::new(name, signal, FaultAction::Error { status, message })
}

fn of_transport(limit: Duration) -> Vec<Fault> {
    use FaultAction as Do;
    let too_long = u64::try_from(limit.as_millis()).unwrap() + 700;
    let page = |status| Do::HtmlPage { status };
    vec![
        error("500", Signal::Trouble, 500, "Internal Server Error"),
        Fault::new("502 page", Signal::Trouble, page(502)),
        Fault::new("503 page", Signal::Trouble, page(503)),
        Fault::new("404 page", Signal::NoSuchCall, page(404)),
        Fault::new("empty 200", Signal::Nonsense, Do::EmptyOk),
        Fault::new("garbage", Signal::Nonsense, Do::Garbage),
        Fault::new("half a body", Signal::Trouble, Do::HalfBody).after_the_work(),
        Fault::new("closed before", Signal::Trouble, Do::CloseBefore),
        Fault::new("closed after", Signal::Trouble, Do::CloseAfter).after_the_work(),
        Fault::new("reset before", Signal::Trouble, Do::ResetBefore),
        Fault::new("reset after", Signal::Trouble, Do::ResetAfter).after_the_work(),
        Fault::new("hang", Signal::Nonsense, Do::Hang),
        Fault::new(
            "late reply",
            Signal::Nonsense,
            Do::DelayReply { ms: too_long },
        )
        .after_the_work(),
        Fault::new("late work", Signal::Nonsense, Do::Delay { ms: too_long }).after_the_work(),
        Fault::new(
            "slow drip",
            Signal::Harmless,
            Do::SlowDrip { bytes: 24, ms: 1 },
        )
        .after_the_work(),
        Fault::new("unknown members", Signal::Harmless, Do::UnknownMembers).after_the_work(),
        Fault::new("429", Signal::TooFast, Do::RateLimit { retry_after: None }),
        Fault::new(
            "429 with Retry-After",
            Signal::TooFast,
            Do::RateLimit {
                retry_after: Some(1),
            },
        ),
    ]
}

fn of_login(world: World, call: Call) -> Vec<Fault> {
    let forbidden = match (world.is_orka3(), call) {
        (true, _) => "virtualmachineinstances.orka.macstadium.com is forbidden",
        (false, _) => "You are not allowed to do this",
    };
    let mut faults = vec![
        Fault::new("401", Signal::Unauthorized, FaultAction::Unauthorized),
        error("403", Signal::Forbidden, 403, forbidden),
    ];
    let with_token = !matches!(call, Call::ProbeThree | Call::ProbeTwo)
        && (world.is_orka3() || call != Call::SignIn);
    if with_token {
        let revoked = FaultAction::RevokeToken;
        faults.push(Fault::new("token revoked", Signal::Unauthorized, revoked));
    }
    faults
}

fn taken() -> Fault {
    error(
        "name taken",
        Signal::Taken,
        409,
        "VM with this name already exists",
    )
}

fn of_deploy(world: World) -> Vec<Fault> {
    let full = if world.is_orka3() {
        "Cannot deploy more than 2 VMs on node mini-arm-1"
    } else {
        "No available nodes with sufficient CPU."
    };
    let ssh = if world.is_orka3() { "ssh" } else { "ssh_port" };
    let edited = |name, set: serde_json::Value, remove: &[&str]| {
        let action = FaultAction::EditReply {
            set: set.as_object().unwrap().clone(),
            remove: remove.iter().map(|&member| member.to_owned()).collect(),
            status: None,
        };
        Fault::new(name, Signal::Unusable, action).after_the_work()
    };
    let crashed = FaultAction::FailVm {
        message: "Unable to deploy the VM as the underlying VM process has crashed.".to_owned(),
    };
    let mut faults = vec![
        taken(),
        error("full", Signal::Full, 500, full),
        edited("empty ip", json!({ "ip": "" }), &[]),
        edited("no ip", json!({}), &["ip"]),
        edited("internal ip", json!({ "ip": "192.168.64.7" }), &[]),
        edited("ssh port N/A", json!({ ssh: "N/A" }), &[]),
        edited("ssh port null", json!({ ssh: null }), &[]),
        edited("no ssh port", json!({}), &[ssh]),
        Fault::new("failed VM", Signal::Unusable, crashed).after_the_work(),
    ];
    if world.is_orka3() {
        let failed = json!({ "status": "Failed", "errorMessage": "no bootable disk" });
        faults.push(edited("phase Failed", failed, &[]));
    }
    faults
}

fn of_removal(world: World) -> Vec<Fault> {
    vec![if world.is_orka3() {
        let text = "virtualmachineinstances.orka.macstadium.com \"it\" not found";
        error("nothing there", Signal::NothingThere, 404, text)
    } else {
        let text = "No VMs with that name are currently deployed";
        error("nothing there", Signal::NothingThere, 500, text)
    }]
}
