//! What a person can say on the command line, and the cluster it makes.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use orka_sim::{
    Generation, GuestKind, ImageSpec, NodeSpec, PortNumbers, SaToken, SimConfig, SshdSettings,
    Switches, Tls, User, parse_faults,
};

/// What `--help` says of faults; a test reads the example.
const FAULTS: &str = r#"Fault rules, for --faults or POSTed as JSON to the `faults_url`:

  [[fault]]
  method = "DELETE"                # any, if absent
  path = "/resources/vm/*"         # without query; * stands for any run of characters
  occurrence = { first = 2 }       # always (if absent), { nth, first, every or after = N }
  times = 1                        # spent after so many hits; never, if absent
  action = { kind = "error", status = 500, message = "No available nodes" }

Kinds of action, with their members:
  instead of the work   error (status, message), reply (status, body, content_type, headers), unauthorized,
                        rate-limit (retry_after), html-page (status), empty-ok, garbage, redirect (location, status),
                        close-before, reset-before, hang
  before the work       delay (ms), revoke-token
  after the work        delay-reply (ms), close-after, reset-after, half-body, slow-drip (bytes, ms),
                        edit-reply (set, remove, status), unknown-members
  on a deploy           fail-vm (message), guest (boot_ms, never_boots, silent_connections, reset_connections, hangs,
                        auth_refusals, cut_after_ms)"#;

