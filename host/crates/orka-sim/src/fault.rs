//! Things that go wrong on purpose: which requests they hit, and what happens to them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Which of the requests that match a rule are hit. Counting starts when the rule is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occurrence {
    /// Each of them.
    #[default]
    Always,
    /// The n-th alone, counted from 1.
    Nth(u32),
    /// The first n.
    First(u32),
    /// Each n-th.
    Every(u32),
    /// All but the first n.
    After(u32),
}

impl Occurrence {
    /// Whether the `count`-th matching request (from 1) is hit.
    fn hits(self, count: u32) -> bool {
        match self {
            Self::Always => true,
            Self::Nth(n) => count == n,
            Self::First(n) => count <= n,
            Self::Every(n) => n > 0 && count.is_multiple_of(n),
            Self::After(n) => count > n,
        }
    }
}

/// A rule: requests by method and path, which of them, and what happens.
///
/// As JSON: `{"method": "POST", "path": "/resources/vm/deploy", "occurrence": {"first": 2},
/// "action": {"kind": "error", "status": 500, "message": "No available nodes with sufficient CPU."}}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// HTTP method; absent for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Path without query; `*` stands for any run of characters.
    pub path: String,
    /// Which of the matching requests.
    #[serde(default)]
    pub occurrence: Occurrence,
    /// The rule is spent after this many hits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// What happens.
    pub action: FaultAction,
}

impl FaultRule {
    /// A rule for every request with this method and path.
    pub fn new(method: &str, path: &str, action: FaultAction) -> Self {
        let method = (method != "*").then(|| method.to_owned());
        Self {
            method,
            path: path.to_owned(),
            occurrence: Occurrence::Always,
            times: None,
            action,
        }
    }

    /// The same rule for fewer requests.
    #[must_use]
    pub fn on(self, occurrence: Occurrence) -> Self {
        Self { occurrence, ..self }
    }

    /// The same rule, spent after `times` hits.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        self.method
            .as_deref()
            .is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && glob(&self.path, path)
    }
}

/// What happens to a request that a rule hits.
///
/// "Instead" actions replace the work: nothing changes in the cluster. "After" actions let the work happen and spoil
/// the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FaultAction {
    /// Instead: this answer, word for word.
    Reply {
        /// Status code.
        status: u16,
        /// Body.
        #[serde(default)]
        body: String,
        /// `Content-Type`; `application/json; charset=utf-8` when absent.
        #[serde(default)]
        content_type: Option<String>,
        /// Further headers.
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// Instead: an error in the form of the API that was called.
    Error {
        /// Status code; `200` with `errors` is possible in 2.x.
        status: u16,
        /// The text.
        message: String,
    },
    /// Instead: `401` in the form of the API that was called. The token stays good.
    Unauthorized,
    /// The token of the request is revoked first, as by another build of the same user; then the request is served.
    RevokeToken,
    /// Instead: `429`.
    RateLimit {
        /// `Retry-After` in seconds.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// Instead: the HTML page of a proxy.
    HtmlPage {
        /// Status code.
        status: u16,
    },
    /// Instead: `200` with no body.
    EmptyOk,
    /// Instead: `200` with bytes that are not JSON.
    Garbage,
    /// Instead: a redirect.
    Redirect {
        /// `Location`.
        location: String,
        /// Status code, 302 when absent.
        #[serde(default = "found")]
        status: u16,
    },
    /// Instead: the connection is closed without an answer.
    CloseBefore,
    /// Instead: the connection is reset without an answer.
    ResetBefore,
    /// Instead: no answer and no close, for as long as the client waits.
    Hang,
    /// Before the work: wait.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// After the work: wait with the answer.
    DelayReply {
        /// Milliseconds.
        ms: u64,
    },
    /// After the work: the connection is closed without an answer.
    CloseAfter,
    /// After the work: the connection is reset without an answer.
    ResetAfter,
    /// After the work: half of the body, then the connection is closed.
    HalfBody,
    /// After the work: the body in small pieces.
    SlowDrip {
        /// Bytes of each piece.
        bytes: usize,
        /// Milliseconds before each piece.
        ms: u64,
    },
    /// After the work: members of the JSON answer changed.
    EditReply {
        /// Top-level members to set.
        #[serde(default)]
        set: Map<String, Value>,
        /// Top-level members to remove.
        #[serde(default)]
        remove: Vec<String>,
        /// Status code of the answer.
        #[serde(default)]
        status: Option<u16>,
    },
    /// After the work: unknown members beside the known ones, at every depth, some of them `null`.
    UnknownMembers,
    /// The VM of this deploy is made and fails with this message: `Failed`, in 2.x `ERROR`. It stays on the list.
    FailVm {
        /// `errorMessage`, and the message of the answer.
        message: String,
    },
    /// The VM this deploy makes has a guest that misbehaves.
    Guest(GuestFault),
}

fn found() -> u16 {
    302
}

/// How a guest misbehaves before, or instead of, working.
///
/// A real `sshd` guest knows `boot_ms` and `never_boots` alone; the other faults need an embedded one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuestFault {
    /// Milliseconds until the port opens, in place of the cluster's boot delay.
    pub boot_ms: Option<u64>,
    /// The port never opens.
    pub never_boots: bool,
    /// Connections that are accepted and get no banner, before all others.
    pub silent_connections: u32,
    /// Connections that are reset at once, after the silent ones.
    pub reset_connections: u32,
    /// Every connection is accepted and never answered.
    pub hangs: bool,
    /// Logins refused although the credentials are right.
    pub auth_refusals: u32,
    /// Each connection is cut this many milliseconds after it was accepted.
    pub cut_after_ms: Option<u64>,
}

