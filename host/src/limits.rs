//! What a plugin or a guard may use of this machine: each limit with its name, unit and default.
//!
//! A breach, and how it is told, is in [`breach`].

pub mod breach;

use std::time::Duration;

use crate::failure::Failure;

pub use breach::{Breach, Limiter, SetIn, Whose};

/// How often the clock that stops spinning guests ticks. A spinning guest gives way to other work once a tick.
pub const EPOCH_TICK: Duration = Duration::from_millis(10);

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

/// What host functions need of a fibre's stack beside what guest code may use.
const HOST_STACK_BYTES: usize = MIB;

/// The sandbox's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of all instances together, in bytes. Rust guests need 1–4 MiB, Python about 13.
    pub memory_bytes: usize,
    /// Time the guest itself may compute; waiting in host calls does not count.
    pub cpu: Duration,
    /// Host calls in the whole run.
    pub host_calls: u64,
    /// Resources that exist at the same time.
    pub handles: usize,
    /// Elements of all tables together: a function table of a large interpreter has some ten thousand.
    pub table_elements: usize,
    /// Core instances: Python components have between 31 and 40.
    pub instances: usize,
    /// Tables: one or a few an instance.
    pub tables: usize,
    /// Memories: one an instance with code of its own.
    pub memories: usize,
    /// Bytes that one host call may make the host allocate for its arguments.
    pub host_call_bytes: usize,
    /// Stack for guest code, in bytes. Deeper recursion than this is a mistake in a policy.
    pub stack_bytes: usize,
    /// Programs of a run that have not ended, or whose captured output is kept: each may hold a few MiB of the host.
    pub commands: usize,
    /// Connections of a run to its VMs.
    pub connections: usize,
    /// Linear memory of one guard, in bytes.
    pub guard_memory_bytes: usize,
    /// Time a guard may compute for one answer.
    pub guard_cpu: Duration,
    /// Lines that one guard may write to the log in a run.
    pub guard_log_lines: u64,
    /// Time that the image's compiler may take for one plugin or guard: a Python component takes seconds.
    pub compile: Duration,
    /// Address space of the image's compiler, in bytes; its many threads reserve more than they use.
    pub compile_memory_bytes: usize,
    /// Steps that a plugin may compute, as wasmtime counts them, the same on every machine. For tests alone, and no row of
    /// [`TABLE`]: code that counts takes up to three times as long.
    pub fuel: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 * MIB,
            cpu: Duration::from_secs(30),
            host_calls: 1_000_000,
            handles: 10_000,
            table_elements: 1_000_000,
            instances: 200,
            tables: 200,
            memories: 50,
            host_call_bytes: 8 * MIB,
            stack_bytes: MIB,
            commands: 64,
            connections: 64,
            guard_memory_bytes: 64 * MIB,
            guard_cpu: Duration::from_secs(2),
            guard_log_lines: 1000,
            compile: Duration::from_secs(300),
            compile_memory_bytes: 4096 * MIB,
            fuel: None,
        }
    }
}

/// A limit as it is named on the command line.
pub struct Row {
    /// Its name, which says the unit.
    pub name: &'static str,
    /// The highest value that can be given: beyond it this program or the machine would suffer first.
    pub max: u32,
    /// What it bounds.
    pub about: &'static str,
    get: fn(&Limits) -> u64,
    set: fn(&mut Limits, u32),
}

impl Row {
    /// Its value among these limits, in its own unit.
    pub fn of(&self, limits: &Limits) -> u64 {
        (self.get)(limits)
    }
}

/// One row: the field of [`Limits`], its name, its unit, the highest value, what it bounds.
macro_rules! row {
    ($field:ident, $name:literal, bytes $unit:expr, $max:literal, $about:literal) => {
        Row {
            name: $name,
            max: $max,
            about: $about,
            get: |limits| (limits.$field / $unit) as u64,
            set: |limits, value| limits.$field = (value as usize).saturating_mul($unit),
        }
    };
    ($field:ident, $name:literal, seconds, $max:literal, $about:literal) => {
        Row {
            name: $name,
            max: $max,
            about: $about,
            get: |limits| limits.$field.as_secs(),
            set: |limits, value| limits.$field = Duration::from_secs(u64::from(value)),
        }
    };
    ($field:ident, $name:literal, count, $max:literal, $about:literal) => {
        Row {
            name: $name,
            max: $max,
            about: $about,
            get: |limits| limits.$field as u64,
            set: |limits, value| limits.$field = value as _,
        }
    };
}

