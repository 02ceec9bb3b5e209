//! Logins for registries: the file that `docker login` writes and that Kubernetes mounts from a Secret of the type
//! `kubernetes.io/dockerconfigjson`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::{Environment, SECRET_BYTES_MAX};
use crate::cli::RegistryArgs;
use crate::failure::Failure;
use crate::mask::Masker;

/// What the file is called in a directory: by Kubernetes, and by Docker.
const FILES: [&str; 2] = [".dockerconfigjson", "config.json"];

/// Names that all mean Docker Hub; the last one is what `docker login` writes.
const DOCKER_HUB: [&str; 3] = ["docker.io", "registry-1.docker.io", "index.docker.io"];

/// People pad base64 or do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Who one is to a registry.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: SecretString,
    /// The file it is from.
    pub(crate) path: PathBuf,
}

/// What is known of logins.
#[derive(Debug, Default)]
pub(crate) struct RegistryLogins {
    path: Option<PathBuf>,
    file: DockerConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
struct Entry {
    #[serde(default, deserialize_with = "secret")]
    auth: Option<SecretString>,
    username: Option<String>,
    #[serde(default, deserialize_with = "secret")]
    password: Option<SecretString>,
    #[serde(default, deserialize_with = "secret")]
    identitytoken: Option<SecretString>,
}

fn secret<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SecretString>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.map(SecretString::from))
}

impl RegistryLogins {
    /// From the file that was given, else from `$DOCKER_CONFIG/config.json` where that exists, else none.
    ///
    /// # Errors
    ///
    /// A file that is not there though it was given, or cannot be read.
    pub(crate) fn resolve(
        args: &RegistryArgs,
        environment: &Environment,
        masker: &Masker,
    ) -> Result<Self, Failure> {
        let Some(path) = file(args, environment)? else {
            return Ok(Self::default());
        };
        let shown = path.display();
        let trouble = |problem: &str| {
            Failure::config(format!("the registry credentials `{shown}` {problem}"))
                .with_hint("mount a Secret of the type `kubernetes.io/dockerconfigjson` there, readable by the step's user")
        };
        let unreadable = |error| trouble("cannot be read").with_source(error);
        if std::fs::metadata(&path).map_err(unreadable)?.len() > SECRET_BYTES_MAX {
            return Err(trouble("are larger than any such file"));
        }
        let text = SecretString::from(std::fs::read_to_string(&path).map_err(unreadable)?);
        // The parser's own words would quote what stands at the place.
        let file: DockerConfig = serde_json::from_str(text.expose_secret()).map_err(|error| {
            trouble(&format!(
                "are not as Docker writes them (line {}, column {})",
                error.line(),
                error.column()
            ))
        })?;
        for entry in file.auths.values() {
            for secret in [&entry.auth, &entry.password, &entry.identitytoken]
                .into_iter()
                .flatten()
            {
                masker.add(secret.expose_secret());
            }
        }
        let logins = Self {
            path: Some(path),
            file,
        };
        for key in logins.file.auths.keys() {
            if let Ok(Some(login)) = logins.login(key) {
                masker.add(login.password.expose_secret());
            }
        }
        Ok(logins)
    }

    /// The login for a repository; none if there is none for it.
    ///
    /// # Errors
    ///
    /// An entry for it that cannot be used.
    pub(crate) fn of(&self, registry: &str, repository: &str) -> Result<Option<Login>, Failure> {
        let path = self.shown();
        let by_helper = |helper: &str| {
            Err(Failure::config(format!(
                "`{path}` leaves the login for `{registry}` to the program `docker-credential-{helper}`, which is not started here"
            ))
            .with_hint("give a file with `auth`, or `username` and `password`, as `kubectl create secret docker-registry` makes it"))
        };
        let helpers = self.file.cred_helpers.iter();
        if let Some((_, helper)) = helpers
            .clone()
            .find(|(key, _)| reach(key, registry, repository).is_some())
        {
            return by_helper(helper);
        }
        let entries = self.file.auths.keys();
        let reaching = entries.filter_map(|key| Some((reach(key, registry, repository)?, key)));
        // The narrowest counts, as for the kubelet.
        let Some((_, key)) = reaching.max_by_key(|(length, _)| *length) else {
            return Ok(None);
        };
        match (self.login(key)?, &self.file.creds_store) {
            (Some(login), _) => Ok(Some(login)),
            (None, Some(helper)) => by_helper(helper),
            (None, None) => Err(Failure::config(format!(
                "the entry `{key}` of `{path}` holds no login"
            ))
            .with_hint("it takes `auth`, or `username` and `password`")),
        }
    }