/// A rule with what it has seen.
#[derive(Debug)]
struct Armed {
    rule: FaultRule,
    seen: u32,
    hits: u32,
}

/// The rules in force.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    armed: Vec<Armed>,
}

impl Faults {
    pub(crate) fn add(&mut self, rule: FaultRule) {
        self.armed.push(Armed {
            rule,
            seen: 0,
            hits: 0,
        });
    }

    pub(crate) fn clear(&mut self) {
        self.armed.clear();
    }

    pub(crate) fn rules(&self) -> Vec<FaultRule> {
        self.armed.iter().map(|armed| armed.rule.clone()).collect()
    }

    /// The actions that hit this request, in the order the rules were added.
    pub(crate) fn strike(&mut self, method: &str, path: &str) -> Vec<FaultAction> {
        let mut actions = Vec::new();
        for armed in self
            .armed
            .iter_mut()
            .filter(|armed| armed.rule.matches(method, path))
        {
            armed.seen += 1;
            let spent = armed.rule.times.is_some_and(|times| armed.hits >= times);
            if !spent && armed.rule.occurrence.hits(armed.seen) {
                armed.hits += 1;
                actions.push(armed.rule.action.clone());
            }
        }
        actions
    }
}

/// Total wait of the actions that hold up the work.
pub(crate) fn delay_before(actions: &[FaultAction]) -> Duration {
    actions
        .iter()
        .map(|action| {
            if let FaultAction::Delay { ms } = action {
                *ms
            } else {
                0
            }
        })
        .map(Duration::from_millis)
        .sum()
}

/// Total wait of the actions that hold up the answer.
pub(crate) fn delay_after(actions: &[FaultAction]) -> Duration {
    let wait = |action: &FaultAction| {
        if let FaultAction::DelayReply { ms } = action {
            *ms
        } else {
            0
        }
    };
    actions.iter().map(wait).map(Duration::from_millis).sum()
}

/// The guest misbehaviour among the actions.
pub(crate) fn guest_fault(actions: &[FaultAction]) -> GuestFault {
    let guest = actions.iter().find_map(|action| {
        if let FaultAction::Guest(fault) = action {
            Some(fault)
        } else {
            None
        }
    });
    guest.cloned().unwrap_or_default()
}

/// The message of an action that lets the VM fail.
pub(crate) fn failing_vm(actions: &[FaultAction]) -> Option<String> {
    actions.iter().find_map(|action| match action {
        FaultAction::FailVm { message } => Some(message.clone()),
        _ => None,
    })
}