/// Every limit of the sandbox.
pub const TABLE: [Row; 17] = [
    row!(memory_bytes, "memory-mib", bytes MIB, 4096, "linear memory of the plugin"),
    row!(
        cpu,
        "cpu-seconds",
        seconds,
        86_400,
        "time the plugin itself computes"
    ),
    row!(
        host_calls,
        "host-calls",
        count,
        1_000_000_000,
        "host calls in the whole run"
    ),
    row!(
        handles,
        "handles",
        count,
        1_000_000,
        "resources at the same time"
    ),
    row!(
        table_elements,
        "table-elements",
        count,
        10_000_000,
        "elements of all tables together"
    ),
    row!(instances, "instances", count, 10_000, "core instances"),
    row!(tables, "tables", count, 10_000, "tables"),
    row!(memories, "memories", count, 10_000, "memories"),
    row!(host_call_bytes, "host-call-kib", bytes KIB, 1_048_576, "what one host call makes the host allocate"),
    row!(stack_bytes, "stack-kib", bytes KIB, 65_536, "stack of the plugin's code"),
    row!(
        commands,
        "commands",
        count,
        1024,
        "programs in VMs at the same time"
    ),
    row!(
        connections,
        "connections",
        count,
        1024,
        "connections to VMs at the same time"
    ),
    row!(guard_memory_bytes, "guard-memory-mib", bytes MIB, 4096, "linear memory of one guard"),
    row!(
        guard_cpu,
        "guard-cpu-seconds",
        seconds,
        3600,
        "time a guard computes for one answer"
    ),
    row!(
        guard_log_lines,
        "guard-log-lines",
        count,
        1_000_000,
        "lines of one guard in the log"
    ),
    row!(
        compile,
        "compile-seconds",
        seconds,
        3600,
        "time the image's compiler takes for one plugin"
    ),
    row!(compile_memory_bytes, "compile-memory-mib", bytes MIB, 65_536, "address space of the image's compiler"),
];

/// The table for people.
pub fn listing() -> String {
    let defaults = Limits::default();
    let mut text = format!(
        "{:<18} {:>10} {:>12}  {}\n",
        "NAME", "DEFAULT", "HIGHEST", "BOUNDS"
    );
    for row in &TABLE {
        text.push_str(&format!(
            "{:<18} {:>10} {:>12}  {}\n",
            row.name,
            row.of(&defaults),
            row.max,
            row.about
        ));
    }
    text.push_str(
        "\nChange one with `--limit NAME=VALUE`, or several with `ORKA_LIMITS=NAME=VALUE,…`.\n",
    );
    text
}

/// What there is instead of a limit of this name, the nearest first.
pub(crate) fn meant(name: &str, names: impl Iterator<Item = &'static str> + Clone) -> String {
    let near = plugin_manifest::nearest(name, names.clone())
        .map(|near| format!("did you mean `{near}`? "))
        .unwrap_or_default();
    let known: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    format!("{near}it knows {}", known.join(", "))
}

impl Limits {
    /// These limits with some changed, as `--limit NAME=VALUE` says.
    ///
    /// # Errors
    ///
    /// An unknown name, or a value that is not a positive whole number within the row's own bounds.
    pub fn with(mut self, changes: &[(String, String)]) -> Result<Self, Failure> {
        for (name, value) in changes {
            let Some(row) = TABLE.iter().find(|row| row.name == *name) else {
                let names = TABLE.iter().map(|row| row.name);
                return Err(Failure::config(format!("`--limit` knows no `{name}`"))
                    .with_hint(meant(name, names)));
            };
            let number: u32 = value
                .parse()
                .ok()
                .filter(|number| (1..=row.max).contains(number))
                .ok_or_else(|| {
                    Failure::config(format!(
                        "`--limit {name}={value}` needs a whole number from 1 to {}",
                        row.max
                    ))
                    .with_hint(format!(
                        "it bounds the {}; the default is {}",
                        row.about,
                        row.of(&Self::default())
                    ))
                })?;
            (row.set)(&mut self, number);
        }
        Ok(self)
    }

    /// Stack of the fibre that guest code and host functions called from it run on, in bytes.
    pub fn fibre_stack_bytes(&self) -> usize {
        self.stack_bytes + HOST_STACK_BYTES
    }

    /// What holds for a guard: it shares the structural limits, and has memory and time of its own.
    #[must_use]
    pub fn of_guard(self) -> Self {
        Self {
            memory_bytes: self.guard_memory_bytes,
            cpu: self.guard_cpu,
            fuel: None,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(name: &str, value: &str) -> Result<Limits, Failure> {
        Limits::default().with(&[(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn every_limit_is_changed_by_its_name_and_by_no_other() {
        let defaults = Limits::default();
        for row in &TABLE {
            let other = row.of(&defaults) + 1;
            let limits = changed(row.name, &other.to_string()).unwrap();
            assert_eq!(row.of(&limits), other, "{}", row.name);
            for untouched in TABLE.iter().filter(|it| it.name != row.name) {
                assert_eq!(untouched.of(&limits), untouched.of(&defaults));
            }
        }
    }

    #[test]
    fn typos_and_impossible_values_are_told_with_what_would_do() {
        let failure = changed("memroy-mib", "64").unwrap_err();
        assert!(failure.message.contains("knows no `memroy-mib`"));
        let hint = failure.hint.unwrap();
        assert!(hint.contains("did you mean `memory-mib`?"), "{hint}");
        assert!(hint.contains("`guard-log-lines`"), "{hint}");
        for value in ["0", "-1", "much", "99999999999", "4097"] {
            let failure = changed("memory-mib", value).unwrap_err();
            assert!(
                failure.message.contains("from 1 to 4096"),
                "{}",
                failure.message
            );
            assert!(failure.hint.unwrap().contains("the default is 256"));
        }
    }

    #[test]
    fn a_guard_has_memory_and_time_of_its_own() {
        let limits = changed("guard-memory-mib", "7").unwrap().of_guard();
        assert_eq!(limits.memory_bytes, 7 * MIB);
        assert_eq!(limits.cpu, Duration::from_secs(2));
        assert_eq!(limits.handles, Limits::default().handles);
    }
}
