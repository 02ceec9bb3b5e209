//! A name server that knows one name, to see that the image's program resolves names without a system around it.

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::{Context as _, Result};

/// Of no other server: any address of the loopback network is this machine.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 83, 65, 1);

/// The port cannot be chosen in `resolv.conf`.
const PORT: u16 = 53;

/// The name that resolves to this machine.
pub(super) const NAME: &str = "orka.image-check.test";

const HEADER_BYTES: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];
const CLASS_IN: [u8; 2] = [0, 1];

/// Answers until the process ends.
pub(super) fn start() -> Result<()> {
    let socket = UdpSocket::bind((ADDRESS, PORT))
        .with_context(|| format!("cannot listen at {ADDRESS}:{PORT} for names"))?;
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some(reply) = answer(&buffer[..length]) {
                // Whoever asked asks again.
                let _ = socket.send_to(&reply, from);
            }
        }
    });
    Ok(())
}

/// The answer to a query (RFC 1035, section 4.1): [`NAME`] has an address, and nothing else exists.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let (name, length) = name(query.get(HEADER_BYTES..)?)?;
    let question = query.get(HEADER_BYTES..HEADER_BYTES + length + 4)?;
    let is_known = name.eq_ignore_ascii_case(NAME);
    let has_address = is_known && question[length..length + 2] == TYPE_A;
    let mut reply = query.get(..2)?.to_vec();
    // A reply, recursion available; no error, or no such name. Then one question and at most one answer.
    reply.extend([0x81, if is_known { 0x80 } else { 0x83 }, 0, 1]);
    reply.extend([0, u8::from(has_address), 0, 0, 0, 0]);
    reply.extend(question);
    if has_address {
        reply.extend([0xc0, 0x0c]);
        reply.extend(TYPE_A);
        reply.extend(CLASS_IN);
        reply.extend([0, 0, 0, 60, 0, 4]);
        reply.extend(Ipv4Addr::LOCALHOST.octets());
    }
    Some(reply)
}

/// A name and how many bytes it took.
fn name(bytes: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        // Anything larger is a pointer, which no question has.
        if length > 63 {
            return None;
        }
        labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).into_owned());
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::{NAME, answer};

    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        query
    }

    #[test]
    fn the_one_name_has_an_ipv4_address_and_nothing_else_exists() {
        let known = answer(&query(NAME, 1)).unwrap();
        assert_eq!((known[3] & 0x0f, known[7]), (0, 1));
        assert!(known.ends_with(&[127, 0, 0, 1]));
        let no_ipv6 = answer(&query(NAME, 28)).unwrap();
        assert_eq!((no_ipv6[3] & 0x0f, no_ipv6[7]), (0, 0));
        let unknown = answer(&query("elsewhere.test", 1)).unwrap();
        assert_eq!((unknown[3] & 0x0f, unknown[7]), (3, 0));
        assert_eq!(answer(&[0; 5]), None);
    }
}
