//! Reaches for the machine through WASI, which is linked for other languages' sake, and tells what it finds.

use orka_plugin_sdk::console::{self, Level};
use orka_plugin_sdk::{Error, Plugin, Verdict, params};

/// As much of WASI as is used here.
#[allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    clippy::all,
    reason = "generated"
)]
mod bindings {
    wit_bindgen::generate!({
        inline: r#"
            package guest:wasi-powers@0.1.0;

            world reaches {
                import wasi:cli/environment@0.2.0;
                import wasi:cli/stdin@0.2.0;
                import wasi:clocks/monotonic-clock@0.2.0;
                import wasi:filesystem/preopens@0.2.0;
                import wasi:random/random@0.2.0;
                import wasi:sockets/instance-network@0.2.0;
                import wasi:sockets/ip-name-lookup@0.2.0;
                import wasi:sockets/tcp-create-socket@0.2.0;
            }

            package wasi:io@0.2.0 {
                interface error {
                    resource error;
                }
                interface poll {
                    resource pollable {
                        block: func();
                    }
                }
                interface streams {
                    use error.{error};
                    variant stream-error {
                        last-operation-failed(error),
                        closed,
                    }
                    resource input-stream {
                        blocking-read: func(len: u64) -> result<list<u8>, stream-error>;
                    }
                    resource output-stream;
                }
            }

            package wasi:cli@0.2.0 {
                interface environment {
                    get-environment: func() -> list<tuple<string, string>>;
                    get-arguments: func() -> list<string>;
                    initial-cwd: func() -> option<string>;
                }
                interface stdin {
                    use wasi:io/streams@0.2.0.{input-stream};
                    get-stdin: func() -> input-stream;
                }
            }

            package wasi:clocks@0.2.0 {
                interface monotonic-clock {
                    use wasi:io/poll@0.2.0.{pollable};
                    subscribe-duration: func(when: u64) -> pollable;
                }
            }

            package wasi:filesystem@0.2.0 {
                interface types {
                    resource descriptor;
                }
                interface preopens {
                    use types.{descriptor};
                    get-directories: func() -> list<tuple<descriptor, string>>;
                }
            }

            package wasi:random@0.2.0 {
                interface random {
                    get-random-bytes: func(len: u64) -> list<u8>;
                }
            }

            package wasi:sockets@0.2.0 {
                interface network {
                    resource network;
                    enum error-code {
                        unknown,
                        access-denied,
                        not-supported,
                        invalid-argument,
                        out-of-memory,
                        timeout,
                        concurrency-conflict,
                        not-in-progress,
                        would-block,
                        invalid-state,
                        new-socket-limit,
                        address-not-bindable,
                        address-in-use,
                        remote-unreachable,
                        connection-refused,
                        connection-reset,
                        connection-aborted,
                        datagram-too-large,
                        name-unresolvable,
                        temporary-resolver-failure,
                        permanent-resolver-failure,
                    }
                    enum ip-address-family {
                        ipv4,
                        ipv6,
                    }
                    type ipv4-address = tuple<u8, u8, u8, u8>;
                    type ipv6-address = tuple<u16, u16, u16, u16, u16, u16, u16, u16>;
                    record ipv4-socket-address {
                        port: u16,
                        address: ipv4-address,
                    }
                    record ipv6-socket-address {
                        port: u16,
                        flow-info: u32,
                        address: ipv6-address,
                        scope-id: u32,
                    }
                    variant ip-socket-address {
                        ipv4(ipv4-socket-address),
                        ipv6(ipv6-socket-address),
                    }
                }
                interface instance-network {
                    use network.{network};
                    instance-network: func() -> network;
                }
                interface ip-name-lookup {
                    use network.{network, error-code};
                    resource resolve-address-stream;
                    resolve-addresses: func(network: borrow<network>, name: string) -> result<resolve-address-stream, error-code>;
                }
                interface tcp {
                    use network.{network, error-code, ip-socket-address};
                    use wasi:io/poll@0.2.0.{pollable};
                    use wasi:io/streams@0.2.0.{input-stream, output-stream};
                    resource tcp-socket {
                        start-bind: func(network: borrow<network>, local-address: ip-socket-address) -> result<_, error-code>;
                        start-connect: func(network: borrow<network>, remote-address: ip-socket-address) -> result<_, error-code>;
                        finish-connect: func() -> result<tuple<input-stream, output-stream>, error-code>;
                        subscribe: func() -> pollable;
                    }
                }
                interface tcp-create-socket {
                    use network.{error-code, ip-address-family};
                    use tcp.{tcp-socket};
                    create-tcp-socket: func(address-family: ip-address-family) -> result<tcp-socket, error-code>;
                }
            }
        "#,
        generate_all,
    });
}

use bindings::wasi::cli::{environment, stdin};
use bindings::wasi::clocks::monotonic_clock;
use bindings::wasi::filesystem::preopens;
use bindings::wasi::random::random;
use bindings::wasi::sockets::instance_network::instance_network;
use bindings::wasi::sockets::ip_name_lookup;
use bindings::wasi::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress,
};
use bindings::wasi::sockets::tcp_create_socket::create_tcp_socket;

/// Longer than anybody lives, and still within the clock's range.
const FOR_EVER_NS: u64 = u64::MAX / 4;

/// More than any machine has.
const MUCH: u64 = 1 << 50;

struct WasiPowers;

fn tell(what: &str, found: &str) {
    console::log(Level::Info, &format!("{what}: {found}"));
}

fn ended<T>(result: Result<T, ErrorCode>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(code) => format!("{code:?}"),
    }
}

fn connected(to: &IpSocketAddress) -> Result<(), ErrorCode> {
    let network = instance_network();
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_connect(&network, *to)?;
    socket.subscribe().block();
    socket.finish_connect().map(drop)
}

fn look_around(port: u16) {
    tell(
        "variables",
        &environment::get_environment().len().to_string(),
    );
    tell("arguments", &environment::get_arguments().len().to_string());
    tell("directory", &format!("{:?}", environment::initial_cwd()));
    tell(
        "directories",
        &preopens::get_directories().len().to_string(),
    );
    let input = stdin::get_stdin().blocking_read(64);
    tell("input", if input.is_ok() { "bytes" } else { "none" });
    let network = instance_network();
    let looked_up = ip_name_lookup::resolve_addresses(&network, "localhost");
    tell("name", &ended(looked_up));
    let to = |port| {
        IpSocketAddress::Ipv4(Ipv4SocketAddress {
            port,
            address: (127, 0, 0, 1),
        })
    };
    tell("connection", &ended(connected(&to(port))));
    let listening = create_tcp_socket(IpAddressFamily::Ipv4)
        .and_then(|socket| socket.start_bind(&network, to(0)));
    tell("listening", &ended(listening));
}

impl Plugin for WasiPowers {
    fn run() -> Result<Verdict, Error> {
        match params::required_text("how")?.as_str() {
            "wait" => monotonic_clock::subscribe_duration(FOR_EVER_NS).block(),
            "hoard" => {
                let mut kept = Vec::new();
                loop {
                    kept.push(monotonic_clock::subscribe_duration(FOR_EVER_NS));
                }
            }
            "much" => tell("bytes", &random::get_random_bytes(MUCH).len().to_string()),
            _ => {
                let port = params::integer("port")?.and_then(|port| u16::try_from(port).ok());
                look_around(port.unwrap_or_default());
            }
        }
        Ok(Verdict::Succeeded)
    }
}

orka_plugin_sdk::register!(WasiPowers);
