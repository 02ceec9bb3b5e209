//! Where live pods are read from.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

#[cfg(feature = "kubernetes")]
use super::kubernetes::Kubernetes;
use super::live::{Live, is_namespace};
use crate::cli::ReapArgs;
use crate::config::Environment;
use crate::failure::Failure;
use crate::identity::DEFAULT_PREFIX;

/// The word that stands for the Kubernetes API in place of a file.
const KUBERNETES: &str = "kubernetes";

/// A list of 50 000 pods as `kubectl` writes it; what is larger is something else.
const LIST_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Where live pods are read from, and of which namespaces.
#[derive(Clone, Debug)]
pub struct PodSource {
    place: Place,
    /// Those in which builds run, where they were named.
    namespaces: Vec<String>,
}

#[derive(Clone, Debug)]
enum Place {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
    /// The Kubernetes API.
    #[cfg(feature = "kubernetes")]
    Kubernetes(Box<Kubernetes>),
}

impl PodSource {
    /// Reads the flag: `-`, `kubernetes`, or a file's path.
    pub(super) fn resolve(
        text: &str,
        args: &ReapArgs,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        for namespace in &args.pod_namespaces {
            if !is_namespace(namespace) {
                return Err(Failure::config(format!(
                    "`--pod-namespace {namespace}` is no name of a namespace"
                )));
            }
        }
        if !args.pod_namespaces.is_empty() && args.vm_prefix == DEFAULT_PREFIX {
            return Err(refused_shared_prefix());
        }
        let place = match text {
            "-" => Place::Stdin,
            #[cfg(feature = "kubernetes")]
            KUBERNETES => Place::Kubernetes(Box::new(Kubernetes::resolve(args, environment)?)),
            #[cfg(not(feature = "kubernetes"))]
            KUBERNETES => {
                let _ = environment;
                return Err(Failure::config(
                    "this program was built without the feature `kubernetes`",
                )
                .with_hint("give the pods with `--live-pods FILE`"));
            }
            path => Place::File(path.into()),
        };
        Ok(Self {
            place,
            namespaces: args.pod_namespaces.clone(),
        })
    }

    /// Reads who is alive. To be called after the cluster was listed.
    ///
    /// # Errors
    ///
    /// Whatever is not certainly a whole list.
    pub(super) async fn read(&self, grace: Duration, may_be_empty: bool) -> Result<Live, Failure> {
        let reading = match &self.place {
            #[cfg(feature = "kubernetes")]
            Place::Kubernetes(kubernetes) => return kubernetes.live().await,
            Place::Stdin => tokio::task::spawn_blocking(|| read_all(std::io::stdin())),
            Place::File(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || {
                    let file = std::fs::File::open(&path)?;
                    refuse_stale(&file, grace)?;
                    read_all(file)
                })
            }
        };
        let text = reading
            .await
            .map_err(|error| Failure::internal("reading live pods broke off").with_source(error))?
            .map_err(|error| {
                let failure = Failure::config(format!(
                    "cannot read live pods from {self}; nothing was deleted"
                ));
                match &self.place {
                    Place::File(path) if is_meant_as_word(path, &error) => failure.with_hint(
                        format!("did you mean `{KUBERNETES}`, which asks the Kubernetes API?"),
                    ),
                    _ => failure,
                }
                .with_source(error)
            })?;
        let live = Live::parse(&text)?;
        live.is_of(&self.namespaces, may_be_empty)?;
        Ok(live)
    }
}

impl std::fmt::Display for PodSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Stdin => f.write_str("standard input"),
            Place::File(path) => write!(f, "`{}`", path.display()),
            #[cfg(feature = "kubernetes")]
            Place::Kubernetes(kubernetes) => write!(f, "{kubernetes}"),
        }
    }
}

/// Names of VMs tell of no namespace. With the prefix that all builds have who say nothing, those of the other namespaces would
/// look dead, also where it was typed: as the name of the namespace, say.
fn refused_shared_prefix() -> Failure {
    Failure::config(format!(
        "`--pod-namespace` needs another `--vm-prefix` than `{DEFAULT_PREFIX}`: builds of every other namespace that were given \
         none have that one, and would look dead; nothing was deleted"
    ))
    .with_hint(
        "choose another prefix for builds and reaper of these namespaces, one that nothing else on this Orka has, as \
         `ORKA_VM_PREFIX` in their ConfigMap `orka-tekton-config`; or leave `--pod-namespace` out, which takes a ClusterRole",
    )
}

/// Whether a file that is not there is rather the word for the API, misspelt.
fn is_meant_as_word(path: &Path, error: &std::io::Error) -> bool {
    let name = path.to_str().unwrap_or_default();
    error.kind() == std::io::ErrorKind::NotFound
        && plugin_manifest::nearest(name, [KUBERNETES]).is_some()
}

fn read_all(from: impl std::io::Read) -> std::io::Result<String> {
    let mut text = String::new();
    let length = from.take(LIST_BYTES_MAX).read_to_string(&mut text)?;
    if length as u64 == LIST_BYTES_MAX {
        return Err(std::io::Error::other("it is larger than 1 GiB"));
    }
    Ok(text)
}

/// A pod that started after the list was written is missing from it. Its VM is younger than the list: as long as the
/// list is younger than the grace, the grace protects that VM.
fn refuse_stale(file: &std::fs::File, grace: Duration) -> std::io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(());
    }
    let age = SystemTime::now()
        .duration_since(metadata.modified()?)
        .unwrap_or_default();
    if age > grace {
        return Err(std::io::Error::other(format!(
            "it was written {} ago, longer than `--grace`: pods that started since are not in it",
            super::plan::rough(age)
        )));
    }
    Ok(())
}
