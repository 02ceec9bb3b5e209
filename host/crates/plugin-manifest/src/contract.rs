//! What a manifest demands of a host: versions of the contract, and of the host itself.

use std::fmt;
use std::str::FromStr;

use semver::{Op, Version, VersionReq};
use serde::Deserialize;

/// Versions of the contract `orka:plugin` that a plugin is for: one, such as `0.1`, or a range, such as `>=0.1, <0.3`.
///
/// One stands for all that the rules of Semantic Versioning call compatible with it, which within 0.x is itself alone.
/// Patches do not change what fits what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContractRange(VersionReq);

impl ContractRange {
    /// The one with these numbers.
    pub fn of(major: u64, minor: u64) -> Self {
        Self(VersionReq {
            comparators: vec![semver::Comparator {
                op: Op::Caret,
                major,
                minor: Some(minor),
                patch: None,
                pre: semver::Prerelease::EMPTY,
            }],
        })
    }

    /// Whether a host that provides this version of the contract is meant.
    pub fn holds(&self, major: u64, minor: u64) -> bool {
        self.0.matches(&Version::new(major, minor, 0))
    }
}

impl fmt::Display for ContractRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.comparators[..] {
            // As it is written most often.
            [one] if one.op == Op::Caret && one.patch.is_none() => {
                write!(f, "{}.{}", one.major, one.minor.unwrap_or_default())
            }
            _ => self.0.fmt(f),
        }
    }
}

impl FromStr for ContractRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no contract version, expected two numbers such as `0.1`, or a range such as `>=0.1, <0.3`"
            )
        };
        let parts = || text.split(',').map(str::trim);
        let is_range = parts().all(|part| part.starts_with(['<', '>', '=', '^', '~']));
        if !is_range && parts().count() > 1 {
            return Err(wrong());
        }
        let range = VersionReq::parse(text).map_err(|_| wrong())?;
        let is_of_two_numbers = range
            .comparators
            .iter()
            .all(|it| it.minor.is_some() && it.patch.is_none());
        let is_wildcard = range.comparators.iter().any(|it| it.op == Op::Wildcard);
        if range.comparators.is_empty() || is_wildcard || !is_of_two_numbers {
            return Err(wrong());
        }
        Ok(Self(range))
    }
}

/// What a manifest demands of a host, as far as that can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demands {
    /// The oldest host that the plugin works with.
    pub minimum_host: Option<Version>,
    /// The versions of the contract that it is for.
    pub contract: Option<ContractRange>,
}

impl Demands {
    /// Reads them out of the embedded form, whatever else is in it.
    pub(crate) fn read(json: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Document {
            plugin: Plugin,
        }

        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Plugin {
            minimum_host: Option<serde_json::Value>,
            contract: Option<serde_json::Value>,
        }

        let Ok(Document { plugin }) = serde_json::from_slice(json) else {
            return Self::default();
        };
        fn parsed<T: FromStr>(member: Option<&serde_json::Value>) -> Option<T> {
            member?.as_str()?.parse().ok()
        }
        Self {
            minimum_host: parsed(plugin.minimum_host.as_ref()),
            contract: parsed(plugin.contract.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ContractRange, Demands};

    #[test]
    fn a_version_is_itself_and_a_range_what_lies_in_it() {
        for (text, shown, held) in [
            ("0.1", "0.1", &[(0, 1)][..]),
            ("^0.1", "0.1", &[(0, 1)]),
            ("1.1", "1.1", &[(1, 1), (1, 2)]),
            (">=0.1, <0.3", ">=0.1, <0.3", &[(0, 1), (0, 2)]),
            (">=0.1,<0.3", ">=0.1, <0.3", &[(0, 1), (0, 2)]),
            (">0.1, <=0.3", ">0.1, <=0.3", &[(0, 2), (0, 3)]),
            ("=0.2", "=0.2", &[(0, 2)]),
            (">=0.2", ">=0.2", &[(0, 2), (0, 3), (1, 0), (1, 1), (1, 2)]),
        ] {
            let range: ContractRange = text.parse().unwrap();
            assert_eq!(range.to_string(), shown);
            assert_eq!(range.to_string().parse(), Ok(range.clone()));
            let versions = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)];
            let holds = |(major, minor): &(u64, u64)| range.holds(*major, *minor);
            let found: Vec<_> = versions.into_iter().filter(holds).collect();
            assert_eq!(found, held, "{text}");
        }
        assert_eq!("0.1".parse(), Ok(ContractRange::of(0, 1)));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in [
            "1",
            "0.1.0",
            "0.01",
            "0.1-rc",
            "",
            "x.y",
            "0.1+a",
            "*",
            "0.*",
            ">=0",
            ">=0.1.0",
            ">=0.1, 0.3",
            "0.1, 0.2",
            ">=0.1 <0.3",
            ">=0.1,",
            ">= ",
            "=>0.1",
        ] {
            let problem = text.parse::<ContractRange>().unwrap_err();
            assert!(problem.contains("such as `>=0.1, <0.3`"), "{problem}");
        }
    }

    #[test]
    fn demands_are_read_whatever_else_there_is() {
        let read = |text: &str| {
            let demands = Demands::read(text.as_bytes());
            let shown = |it: Option<String>| it.unwrap_or_default();
            (
                shown(demands.minimum_host.map(|it| it.to_string())),
                shown(demands.contract.map(|it| it.to_string())),
            )
        };
        let of = |minimum: &str, contract: &str| (minimum.to_owned(), contract.to_owned());
        let newer = r#"{"schema":2,"plugin":{"minimum-host":"99.0.0","contract":"0.9","capabilities":{"cluster.fly":1}},"x":[]}"#;
        assert_eq!(read(newer), of("99.0.0", "0.9"));
        let odd = r#"{"plugin":{"minimum-host":99,"contract":">=0.1, <0.3"}}"#;
        assert_eq!(read(odd), of("", ">=0.1, <0.3"));
        for nothing in ["", "{", "[]", "{}", r#"{"plugin":1}"#] {
            assert_eq!(read(nothing), of("", ""), "{nothing}");
        }
    }
}