    /// What to do where a login is asked for and there is none.
    pub(crate) fn how_to_add(&self, registry: &str) -> String {
        match &self.path {
            None => "give one with `--registry-credentials`: a directory or file as a Secret of the type `kubernetes.io/dockerconfigjson` is mounted".to_owned(),
            Some(path) => {
                let known: Vec<String> = self.file.auths.keys().map(|key| format!("`{key}`")).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                format!("add an entry for `{registry}` to `{}`, which has: {known}", path.display())
            }
        }
    }

    fn login(&self, key: &str) -> Result<Option<Login>, Failure> {
        let Some(entry) = self.file.auths.get(key) else {
            return Ok(None);
        };
        let path = self.path.clone().unwrap_or_default();
        if entry.identitytoken.as_ref().is_some_and(is_given) {
            return Err(Failure::config(format!("the entry `{key}` of `{}` holds an identity token", path.display()))
                .with_hint("it takes `auth`, or `username` and `password`: most registries make such for machines"));
        }
        if let (Some(username), Some(password)) = (&entry.username, &entry.password)
            && !username.is_empty()
        {
            return Ok(Some(Login {
                username: username.clone(),
                password: password.clone(),
                path,
            }));
        }
        let Some(auth) = entry.auth.as_ref().filter(|auth| is_given(auth)) else {
            return Ok(None);
        };
        let pair = BASE64
            .decode(auth.expose_secret().trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let (username, password) = pair.as_deref().and_then(|pair| pair.split_once(':')).ok_or_else(|| {
            Failure::config(format!("`auth` of the entry `{key}` of `{}` is not base64 of a name, `:` and a password", path.display()))
        })?;
        Ok(Some(Login {
            username: username.to_owned(),
            password: SecretString::from(password.to_owned()),
            path,
        }))
    }

    fn shown(&self) -> String {
        self.path
            .as_deref()
            .unwrap_or(Path::new(""))
            .display()
            .to_string()
    }
}

fn is_given(secret: &SecretString) -> bool {
    !secret.expose_secret().trim().is_empty()
}

fn file(args: &RegistryArgs, environment: &Environment) -> Result<Option<PathBuf>, Failure> {
    let Some(given) = args.credentials() else {
        let by_docker = environment
            .get("DOCKER_CONFIG")
            .filter(|value| !value.is_empty());
        return Ok(by_docker
            .map(|directory| Path::new(directory).join("config.json"))
            .filter(|path| path.is_file()));
    };
    if !given.is_dir() {
        return Ok(Some(given.to_owned()));
    }
    let inside = FILES.map(|name| given.join(name));
    inside
        .into_iter()
        .find(|path| path.is_file())
        .map(Some)
        .ok_or_else(|| {
            Failure::config(format!(
                "the directory `{}` given with `--registry-credentials` has neither `{}` nor `{}`",
                given.display(),
                FILES[0],
                FILES[1]
            ))
            .with_hint("mount a Secret of the type `kubernetes.io/dockerconfigjson` there")
        })
}

/// How narrowly an entry is for a repository: the length of its path; none if it is for another.
fn reach(key: &str, registry: &str, repository: &str) -> Option<usize> {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let is_hub = |name: &str| DOCKER_HUB.contains(&name);
    let is_same = host.eq_ignore_ascii_case(registry) || is_hub(host) && is_hub(registry);
    if !is_same {
        return None;
    }
    let path = path.trim_end_matches('/');
    // The API's version, as `docker login` writes it for Docker Hub.
    if matches!(path, "" | "v1" | "v2") {
        return Some(0);
    }
    let rest = repository.strip_prefix(path)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(path.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logins(text: &str) -> Result<RegistryLogins, Failure> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(".dockerconfigjson"), text).unwrap();
        let args = RegistryArgs {
            registry_credentials: Some(directory.path().to_owned()),
            ..RegistryArgs::default()
        };
        RegistryLogins::resolve(&args, &Environment::new(), &Masker::default())
    }

    fn login(text: &str, registry: &str) -> Result<Option<(String, String)>, Failure> {
        let login = logins(text)?.of(registry, "team/build")?;
        Ok(login.map(|login| (login.username, login.password.expose_secret().to_owned())))
    }

    fn pair(username: &str, password: &str) -> Option<(String, String)> {
        Some((username.to_owned(), password.to_owned()))
    }

