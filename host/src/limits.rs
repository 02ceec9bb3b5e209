//! What a plugin may use of this machine, and how a breach is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use wasmtime::ResourceLimiter;

use crate::failure::Failure;

/// How often the clock that stops spinning guests ticks. A spinning guest gives way to other work once a tick.
pub const EPOCH_TICK: Duration = Duration::from_millis(10);

const MIB: usize = 1024 * 1024;

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
}

/// Elements of all tables together: a function table of a large interpreter has some ten thousand.
const TABLE_ELEMENTS_MAX: usize = 1_000_000;
/// Core instances: Python components have between 31 and 40.
const INSTANCES_MAX: usize = 200;
/// Tables: one or a few an instance.
const TABLES_MAX: usize = 200;
/// Memories: one an instance with code of its own.
const MEMORIES_MAX: usize = 50;

/// Programs of a run that have not ended, or whose captured output is kept: each may hold a few MiB of the host.
pub const COMMANDS_MAX: usize = 64;
/// Connections of a run to its VMs.
pub const CONNECTIONS_MAX: usize = 64;

/// Bytes that one host call may make the host allocate for its arguments.
pub const HOST_CALL_BYTES_MAX: usize = 8 * MIB;
/// Stack for guest code. Deeper recursion than this is a mistake in a policy.
pub const WASM_STACK_BYTES: usize = MIB;
/// Stack of the fibre that guest code and host functions called from it run on.
pub const FIBRE_STACK_BYTES: usize = 2 * MIB;

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 * MIB,
            cpu: Duration::from_secs(30),
            host_calls: 1_000_000,
            handles: 10_000,
        }
    }
}

impl Limits {
    /// These limits with some changed, as `--limit NAME=VALUE` says.
    ///
    /// # Errors
    ///
    /// An unknown name, or a value that is not a positive whole number.
    pub fn with(mut self, changes: &[(String, String)]) -> Result<Self, Failure> {
        for (name, value) in changes {
            let number: u32 = value
                .parse()
                .ok()
                .filter(|number| *number > 0)
                .ok_or_else(|| {
                    Failure::config(format!(
                        "`--limit {name}={value}` needs a positive whole number"
                    ))
                    .with_hint("for example `--limit memory-mib=512`")
                })?;
            match name.as_str() {
                "memory-mib" => self.memory_bytes = (number as usize).saturating_mul(MIB),
                "cpu-seconds" => self.cpu = Duration::from_secs(u64::from(number)),
                "host-calls" => self.host_calls = u64::from(number),
                "handles" => self.handles = number as usize,
                _ => {
                    return Err(
                        Failure::config(format!("`--limit` knows no `{name}`")).with_hint(
                            "it knows `memory-mib`, `cpu-seconds`, `host-calls` and `handles`",
                        ),
                    );
                }
            }
        }
        Ok(self)
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
    /// It wanted a larger table.
    Table,
    /// It computed for too long.
    Cpu(Duration),
    /// It made too many host calls.
    HostCalls(u64),
    /// It kept too many resources.
    Handles(usize),
}

impl Breach {
    /// Message and hint for a person.
    pub fn explain(self) -> (String, String) {
        match self {
            Self::Memory { wanted, limit } => (
                format!(
                    "it wanted {} MiB of memory and may have {}",
                    wanted.div_ceil(MIB),
                    limit / MIB
                ),
                format!(
                    "if the policy really needs more, raise it with `--limit memory-mib={}`",
                    wanted.div_ceil(MIB)
                ),
            ),
            Self::Table => (
                format!("it wanted tables of more than {TABLE_ELEMENTS_MAX} elements together"),
                "this limit is fixed; no toolchain needs so many".to_owned(),
            ),
            Self::Cpu(limit) => (
                format!(
                    "it computed for {} s without an end; waiting for the cluster or a VM does not count",
                    limit.as_secs()
                ),
                format!(
                    "look for an endless loop, or raise it with `--limit cpu-seconds={}`",
                    limit.as_secs() * 2
                ),
            ),
            Self::HostCalls(limit) => (
                format!("it made more than {limit} host calls"),
                format!(
                    "look for a loop that never waits, or raise it with `--limit host-calls={}`",
                    limit * 2
                ),
            ),
            Self::Handles(limit) => (
                format!("it kept more than {limit} resources"),
                format!(
                    "drop handles that are done with, or raise it with `--limit handles={}`",
                    limit * 2
                ),
            ),
        }
    }
}

/// Watches what a store's guest takes, and remembers the first breach.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    memory_bytes: usize,
    table_elements: usize,
    commands: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    breach: Option<Breach>,
}

impl Limiter {
    /// Nothing taken yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            memory_bytes: 0,
            table_elements: 0,
            commands: Arc::new(Semaphore::new(COMMANDS_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
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

    /// The first breach, if any.
    pub fn breach(&self) -> Option<Breach> {
        self.breach
    }

    /// Notes a breach and gives the error that ends the guest.
    pub fn broken(&mut self, breach: Breach) -> wasmtime::Error {
        let first = *self.breach.get_or_insert(breach);
        wasmtime::Error::msg(format!("limit exceeded: {}", first.explain().0))
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
        if wanted > TABLE_ELEMENTS_MAX {
            return Err(self.broken(Breach::Table));
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.table_elements = wanted;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_all_memories_together_and_the_first_breach_stays() {
        let mut limiter = Limiter::new(Limits {
            memory_bytes: 10 * MIB,
            ..Limits::default()
        });
        assert!(limiter.memory_growing(0, 6 * MIB, None).unwrap());
        assert!(limiter.memory_growing(0, 5 * MIB, None).is_err());
        assert_eq!(
            limiter.breach(),
            Some(Breach::Memory {
                wanted: 11 * MIB,
                limit: 10 * MIB
            })
        );
        limiter.broken(Breach::Table);
        assert!(matches!(limiter.breach(), Some(Breach::Memory { .. })));
    }

    #[test]
    fn elements_count_in_all_tables_together() {
        let mut limiter = Limiter::new(Limits::default());
        assert!(limiter.table_growing(0, 600_000, None).unwrap());
        assert!(!limiter.table_growing(0, 500, Some(400)).unwrap());
        assert!(limiter.table_growing(600_000, 700_000, None).unwrap());
        assert!(limiter.table_growing(0, 300_000, None).unwrap());
        assert!(limiter.table_growing(0, 1, None).is_err());
        assert_eq!(limiter.breach(), Some(Breach::Table));
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
        let mut store = wasmtime::Store::new(&engine, Limiter::new(Limits::default()));
        store.limiter(|limiter| limiter);
        store.set_epoch_deadline(u64::from(u32::MAX));
        let instance = wasmtime::Instance::new_async(&mut store, &module, &[])
            .await
            .unwrap();
        let run = instance
            .get_typed_func::<(), ()>(&mut store, "run")
            .unwrap();
        assert!(run.call_async(&mut store, ()).await.is_err());
        assert_eq!(store.data().breach(), Some(Breach::Table));
    }

    #[test]
    fn limits_are_changed_by_name_and_typos_are_told() {
        let change = |name: &str, value: &str| {
            Limits::default().with(&[(name.to_owned(), value.to_owned())])
        };
        assert_eq!(change("memory-mib", "64").unwrap().memory_bytes, 64 * MIB);
        assert!(
            change("memory", "64")
                .unwrap_err()
                .message
                .contains("knows no `memory`")
        );
        assert!(change("memory-mib", "0").is_err());
    }
}
