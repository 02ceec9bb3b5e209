//! The file of `orka-step task`: what a Tekton Task was given, as its step's `script` carries it.
//!
//! Kubernetes halves `$$` and replaces `$(NAME)` in a container's command, arguments and environment; a step's `script`
//! reaches the program byte for byte. So everything that a person may write into a Task's parameter travels here, in
//! sections that begin with a mark. Tekton puts the values between the marks as text and cannot quote them, so a value
//! might try to bring a mark of its own: the number of sections stands before the first value, and no mark may come
//! twice. A value can add marks but cannot take any away, so whatever it adds is noticed and nothing is run.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use crate::config::Environment;
use crate::failure::Failure;

/// What a line with a mark begins with.
const MARK: &str = "## ";

/// A file larger than this was not written by Tekton, whose limit is that of one argument (128 KiB, in base64).
const BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What the older Tasks had and this program has no use for: values that are no surprise, and what to say of others.
const IGNORED: [(&str, &[&str], &str); 6] = [
    ("orka-image", &[], IMAGE_COMES_WITH_THE_TASK),
    ("orka-tekton-runner-image", &[], IMAGE_COMES_WITH_THE_TASK),
    ("docker-image", &[], IMAGE_COMES_WITH_THE_TASK),
    (
        "user-home",
        &["/tekton/home"],
        "this program uses no home directory",
    ),
    ("orka-token-secret", &["orka-token"], EACH_SIGNS_IN),
    ("orka-token-secret-key", &["token"], EACH_SIGNS_IN),
];

const EACH_SIGNS_IN: &str = "no token is handed from Task to Task; each signs in by itself";

const IMAGE_COMES_WITH_THE_TASK: &str =
    "the Task names the image that fits it; the installation's kustomization can name another";

/// What decides over a plugin, and its variable: set in one place, so that whoever starts a run neither replaces what the Task
/// sets nor believes to.
const SET_ONCE: [(&str, &str); 2] = [("grants", "ORKA_GRANTS"), ("guards", "ORKA_GUARDS")];

/// What the file holds besides flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskInput {
    /// Parameters of the Task, by name; the plugin may lack some.
    pub offered: BTreeMap<String, String>,
    /// Parameters that the plugin must have.
    pub params: Vec<(String, String)>,
    /// Grants, in TOML.
    pub grants: Option<String>,
    /// The build script.
    pub script: Option<Vec<u8>>,
    /// What somebody may want to know: one sentence each.
    pub notices: Vec<String>,
}

/// A file that has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFile {
    flags: Vec<(String, String)>,
    input: TaskInput,
}

