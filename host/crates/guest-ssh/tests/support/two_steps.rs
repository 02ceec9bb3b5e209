//! An SSH server in this process that wants a key and then something else, as `AuthenticationMethods` in `sshd_config(5)` does.
//! OpenSSH's own can be asked for a second password by those alone who may set a user's password.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use guest_ssh::Target;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::server::{Auth, Config, Handler, Response, VerifiedPublicKey};
use russh::{MethodKind, MethodSet};
use tokio::net::TcpListener;

pub const PASSWORD: &str = "second-step-7";

pub async fn start(second: MethodKind) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Arc::new(Config {
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        keys: vec![PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32]))],
        auth_rejection_time: Duration::from_millis(1),
        auth_rejection_time_initial: Some(Duration::ZERO),
        ..Config::default()
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let guest = Guest {
                second,
                has_key: false,
            };
            let config = Arc::clone(&config);
            tokio::spawn(async move {
                if let Ok(session) = russh::server::run_stream(config, stream, guest).await {
                    let _ = session.await;
                }
            });
        }
    });
    Target {
        host: "127.0.0.1".to_owned(),
        port,
    }
}

struct Guest {
    second: MethodKind,
    has_key: bool,
}

impl Guest {
    fn verdict(&self, method: MethodKind, right: bool) -> Auth {
        if self.has_key && method == self.second && right {
            return Auth::Accept;
        }
        let next = if self.has_key {
            self.second
        } else {
            MethodKind::PublicKey
        };
        Auth::Reject {
            proceed_with_methods: Some(MethodSet::from(&[next][..])),
            partial_success: false,
        }
    }
}

impl Handler for Guest {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _user: &str,
        _key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        self.has_key = true;
        Ok(Auth::Reject {
            proceed_with_methods: Some(MethodSet::from(&[self.second][..])),
            partial_success: true,
        })
    }

    async fn auth_password(&mut self, _user: &str, password: &str) -> Result<Auth, russh::Error> {
        Ok(self.verdict(MethodKind::Password, password == PASSWORD))
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        let Some(mut response) = response else {
            return Ok(Auth::Partial {
                name: Cow::Borrowed(""),
                instructions: Cow::Borrowed(""),
                prompts: Cow::Borrowed(&[(Cow::Borrowed("Password:"), false)]),
            });
        };
        let right = response
            .next()
            .is_some_and(|given| given == PASSWORD.as_bytes());
        Ok(self.verdict(MethodKind::KeyboardInteractive, right))
    }
}
