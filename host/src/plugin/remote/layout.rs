//! How a component lies in a registry: the Wasm OCI artifact layout of the CNCF's TAG Runtime.
//!
//! An image manifest with a configuration that says what the component imports, and one layer that is the component.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::digest;
use crate::console::bytes;
use crate::failure::Failure;
use crate::plugin::PLUGIN_BYTES_MAX;

/// Image manifests of either kind, and what lists several: told apart from what is not there.
pub(crate) const MANIFESTS_TAKEN: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";
/// The configuration of the layout.
pub(crate) const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// The component.
pub(crate) const LAYER: &str = "application/wasm";
/// What the component was called before the layout was agreed on; still pushed by others.
const LAYER_BEFORE: &str = "application/vnd.wasm.content.layer.v1+wasm";

/// Registries take manifests of 4 MiB at most (OCI distribution specification, "Pushing manifests").
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Names of interfaces; a thousand of them are a tenth of it.
pub(crate) const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// What a manifest says of a blob.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// A manifest.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) layer_digests: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) component: Option<Component>,
}

/// What the configuration says of the component.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Component {
    #[serde(default)]
    pub(crate) exports: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) imports: Option<Vec<String>>,
    /// The world it was written for, where somebody knows.
    #[serde(default)]
    pub(crate) target: Option<String>,
}

/// The component's descriptor, if the manifest is one of a component.
///
/// # Errors
///
/// A list of manifests, something that is no component, several layers, or a layer that is larger than a plugin may be.
pub(crate) fn component_of<'a>(
    manifest: &'a Manifest,
    shown: &str,
) -> Result<&'a Descriptor, Failure> {
    let wrong = |problem: String| {
        Failure::plugin_rejected("plugin.other-artifact", format!("cannot load plugin `{shown}`: {problem}"))
            .with_hint("`orka-step plugin push` and `wkg oci push` write what is wanted: one layer of the type `application/wasm`")
    };
    let layer = match manifest.layers.as_slice() {
        [layer] => layer,
        layers => {
            return Err(wrong(format!(
                "the artifact has {} layers, where a component has one",
                layers.len()
            )));
        }
    };
    if layer.media_type != LAYER && layer.media_type != LAYER_BEFORE {
        return Err(wrong(format!(
            "the artifact holds `{}`, not a Wasm component",
            layer.media_type
        )));
    }
    if layer.size > PLUGIN_BYTES_MAX {
        return Err(Failure::plugin_rejected(
            "plugin.too-large",
            format!(
                "cannot load plugin `{shown}`: it is larger than {}",
                bytes(PLUGIN_BYTES_MAX)
            ),
        ));
    }
    for blob in [&manifest.config, layer] {
        if digest(&blob.digest).is_none() {
            return Err(wrong(format!(
                "`{}` in its manifest is no SHA-256 digest",
                blob.digest
            )));
        }
    }
    Ok(layer)
}

/// Reads a manifest.
///
/// # Errors
///
/// A list of manifests, and what is none at all.
pub(crate) fn manifest(body: &[u8], shown: &str) -> Result<Manifest, Failure> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Descriptor>,
    }
    if let Ok(index) = serde_json::from_slice::<Index>(body) {
        let listed: Vec<String> = index
            .manifests
            .iter()
            .map(|one| format!("`{}`", one.digest))
            .collect();
        return Err(Failure::plugin_rejected(
            "plugin.other-artifact",
            format!("cannot load plugin `{shown}`: that is the digest of a list of manifests"),
        )
        .with_hint(format!(
            "give the digest of the one that is meant; listed: {}",
            listed.join(", ")
        )));
    }
    serde_json::from_slice(body).map_err(|error| {
        Failure::plugin_rejected(
            "plugin.other-artifact",
            format!("cannot load plugin `{shown}`: its manifest is not an image manifest"),
        )
        .with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:81adc9cca6047d2989b0c3f7337de11e34152b2f2aa16994738f00dca56df575";

    fn layer(media_type: &str, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: DIGEST.to_owned(),
            size,
            ..Descriptor::default()
        }
    }

    fn of(layers: Vec<Descriptor>) -> Manifest {
        Manifest {
            schema_version: 2,
            media_type: None,
            config: layer(CONFIG, 2),
            layers,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn one_layer_of_either_type_is_a_component_and_anything_else_is_told() {
        for good in [LAYER, LAYER_BEFORE] {
            let manifest = of(vec![layer(good, 8)]);
            assert_eq!(component_of(&manifest, "x").unwrap().media_type, good);
        }
        let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
        for (layers, said) in [
            (vec![], "has 0 layers"),
            (vec![layer(LAYER, 8), layer(LAYER, 8)], "has 2 layers"),
            (vec![layer(tar, 8)], "not a Wasm component"),
            (vec![layer(LAYER, PLUGIN_BYTES_MAX + 1)], "larger than"),
            (
                vec![Descriptor {
                    digest: "sha512:00".to_owned(),
                    ..layer(LAYER, 8)
                }],
                "no SHA-256",
            ),
        ] {
            let failure = component_of(&of(layers), "oci://r/x").unwrap_err();
            assert!(failure.message.contains(said), "{}", failure.message);
            assert!(failure.message.contains("oci://r/x"), "{}", failure.message);
        }
    }

    #[test]
    fn a_list_of_manifests_is_told_with_what_it_lists() {
        let list = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"x","digest":"{DIGEST}","size":7}}]}}"#
        );
        let failure = manifest(list.as_bytes(), "x").unwrap_err();
        assert!(failure.message.contains("list of manifests"));
        assert!(failure.hint.unwrap().contains(DIGEST));
        assert!(manifest(b"{}", "x").is_err());
        assert!(manifest(b"\xff", "x").is_err());
    }

    #[test]
    fn what_others_write_into_the_configuration_is_read() {
        let wkg = r#"{"created":"2026-01-01T00:00:00Z","author":null,"architecture":"wasm","os":"wasip2",
            "layerDigests":["sha256:00"],"component":{"exports":["a:b/c@1.0.0"],"imports":["d:e/f@1.0.0"],"target":null}}"#;
        let config: Config = serde_json::from_str(wkg).unwrap();
        assert_eq!(config.component.unwrap().imports.unwrap(), ["d:e/f@1.0.0"]);
        for bare in ["{}", r#"{"component":{}}"#, r#"{"component":null}"#] {
            let config: Config = serde_json::from_str(bare).unwrap();
            assert!(config.component.unwrap_or_default().imports.is_none());
        }
    }
}