/// An Orka cluster in a process: the REST API, VMs that answer real SSH, and faults on demand.
///
/// Prints one line of JSON with everything a client needs, and serves until SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(name = "orka-sim", version, after_long_help = FAULTS)]
pub(crate) struct Cli {
    /// Which API to serve; `both` is what a 3.0 cluster does.
    #[arg(long, default_value = "both")]
    generation: GenerationArg,
    /// Version the 2.x API reports; one token per user from 2.1.1 on.
    #[arg(long, default_value = "2.4.0")]
    api_version: String,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Port of the API; 0 lets the kernel choose.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// User of the 2.x API, as `EMAIL:PASSWORD`; may be repeated.
    #[arg(long = "user", value_name = "EMAIL:PASSWORD")]
    users: Vec<String>,
    /// Licence key for administrative 2.x calls.
    #[arg(long)]
    licence_key: Option<String>,
    /// Service account token of the 3.x API, as `TOKEN[:NAMESPACE,…]`; may be repeated.
    #[arg(long = "token", value_name = "TOKEN[:NAMESPACE,...]")]
    tokens: Vec<String>,
    /// Life of these tokens; the default is a year, `never` is without end.
    #[arg(long, value_name = "DURATION")]
    token_lifetime: Option<String>,
    /// Further 3.x namespace; may be repeated.
    #[arg(long = "namespace")]
    namespaces: Vec<String>,
    /// Apple silicon nodes, two VM slots each.
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// Intel nodes.
    #[arg(long, default_value_t = 1)]
    intel_nodes: usize,
    /// Tag on every node; may be repeated.
    #[arg(long = "node-tag")]
    node_tags: Vec<String>,
    /// Further image (`*.img` is Intel); may be repeated.
    #[arg(long = "image")]
    images: Vec<String>,
    /// What answers on the SSH ports of VMs.
    #[arg(long, default_value = "embedded")]
    guests: GuestsArg,
    /// The OpenSSH server for `--guests sshd`.
    #[arg(long)]
    sshd: Option<PathBuf>,
    /// From the end of a deploy until SSH answers, such as `1500ms` or `20s`.
    #[arg(long, default_value = "0s", value_parser = duration)]
    boot_delay: Duration,
    /// How long each deploy takes.
    #[arg(long, default_value = "0s", value_parser = duration)]
    deploy_delay: Duration,
    /// Added to the first deploy of an image on a node.
    #[arg(long, default_value = "0s", value_parser = duration)]
    image_pull_delay: Duration,
    /// User inside VMs with embedded guests.
    #[arg(long, default_value = "admin")]
    ssh_user: String,
    /// Password of that user.
    #[arg(long, default_value = "admin")]
    ssh_password: String,
    /// File of public keys that log in to VMs.
    #[arg(long, value_name = "FILE")]
    authorized_keys: Option<PathBuf>,
    /// Environment variable guests take from SSH clients (`*` at the end stands for anything); may be repeated.
    #[arg(long = "accept-env", value_name = "NAME")]
    accept_env: Vec<String>,
    /// Number SSH ports as a cluster does (8822 upward, an address for each node) instead of using free ones.
    #[arg(long)]
    cluster_ports: bool,
    /// https with a certificate of this kind, from an authority of the simulator's own.
    #[arg(long, value_name = "KIND")]
    tls: Option<TlsArg>,
    /// Directory for the homes of VMs; a temporary one when absent.
    #[arg(long, value_name = "DIR")]
    home_root: Option<PathBuf>,
    /// Directory with programs that VMs find before the system's.
    #[arg(long, value_name = "DIR")]
    guest_programs: Option<PathBuf>,
    /// Fault rules: JSON, or TOML with `[[fault]]` tables.
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Switches for what real clusters differ in: JSON, or TOML.
    #[arg(long, value_name = "FILE")]
    switches: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GenerationArg {
    #[value(name = "2")]
    Two,
    #[value(name = "3")]
    Three,
    Both,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GuestsArg {
    Embedded,
    Sshd,
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TlsArg {
    PrivateCa,
    WrongHost,
    Expired,
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

impl Cli {
    /// The cluster these words describe.
    pub(crate) fn config(self) -> anyhow::Result<SimConfig> {
        let mut config = SimConfig {
            generation: match self.generation {
                GenerationArg::Two => Generation::Two,
                GenerationArg::Three => Generation::Three,
                GenerationArg::Both => Generation::Both,
            },
            api_version: self.api_version,
            bind: self.bind,
            port: self.port,
            guests: match self.guests {
                GuestsArg::Embedded => GuestKind::Embedded,
                GuestsArg::Sshd => GuestKind::Sshd(SshdSettings { program: self.sshd }),
                GuestsArg::None => GuestKind::None,
            },
            boot_delay: self.boot_delay,
            deploy_delay: self.deploy_delay,
            image_pull_delay: self.image_pull_delay,
            guest_user: self.ssh_user,
            guest_password: self.ssh_password,
            tls: self.tls.map(|kind| match kind {
                TlsArg::PrivateCa => Tls::PrivateCa,
                TlsArg::WrongHost => Tls::WrongHost,
                TlsArg::Expired => Tls::Expired,
            }),
            home_root: self.home_root,
            guest_programs: self.guest_programs,
            nodes: nodes(self.nodes, self.intel_nodes, &self.node_tags),
            ..SimConfig::default()
        };
        config.namespaces.extend(self.namespaces);
        config
            .images
            .extend(self.images.into_iter().map(ImageSpec::named));
        config.accept_env.extend(self.accept_env);
        if let Some(key) = self.licence_key {
            config.licence_key = key;
        }
        if !self.users.is_empty() {
            config.users = self
                .users
                .iter()
                .map(|text| user(text))
                .collect::<anyhow::Result<_>>()?;
        }
        let lifetime = match self.token_lifetime.as_deref() {
            None => Some(Duration::from_secs(8760 * 3600)),
            Some("never") => None,
            Some(text) => Some(duration(text).with_context(|| format!("`{text}` is no duration"))?),
        };
        if !self.tokens.is_empty() {
            config.sa_tokens = self.tokens.iter().map(|text| token(text)).collect();
        }
        config
            .sa_tokens
            .iter_mut()
            .for_each(|token| token.lifetime = lifetime);
        if let Some(file) = &self.authorized_keys {
            let lines = read(file)?;
            let keys = lines
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty() && !line.starts_with('#'));
            config.authorized_keys = keys.map(str::to_owned).collect();
        }
        if let Some(file) = &self.faults {
            config.faults =
                parse_faults(&read(file)?).with_context(|| format!("in `{}`", file.display()))?;
        }
        if let Some(file) = &self.switches {
            config.switches =
                switches(&read(file)?).with_context(|| format!("in `{}`", file.display()))?;
        }
        if self.cluster_ports {
            config.switches.port_numbers = PortNumbers::Cluster;
        }
        Ok(config)
    }
}

fn read(file: &PathBuf) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))
}

