//! Which capabilities a packet filter needs and this process lacks. Asked before the kernel is,
//! because the kernel says only "not permitted".
//!
//! Source: capabilities(7); measured with each set: without CAP_PERFMON the verifier refuses
//! arithmetic on packet pointers, without the others nothing is loaded.

use std::fs;

const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// Names of the capabilities that are missing.
pub fn missing() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    missing_in(&status)
}

fn missing_in(status: &str) -> Vec<&'static str> {
    let field = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = field.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()) else {
        // Unknown: let the kernel decide.
        return Vec::new();
    };
    let has = |capability: u32| effective & 1 << capability != 0;
    if has(SYS_ADMIN) {
        return Vec::new();
    }
    let needed = [(BPF, "CAP_BPF"), (NET_ADMIN, "CAP_NET_ADMIN"), (PERFMON, "CAP_PERFMON")];
    needed.into_iter().filter(|(bit, _)| !has(*bit)).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        let status = |bits: u64| format!("Name:\tx\nCapEff:\t{bits:016x}\nSeccomp:\t0\n");
        let all = 1 << NET_ADMIN | 1 << PERFMON | 1 << BPF;
        assert!(missing_in(&status(all)).is_empty());
        assert_eq!(missing_in(&status(all & !(1 << PERFMON))), ["CAP_PERFMON"]);
        assert_eq!(missing_in(&status(1 << NET_ADMIN)), ["CAP_BPF", "CAP_PERFMON"]);
        assert!(missing_in(&status(1 << SYS_ADMIN)).is_empty());
        assert_eq!(missing_in(&status(0)).len(), 3);
    }
}
