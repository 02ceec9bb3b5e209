//! Which entries of a tree take part in a transfer.

use std::path::{Component, Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::staging::is_reserved;
use crate::Error;

/// What takes part, by patterns as in `.gitignore`: `*.ipa` anywhere, `/build/*.ipa` or `build/*.ipa` from the top,
/// `logs/` a directory with all below it, `**` any depth, `!` takes back.
///
/// An entry takes part if it, or a directory above it, is included (or nothing is said about inclusion), and neither it
/// nor a directory above it is excluded. Letters are told by their case. What this crate uses for itself never takes part.
#[derive(Clone, Debug)]
pub struct Selection {
    include: Option<Gitignore>,
    exclude: Gitignore,
    starts: Vec<PathBuf>,
}

impl Selection {
    /// The whole tree.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            include: None,
            exclude: Gitignore::empty(),
            starts: vec![PathBuf::new()],
        }
    }

    /// The entries that `include` names, or all where it is empty, without those that `exclude` names.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a pattern that cannot be read, or that tries to leave the tree.
    pub fn parse(include: &[impl AsRef<str>], exclude: &[impl AsRef<str>]) -> Result<Self, Error> {
        let include: Vec<&str> = include.iter().map(AsRef::as_ref).collect();
        let exclude: Vec<&str> = exclude.iter().map(AsRef::as_ref).collect();
        let mut starts: Vec<PathBuf> = include
            .iter()
            .filter(|pattern| !pattern.starts_with('!'))
            .map(|pattern| fixed_start(pattern))
            .collect();
        if starts.is_empty() {
            starts.push(PathBuf::new());
        }
        // A start below another would be visited twice.
        starts.sort();
        starts.dedup_by(|later, earlier| later.starts_with(&*earlier));
        Ok(Self {
            include: if include.is_empty() {
                None
            } else {
                Some(matcher("include pattern", &include)?)
            },
            exclude: matcher("exclude pattern", &exclude)?,
            starts,
        })
    }

    /// Directories or files, relative and without wildcards, outside which nothing can be selected.
    pub(crate) fn starts(&self) -> &[PathBuf] {
        &self.starts
    }

    /// What to do with an entry whose parent directory was visited. `inside` tells whether that parent is included.
    pub(crate) fn decide(&self, path: &Path, is_dir: bool, inside: bool) -> Decision {
        let is_reserved = path.file_name().is_some_and(is_reserved);
        if is_reserved || self.exclude.matched(path, is_dir).is_ignore() {
            return Decision {
                visit: false,
                inside: false,
            };
        }
        let inside = match self
            .include
            .as_ref()
            .map(|include| include.matched(path, is_dir))
        {
            None | Some(Match::Ignore(_)) => true,
            Some(Match::Whitelist(_)) => false,
            Some(Match::None) => inside,
        };
        Decision {
            visit: true,
            inside,
        }
    }

    /// Whether an entry takes part, judged by its path alone.
    #[must_use]
    pub fn selects(&self, path: &Path, is_dir: bool) -> bool {
        let mut inside = self.include.is_none();
        let mut above = PathBuf::new();
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            above.push(component);
            let decision = self.decide(&above, is_dir || components.peek().is_some(), inside);
            if !decision.visit {
                return false;
            }
            inside = decision.inside;
        }
        inside
    }
}

/// What becomes of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Whether it, and what is below it, is looked at.
    pub(crate) visit: bool,
    /// Whether it takes part.
    pub(crate) inside: bool,
}

fn matcher(what: &'static str, patterns: &[&str]) -> Result<Gitignore, Error> {
    let invalid = |pattern: &str, reason: String| Error::Invalid {
        what,
        reason: format!(
            "`{}`: {reason}",
            crate::quote::printable(pattern.as_bytes())
        ),
    };
    let mut builder = GitignoreBuilder::new("");
    // Taken for the letter `[`, it would silently match nothing.
    builder.allow_unclosed_class(false);
    for pattern in patterns {
        let body = pattern.strip_prefix('!').unwrap_or(pattern);
        if body.trim().is_empty() || body.contains('\0') {
            return Err(invalid(
                pattern,
                "it is empty or holds a NUL byte".to_owned(),
            ));
        }
        if Path::new(body)
            .components()
            .any(|component| component == Component::ParentDir)
        {
            return Err(invalid(pattern, "`..` would leave the tree".to_owned()));
        }
        let body = normal(body);
        let line = if pattern.starts_with('!') {
            format!("!{body}")
        } else {
            body
        };
        builder
            .add_line(None, &line)
            .map_err(|problem| invalid(pattern, problem.to_string()))?;
    }
    builder
        .build()
        .map_err(|problem| invalid("", problem.to_string()))
}

