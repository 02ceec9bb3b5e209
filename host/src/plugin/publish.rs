//! `orka-step plugin push` and `plugin pull`: what an author does with a registry.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use jiff::Timestamp;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use sha2::{Digest as _, Sha256};

use super::remote::layout::{CONFIG, Component, Config, Descriptor, LAYER, Manifest};
use super::remote::registry::{Access, Registry};
use super::remote::web::{Answer, Call, UNREACHABLE, Web, may_follow};
use super::remote::{Fetched, OciRef, Repository, fetch, is_remote};
use super::{Plugin, PluginRef, is_bundled_name};
use crate::cli::{PluginPullArgs, PluginPushArgs};
use crate::config::{Environment, RegistryLogins};
use crate::console::{Console, bytes};
use crate::failure::Failure;
use crate::guard::is_guard;

/// An image manifest.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Annotations that every tool shows (OCI image specification, "Pre-Defined Annotation Keys").
const TITLE: &str = "org.opencontainers.image.title";
const VERSION: &str = "org.opencontainers.image.version";
const DESCRIPTION: &str = "org.opencontainers.image.description";

/// Answers to what is sent are short.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Pushes a plugin and gives the reference that runs take.
///
/// # Errors
///
/// A file that is no plugin for this host, and whatever the registry declines.
pub async fn push(
    args: &PluginPushArgs,
    environment: &Environment,
    console: &Console,
) -> Result<String, Failure> {
    let (repository, tag) = Repository::parse(&args.to, "plugin push FILE")?;
    let plugin = pushable(&args.file)?;
    let artifact = Artifact::of(&plugin, created(&args.file, environment)?)?;
    let web = Web::new(args.registry.ca())?;
    let logins = RegistryLogins::resolve(&args.registry, environment, console.masker())?;
    let registry = Registry::new(&web, &repository, Access::Push, &logins, console.masker())?;
    send(&registry, tag.as_deref(), &artifact)
        .await
        .map_err(no_run)?;
    console.info(&format!(
        "pushed `{}` {} ({}, {})",
        plugin.manifest.name,
        plugin.manifest.version,
        bytes(artifact.component.len() as u64),
        plugin.digest
    ));
    let digest = artifact.digest;
    Ok(format!("{}\n", OciRef { repository, digest }))
}

async fn send(
    registry: &Registry<'_>,
    tag: Option<&str>,
    artifact: &Artifact,
) -> Result<(), Failure> {
    registry
        .upload(&artifact.manifest.config, artifact.config.clone())
        .await?;
    for layer in &artifact.manifest.layers {
        registry.upload(layer, artifact.component.clone()).await?;
    }
    registry
        .name(tag.unwrap_or(&artifact.digest), artifact)
        .await
}

/// The plugin in a file, as something that is to be pushed.
fn pushable(file: &Path) -> Result<Plugin, Failure> {
    Plugin::load(&PluginRef::Path(file.to_owned())).map_err(|failure| {
        if failure.code == "plugin.unreadable" && file.to_str().is_some_and(is_bundled_name) {
            return failure.with_hint(
                "give the path of a `.wasm` file; what came with this program is there by its name and needs no registry",
            );
        }
        if std::fs::read(file).is_ok_and(|bytes| is_guard(&bytes)) {
            return failure.with_hint(
                "guards are not fetched from registries; they are distributed as files in the directory that is given with `--guards`",
            );
        }
        failure
    })
}

/// A failure of a registry where no run is under way.
fn no_run(failure: Failure) -> Failure {
    if failure.code == UNREACHABLE {
        failure.with_hint("look at the registry's address; the same may succeed later")
    } else {
        failure
    }
}

/// Fetches a plugin into a file and gives a line about it.
///
/// # Errors
///
/// As [`fetch`], and a file that cannot be written.
pub async fn pull(
    args: &PluginPullArgs,
    environment: &Environment,
    console: &Console,
) -> Result<String, Failure> {
    if !is_remote(&args.plugin) {
        return Err(
            Failure::config(format!("`{}` is nothing to fetch", args.plugin))
                .with_hint("give `oci://registry/repository@sha256:…` or `https://…#sha256:…`"),
        );
    }
    let reference = PluginRef::parse(&args.plugin, None)?;
    let fetched = fetch(reference, &args.registry, environment, console).await;
    match fetched.map_err(no_run)? {
        PluginRef::Fetched(Fetched {
            bytes: component, ..
        }) => {
            write(&args.output, &component)?;
            Ok(format!(
                "{}  {}  {}\n",
                args.output.display(),
                bytes(component.len() as u64),
                digest_of(&component)
            ))
        }
        other => Err(Failure::internal(format!("`{other}` was not fetched"))),
    }
}

/// Whole or not at all.
fn write(path: &Path, component: &[u8]) -> Result<(), Failure> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let written = std::fs::write(&beside, component).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&beside);
        Failure::config(format!("cannot write `{}`", path.display())).with_source(error)
    })
}

