//! What becomes of a guest that takes more than it may: which limit it broke, and how that is told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use wasmtime::component::ResourceTableError;
use wasmtime::{ResourceLimiter, Trap};

use super::{Limits, MIB};

/// Whose store it is: decides which flags raise its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A plugin's.
    Plugin,
    /// A guard's.
    Guard,
}

/// Where the run's limits are set: decides how a hint writes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetIn {
    /// With `--limit`.
    CommandLine,
    /// In a test.
    Scenario,
}

impl SetIn {
    fn set(self, name: &str, value: impl fmt::Display) -> String {
        match self {
            Self::CommandLine => format!("`--limit {name}={value}`"),
            Self::Scenario => format!("`{name}: {value}` under `limits` of the scenario"),
        }
    }
}

/// Which limit a guest broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// It wanted more memory.
    Memory {
        /// Bytes it wanted to have in all.
        wanted: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// It wanted larger tables.
    TableElements {
        /// Elements it wanted to have in all.
        wanted: usize,
        /// Elements it may have.
        limit: usize,
    },
    /// It computed for too long.
    Cpu {
        /// How long it has computed.
        used: Duration,
        /// How long it may.
        limit: Duration,
    },
    /// It made too many host calls.
    HostCalls(u64),
    /// It kept too many resources.
    Handles(usize),
    /// It has too many of what instances are made of.
    Parts {
        /// `instances`, `tables` or `memories`: the limit's name.
        of: &'static str,
        /// How many it has.
        wanted: usize,
        /// How many it may have.
        limit: usize,
    },
    /// It handed more to the host in one call than that may take.
    HostCallBytes(usize),
    /// It asked the host for more in one call than that may take.
    HostCallAnswer {
        /// How many bytes.
        asked: u64,
        /// How many there may be.
        limit: usize,
    },
    /// Its stack is too deep.
    Stack(usize),
    /// It computed more steps than a test allows.
    Fuel(u64),
}

impl Breach {
    /// What wasmtime itself found, where it does the counting.
    ///
    /// It has no types for these, so its words are what there is to go by; a test holds each of them to it.
    pub fn found_by_engine(error: &wasmtime::Error, limits: &Limits) -> Option<Self> {
        match error.downcast_ref::<Trap>() {
            Some(Trap::StackOverflow) => return Some(Self::Stack(limits.stack_bytes)),
            Some(Trap::OutOfFuel) => return limits.fuel.map(Self::Fuel),
            _ => {}
        }
        // What WASI lends is kept in the same table as what the contract does, and says so in its own way.
        if let Some(ResourceTableError::Full) = error.downcast_ref::<ResourceTableError>() {
            return Some(Self::Handles(limits.handles));
        }
        let text = error.root_cause().to_string();
        if text.contains("fuel allocated for hostcalls has been exhausted") {
            return Some(Self::HostCallBytes(limits.host_call_bytes));
        }
        // WASI's own, which is set to the same number.
        let of_wasi = text.strip_prefix("requested len ");
        if let Some((asked, _)) = of_wasi.and_then(|rest| rest.split_once(" exceeds limit ")) {
            let limit = limits.host_call_bytes;
            let more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
            return Some(Self::HostCallAnswer {
                asked: asked.parse().unwrap_or(more),
                limit,
            });
        }
        if text.contains("store handle limit exceeded") {
            return Some(Self::Handles(limits.handles));
        }
        let rest = text.strip_prefix("resource limit exceeded: ")?;
        let (what, wanted) = rest.split_once(" count too high at ")?;
        let (of, limit) = match what {
            "instance" => ("instances", limits.instances),
            "table" => ("tables", limits.tables),
            "memory" => ("memories", limits.memories),
            _ => return None,
        };
        Some(Self::Parts {
            of,
            wanted: wanted.trim().parse().unwrap_or(limit.saturating_add(1)),
            limit,
        })
    }

