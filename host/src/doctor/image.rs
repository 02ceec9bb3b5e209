//! Whether the image is there, and which was meant if not.

use orka_client::{Generation, Image};

use super::check::{Check, Stage, Subject};
use crate::backend::image::is_oci_reference;
use crate::failure::{Class, Failure, Kind};

/// So many similar names are offered.
const SUGGESTIONS_MAX: usize = 3;

/// So many names are shown where none is similar.
const NAMES_SHOWN: usize = 10;

/// Whether an image can be told from its name alone; `None` if the cluster's list has to be asked.
pub(super) fn without_list(image: &str, generation: Generation) -> Option<Check> {
    (generation == Generation::Orka3 && is_oci_reference(image)).then(|| {
        Check::skipped(
            Subject::Image,
            format!(
                "`{image}` is in a registry: the node pulls it, no list has it, and whether it is there shows only \
                 when a VM is deployed"
            ),
        )
    })
}

/// Looks for an image in the cluster's list.
pub(super) fn look_for(image: &str, images: &[Image]) -> Check {
    if let Some(found) = images.iter().find(|candidate| candidate.name == image) {
        let facts: Vec<&str> = [found.architecture.as_deref(), found.size.as_deref()]
            .into_iter()
            .flatten()
            .collect();
        let facts = if facts.is_empty() {
            String::new()
        } else {
            format!(" ({})", facts.join(", "))
        };
        return Check::ok(Subject::Image, format!("`{image}` is there{facts}"));
    }
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    let failure = Failure::new(
        Kind::NotFound,
        // As in a run: the image is a parameter, and nothing was deployed.
        Class::Config,
        "orka.not-found",
        format!("the cluster has no image `{image}`"),
    )
    .with_hint(hint(image, &names));
    Check::failed(Subject::Image, Stage::Deploy, vec![failure])
}

fn hint(image: &str, names: &[&str]) -> String {
    let similar = similar(image, names);
    if !similar.is_empty() {
        return format!("did you mean {}?", listed(&similar, "or"));
    }
    if names.is_empty() {
        return "the cluster has no images at all that this login can see".to_owned();
    }
    let more = match names.len().saturating_sub(NAMES_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown: Vec<String> = names
        .iter()
        .take(NAMES_SHOWN)
        .map(|name| format!("`{name}`"))
        .collect();
    format!("it has {}{more}", shown.join(", "))
}

/// The names that were most likely meant, nearest first.
fn similar<'a>(image: &str, names: &[&'a str]) -> Vec<&'a str> {
    let mut left = names.to_vec();
    let mut similar = Vec::new();
    while similar.len() < SUGGESTIONS_MAX {
        let Some(nearest) = plugin_manifest::nearest(image, left.iter().copied()) else {
            break;
        };
        left.retain(|name| *name != nearest);
        similar.push(nearest);
    }
    similar
}

fn listed(names: &[&str], word: &str) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} {word} {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;
    use crate::outcome::EXIT_CONFIG;

    fn images(names: &[&str]) -> Vec<Image> {
        let image = |name: &&str| Image {
            name: (*name).to_owned(),
            size: Some("90G".to_owned()),
            architecture: None,
            description: None,
        };
        names.iter().map(image).collect()
    }

    fn hint_for(image: &str, names: &[&str]) -> String {
        let check = look_for(image, &images(names));
        assert_eq!(check.exit_code, Some(EXIT_CONFIG));
        check.findings[0].hint.clone().unwrap()
    }

    #[test]
    fn an_image_that_is_there_is_told_with_its_facts() {
        let check = look_for("Sonoma.orkasi", &images(&["Sonoma.orkasi"]));
        assert_eq!(check.status, Status::Ok);
        assert_eq!(check.findings[0].text, "`Sonoma.orkasi` is there (90G)");
    }

    #[test]
    fn similar_names_are_offered_nearest_first() {
        let names = ["Ventura.orkasi", "Sonoma.orkasi", "sonoma-2.orkasi"];
        assert_eq!(
            hint_for("sonoma.orkasi", &names),
            "did you mean `Sonoma.orkasi` or `sonoma-2.orkasi`?"
        );
    }

    #[test]
    fn where_nothing_is_similar_the_names_are_shown_up_to_a_number() {
        let names: Vec<String> = (0..12).map(|n| format!("an-image-{n}.img")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let hint = hint_for("x", &names);
        assert!(hint.starts_with("it has `an-image-0.img`, "), "{hint}");
        assert!(hint.ends_with("`an-image-9.img` and 2 more"), "{hint}");
        assert!(hint_for("x", &[]).contains("no images at all"));
    }

    #[test]
    fn only_orka_3_takes_references() {
        let reference = "ghcr.io/macstadium/orka-images/sequoia:latest";
        assert!(without_list(reference, Generation::Orka2).is_none());
        let check = without_list(reference, Generation::Orka3).unwrap();
        assert_eq!(check.status, Status::Skipped);
    }
}