impl TaskFile {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is no such file, or has other sections than it says.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let trouble = |error| {
            Failure::config(format!("cannot read the Task's file `{shown}`")).with_source(error)
        };
        let size = std::fs::metadata(path).map_err(trouble)?.len();
        if size > BYTES_MAX {
            return Err(Failure::config(format!(
                "the Task's file `{shown}` is larger than {BYTES_MAX} bytes"
            )));
        }
        let bytes = std::fs::read(path).map_err(trouble)?;
        let text =
            String::from_utf8(bytes).map_err(|_| wrong(format!("`{shown}` is not UTF-8 text")))?;
        Self::parse(&text)
    }

    /// Refuses grants and guards that are set in more than one place, and says who set them.
    ///
    /// # Errors
    ///
    /// The first of them that is.
    pub fn set_once(&self, given: &[OsString], environment: &Environment) -> Result<(), Failure> {
        for (name, variable) in SET_ONCE {
            let places = self.places(name, variable, given, environment);
            if let [first, second, ..] = &places[..] {
                let mut failure = Failure::config(format!(
                    "the {name} are set by {first}, and by {second} as well"
                ));
                failure.code = "task.set-twice".into();
                return Err(failure.with_hint(format!(
                    "a run has one place for its {name}, and none replaces the other: leave out all but one, and what the Task \
                     itself sets stays"
                )));
            }
        }
        Ok(())
    }

    /// Where a setting comes from.
    fn places(
        &self,
        name: &str,
        variable: &str,
        given: &[OsString],
        environment: &Environment,
    ) -> Vec<String> {
        let flag = format!("--{name}");
        let mut places: Vec<String> = (0..given.len())
            .filter_map(|at| {
                let argument = given[at].to_str()?;
                let (before, value) = match argument.split_once('=') {
                    Some(parts) => parts,
                    None => (argument, given.get(at + 1)?.to_str()?),
                };
                (before == flag).then(|| format!("the Task's own argument `{flag}={value}`"))
            })
            .collect();
        if environment.get(variable).is_some_and(|it| !it.is_empty()) {
            places.push(format!("the variable `{variable}` of the step"));
        }
        if self.flags.iter().any(|(flag, _)| flag == name) {
            places.push(format!("the TaskRun's workspace `{name}`"));
        }
        if name == "grants" && self.input.grants.is_some() {
            places.push(format!("the TaskRun's parameter `{name}`"));
        }
        places
    }

    /// The command line with the file's flags behind it.
    pub fn command_line(&self, given: impl Iterator<Item = OsString>) -> Vec<OsString> {
        let flags = self.flags.iter();
        // One word each: a value may begin with a hyphen.
        let flags = flags.map(|(name, value)| format!("--{name}={value}").into());
        given.chain(flags).collect()
    }

    /// What the file holds besides flags.
    pub fn into_input(self) -> TaskInput {
        self.input
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        let mut file = Self::default();
        let mut seen = BTreeSet::new();
        for (name, value) in sections(text)? {
            if !seen.insert(name) {
                return Err(forged(&format!("the section `{name}` is there twice")));
            }
            file.take(name, value)?;
        }
        Ok(file)
    }

    fn take(&mut self, section: &str, value: &str) -> Result<(), Failure> {
        let is_given = !value.trim().is_empty();
        match section.split_once(' ') {
            Some(("param", name)) => {
                self.input.offered.insert(name.to_owned(), value.to_owned());
            }
            Some(("set", name)) if is_given => {
                self.flags.push((name.to_owned(), value.trim().to_owned()));
            }
            Some(("set", _)) => {}
            Some(("ignored", name)) => self.ignore(name, value.trim())?,
            None if section == "params" => self.input.params = more_params(value)?,
            None if section == "grants" => {
                self.input.grants = is_given.then(|| value.to_owned());
            }
            None if section == "script" => {
                self.input.script = (!value.is_empty()).then(|| value.as_bytes().to_vec());
            }
            _ => {
                return Err(wrong(format!(
                    "there is no section `{}`",
                    section.escape_debug()
                )));
            }
        }
        Ok(())
    }

    fn ignore(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let Some((_, expected, why)) = IGNORED.iter().find(|(known, ..)| *known == name) else {
            return Err(wrong(format!(
                "`{}` is nothing that is ignored",
                name.escape_debug()
            )));
        };
        if !value.is_empty() && !expected.contains(&value) {
            self.input
                .notices
                .push(format!("the parameter `{name}` has no effect: {why}"));
        }
        Ok(())
    }
}

/// The sections, in order: what follows the mark, and the text up to the line break before the next one.
fn sections(text: &str) -> Result<Vec<(&str, &str)>, Failure> {
    let no_file = || {
        wrong(
            "this is no file of a Task: its second line has to be `## MARK sections NUMBER`"
                .to_owned(),
        )
    };
    let (_, rest) = text.split_once('\n').ok_or_else(no_file)?;
    let (head, body) = rest.split_once('\n').unwrap_or((rest, ""));
    let (mark, number) = head
        .strip_prefix(MARK)
        .and_then(|head| head.rsplit_once(" sections "))
        .ok_or_else(no_file)?;
    let number: usize = number.parse().map_err(|_| no_file())?;
    if mark.is_empty() || mark.contains(char::is_whitespace) {
        return Err(no_file());
    }
    let mark = format!("{MARK}{mark} ");
    let starts: Vec<usize> = std::iter::once(0)
        .chain(body.match_indices('\n').map(|(at, _)| at + 1))
        .filter(|start| body[*start..].starts_with(&mark))
        .collect();
    if starts.len() != number {
        return Err(forged(&format!(
            "the file has {} sections and says {number}",
            starts.len()
        )));
    }
    if starts.first().is_some_and(|first| *first != 0) {
        return Err(no_file());
    }
    let ends = starts.iter().skip(1).map(|start| start - 1);
    let ends = ends.chain(std::iter::once(body.len()));
    Ok(starts
        .iter()
        .zip(ends)
        .map(|(start, end)| {
            let section = &body[start + mark.len()..end];
            section.split_once('\n').unwrap_or((section, ""))
        })
        .collect())
}

