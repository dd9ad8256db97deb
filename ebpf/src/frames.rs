//! Frames made by hand, for tests and measurements.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{vec, vec::Vec};

use crate::{
    hash::{Words, mapped},
    layout::MacValue,
    packet::{ICMP, ICMPV6, IPV4, IPV6, TCP, UDP},
};

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// TCP with these flags (SYN 2, RST 4, ACK 16).
    Tcp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
        /// Flags.
        flags: u8,
    },
    /// UDP.
    Udp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
    },
    /// ICMP or ICMPv6 echo request.
    Echo,
    /// "Too big" for a packet from the virtual address to a client.
    TooBig {
        /// The client.
        client: IpAddr,
        /// Its port.
        client_port: u16,
        /// The service's port.
        vip_port: u16,
        /// Protocol.
        protocol: u8,
    },
    /// Another protocol.
    Other(u8),
}

/// A fragment's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Identification.
    pub id: u32,
    /// Offset in units of eight bytes.
    pub offset: u16,
    /// Whether more follow.
    pub more: bool,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Destination.
    pub to: MacValue,
    /// Source.
    pub from: MacValue,
    /// VLAN numbers, outermost first.
    pub tags: Vec<u16>,
    /// Sender.
    pub source: IpAddr,
    /// Receiver, of the same family.
    pub target: IpAddr,
    /// Words of options (IPv4, up to 10) or extension headers (IPv6).
    pub options: u8,
    /// Identification of IPv4.
    pub ipid: u16,
    /// Hop limit.
    pub hops: u8,
    /// Which fragment, if it is one.
    pub fragment: Option<Fragment>,
    /// What it carries.
    pub content: Content,
    /// Bytes of payload.
    pub payload: usize,
}

/// The words of an address.
pub fn words(addr: IpAddr) -> Words {
    match addr {
        IpAddr::V4(addr) => mapped(addr.to_bits()),
        IpAddr::V6(addr) => {
            let bits = addr.to_bits();
            [(bits >> 96) as u32, (bits >> 64) as u32, (bits >> 32) as u32, bits as u32]
        }
    }
}

fn mac(value: MacValue) -> [u8; 6] {
    let bytes = value.to_be_bytes();
    [bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]
}

impl Frame {
    /// A plain frame of minimal size.
    pub fn new(to: MacValue, from: MacValue, source: IpAddr, target: IpAddr) -> Self {
        let content = Content::Tcp { from: 40_000, to: 80, flags: 2 };
        let (tags, fragment) = (Vec::new(), None);
        let (options, ipid, hops, payload) = (0, 1, 64, 6);
        Self { to, from, tags, source, target, options, ipid, hops, fragment, content, payload }
    }

