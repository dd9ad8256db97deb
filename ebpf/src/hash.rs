//! The hash that turns the identity of a client into one of 256 buckets.
//!
//! Equal by test to the one in `core`. Source: the finalisation mix of MurmurHash3 by Austin
//! Appleby (`fmix32`), chosen because two multiplications are cheap in the kernel.

/// An address as four words in host order; IPv4 as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
pub type Words = [u32; 4];

/// Mixes 32 bits: each bit of the argument changes each bit of the result with probability 1/2.
#[inline(always)]
pub const fn fmix32(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^= h >> 16;
    h
}

/// The words of an IPv4 address.
#[inline(always)]
pub const fn mapped(address: u32) -> Words {
    [0, 0, 0xffff, address]
}

/// Whether these are the words of an IPv4 address.
#[inline(always)]
pub const fn is_mapped(words: &Words) -> bool {
    words[0] | words[1] == 0 && words[2] == 0xffff
}

/// Criterion `on_addr`: the client's address.
#[inline(always)]
pub const fn on_addr(client: &Words) -> u32 {
    chain(client, 0)
}

/// Criterion `on_port`: the client's address and source port.
#[inline(always)]
pub const fn on_port(client: &Words, port: u16) -> u32 {
    fmix32(on_addr(client) ^ port as u32)
}

/// Criterion `on_ipid`: the identification field of an IPv4 header.
#[inline(always)]
pub const fn on_ipid(identification: u16) -> u32 {
    fmix32(identification as u32)
}

/// The bucket of a hash.
#[inline(always)]
pub const fn bucket(hash: u32) -> u8 {
    (hash & 0xff) as u8
}

/// Hashes an address, beginning with `seed`.
#[inline(always)]
pub const fn chain(words: &Words, seed: u32) -> u32 {
    if is_mapped(words) {
        return fmix32(seed ^ words[3]);
    }
    let mut h = fmix32(seed ^ words[0]);
    h = fmix32(h ^ words[1]);
    h = fmix32(h ^ words[2]);
    fmix32(h ^ words[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_has_the_values_of_murmur_hash_3() {
        // Computed with the reference implementation of MurmurHash3_x86_32's final mix.
        assert_eq!(fmix32(0), 0);
        assert_eq!(fmix32(1), 0x514e_28b7);
        assert_eq!(fmix32(0xffff_ffff), 0x81f1_6f39);
    }

    #[test]
    fn one_network_of_clients_spreads_over_all_buckets() {
        let mut hits = [0u32; 256];
        for host in 0..65_536u32 {
            hits[usize::from(bucket(on_addr(&mapped(0x0a00_0000 | host))))] += 1;
        }
        // 256 clients per bucket on average; five standard deviations are 80.
        assert!(hits.iter().all(|n| (176..=336).contains(n)), "{hits:?}");
    }
}