/// `NAME=VALUE`, one a line, or a JSON object of texts.
fn more_params(text: &str) -> Result<Vec<(String, String)>, Failure> {
    if text.trim_start().starts_with('{') {
        let object: BTreeMap<String, String> = serde_json::from_str(text).map_err(|error| {
            wrong("the further parameters are no JSON object of texts".to_owned())
                .with_source(error)
                .with_hint("write it as {\"name\": \"text\"}, numbers in quotes too")
        })?;
        return Ok(object.into_iter().collect());
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| match line.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => {
                Ok((name.trim().to_owned(), value.to_owned()))
            }
            _ => Err(
                wrong("a line of the further parameters is not NAME=VALUE".to_owned())
                    .with_hint("a value of several lines needs the form of a JSON object"),
            ),
        })
        .collect()
}

fn wrong(message: String) -> Failure {
    let mut failure = Failure::config(message);
    failure.code = "task.file".into();
    failure
}

fn forged(what: &str) -> Failure {
    let mut failure = Failure::config(format!(
        "a parameter of the Task holds a line that looks like the start of a section: {what}"
    ));
    failure.code = "task.sections".into();
    failure.with_hint(
        "no parameter may hold a line that begins with `## ` and the TaskRun's UID; nothing was run",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "#!/usr/local/bin/orka-step task\n";

    fn parse(body: &str) -> Result<TaskFile, Failure> {
        TaskFile::parse(&format!("{HEAD}{body}"))
    }

    fn code(body: &str) -> String {
        parse(body).unwrap_err().code.into_owned()
    }

    #[test]
    fn every_byte_of_a_value_comes_through() {
        let awkward =
            "$$ $$$$ $(HOME) ${HOME} `id` \"q\" 'q' \\ é 🍎\u{a0}\r\n\n## other param x\nEOF\n\t\n";
        let file = parse(&format!(
            "## u-1 sections 3\n## u-1 param tag\n{awkward}\n## u-1 param empty\n\n## u-1 script\n{awkward}"
        ))
        .unwrap();
        assert_eq!(file.input.offered["tag"], awkward);
        assert_eq!(file.input.offered["empty"], "");
        assert_eq!(file.input.script.unwrap(), awkward.as_bytes());
    }

    #[test]
    fn flags_are_those_that_are_given() {
        let file = parse(
            "## u sections 3\n## u set timeout\n 50m\n\n## u set grants\n\n## u set report\n-x=y",
        )
        .unwrap();
        let line = file.command_line(["orka-step".into(), "task".into()].into_iter());
        assert_eq!(
            line,
            ["orka-step", "task", "--timeout=50m", "--report=-x=y"]
        );
    }

    #[test]
    fn grants_and_guards_are_set_in_one_place() {
        let said = |body: &str, given: &[&str], environment: &[(&str, &str)]| {
            let given: Vec<OsString> = given.iter().map(Into::into).collect();
            let environment = environment.iter();
            let environment = environment.map(|(name, value)| ((*name).into(), (*value).into()));
            let failure = parse(body)
                .unwrap()
                .set_once(&given, &environment.collect());
            failure.err().map(|failure| failure.message)
        };
        let none = "## u sections 3\n## u set grants\n\n## u grants\n\n## u set guards\n";
        let parameter = "## u sections 1\n## u grants\n[[grants]]";
        let workspaces = "## u sections 2\n## u set grants\n/w\n## u set guards\n/v";
        for (body, given, environment) in [
            (none, &[][..], &[][..]),
            (
                none,
                &["task", "--grants=/p", "--guards", "/p"],
                &[("ORKA_GRANTS", "")],
            ),
            (
                none,
                &["task"],
                &[("ORKA_GRANTS", "/p"), ("ORKA_GUARDS", "/p")],
            ),
            (parameter, &["--guards=/p"], &[]),
        ] {
            assert_eq!(said(body, given, environment), None, "{body} {given:?}");
        }
        for (body, given, environment, expected) in [
            (
                workspaces,
                &["--grants=/p"][..],
                &[][..],
                "the grants are set by the Task's own argument `--grants=/p`, and by the TaskRun's workspace `grants` as well",
            ),
            (
                workspaces,
                &["--guards", "/p"],
                &[],
                "the guards are set by the Task's own argument `--guards=/p`, and by the TaskRun's workspace `guards` as well",
            ),
            (
                parameter,
                &["--grants=/p"],
                &[],
                "the grants are set by the Task's own argument `--grants=/p`, and by the TaskRun's parameter `grants` as well",
            ),
            (
                none,
                &["--grants=/p"],
                &[("ORKA_GRANTS", "/q")],
                "the grants are set by the Task's own argument `--grants=/p`, and by the variable `ORKA_GRANTS` of the step as well",
            ),
            (
                workspaces,
                &[],
                &[("ORKA_GUARDS", "/q")],
                "the guards are set by the variable `ORKA_GUARDS` of the step, and by the TaskRun's workspace `guards` as well",
            ),
            (
                "## u sections 2\n## u set grants\n/w\n## u grants\n[[grants]]",
                &[],
                &[],
                "the grants are set by the TaskRun's workspace `grants`, and by the TaskRun's parameter `grants` as well",
            ),
        ] {
            assert_eq!(said(body, given, environment).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_value_can_neither_add_nor_replace_a_section() {
        for forged in [
            "x\n## u script\nevil",
            "x\n## u param script-file\nevil",
            "x\n## u set grants\nevil",
            "x\n## u sections 1",
            "\n## u param tag\ny",
        ] {
            let body = format!("## u sections 2\n## u param tag\n{forged}\n## u script\ntrue");
            assert_eq!(code(&body), "task.sections", "{forged}");
        }
        // Twice the same, where a number fits all the same.
        assert_eq!(
            code("## u sections 2\n## u script\na\n## u script\nb"),
            "task.sections"
        );
    }

    #[test]
    fn what_only_resembles_a_mark_is_text() {
        let text = "## u\n##u param x\n ## u param x\n## v param x\nx ## u param x";
        let file = parse(&format!("## u sections 1\n## u script\n{text}")).unwrap();
        assert_eq!(file.input.script.unwrap(), text.as_bytes());
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        for body in [
            "",
            "echo hello",
            "## sections 1\n",
            "## u sections\n",
            "## u sections x\n",
            "## u sections -1\n## u script\n",
            "## u sections 1\nstray\n## u script\n",
            "## u sections 1\n## u\u{20}unknown\nx",
            "## u sections 1\n## u param\nx",
            "## u sections 1\n## u ignored script\nx",
        ] {
            assert_eq!(code(body), "task.file", "{body}");
        }
        assert!(TaskFile::parse("").is_err());
        assert_eq!(code("## u sections 2\n## u script\n"), "task.sections");
        assert_eq!(parse("## u sections 0\n").unwrap(), TaskFile::default());
    }

    #[test]
    fn further_parameters_are_lines_or_an_object() {
        let params = |text: &str| {
            parse(&format!("## u sections 1\n## u params\n{text}")).map(|file| file.input.params)
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            params("a=1\n\n b = x=y ").unwrap(),
            [pair("a", "1"), pair("b", " x=y ")]
        );
        assert_eq!(params("{\"a\": \"1\\n2\"}").unwrap(), [pair("a", "1\n2")]);
        assert_eq!(params("").unwrap(), []);
        for text in ["a", "=1", "{\"a\": 1}", "{", "{\"a\":\"1\"} x"] {
            assert!(params(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_has_no_effect_is_told_unless_it_is_the_default() {
        let file = parse(
            "## u sections 4\n## u ignored user-home\n/tekton/home\n## u ignored orka-image\n\n\
             ## u ignored docker-image\nghcr.io/macstadium/orka-tekton-runner:latest\n## u script\ntrue",
        )
        .unwrap();
        assert_eq!(file.input.notices.len(), 1, "{:?}", file.input.notices);
        assert!(file.input.notices[0].contains("`docker-image` has no effect"));
    }
}