fn is_success(answer: &Answer) -> bool {
    (200..300).contains(&answer.status)
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// When the component was made. Not when it is pushed: the same file is to have the same digest tomorrow.
fn created(file: &Path, environment: &Environment) -> Result<Timestamp, Failure> {
    let wrong = |what: String| Failure::config(what);
    match environment
        .get("SOURCE_DATE_EPOCH")
        .filter(|value| !value.is_empty())
    {
        Some(seconds) => seconds
            .parse()
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .ok_or_else(|| {
                wrong(format!(
                    "`SOURCE_DATE_EPOCH` is `{seconds}`, which is no number of seconds"
                ))
            }),
        None => {
            let modified = std::fs::metadata(file).and_then(|metadata| metadata.modified());
            let modified = modified.map_err(|error| {
                wrong(format!("cannot read `{}`", file.display())).with_source(error)
            })?;
            Timestamp::try_from(modified)
                .and_then(|time| Timestamp::from_second(time.as_second()))
                .map_err(|error| {
                    wrong(format!(
                        "`{}` has no time that can be written",
                        file.display()
                    ))
                    .with_source(error)
                })
        }
    }
}

/// What is pushed.
struct Artifact {
    component: Bytes,
    config: Bytes,
    manifest: Manifest,
    /// The manifest as it is sent, and its digest.
    body: Bytes,
    digest: String,
}

impl Artifact {
    fn of(plugin: &Plugin, created: Timestamp) -> Result<Self, Failure> {
        let unreadable =
            |error| Failure::internal("the plugin cannot be read again").with_source(error);
        let config = Config {
            created: Some(created.to_string()),
            architecture: "wasm".to_owned(),
            os: "wasip2".to_owned(),
            layer_digests: vec![plugin.digest.clone()],
            component: Some(Component {
                exports: Some(plugin_manifest::exports(&plugin.bytes).map_err(unreadable)?),
                imports: Some(plugin_manifest::imports(&plugin.bytes).map_err(unreadable)?),
                target: None,
            }),
        };
        let about = &plugin.manifest;
        let config = json(&config)?;
        let file = BTreeMap::from([(TITLE.to_owned(), format!("{}.wasm", about.name))]);
        let layer = Descriptor {
            // So that tools which only know files give it its name.
            annotations: file,
            ..descriptor(LAYER, &plugin.bytes)
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST.to_owned()),
            config: descriptor(CONFIG, &config),
            layers: vec![layer],
            annotations: BTreeMap::from([
                (TITLE.to_owned(), about.name.clone()),
                (VERSION.to_owned(), about.version.to_string()),
                (DESCRIPTION.to_owned(), about.description.clone()),
            ]),
        };
        let body = json(&manifest)?;
        Ok(Self {
            component: Bytes::copy_from_slice(&plugin.bytes),
            config,
            digest: digest_of(&body),
            manifest,
            body,
        })
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: digest_of(bytes),
        size: bytes.len() as u64,
        annotations: BTreeMap::new(),
    }
}

fn json(value: &impl serde::Serialize) -> Result<Bytes, Failure> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Failure::internal("a manifest cannot be written").with_source(error))
}

impl Registry<'_> {
    /// Brings a blob in, unless it is there.
    async fn upload(&self, blob: &Descriptor, bytes: Bytes) -> Result<(), Failure> {
        let there = self.send(Call {
            method: Method::HEAD,
            ..self.get(&format!("blobs/{}", blob.digest), ANSWER_BYTES_MAX)?
        });
        if there.await?.status == 200 {
            return Ok(());
        }
        let begun = self.send(Call {
            method: Method::POST,
            // An empty body, so that its length is told: some front ends insist.
            body: Some(Bytes::new()),
            ..self.get("blobs/uploads/", ANSWER_BYTES_MAX)?
        });
        let begun = begun.await?;
        let location = begun
            .headers
            .get(LOCATION)
            .and_then(|value| value.to_str().ok());
        let place = location
            .filter(|_| begun.status == 202)
            .and_then(|location| begun.url.join(location).ok());
        let place = place.ok_or_else(|| begun.unexpected(self.what()))?;
        let mut place = may_follow(self.what(), &begun.url, place)?;
        place.query_pairs_mut().append_pair("digest", &blob.digest);
        let mut call = Call {
            method: Method::PUT,
            body: Some(bytes),
            ..Call::get(place, ANSWER_BYTES_MAX, self.what())
        };
        call.headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        let done = self.send(call).await?;
        if is_success(&done) {
            Ok(())
        } else {
            Err(done.unexpected(self.what()))
        }
    }

    /// Brings the manifest in, under a tag or its own digest.
    async fn name(&self, name: &str, artifact: &Artifact) -> Result<(), Failure> {
        let mut call = Call {
            method: Method::PUT,
            body: Some(artifact.body.clone()),
            ..self.get(&format!("manifests/{name}"), ANSWER_BYTES_MAX)?
        };
        call.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(MANIFEST));
        let done = self.send(call).await?;
        if is_success(&done) {
            Ok(())
        } else {
            Err(done.unexpected(self.what()))
        }
    }
}