    #[test]
    fn an_entry_is_found_as_docker_and_the_kubelet_find_it() {
        // `ci:s:ecret` without padding.
        let text = r#"{"auths":{
            "r.example.com":{"auth":"Y2k6czplY3JldA"},
            "https://s.example.com:5000/v2/":{"username":"u","password":"pw","auth":"broken"},
            "https://index.docker.io/v1/":{"username":"hub","password":"pw"},
            "t.example.com":{"username":"wide","password":"pw"},
            "t.example.com/team":{"username":"narrow","password":"pw"},
            "t.example.com/team/bui":{"username":"other","password":"pw"}}}"#;
        assert_eq!(login(text, "r.example.com").unwrap(), pair("ci", "s:ecret"));
        assert_eq!(login(text, "R.example.com").unwrap(), pair("ci", "s:ecret"));
        assert_eq!(login(text, "s.example.com:5000").unwrap(), pair("u", "pw"));
        assert_eq!(login(text, "docker.io").unwrap(), pair("hub", "pw"));
        assert_eq!(login(text, "t.example.com").unwrap(), pair("narrow", "pw"));
        for other in ["s.example.com", "example.com", "xr.example.com"] {
            assert_eq!(login(text, other).unwrap(), None, "{other}");
        }
        let missing = logins(text).unwrap().how_to_add("x.example.com");
        assert!(
            missing.contains("`r.example.com`") && missing.contains("x.example.com"),
            "{missing}"
        );
    }

    #[test]
    fn what_cannot_be_used_is_told_and_only_where_it_is_needed() {
        for (text, said) in [
            (
                r#"{"auths":{"r":{}},"credsStore":"desktop"}"#,
                "docker-credential-desktop",
            ),
            (
                r#"{"credHelpers":{"r":"ecr-login"}}"#,
                "docker-credential-ecr-login",
            ),
            (r#"{"auths":{"r":{}}}"#, "holds no login"),
            (
                r#"{"auths":{"r":{"auth":"bm9jb2xvbg=="}}}"#,
                "is not base64",
            ),
            (
                r#"{"auths":{"r":{"identitytoken":"abcdef"}}}"#,
                "identity token",
            ),
        ] {
            let failure = login(text, "r").unwrap_err();
            assert!(failure.message.contains(said), "{}", failure.message);
            assert!(
                failure.message.contains(".dockerconfigjson"),
                "{}",
                failure.message
            );
            assert_eq!(login(text, "other").unwrap(), None, "{text}");
        }
        assert!(
            logins("no")
                .unwrap_err()
                .message
                .contains("not as Docker writes them")
        );
        let secret = logins(r#"{"auths":{"r":{"auth":["hunter22"]}}}"#).unwrap_err();
        assert!(!format!("{secret:?}").contains("hunter22"));
    }

    #[test]
    fn a_file_that_was_given_has_to_be_there_and_dockers_own_need_not() {
        let directory = tempfile::tempdir().unwrap();
        let given = |path: PathBuf| {
            let args = RegistryArgs {
                registry_credentials: Some(path),
                ..RegistryArgs::default()
            };
            RegistryLogins::resolve(&args, &Environment::new(), &Masker::default())
        };
        assert!(
            given(directory.path().to_owned())
                .unwrap_err()
                .message
                .contains("neither")
        );
        assert!(given(directory.path().join("no")).is_err());
        assert!(
            given(PathBuf::new()).unwrap().path.is_none(),
            "an empty parameter of a Task"
        );
        let environment = Environment::from([(
            "DOCKER_CONFIG".to_owned(),
            directory.path().to_str().unwrap().to_owned(),
        )]);
        let by_docker =
            || RegistryLogins::resolve(&RegistryArgs::default(), &environment, &Masker::default());
        assert!(by_docker().unwrap().path.is_none());
        std::fs::write(
            directory.path().join("config.json"),
            r#"{"auths":{"r":{"username":"u","password":"pass"}}}"#,
        )
        .unwrap();
        assert!(by_docker().unwrap().of("r", "x").unwrap().is_some());
        assert!(
            given(directory.path().join("config.json"))
                .unwrap()
                .of("r", "x")
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn passwords_are_masked_in_every_form_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, r#"{"auths":{"r":{"auth":"Y2k6czplY3JldA=="}}}"#).unwrap();
        let masker = Masker::default();
        let args = RegistryArgs {
            registry_credentials: Some(path),
            ..RegistryArgs::default()
        };
        RegistryLogins::resolve(&args, &Environment::new(), &masker).unwrap();
        assert_eq!(
            masker.mask("a s:ecret and Y2k6czplY3JldA=="),
            "a *** and ***"
        );
    }
}
