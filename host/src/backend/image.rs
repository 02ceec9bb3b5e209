//! What can be said of an image by its name, and by those that the cluster has.

use crate::failure::{Failure, Kind};

/// So many names are shown where none is similar.
const NAMES_SHOWN: usize = 8;

/// Whether this names an image in a registry: its part before the first `/` looks like a host.
///
/// Orka 3 documentation, "OCI Images"; the test is that of MacStadium's own Jenkins plugin.
pub(crate) fn is_oci_reference(image: &str) -> bool {
    image
        .split_once('/')
        .is_some_and(|(host, _)| host == "localhost" || host.contains(['.', ':']))
}

/// Whether the cluster refused a VM for its image.
pub(crate) fn is_about(failure: &Failure, image: &str) -> bool {
    let said = failure.message.to_lowercase();
    matches!(failure.kind, Kind::NotFound | Kind::Invalid)
        && (said.contains("image") || said.contains(&image.to_lowercase()))
}

/// What to do about an image that is none of these.
pub(crate) fn similar(image: &str, names: &[&str]) -> Option<String> {
    if names.contains(&image) {
        return None;
    }
    if image.is_empty() {
        return Some(format!(
            "the plugin named no image; the cluster has {}",
            shortened(names)
        ));
    }
    let nearest = plugin_manifest::nearest(image, names.iter().copied());
    Some(match nearest {
        Some(nearest) => {
            format!("the cluster has no image `{image}`; did you mean `{nearest}`?")
        }
        None => format!(
            "the cluster has no image `{image}`; it has {}",
            shortened(names)
        ),
    })
}

fn shortened(names: &[&str]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(NAMES_SHOWN)
        .map(|name| format!("`{name}`"))
        .collect();
    let more = names.len().saturating_sub(NAMES_SHOWN);
    match (shown.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (false, 0) => shown.join(", "),
        (false, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_name_is_not_called_by_it() {
        let hint = similar("", &["Sonoma.orkasi", "a"]).unwrap();
        assert_eq!(
            hint,
            "the plugin named no image; the cluster has `Sonoma.orkasi`, `a`"
        );
    }

    #[test]
    fn a_reference_begins_with_a_host() {
        for reference in [
            "ghcr.io/macstadium/orka-images/sequoia:latest",
            "registry:5000/macos",
            "localhost/macos",
        ] {
            assert!(is_oci_reference(reference), "{reference}");
        }
        for name in ["Sonoma.orkasi", "team/sonoma", "sequoia:latest"] {
            assert!(!is_oci_reference(name), "{name}");
        }
    }
}
