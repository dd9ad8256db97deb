//! Asks hosts for an echo (ICMP, both versions of IP).
//!
//! Uses datagram sockets, which need no privilege for groups in `net.ipv4.ping_group_range`, and
//! raw sockets where the kernel refuses those. Sources: icmp(7); RFC 792; RFC 4443 section 4.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recvfrom, sendto,
        socket_with,
    },
};

/// A lost request is repeated after this.
const REPEAT: Duration = Duration::from_millis(250);
const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;

/// Whether any of these hosts answers within `limit`. Blocks until one does or `limit` is over.
pub fn any_answers(targets: &[IpAddr], limit: Duration) -> bool {
    let begun = Instant::now();
    let probes: Vec<Probe> =
        targets.iter().filter_map(|target| Probe::open(*target).ok()).collect();
    let mut sequence = 0;
    while begun.elapsed() < limit && !probes.is_empty() {
        for probe in &probes {
            // A host without a route now may have one at the next attempt.
            let _ = probe.ask(sequence);
        }
        sequence += 1;
        let until = limit.min(REPEAT * u32::from(sequence));
        while let Some(rest) = until.checked_sub(begun.elapsed()).filter(|rest| !rest.is_zero()) {
            if probes.iter().any(Probe::answered) {
                return true;
            }
            wait(&probes, rest);
        }
    }
    probes.iter().any(Probe::answered)
}

fn wait(probes: &[Probe], limit: Duration) {
    let mut fds: Vec<PollFd<'_>> =
        probes.iter().map(|probe| PollFd::new(&probe.socket, PollFlags::IN)).collect();
    let limit = Timespec::try_from(limit).expect("at most a quarter of a second");
    // An interruption only leads to one more look.
    let _ = poll(&mut fds, Some(&limit));
}

/// One host that is asked.
#[derive(Debug)]
struct Probe {
    socket: OwnedFd,
    target: IpAddr,
    /// The IPv4 header arrives too.
    raw: bool,
    token: [u8; 8],
}

impl Probe {
    fn open(target: IpAddr) -> io::Result<Self> {
        let (family, protocol) = match target {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let open = |kind| socket_with(family, kind, flags, Some(protocol));
        let (socket, raw) = match open(SocketType::DGRAM) {
            Ok(socket) => (socket, false),
            Err(_) => (open(SocketType::RAW)?, true),
        };
        let nanos = Instant::now().elapsed().as_nanos() ^ u128::from(std::process::id());
        let unique = (&raw const socket as u64) ^ u64::try_from(nanos).unwrap_or(0);
        Ok(Self { socket, target, raw, token: unique.to_ne_bytes() })
    }

    fn ask(&self, sequence: u16) -> io::Result<()> {
        let kind = if self.target.is_ipv4() { REQUEST_V4 } else { REQUEST_V6 };
        let mut packet = vec![kind, 0, 0, 0, 0x4a, 0x56];
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(&self.token);
        if self.target.is_ipv4() {
            // For IPv6 the kernel computes it, with its pseudo header.
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        sendto(&self.socket, &packet, SendFlags::empty(), &SocketAddr::new(self.target, 0))?;
        Ok(())
    }

    /// Whether an answer to any of our requests has arrived.
    fn answered(&self) -> bool {
        let mut buffer = [0u8; 256];
        while let Ok((length, _, _)) = recvfrom(&self.socket, &mut buffer[..], RecvFlags::empty()) {
            let mut packet = &buffer[..length];
            if self.raw && self.target.is_ipv4() {
                let header = usize::from(packet.first().copied().unwrap_or(0) & 0x0f) * 4;
                packet = packet.get(header..).unwrap_or_default();
            }
            let kind = if self.target.is_ipv4() { REPLY_V4 } else { REPLY_V6 };
            if packet.first() == Some(&kind) && packet.get(8..16) == Some(&self.token) {
                return true;
            }
        }
        false
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("the carry was folded in")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_loopback_answers_at_once_in_both_versions() {
        if Probe::open(ip("127.0.0.1")).is_err() {
            eprintln!("skipped: needs root or net.ipv4.ping_group_range");
            return;
        }
        for target in ["127.0.0.1", "::1"] {
            let begun = Instant::now();
            assert!(any_answers(&[ip(target)], Duration::from_secs(2)), "{target} is silent");
            assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
        }
    }

    #[test]
    fn one_answer_of_several_hosts_is_enough_and_silence_lasts_the_limit() {
        // 2001:db8::/32 is nobody's (RFC 3849).
        let begun = Instant::now();
        assert!(!any_answers(&[ip("2001:db8::1")], Duration::from_millis(120)));
        assert!(begun.elapsed() >= Duration::from_millis(120));
        if Probe::open(ip("127.0.0.1")).is_ok() {
            let both = [ip("2001:db8::1"), ip("127.0.0.1")];
            assert!(any_answers(&both, Duration::from_secs(2)));
        }
    }
}