/// `./x` means `/x`; a `#` is a name, not a comment, since these are not lines of a file.
fn normal(pattern: &str) -> String {
    let pattern = match pattern.strip_prefix("./") {
        Some(rest) => format!("/{}", rest.trim_start_matches('/')),
        None => pattern.to_owned(),
    };
    if pattern.starts_with('#') {
        format!("\\{pattern}")
    } else {
        pattern
    }
}

/// The leading part of a pattern that holds no wildcard, if the pattern is tied to the top of the tree.
fn fixed_start(pattern: &str) -> PathBuf {
    let pattern = normal(pattern);
    let trimmed = pattern.trim_end_matches('/');
    // As in `.gitignore`: only a pattern with a slash before its end is tied to the top.
    if !trimmed.contains('/') {
        return PathBuf::new();
    }
    let fixed = trimmed
        .split('/')
        .filter(|part| !part.is_empty())
        .take_while(|part| {
            !part.contains(['*', '?', '[', ']', '{', '}', '\\']) && part.trim() == *part
        });
    fixed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [&str; 0] = [];

    #[test]
    fn patterns_read_as_in_gitignore() {
        let cases = [
            (&["*.ipa"][..], &[][..], "a/b/x.ipa", true),
            (&["*.ipa"], &[], "a/b/x.txt", false),
            (&["build/*.ipa"], &[], "build/x.ipa", true),
            (&["build/*.ipa"], &[], "other/build/x.ipa", false),
            (&["/logs/"], &[], "logs/deep/down.txt", true),
            (
                &["Result.xcresult"],
                &[],
                "out/Result.xcresult/Data/x",
                true,
            ),
            (&["out/**"], &["*.o"], "out/a/b.o", false),
            (&[], &[".git/"], ".git/config", false),
            (&[], &[".git/"], "src/main.swift", true),
            (&[], &[".orka-step"], "deep/.orka-step/x", false),
            (&["out", "!out/secret"], &[], "out/secret", false),
            (&["#x"], &[], "#x", true),
            (&["./a b"], &[], "a b", true),
        ];
        for (include, exclude, path, expected) in cases {
            let selection = Selection::parse(include, exclude).unwrap();
            assert_eq!(
                selection.selects(Path::new(path), false),
                expected,
                "{include:?} {exclude:?} {path}"
            );
        }
    }

    #[test]
    fn only_the_fixed_part_of_a_pattern_is_visited() {
        let starts = |include: &[&str]| Selection::parse(include, &NONE).unwrap().starts().to_vec();
        assert_eq!(starts(&["build/out/*.ipa"]), [PathBuf::from("build/out")]);
        assert_eq!(starts(&["*.ipa"]), [PathBuf::new()]);
        assert_eq!(starts(&["build/"]), [PathBuf::new()]);
        assert_eq!(starts(&["/build/"]), [PathBuf::from("build")]);
        assert_eq!(
            starts(&["build/out/x", "build/out", "/z"]),
            [PathBuf::from("build/out"), PathBuf::from("z")]
        );
        assert_eq!(starts(&["a/b", "*"]), [PathBuf::new()]);
    }

    #[test]
    fn a_pattern_cannot_leave_the_tree() {
        for pattern in ["../x", "a/../../x", ""] {
            assert!(Selection::parse(&[pattern], &NONE).is_err(), "{pattern}");
            assert!(Selection::parse(&NONE, &[pattern]).is_err(), "{pattern}");
        }
        assert!(
            Selection::parse(&["Users/admin", "/Users/admin/x", "/tmp/", "~/x"], &NONE).is_ok()
        );
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for pattern in ["[z-a]", "build/[a", "**a[**", "{a"] {
            assert!(Selection::parse(&[pattern], &NONE).is_err(), "{pattern}");
            assert!(Selection::parse(&NONE, &[pattern]).is_err(), "{pattern}");
        }
    }

    #[test]
    fn everything_selects_everything() {
        assert!(Selection::everything().selects(Path::new("a/b"), false));
    }
}