/// Why a file of fault rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FaultFileError {
    /// It begins like JSON and is not valid.
    #[error("the rules are not valid JSON")]
    Json(#[source] serde_json::Error),
    /// It is not valid TOML.
    #[error("the rules are not valid TOML")]
    Toml(#[source] toml::de::Error),
}

/// Reads fault rules: JSON (an array of rules, or one rule), or TOML with `[[fault]]` tables.
///
/// # Errors
///
/// [`FaultFileError`] when the text is neither.
pub fn parse_faults(text: &str) -> Result<Vec<FaultRule>, FaultFileError> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        fault: Vec<FaultRule>,
    }
    let start = text.trim_start();
    // `[[` begins a TOML table array; a JSON array of rules goes on with `{` or `]`.
    if start.starts_with('{') {
        serde_json::from_str(text)
            .map(|rule| vec![rule])
            .map_err(FaultFileError::Json)
    } else if start.starts_with('[') && !start.starts_with("[[") {
        serde_json::from_str(text).map_err(FaultFileError::Json)
    } else {
        toml::from_str::<File>(text)
            .map(|file| file.fault)
            .map_err(FaultFileError::Toml)
    }
}

/// Whether `text` fits `pattern`, in which `*` stands for any run of characters.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else {
        return rest.is_empty();
    };
    for piece in pieces {
        let Some(at) = rest.find(piece) else {
            return false;
        };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_in_a_pattern_stands_for_any_run_of_characters() {
        for (pattern, text, fits) in [
            ("/token", "/token", true),
            ("/token", "/tokens", false),
            ("*", "/anything", true),
            ("/resources/vm/*", "/resources/vm/deploy", true),
            (
                "/api/v1/namespaces/*/vms",
                "/api/v1/namespaces/orka-default/vms",
                true,
            ),
            (
                "/api/v1/namespaces/*/vms",
                "/api/v1/namespaces/orka-default/vms/x",
                false,
            ),
            ("/a*bc", "/ab", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn occurrences_pick_the_requests_they_name() {
        let picks = |occurrence: Occurrence| {
            (1..=6)
                .filter(|count| occurrence.hits(*count))
                .collect::<Vec<u32>>()
        };
        assert_eq!(picks(Occurrence::Always), [1, 2, 3, 4, 5, 6]);
        assert_eq!(picks(Occurrence::Nth(2)), [2]);
        assert_eq!(picks(Occurrence::First(2)), [1, 2]);
        assert_eq!(picks(Occurrence::Every(3)), [3, 6]);
        assert_eq!(picks(Occurrence::After(4)), [5, 6]);
        assert_eq!(picks(Occurrence::Every(0)), Vec::<u32>::new());
    }

    #[test]
    fn a_rule_is_spent_after_its_times() {
        let mut faults = Faults::default();
        faults.add(
            FaultRule::new("POST", "/token", FaultAction::EmptyOk)
                .on(Occurrence::Every(2))
                .times(1),
        );
        let struck: Vec<usize> = (0..6)
            .map(|_| faults.strike("POST", "/token").len())
            .collect();
        assert_eq!(struck, [0, 1, 0, 0, 0, 0]);
        assert!(faults.strike("GET", "/token").is_empty());
    }

    #[test]
    fn the_same_rules_are_read_from_json_and_from_toml() {
        let json = r#"[{"method":"POST","path":"/resources/vm/deploy","occurrence":{"first":2},"times":5,
            "action":{"kind":"error","status":500,"message":"No available nodes with sufficient CPU."}},
            {"path":"*","action":{"kind":"guest","auth_refusals":3}}]"#;
        let toml = r#"
            [[fault]]
            method = "POST"
            path = "/resources/vm/deploy"
            occurrence = { first = 2 }
            times = 5
            action = { kind = "error", status = 500, message = "No available nodes with sufficient CPU." }

            [[fault]]
            path = "*"
            action = { kind = "guest", auth_refusals = 3 }
        "#;
        let rules = parse_faults(json).unwrap();
        assert_eq!(rules, parse_faults(toml).unwrap());
        assert_eq!(rules[0].occurrence, Occurrence::First(2));
        assert_eq!(guest_fault(&[rules[1].action.clone()]).auth_refusals, 3);
    }

    #[test]
    fn a_misspelt_member_of_a_rule_is_refused() {
        assert!(
            parse_faults(r#"{"path":"*","ocurrence":"always","action":{"kind":"garbage"}}"#)
                .is_err()
        );
    }
}
