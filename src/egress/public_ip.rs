//! Decides which IP addresses are public (IANA's special-purpose registries, RFC 6890).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether the address is reachable on the Internet: not this machine, its network, or a special purpose.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        // This network; shared (carrier) addresses; assignments; 6to4 relays; benchmarks; reserved.
        [0, ..] | [192, 0, 0, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [240..=255, ..] => true,
        [100, second, ..] => second & 0xc0 == 0x40,
        _ => false,
    };
    !(special
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    match address.segments() {
        // Translated addresses: the last 32 bits are an IPv4 address.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        // Special assignments with Teredo; documentation; 6to4, which contains an IPv4 address.
        [0x2001, 0..0x200, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..0x1000, ..] => false,
        // All that is allocated for the Internet so far; the rest is local, multicast or unallocated.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// The IP address that a host is, in every way of writing one that resolvers read: `2130706433`, `0x7f.1`,
/// `0177.0.0.1`, `[::1]`, and each with a dot at the end.
pub fn written_address(host: &str) -> Option<IpAddr> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        // A zone belongs to this machine.
        return inner.split('%').next()?.parse().ok().map(IpAddr::V6);
    }
    let parts: Vec<u64> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, bytes) = parts.split_last()?;
    let room = 4usize.checked_sub(bytes.len()).filter(|room| *room > 0)?;
    if bytes.iter().any(|byte| *byte > 255) || *last >= 1 << (8 * room) {
        return None;
    }
    let high = bytes.iter().enumerate().map(|(index, byte)| byte << (24 - 8 * index)).sum::<u64>();
    u32::try_from(high + last).ok().map(|address| IpAddr::V4(Ipv4Addr::from(address)))
}

/// Names that always resolve to this machine or network.
pub fn is_local_name(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    host == "localhost" || [".localhost", ".local", ".internal"].iter().any(|ending| host.ends_with(ending))
}

/// Decimal, octal or hexadecimal, as in C.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => (if digits.is_empty() { "0" } else { digits }, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    digits.chars().all(|digit| digit.is_digit(radix)).then(|| u64::from_str_radix(digits, radix).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_however_it_is_written() {
        for written in [
            "127.0.0.1",
            "127.0.0.1.",
            "2130706433",
            "2130706433.",
            "127.1",
            "127.0.1",
            "0x7f000001",
            "0X7F.0.0.1",
            "0x7f.1",
            "0177.0.0.01",
            "017700000001",
        ] {
            assert_eq!(written_address(written), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), "{written}");
        }
        for (written, address) in [
            ("[::1]", "::1"),
            ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1"),
            ("[fe80::1%eth0]", "fe80::1"),
            ("16843009", "1.1.1.1"),
            ("0", "0.0.0.0"),
            ("0x", "0.0.0.0"),
            ("4294967295", "255.255.255.255"),
        ] {
            assert_eq!(written_address(written), Some(address.parse().unwrap()), "{written}");
        }
        for name in ["example.org", "", ".", "1.2.3.4.5", "256.1.1.1", "4294967296", "1.2.3.256", "08.1", "0xg", "1..2"]
        {
            assert_eq!(written_address(name), None, "{name}");
        }
    }

    #[test]
    fn inner_addresses_are_not_public_however_they_are_written() {
        for inner in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "198.19.9.9",
            "198.51.100.7",
            "203.0.113.9",
            "192.88.99.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12:3456::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2001:1ff::1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "3fff::1",
        ] {
            assert!(!is_public(inner.parse().unwrap()), "{inner}");
        }
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.1",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