    /// Message and hint for a person.
    pub fn explain(self, whose: Whose, place: SetIn) -> (String, String) {
        let own = match whose {
            Whose::Plugin => "",
            Whose::Guard => "guard-",
        };
        match self {
            Self::Memory { wanted, limit } => (
                format!(
                    "it wanted {} MiB of memory and may have {}",
                    wanted.div_ceil(MIB),
                    limit / MIB
                ),
                format!(
                    "if it really needs more, raise it with {}",
                    place.set(&format!("{own}memory-mib"), wanted.div_ceil(MIB))
                ),
            ),
            Self::TableElements { wanted, limit } => (
                format!("it wanted tables of {wanted} elements together and may have {limit}"),
                format!(
                    "no toolchain needs so many; raise it with {}",
                    place.set("table-elements", wanted)
                ),
            ),
            Self::Cpu { used, limit } => (
                format!(
                    "it computed for {} s without an end and may for {}; waiting for the cluster or a VM does not count",
                    used.as_secs(),
                    limit.as_secs()
                ),
                format!(
                    "look for an endless loop, or raise it with {}",
                    place.set(&format!("{own}cpu-seconds"), limit.as_secs().max(1) * 2)
                ),
            ),
            Self::HostCalls(limit) => (
                format!("it made more than {limit} host calls"),
                format!(
                    "look for a loop that never waits, or raise it with {}",
                    place.set("host-calls", limit * 2)
                ),
            ),
            Self::Handles(limit) => (
                format!("it kept more than {limit} resources"),
                format!(
                    "drop handles that are done with, or raise it with {}",
                    place.set("handles", limit * 2)
                ),
            ),
            Self::Parts { of, wanted, limit } => (
                format!("it is made of {wanted} {of} and may have {limit}"),
                format!(
                    "if it is a large interpreter, raise it with {}",
                    place.set(of, wanted)
                ),
            ),
            Self::HostCallBytes(limit) => (
                format!(
                    "it handed more than {} KiB to the host in one call",
                    limit / 1024
                ),
                format!(
                    "hand large things over as files of the workspace, or raise it with {}",
                    place.set("host-call-kib", limit / 1024 * 2)
                ),
            ),
            Self::HostCallAnswer { asked, limit } => (
                format!(
                    "it asked the host for {} KiB in one call and may have {}",
                    asked.div_ceil(1024),
                    limit / 1024
                ),
                format!(
                    "ask for less at a time, or raise it with {}",
                    place.set("host-call-kib", limit / 1024 * 2)
                ),
            ),
            Self::Stack(limit) => (
                format!("its stack grew beyond {} KiB", limit / 1024),
                format!(
                    "look for endless recursion, or raise it with {}",
                    place.set("stack-kib", limit / 1024 * 2)
                ),
            ),
            Self::Fuel(limit) => (
                format!("it computed more than {limit} steps"),
                format!(
                    "look for an endless loop, or raise it with {}",
                    SetIn::Scenario.set("fuel", limit.saturating_mul(2))
                ),
            ),
        }
    }
}

/// Watches what a store's guest takes, and remembers the first breach.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    whose: Whose,
    memory_bytes: usize,
    table_elements: usize,
    commands: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    breach: Option<Breach>,
}

impl Limiter {
    /// Nothing taken yet.
    pub fn new(limits: Limits, whose: Whose) -> Self {
        Self {
            limits,
            whose,
            memory_bytes: 0,
            table_elements: 0,
            commands: Arc::new(Semaphore::new(limits.commands)),
            connections: Arc::new(Semaphore::new(limits.connections)),
            breach: None,
        }
    }

    /// One permit for each program that may run.
    pub(crate) fn commands(&self) -> Arc<Semaphore> {
        Arc::clone(&self.commands)
    }

    /// One permit for each connection that may exist.
    pub(crate) fn connections(&self) -> Arc<Semaphore> {
        Arc::clone(&self.connections)
    }

    /// The limits it watches.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The first breach, if any.
    pub fn breach(&self) -> Option<Breach> {
        self.breach
    }