fn switches(text: &str) -> anyhow::Result<Switches> {
    if text.trim_start().starts_with('{') {
        Ok(serde_json::from_str(text)?)
    } else {
        Ok(toml::from_str(text)?)
    }
}

fn nodes(apple_silicon: usize, intel: usize, tags: &[String]) -> Vec<NodeSpec> {
    let minis =
        (1..=apple_silicon).map(|number| NodeSpec::apple_silicon(format!("mini-arm-{number}")));
    let pros = (1..=intel).map(|number| NodeSpec::intel(format!("macpro-{number}")));
    minis
        .chain(pros)
        .map(|node| NodeSpec {
            tags: tags.to_vec(),
            ..node
        })
        .collect()
}

fn user(text: &str) -> anyhow::Result<User> {
    match text.split_once(':') {
        Some((email, password)) if !email.is_empty() && !password.is_empty() => Ok(User {
            email: email.to_owned(),
            password: password.to_owned(),
        }),
        _ => bail!("`--user` takes EMAIL:PASSWORD"),
    }
}

fn token(text: &str) -> SaToken {
    let (token, namespaces) = text.split_once(':').unwrap_or((text, "orka-default"));
    SaToken {
        token: token.to_owned(),
        account: "sa-ci".to_owned(),
        namespaces: namespaces.split(',').map(str::to_owned).collect(),
        lifetime: None,
        admin: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(words: &[&str]) -> anyhow::Result<SimConfig> {
        Cli::try_parse_from([&["orka-sim"], words].concat())
            .unwrap()
            .config()
    }

    #[test]
    fn what_the_help_says_of_faults_is_so() {
        let example: String = FAULTS
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .take(6)
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(parse_faults(&example).unwrap().len(), 1, "{example}");
        // serde lists the kinds there are.
        let unknown = example.replace("\"error\"", "\"no-such-kind\"");
        let refused = format!(
            "{:#}",
            anyhow::Error::from(parse_faults(&unknown).unwrap_err())
        );
        let (_, kinds) = refused.split_once("expected one of").unwrap();
        let kinds: Vec<&str> = kinds.split('`').skip(1).step_by(2).collect();
        assert_eq!(kinds.len(), 22, "{kinds:?}");
        for kind in kinds {
            assert!(FAULTS.contains(kind), "{kind}");
        }
    }

    #[test]
    fn no_words_make_the_default_cluster() {
        let made = config(&[]).unwrap();
        let names: Vec<&str> = made.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["mini-arm-1", "mini-arm-2", "macpro-1"]);
        assert_eq!(made.users[0].email, SimConfig::default().users[0].email);
        assert_eq!(made.generation, Generation::Both);
    }

    #[test]
    fn a_token_may_name_its_namespaces() {
        let made = config(&["--token", "abc:orka-a,orka-b", "--token-lifetime", "never"]).unwrap();
        assert_eq!(made.sa_tokens[0].token, "abc");
        assert_eq!(made.sa_tokens[0].namespaces, ["orka-a", "orka-b"]);
        assert_eq!(made.sa_tokens[0].lifetime, None);
    }

    #[test]
    fn a_user_without_password_is_refused() {
        assert!(config(&["--user", "ci@example.com"]).is_err());
    }
}
