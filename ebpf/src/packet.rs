//! Reading headers out of a frame whose bytes cannot be trusted.

/// A frame, as bytes that may end anywhere.
pub trait Packet {
    /// `N` bytes that begin at `at`, if the frame is that long.
    fn part<const N: usize>(&self, at: usize) -> Option<&[u8; N]>;

    /// The same, to be changed.
    fn part_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]>;
}

impl Packet for [u8] {
    fn part<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        self.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn part_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        self.get_mut(at..at.checked_add(N)?)?.try_into().ok()
    }
}

/// Numbers in network order inside a header.
pub trait Fields {
    /// The two bytes at `at`, which is a constant below the header's length.
    fn be16(&self, at: usize) -> u16;
    /// The four bytes at `at`, which is a constant below the header's length.
    fn be32(&self, at: usize) -> u32;
}

#[cfg(not(target_arch = "bpf"))]
impl<const N: usize> Fields for [u8; N] {
    fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self[at], self[at + 1]])
    }

    fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes([self[at], self[at + 1], self[at + 2], self[at + 3]])
    }
}

/// In the kernel a number is one load: the compiler, which may not assume that the target allows
/// unaligned loads, would make four of it.
#[cfg(target_arch = "bpf")]
impl<const N: usize> Fields for [u8; N] {
    #[inline(always)]
    fn be16(&self, at: usize) -> u16 {
        // SAFETY: callers pass constants with `at + 2 <= N`, and the kernel's verifier, which
        // refuses the whole program otherwise, proves that and allows unaligned packet loads.
        u16::from_be(unsafe { self.as_ptr().add(at).cast::<u16>().read() })
    }

    #[inline(always)]
    fn be32(&self, at: usize) -> u32 {
        // SAFETY: as above, with four bytes.
        u32::from_be(unsafe { self.as_ptr().add(at).cast::<u32>().read() })
    }
}

/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Bytes of an Ethernet header without tags.
pub const ETHERNET: usize = 14;

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// The Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination.
    pub to: u64,
    /// Source.
    pub from: u64,
    /// Type of what follows the tags.
    pub ethertype: u16,
    /// Where that begins: 14, 18 or 22.
    pub next: usize,
}

/// Reads the Ethernet header and up to two VLAN tags (IEEE 802.1Q, 802.1ad).
#[inline(always)]
pub fn ethernet<P: Packet + ?Sized>(packet: &P) -> Option<Ethernet> {
    let header = packet.part::<ETHERNET>(0)?;
    let to = u64::from(header.be16(0)) << 32 | u64::from(header.be32(2));
    let from = u64::from(header.be16(6)) << 32 | u64::from(header.be32(8));
    let mut ethertype = header.be16(12);
    let mut next = ETHERNET;
    if is_tag(ethertype) {
        ethertype = packet.part::<4>(14)?.be16(2);
        next = 18;
        if is_tag(ethertype) {
            ethertype = packet.part::<4>(18)?.be16(2);
            next = 22;
        }
    }
    Some(Ethernet { to, from, ethertype, next })
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    ethertype == 0x8100 || ethertype == 0x88a8
}

/// Extension headers of IPv6 looked through before a packet is refused.
pub const EXTENSIONS_MAX: usize = 6;

/// What follows the headers of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// Its protocol.
    pub protocol: u8,
    /// Where it begins.
    pub at: usize,
    /// Offset and flags of the fragment header; 0 if there is none.
    pub fragment: u16,
    /// Identification of the fragment header.
    pub id: u32,
}

impl Payload {
    /// Whether this is a fragment without the beginning of the payload.
    pub const fn is_later(&self) -> bool {
        self.fragment & 0xfff8 != 0
    }

    /// Whether this is a fragment with the beginning of the payload.
    pub const fn is_first(&self) -> bool {
        self.fragment & 0xfff8 == 0 && self.fragment & 1 != 0
    }
}

/// Walks over the extension headers of IPv6 (RFC 8200 section 4); `None` if there are more than
/// [`EXTENSIONS_MAX`], or the frame ends within them.
#[inline(always)]
pub fn extensions<P: Packet + ?Sized>(packet: &P, next: u8, at: usize) -> Option<Payload> {
    let mut payload = Payload { protocol: next, at, fragment: 0, id: 0 };
    for _ in 0..=EXTENSIONS_MAX {
        match payload.protocol {
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => {
                let header = packet.part::<2>(payload.at)?;
                payload.protocol = header[0];
                payload.at += (header[1] as usize + 1) * 8;
            }
            44 => {
                let header = packet.part::<8>(payload.at)?;
                payload.protocol = header[0];
                payload.fragment = header.be16(2);
                payload.id = header.be32(4);
                payload.at += 8;
                if payload.is_later() {
                    return Some(payload);
                }
            }
            _ => return Some(payload),
        }
    }
    None
}