    /// Notes a breach and gives the error that ends the guest.
    pub fn broken(&mut self, breach: Breach) -> wasmtime::Error {
        let first = *self.breach.get_or_insert(breach);
        wasmtime::Error::msg(format!(
            "limit exceeded: {}",
            first.explain(self.whose, SetIn::CommandLine).0
        ))
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self
            .memory_bytes
            .saturating_add(desired.saturating_sub(current));
        if wanted > self.limits.memory_bytes {
            // An allocator told "no" aborts with a bare trap; ending the guest here keeps the reason.
            return Err(self.broken(Breach::Memory {
                wanted,
                limit: self.limits.memory_bytes,
            }));
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.memory_bytes = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self
            .table_elements
            .saturating_add(desired.saturating_sub(current));
        if wanted > self.limits.table_elements {
            return Err(self.broken(Breach::TableElements {
                wanted,
                limit: self.limits.table_elements,
            }));
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.table_elements = wanted;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        self.limits.tables
    }

    fn memories(&self) -> usize {
        self.limits.memories
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_all_memories_together_and_the_first_breach_stays() {
        let limits = Limits {
            memory_bytes: 10 * MIB,
            ..Limits::default()
        };
        let mut limiter = Limiter::new(limits, Whose::Plugin);
        assert!(limiter.memory_growing(0, 6 * MIB, None).unwrap());
        assert!(limiter.memory_growing(0, 5 * MIB, None).is_err());
        assert_eq!(
            limiter.breach(),
            Some(Breach::Memory {
                wanted: 11 * MIB,
                limit: 10 * MIB
            })
        );
        limiter.broken(Breach::HostCalls(1));
        assert!(matches!(limiter.breach(), Some(Breach::Memory { .. })));
    }

    #[test]
    fn elements_count_in_all_tables_together() {
        let mut limiter = Limiter::new(Limits::default(), Whose::Plugin);
        assert!(limiter.table_growing(0, 600_000, None).unwrap());
        assert!(!limiter.table_growing(0, 500, Some(400)).unwrap());
        assert!(limiter.table_growing(600_000, 700_000, None).unwrap());
        assert!(limiter.table_growing(0, 300_000, None).unwrap());
        assert!(limiter.table_growing(0, 1, None).is_err());
        assert_eq!(
            limiter.breach(),
            Some(Breach::TableElements {
                wanted: 1_000_001,
                limit: 1_000_000
            })
        );
    }

    /// `(module (table 1 funcref) (func (export "run") (loop (drop (table.grow (ref.null func) (i32.const 10000))) br 0)))`
    const GROWS_A_TABLE: [u8; 54] = [
        0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, // header
        0x01, 0x04, 0x01, 0x60, 0x00, 0x00, // types
        0x03, 0x02, 0x01, 0x00, // functions
        0x04, 0x04, 0x01, 0x70, 0x00, 0x01, // tables
        0x07, 0x07, 0x01, 0x03, b'r', b'u', b'n', 0x00, 0x00, // exports
        0x0a, 0x13, 0x01, 0x11, 0x00, 0x03, 0x40, 0xd0, 0x70, 0x41, 0x90, 0xce, 0x00, 0xfc, 0x0f,
        0x00, 0x1a, 0x0c, 0x00, 0x0b, 0x0b, // code
    ];

    #[tokio::test]
    async fn a_module_that_grows_its_table_without_end_is_stopped() {
        let engine = crate::engine::engine().unwrap();
        let module = wasmtime::Module::new(&engine, GROWS_A_TABLE).unwrap();
        let mut store =
            wasmtime::Store::new(&engine, Limiter::new(Limits::default(), Whose::Plugin));
        store.limiter(|limiter| limiter);
        store.set_epoch_deadline(u64::from(u32::MAX));
        let instance = wasmtime::Instance::new_async(&mut store, &module, &[])
            .await
            .unwrap();
        let run = instance
            .get_typed_func::<(), ()>(&mut store, "run")
            .unwrap();
        assert!(run.call_async(&mut store, ()).await.is_err());
        assert!(matches!(
            store.data().breach(),
            Some(Breach::TableElements {
                limit: 1_000_000,
                ..
            })
        ));
    }

    #[test]
    fn every_breach_says_its_number_and_the_flag_that_raises_it() {
        let breaches = [
            (
                Breach::Memory {
                    wanted: 33 * MIB,
                    limit: 32 * MIB,
                },
                "33 MiB",
                "memory-mib=33",
            ),
            (
                Breach::TableElements {
                    wanted: 5,
                    limit: 4,
                },
                "5 elements",
                "table-elements=5",
            ),
            (
                Breach::Cpu {
                    used: Duration::from_secs(31),
                    limit: Duration::from_secs(30),
                },
                "31 s",
                "cpu-seconds=60",
            ),
            (Breach::HostCalls(7), "more than 7", "host-calls=14"),
            (Breach::Handles(7), "more than 7", "handles=14"),
            (
                Breach::Parts {
                    of: "instances",
                    wanted: 31,
                    limit: 30,
                },
                "31 instances",
                "instances=31",
            ),
            (
                Breach::HostCallBytes(8 * MIB),
                "8192 KiB",
                "host-call-kib=16384",
            ),
            (Breach::Stack(MIB), "1024 KiB", "stack-kib=2048"),
        ];
        for (breach, number, flag) in breaches {
            let (message, hint) = breach.explain(Whose::Plugin, SetIn::CommandLine);
            assert!(message.contains(number), "{message}");
            assert!(hint.contains(&format!("`--limit {flag}`")), "{hint}");
            let (_, in_a_scenario) = breach.explain(Whose::Plugin, SetIn::Scenario);
            let entry = format!(
                "`{}` under `limits` of the scenario",
                flag.replace('=', ": ")
            );
            assert!(in_a_scenario.contains(&entry), "{in_a_scenario}");
            assert!(!in_a_scenario.contains("--limit"), "{in_a_scenario}");
            let name = flag.split('=').next().unwrap();
            assert!(super::super::TABLE.iter().any(|row| row.name == name));
        }
        let (_, hint) = Breach::Memory {
            wanted: MIB,
            limit: 1,
        }
        .explain(Whose::Guard, SetIn::CommandLine);
        assert!(hint.contains("--limit guard-memory-mib=1"), "{hint}");
    }

    #[test]
    fn what_the_engine_counts_is_told_by_its_words() {
        let limits = Limits::default();
        let found =
            |text: &str| Breach::found_by_engine(&wasmtime::Error::msg(text.to_owned()), &limits);
        assert_eq!(
            found("resource limit exceeded: instance count too high at 201"),
            Some(Breach::Parts {
                of: "instances",
                wanted: 201,
                limit: 200
            })
        );
        assert_eq!(
            found("cannot allocate another handle: store handle limit exceeded"),
            Some(Breach::Handles(10_000))
        );
        let full = wasmtime::Error::from(ResourceTableError::Full);
        let found_full = Breach::found_by_engine(&full, &limits);
        assert_eq!(found_full, Some(Breach::Handles(10_000)));
        assert_eq!(found("something else"), None);
    }

    /// Starts a component under these limits and calls its `run`, which breaks one of them.
    async fn broken_by(component: &str, limits: Limits) -> Option<Breach> {
        let engine = crate::engine::engine_with(&limits).unwrap();
        let bytes = wat::parse_str(component).unwrap();
        let component = wasmtime::component::Component::new(&engine, bytes).unwrap();
        let mut store = wasmtime::Store::new(&engine, Limiter::new(limits, Whose::Plugin));
        store.limiter(|limiter| limiter);
        store.set_epoch_deadline(u64::from(u32::MAX));
        let linker = wasmtime::component::Linker::new(&engine);
        let ended = match linker.instantiate_async(&mut store, &component).await {
            Ok(instance) => {
                let run = instance
                    .get_typed_func::<(), ()>(&mut store, "run")
                    .unwrap();
                run.call_async(&mut store, ()).await
            }
            Err(error) => Err(error),
        };
        let error = ended.unwrap_err();
        store
            .data()
            .breach()
            .or_else(|| Breach::found_by_engine(&error, &limits))
    }

    /// Two core modules, each with a memory and a table of its own, and a function that calls itself for ever.
    const TWO_OF_EACH: &str = "(component
        (core module $m
            (memory 1) (table 1 funcref)
            (func $f (export \"run\") (call $f)))
        (core instance $a (instantiate $m))
        (core instance $b (instantiate $m))
        (func (export \"run\") (canon lift (core func $b \"run\"))))";

    #[tokio::test]
    async fn what_the_engine_counts_is_found_however_it_words_it() {
        for (limits, of) in [
            (
                Limits {
                    instances: 1,
                    ..Limits::default()
                },
                "instances",
            ),
            (
                Limits {
                    tables: 1,
                    ..Limits::default()
                },
                "tables",
            ),
            (
                Limits {
                    memories: 1,
                    ..Limits::default()
                },
                "memories",
            ),
        ] {
            let found = broken_by(TWO_OF_EACH, limits).await;
            let wanted = Breach::Parts {
                of,
                wanted: 2,
                limit: 1,
            };
            assert_eq!(found, Some(wanted), "{of}");
        }
        let limits = Limits {
            stack_bytes: 64 * 1024,
            ..Limits::default()
        };
        let found = broken_by(TWO_OF_EACH, limits).await;
        assert_eq!(found, Some(Breach::Stack(64 * 1024)));
    }
}
