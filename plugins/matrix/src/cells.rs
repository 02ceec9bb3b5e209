//! Which cells there are: named one by one, or every combination of images, cores and tags.

use std::collections::BTreeSet;

use orka_plugin_common::{Change, VmSettings};
use orka_plugin_sdk::cluster::Session;
use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::{Error, params, phase};

/// So many at most: each is a line of the log's table and a member of the result.
const CELLS_MAX: usize = 64;

/// So many images are named where one is missed, as the host does.
const IMAGES_SHOWN: usize = 8;

/// As long as the label of a line may be, with blank and brackets.
const NAME_BYTES_MAX: usize = 48;

/// A cell, as it was asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// What log, result and the directory of its artifacts call it.
    pub(crate) name: String,
    /// Its VM.
    pub(crate) vm: VmSettings,
}

/// The cells of the parameters `cells`, or of `images`, `cpu-counts` and `tags`.
pub(crate) fn from_params() -> Result<Vec<Wanted>, Error> {
    let one_by_one = params::list("cells")?;
    let images = params::list("images")?;
    let cpu_counts = params::list("cpu-counts")?;
    let tags = params::list("tags")?;
    let common = VmSettings::from_params(String::new())?;
    let named = if images.is_empty() {
        if !cpu_counts.is_empty() || !tags.is_empty() {
            let problem = "is empty; `cpu-counts` and `tags` are combined with it";
            return Err(Error::parameter("images", problem));
        }
        one_by_one
            .iter()
            .map(|line| named(line).map_err(|problem| Error::parameter("cells", problem)))
            .collect::<Result<Vec<_>, _>>()?
    } else if one_by_one.is_empty() {
        combinations(&images, &cpu_counts, &tags)
            .map_err(|problem| Error::parameter("images", problem))?
    } else {
        return Err(Error::parameter(
            "cells",
            "is given beside `images`; use one of both",
        ));
    };
    let parameter = if images.is_empty() { "cells" } else { "images" };
    check(&named).map_err(|problem| Error::parameter(parameter, problem))?;
    let wanted = named.into_iter().map(|(name, change)| Wanted {
        vm: change.of(&common),
        name,
    });
    Ok(wanted.collect())
}

/// Finds an image that the cluster has not before there is a VM of another one. Of a single image the first deployment says
/// the same, and sooner.
///
/// # Errors
///
/// `params.invalid` names the images; that the run is being stopped. A list that cannot be had keeps nobody from building.
pub(crate) fn check_images(session: &Session, wanted: &[Wanted]) -> Result<(), Error> {
    let named: BTreeSet<&str> = wanted.iter().map(|it| it.vm.base_image.as_str()).collect();
    if named.len() < 2 {
        return Ok(());
    }
    phase("check images", || check_each(session, named))
}

fn check_each(session: &Session, named: BTreeSet<&str>) -> Result<(), Error> {
    let why_not = match session.images() {
        Ok(offered) if offered.is_empty() => "the list is empty".to_owned(),
        Ok(offered) => return check_in(&offered, named),
        Err(error) if error.is_final() => return Err(error),
        Err(error) => error.info().message.clone(),
    };
    let text = format!("whether all images are there could not be checked: {why_not}");
    console::log(Level::Warn, &text);
    Ok(())
}

fn check_in(offered: &[String], named: BTreeSet<&str>) -> Result<(), Error> {
    let is_there = |image: &&str| is_in_registry(image) || offered.iter().any(|it| it == image);
    let missing: Vec<&str> = named.into_iter().filter(|it| !is_there(it)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let parameter = if params::list("images")?.is_empty() {
        "cells"
    } else {
        "images"
    };
    let problem = format!(
        "names what is no image of the cluster: `{}`",
        missing.join("`, `")
    );
    let hint = hint(&missing, offered);
    Err(Error::parameter(parameter, problem).with_hint(hint))
}

/// What was probably meant, or else what there is.
fn hint(missing: &[&str], offered: &[String]) -> String {
    let near: Vec<&str> = missing
        .iter()
        .filter_map(|image| nearest(image, offered))
        .collect();
    if near.len() == missing.len() {
        return format!("did you mean `{}`?", near.join("`, `"));
    }
    let more = match offered.len().saturating_sub(IMAGES_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown = offered.iter().take(IMAGES_SHOWN);
    let shown: Vec<&str> = shown.map(String::as_str).collect();
    format!("the cluster has `{}`{more}", shown.join("`, `"))
}

/// The image that is at most so many edits away that it may have been meant, as the host judges it.
fn nearest<'a>(image: &str, offered: &'a [String]) -> Option<&'a str> {
    let image = image.to_lowercase();
    let edits_max = (image.chars().count() / 3).max(1);
    offered
        .iter()
        .map(|other| {
            let edits = strsim::damerau_levenshtein(&image, &other.to_lowercase());
            (edits, other.as_str())
        })
        .filter(|(edits, _)| *edits <= edits_max)
        .min()
        .map(|(_, other)| other)
}

/// Whether the node pulls it, so that no list has it: the part before the first `/` is a host.
fn is_in_registry(image: &str) -> bool {
    let host = image.split_once('/').map_or("", |(host, _)| host);
    host == "localhost" || host.contains(['.', ':'])
}

