//! One line that names another VM: `tag=m2,cpu-count=6`.

use crate::numbers::memory_mib;
use crate::vm_settings::VmSettings;

const NAMES: &str = "`base-image`, `cpu-count`, `memory`, `node`, `tag` and `tag-required`";

/// What differs from the parameters; what it does not name stays as they say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    base_image: Option<String>,
    cpu_count: Option<u32>,
    memory_mib: Option<Option<u32>>,
    node: Option<Option<String>>,
    tag: Option<Option<String>>,
    tag_required: Option<bool>,
}

impl Change {
    /// Reads `NAME=VALUE` pairs with commas in between. An empty value is that of a parameter that is empty.
    ///
    /// # Errors
    ///
    /// What is wrong, to be put behind the name of the parameter.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut change = Self::default();
        for pair in text.split(',') {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("needs NAME=VALUE where it has `{}`", pair.trim()));
            };
            change.set(name.trim(), value.trim())?;
        }
        Ok(change)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let text = Some(value.to_owned()).filter(|value| !value.is_empty());
        let is_new = match name {
            "base-image" => {
                let image = text.ok_or("has an empty `base-image`")?;
                self.base_image.replace(image).is_none()
            }
            "cpu-count" => {
                let count = value.parse().ok().filter(|count| *count > 0);
                let count = count.ok_or_else(|| format!("has a `cpu-count` of `{value}`"))?;
                self.cpu_count.replace(count).is_none()
            }
            "memory" => {
                let memory = text.as_deref().map_or(Ok(None), memory_mib);
                let memory = memory.map_err(|problem| format!("has a `memory` that {problem}"))?;
                self.memory_mib.replace(memory).is_none()
            }
            "node" => self.node.replace(text).is_none(),
            "tag" => self.tag.replace(text).is_none(),
            "tag-required" => {
                let required = value.parse();
                let required =
                    required.map_err(|_| format!("has a `tag-required` of `{value}`"))?;
                self.tag_required.replace(required).is_none()
            }
            _ => return Err(format!("has `{name}`; it may have {NAMES}")),
        };
        if is_new {
            Ok(())
        } else {
            Err(format!("has `{name}` twice"))
        }
    }

    /// The settings with this changed.
    pub fn of(&self, settings: &VmSettings) -> VmSettings {
        let mut changed = settings.clone();
        let change = self.clone();
        changed.base_image = change.base_image.unwrap_or(changed.base_image);
        changed.cpu_count = change.cpu_count.unwrap_or(changed.cpu_count);
        changed.memory_mib = change.memory_mib.unwrap_or(changed.memory_mib);
        changed.node = change.node.unwrap_or(changed.node);
        changed.tag = change.tag.unwrap_or(changed.tag);
        changed.tag_required = change.tag_required.unwrap_or(changed.tag_required);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_in_any_order_with_blanks_around_them() {
        let expected = Change {
            base_image: Some("ghcr.io/org/ventura:13@sha256=0".to_owned()),
            cpu_count: Some(6),
            memory_mib: Some(Some(7680)),
            node: Some(None),
            tag: Some(Some("m2".to_owned())),
            tag_required: Some(true),
        };
        let text = " tag = m2, memory=7.5,node=,cpu-count=6 ,tag-required=true,base-image=ghcr.io/org/ventura:13@sha256=0";
        assert_eq!(Change::parse(text).unwrap(), expected);
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, problem) in [
            ("", "needs NAME=VALUE"),
            ("ventura.orkasi", "`ventura.orkasi`"),
            ("image=x", "has `image`; it may have `base-image`"),
            ("base-image=", "empty `base-image`"),
            ("cpu-count=0", "`cpu-count` of `0`"),
            ("cpu-count=many", "`cpu-count` of `many`"),
            ("memory=lots", "`memory` that is not a number of GiB"),
            ("tag-required=yes", "`tag-required` of `yes`"),
            ("tag=a,tag=b", "`tag` twice"),
            ("node=,node=x", "`node` twice"),
        ] {
            let told = Change::parse(text).unwrap_err();
            assert!(told.contains(problem), "{text}: {told}");
        }
    }
}
