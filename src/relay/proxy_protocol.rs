//! The header that tells an endpoint who its client is: the PROXY protocol, version 2
//! (HAProxy, `doc/proxy-protocol.txt`, section 2.2). Values in, bytes out. Tests: below.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_AND_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The header of a TCP connection. Both addresses are of one family.
pub(super) fn header(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    out.push(VERSION_AND_COMMAND);
    let addresses: Vec<u8> = [client, destination].iter().flat_map(|s| octets(s.ip())).collect();
    out.push(if client.is_ipv4() { TCP_OVER_IPV4 } else { TCP_OVER_IPV6 });
    let length = addresses.len() as u16 + 4;
    out.extend(length.to_be_bytes());
    out.extend(addresses);
    out.extend(client.port().to_be_bytes());
    out.extend(destination.port().to_be_bytes());
    out
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_have_their_lengths() {
        let socket = |text: &str| text.parse().expect("a socket");
        let four = header(socket("192.0.2.1:258"), socket("10.0.0.1:80"));
        assert_eq!(four.len(), 28);
        assert_eq!(four[12..16], [0x21, 0x11, 0, 12]);
        assert_eq!(four[16..], [192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 0, 80]);
        let six = header(socket("[2001:db8::1]:1"), socket("[::2]:2"));
        assert_eq!(six.len(), 52);
        assert_eq!(six[12..16], [0x21, 0x21, 0, 36]);
    }
}