/// `NAME=IMAGE`, and behind a comma what else differs.
fn named(line: &str) -> Result<(String, Change), String> {
    let Some((name, rest)) = line.split_once('=') else {
        return Err(format!("needs lines of the form NAME=IMAGE, not `{line}`"));
    };
    let name = name.trim();
    let change = Change::parse(&format!("base-image={rest}"));
    let change = change.map_err(|problem| format!("`{name}` {problem}"))?;
    Ok((name.to_owned(), change))
}

/// Every image with every number of cores and every tag, named after what it is made of.
fn combinations(
    images: &[String],
    cpu_counts: &[String],
    tags: &[String],
) -> Result<Vec<(String, Change)>, String> {
    let mut cells = Vec::new();
    for image in images {
        for cpu_count in choices(cpu_counts) {
            for tag in choices(tags) {
                let mut name = short(image);
                let mut change = format!("base-image={image}");
                if let Some(cpu_count) = cpu_count {
                    name.push_str(&format!("-{cpu_count}cpu"));
                    change.push_str(&format!(",cpu-count={cpu_count}"));
                }
                if let Some(tag) = tag {
                    name.push_str(&format!("-{}", safe(tag)));
                    change.push_str(&format!(",tag={tag}"));
                }
                cells.push((name, Change::parse(&change)?));
            }
        }
    }
    Ok(cells)
}

/// Each of a list, or once none of it.
fn choices(list: &[String]) -> Vec<Option<&String>> {
    if list.is_empty() {
        vec![None]
    } else {
        list.iter().map(Some).collect()
    }
}

/// An image's name without the registry and the ending that all have.
fn short(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let bare = [".orkasi", ".img"]
        .iter()
        .find_map(|ending| last.strip_suffix(ending));
    safe(bare.unwrap_or(last))
}

fn safe(text: &str) -> String {
    let letter = |letter: char| if is_safe(letter) { letter } else { '-' };
    text.trim().chars().map(letter).collect()
}

fn is_safe(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.')
}

fn check(cells: &[(String, Change)]) -> Result<(), String> {
    if cells.is_empty() {
        return Err("is empty; give it or `images`".to_owned());
    }
    if cells.len() > CELLS_MAX {
        return Err(format!(
            "makes {} cells; {CELLS_MAX} is the most",
            cells.len()
        ));
    }
    for (position, (name, _)) in cells.iter().enumerate() {
        let is_name = name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.chars().all(is_safe)
            && name.len() <= NAME_BYTES_MAX;
        if !is_name {
            return Err(format!(
                "has a cell `{name}`; a name has letters, digits, `-`, `_` and `.`, begins with a letter or a digit, and has {NAME_BYTES_MAX} of them at most: `cells` gives names of one's own"
            ));
        }
        // Each is a directory of the workspace, which on some file systems is the same in other letters.
        let is_taken = |(other, _): &(String, Change)| other.eq_ignore_ascii_case(name);
        if cells[..position].iter().any(is_taken) {
            return Err(format!(
                "has two cells `{name}`; `cells` gives names of one's own"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    fn names(images: &[&str], cpu_counts: &[&str], tags: &[&str]) -> Vec<String> {
        let cells = combinations(&list(images), &list(cpu_counts), &list(tags)).unwrap();
        check(&cells).unwrap();
        cells.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn every_combination_has_a_name_of_its_own() {
        assert_eq!(
            names(
                &["sonoma.orkasi", "ghcr.io/org/ventura:13.6"],
                &["4", "8"],
                &[]
            ),
            [
                "sonoma-4cpu",
                "sonoma-8cpu",
                "ventura-13.6-4cpu",
                "ventura-13.6-8cpu"
            ]
        );
        assert_eq!(
            names(&["a.img"], &[], &["m1", "m2 ultra"]),
            ["a-m1", "a-m2-ultra"]
        );
    }

    #[test]
    fn a_line_has_a_name_an_image_and_what_else_differs() {
        let (name, change) = named("big = ghcr.io/org/sonoma:14@x=1, cpu-count=12,tag=m2").unwrap();
        assert_eq!(name, "big");
        let expected = "base-image=ghcr.io/org/sonoma:14@x=1,cpu-count=12,tag=m2";
        assert_eq!(change, Change::parse(expected).unwrap());
        for (line, problem) in [
            ("sonoma.orkasi", "NAME=IMAGE, not `sonoma.orkasi`"),
            ("a=", "`a` has an empty `base-image`"),
            ("a=x,cores=4", "`a` has `cores`"),
        ] {
            let told = named(line).unwrap_err();
            assert!(told.contains(problem), "{line}: {told}");
        }
    }

    #[test]
    fn names_are_directories_and_tell_cells_apart() {
        let checked = |names: &[&str]| {
            let cell = |name: &&str| ((*name).to_owned(), Change::default());
            check(&names.iter().map(cell).collect::<Vec<_>>())
        };
        assert!(checked(&["a", "a.1", "B_2-c"]).is_ok());
        for wrong in ["", ".", "..", "-a", "a/b", "a b", "é", &"x".repeat(49)] {
            assert!(checked(&[wrong]).is_err(), "{wrong}");
        }
        assert!(checked(&["a", "b", "A"]).unwrap_err().contains("two cells"));
        assert!(checked(&[]).unwrap_err().contains("empty"));
        let many: Vec<String> = (0..65).map(|number| format!("c{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(checked(&many).unwrap_err().contains("65 cells"));
    }
}
