//! From a client packet to its bucket. The packet filter computes the same numbers.
//!
//! The mixing function is the finalizer of MurmurHash3 (`fmix32`,
//! https://github.com/aappleby/smhasher/blob/master/src/MurmurHash3.cpp): each bit of the
//! criterion changes each bit of the result with probability near 1/2, so that neighbouring
//! addresses are spread.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::module::RuleFilter;

/// What of a packet may decide its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Source address of the packet.
    pub addr: IpAddr,
    /// Source port, of TCP and UDP.
    pub port: u16,
    /// Identification field of the IPv4 header; 0 for IPv6, which has none.
    pub ipid: u16,
}

/// Mixes the bits of a word.
pub const fn fmix32(mut word: u32) -> u32 {
    word ^= word >> 16;
    word = word.wrapping_mul(0x85eb_ca6b);
    word ^= word >> 13;
    word = word.wrapping_mul(0xc2b2_ae35);
    word ^ word >> 16
}

/// Mixes an address: one word for IPv4, four for IPv6, in network order.
pub fn mix_addr(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(addr) => fmix32(u32::from_be_bytes(addr.octets())),
        IpAddr::V6(addr) => {
            let halves = addr.segments();
            let words = halves.chunks_exact(2).map(|w| u32::from(w[0]) << 16 | u32::from(w[1]));
            words.fold(0, |mixed, word| fmix32(mixed ^ word))
        }
    }
}

/// The bucket of a client under a criterion.
pub fn bucket(criterion: RuleFilter, client: Client) -> u8 {
    let mixed = match (criterion, client.addr) {
        (RuleFilter::OnAddr, addr) | (RuleFilter::OnIpid, addr @ IpAddr::V6(_)) => mix_addr(addr),
        (RuleFilter::OnPort, addr) => fmix32(mix_addr(addr) ^ u32::from(client.port)),
        (RuleFilter::OnIpid, IpAddr::V4(_)) => fmix32(u32::from(client.ipid)),
    };
    mixed.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(addr: &str, port: u16, ipid: u16) -> Client {
        Client { addr: addr.parse().expect("an address"), port, ipid }
    }

    #[test]
    fn the_mixing_function_gives_the_published_numbers() {
        // Computed with the reference implementation of MurmurHash3's fmix32.
        assert_eq!(fmix32(0), 0);
        assert_eq!(fmix32(1), 0x514e_28b7);
        assert_eq!(fmix32(0xffff_ffff), 0x81f1_6f39);
    }

    #[test]
    fn neighbouring_clients_are_spread_over_all_buckets() {
        for criterion in [RuleFilter::OnAddr, RuleFilter::OnPort, RuleFilter::OnIpid] {
            let mut counts = [0u32; super::super::BUCKETS];
            for number in 0..=u16::MAX {
                let [high, low] = number.to_be_bytes();
                let client = client(&format!("10.1.{high}.{low}"), number, number);
                counts[usize::from(bucket(criterion, client))] += 1;
            }
            // 65536 clients: 256 per bucket in the mean, standard deviation 16.
            let (min, max) = (counts.iter().min(), counts.iter().max());
            assert!(min > Some(&170) && max < Some(&345), "{criterion:?}: {min:?} to {max:?}");
        }
    }

    #[test]
    fn only_the_named_criterion_matters() {
        let one = client("2001:db8::1", 1_000, 0);
        let other = client("2001:db8::1", 2_000, 0);
        assert_eq!(bucket(RuleFilter::OnAddr, one), bucket(RuleFilter::OnAddr, other));
        assert_eq!(bucket(RuleFilter::OnIpid, one), bucket(RuleFilter::OnAddr, one));
        let ports = (0..64).map(|n| bucket(RuleFilter::OnPort, client("10.0.0.1", 40_000 + n, 7)));
        assert!(ports.collect::<std::collections::BTreeSet<_>>().len() > 40);
    }
}
