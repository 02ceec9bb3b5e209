//! `$(…)` in texts.

use super::{Kind, Params, Refused};

/// One reference: `$(params.name)`, `$(params.name.key)`, `$(params["name"])`, `$(params.name[*])` and the like.
pub(super) struct Variable {
    /// The whole of it, as it stands in the text.
    pub(super) whole: String,
    /// What comes after the prefix, without an index.
    path: String,
    is_dotted: bool,
}

impl Variable {
    /// The name; what comes after a dot is the key of an object.
    pub(super) fn name(&self) -> &str {
        match self.is_dotted {
            true => self.path.split('.').next().unwrap_or_default(),
            false => &self.path,
        }
    }

    fn key(&self) -> Option<&str> {
        self.is_dotted
            .then(|| self.path.split_once('.'))?
            .map(|(_, key)| key)
    }

    fn is_too_deep(&self) -> bool {
        self.is_dotted && self.path.split('.').count() > 2
    }
}

/// All references with this prefix, such as `params` or `context.taskRun`.
pub(super) fn variables(text: &str, prefix: &str) -> Vec<Variable> {
    let prefix = prefix.replace('.', r"\.");
    let pattern = format!(r#"\$\({prefix}(?:\.(.*?)|\["(.*?)"\]|\['(.*?)'\])(?:\[[0-9*]*\])?\)"#);
    let pattern = regex_lite::Regex::new(&pattern).unwrap();
    let found = pattern.captures_iter(text).map(|found| {
        let dotted = found.get(1);
        let path = dotted.or(found.get(2)).or(found.get(3)).unwrap();
        Variable {
            whole: found[0].to_owned(),
            path: path.as_str().to_owned(),
            is_dotted: dotted.is_some(),
        }
    });
    found.collect()
}

/// Where a reference to an array may stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// An item of a list of texts, which the whole array can take the place of.
    Item,
    /// Anywhere else.
    Text,
}

impl Refused {
    /// References with this prefix to something else than these names.
    pub(super) fn only(&mut self, text: &str, prefix: &str, names: &[&str], at: &str) {
        for variable in variables(text, prefix) {
            let is_known = names.contains(&variable.name()) && !variable.is_too_deep();
            self.say_if(!is_known, at, format!("there is no {}", variable.whole));
        }
    }

    /// References to parameters: known, and of an object one of its keys. An array stands alone in an item of a list.
    pub(super) fn params(&mut self, text: &str, params: &Params, place: Place, at: &str) {
        for variable in variables(text, "params") {
            let whole = &variable.whole;
            // A name may have dots where it stands in brackets.
            match params.0.get(variable.name()) {
                None => self.say(at, format!("there is no {whole}")),
                Some(_) if variable.is_too_deep() => {
                    self.say(at, format!("{whole} has more than two parts"));
                }
                Some(Kind::Text) => {}
                Some(Kind::Array) => {
                    let is_item = whole
                        .trim_end_matches("])")
                        .ends_with(|it: char| it.is_ascii_digit());
                    let is_alone = place == Place::Item && text == whole;
                    self.say_if(
                        !is_item && !is_alone,
                        at,
                        format!("{whole} is an array, and does not stand alone"),
                    );
                }
                Some(Kind::Object(keys)) => match variable.key() {
                    Some(key) => {
                        self.say_if(!keys.contains(key), at, format!("there is no {whole}"))
                    }
                    None => self.say(at, format!("{whole} is a whole object")),
                },
            }
        }
    }
}