    /// The same with other content.
    #[must_use]
    pub fn with(&self, content: Content) -> Self {
        Self { content, ..self.clone() }
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&mac(self.to));
        bytes.extend_from_slice(&mac(self.from));
        for (place, tag) in self.tags.iter().enumerate() {
            let outer = place == 0 && self.tags.len() > 1;
            let kind: u16 = if outer { 0x88a8 } else { 0x8100 };
            bytes.extend_from_slice(&kind.to_be_bytes());
            bytes.extend_from_slice(&tag.to_be_bytes());
        }
        match (self.source, self.target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                bytes.extend_from_slice(&IPV4.to_be_bytes());
                bytes.extend_from_slice(&self.ipv4(source, target));
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                bytes.extend_from_slice(&IPV6.to_be_bytes());
                bytes.extend_from_slice(&self.ipv6(source, target));
            }
            _ => panic!("both addresses of a packet are of one family"),
        }
        bytes
    }

    fn upper(&self) -> (u8, Vec<u8>) {
        if self.fragment.is_some_and(|f| f.offset != 0) {
            let (protocol, _) = Self { fragment: None, ..self.clone() }.upper();
            return (protocol, vec![0xab; 24]);
        }
        let v4 = self.source.is_ipv4();
        let (protocol, mut bytes) = match self.content {
            Content::Tcp { from, to, flags } => {
                let mut bytes = vec![0; 20];
                bytes[..2].copy_from_slice(&from.to_be_bytes());
                bytes[2..4].copy_from_slice(&to.to_be_bytes());
                (bytes[12], bytes[13]) = (0x50, flags);
                (TCP, bytes)
            }
            Content::Udp { from, to } => {
                let mut bytes = vec![0; 8];
                bytes[..2].copy_from_slice(&from.to_be_bytes());
                bytes[2..4].copy_from_slice(&to.to_be_bytes());
                (UDP, bytes)
            }
            Content::Echo if v4 => (ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1]),
            Content::Echo => (ICMPV6, vec![128, 0, 0, 0, 0, 1, 0, 1]),
            Content::TooBig { client, client_port, vip_port, protocol } => {
                let content = match protocol {
                    TCP => Content::Tcp { from: vip_port, to: client_port, flags: 16 },
                    UDP => Content::Udp { from: vip_port, to: client_port },
                    other => Content::Other(other),
                };
                let inner = Self { content, ..Self::new(0, 0, self.target, client) }.bytes();
                let kind = if v4 { [3, 4] } else { [2, 0] };
                let mut bytes = kind.to_vec();
                bytes.extend_from_slice(&[0; 6]);
                bytes.extend_from_slice(&inner[14..]);
                (if v4 { ICMP } else { ICMPV6 }, bytes)
            }
            Content::Other(protocol) => (protocol, vec![0; 20]),
        };
        bytes.resize(bytes.len() + self.payload, 0x5a);
        (protocol, bytes)
    }

    fn ipv4(&self, source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let (protocol, upper) = self.upper();
        let options = usize::from(self.options) * 4;
        let length = 20 + options;
        let mut bytes = vec![0u8; length];
        bytes[0] = 0x40 | (length / 4) as u8;
        bytes[2..4].copy_from_slice(&((length + upper.len()) as u16).to_be_bytes());
        let id = self.fragment.map_or(self.ipid, |f| f.id as u16);
        bytes[4..6].copy_from_slice(&id.to_be_bytes());
        if let Some(fragment) = self.fragment {
            let place = fragment.offset | u16::from(fragment.more) << 13;
            bytes[6..8].copy_from_slice(&place.to_be_bytes());
        }
        bytes[8] = self.hops;
        bytes[9] = protocol;
        bytes[12..16].copy_from_slice(&source.octets());
        bytes[16..20].copy_from_slice(&target.octets());
        // Option 1: no operation.
        bytes[20..].fill(1);
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend_from_slice(&upper);
        bytes
    }

    fn ipv6(&self, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
        let (protocol, upper) = self.upper();
        let mut headers = Vec::new();
        let fragments = usize::from(self.fragment.is_some());
        let last = usize::from(self.options) + fragments;
        let mut next = protocol;
        if last > 0 {
            next = if self.options > 0 { 60 } else { 44 };
        }
        for place in 0..self.options {
            let following = if usize::from(place) + 1 < last {
                if place + 1 < self.options { 60 } else { 44 }
            } else {
                protocol
            };
            // Destination options of eight bytes: padding only.
            headers.extend_from_slice(&[following, 0, 1, 4, 0, 0, 0, 0]);
        }
        if let Some(fragment) = self.fragment {
            let place = fragment.offset << 3 | u16::from(fragment.more);
            headers.extend_from_slice(&[protocol, 0]);
            headers.extend_from_slice(&place.to_be_bytes());
            headers.extend_from_slice(&fragment.id.to_be_bytes());
        }
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend_from_slice(&((headers.len() + upper.len()) as u16).to_be_bytes());
        bytes.extend_from_slice(&[next, self.hops]);
        bytes.extend_from_slice(&source.octets());
        bytes.extend_from_slice(&target.octets());
        bytes.extend_from_slice(&headers);
        bytes.extend_from_slice(&upper);
        bytes
    }
}

/// The Internet checksum of some bytes (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An ARP request.
pub fn arp_request(from: MacValue, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend_from_slice(&mac(from));
    bytes.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend_from_slice(&mac(from));
    bytes.extend_from_slice(&sender.octets());
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&target.octets());
    bytes.resize(60, 0);
    bytes
}

/// A neighbour solicitation, with the sender's Ethernet address unless it has no address yet.
pub fn solicitation(from: MacValue, sender: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let tail = target.octets();
    let group = [0x33, 0x33, 0xff, tail[13], tail[14], tail[15]];
    let mut to = [0; 16];
    to[..13].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]);
    to[13..].copy_from_slice(&tail[13..]);
    let mut icmp = vec![135, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(&tail);
    if !sender.is_unspecified() {
        icmp.extend_from_slice(&[1, 1]);
        icmp.extend_from_slice(&mac(from));
    }
    let sum = checksum_v6(&sender.octets(), &to, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut bytes = group.to_vec();
    bytes.extend_from_slice(&mac(from));
    bytes.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, icmp.len() as u8, ICMPV6, 255]);
    bytes.extend_from_slice(&sender.octets());
    bytes.extend_from_slice(&to);
    bytes.extend_from_slice(&icmp);
    bytes
}

/// The checksum of ICMPv6 over pseudo header and message: zero for a message that carries it.
pub fn checksum_v6(from: &[u8; 16], to: &[u8; 16], message: &[u8]) -> u16 {
    let mut bytes = from.to_vec();
    bytes.extend_from_slice(to);
    bytes.extend_from_slice(&(message.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, ICMPV6]);
    bytes.extend_from_slice(message);
    checksum(&bytes)
}
