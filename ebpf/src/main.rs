//! The XDP program: reads the table that counts, asks `havre_ebpf` for the verdict, carries it
//! out and counts it. Everything that could be decided wrongly is in the library, which ordinary
//! tests run; here are only the kernel's maps and helpers.
#![no_std]
#![no_main]

use core::{mem::size_of, ptr::NonNull};

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple, xdp_action},
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_sk_release, bpf_skc_lookup_tcp},
    macros::{map, xdp},
    maps::{Array, LruHashMap, PerCpuArray},
    programs::XdpContext,
};
use havre_ebpf::{
    counters::COUNTERS_TOTAL,
    hash::is_mapped,
    layout::{
        FLOWS_MAX, FRAGMENTS_MAX, Flow, FragmentFate, FragmentKey, MODULES_MAX, NO_DEADLINE,
        TABLES as TABLES_COUNT, Table,
    },
    packet::Packet,
    rewrite::{Fate, apply},
    verdict::{Kernel, judge},
};

#[map]
static ACTIVE: Array<u32> = Array::pinned(1, 0);
#[map]
static TABLES: Array<Table> = Array::pinned(TABLES_COUNT, 0);
#[map]
static DEADLINES: Array<u64> = Array::pinned(MODULES_MAX as u32, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(COUNTERS_TOTAL as u32, 0);
#[map]
static FLOWS: LruHashMap<Flow, u8> = LruHashMap::pinned(FLOWS_MAX, 0);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentFate> = LruHashMap::pinned(FRAGMENTS_MAX, 0);

/// State LISTEN of a socket (Linux `include/net/tcp_states.h`).
const LISTEN: u32 = 10;

/// A frame in the driver's memory.
struct Frame<'a>(&'a XdpContext);

impl Packet for Frame<'_> {
    #[inline(always)]
    fn part<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        let start = self.0.data() + at;
        if start + N > self.0.data_end() {
            return None;
        }
        // SAFETY: the bytes from `start` lie before the frame's end, as was just compared; the
        // kernel's verifier refuses the program unless it can prove that.
        Some(unsafe { &*(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn part_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        let start = self.0.data() + at;
        if start + N > self.0.data_end() {
            return None;
        }
        // SAFETY: as above; the frame belongs to this run of the program alone.
        Some(unsafe { &mut *(start as *mut [u8; N]) })
    }
}

/// The kernel's maps and sockets.
struct Helpers<'a>(&'a XdpContext);

impl Helpers<'_> {
    /// Whether a socket other than a listening one answers to this tuple.
    #[inline(always)]
    fn lookup(&self, tuple: &mut bpf_sock_tuple, size: usize) -> bool {
        // SAFETY: the tuple lives across the call and `size` is that of its variant in use; the
        // socket, if one is returned, is read once and released once.
        unsafe {
            let namespace = BPF_F_CURRENT_NETNS as i64 as u64;
            let socket = bpf_skc_lookup_tcp(self.0.ctx.cast(), tuple, size as u32, namespace, 0);
            let Some(socket) = NonNull::new(socket) else { return false };
            let state = (*socket.as_ptr()).state;
            bpf_sk_release(socket.as_ptr().cast());
            state != LISTEN
        }
    }
}

impl Kernel for Helpers<'_> {
    #[inline(always)]
    fn has_socket(&self, flow: &Flow) -> bool {
        // SAFETY: a tuple consists of integers, for which zero is a value.
        let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
        let (sport, dport) = (flow.client_port.to_be(), flow.vip_port.to_be());
        if is_mapped(&flow.client) {
            // SAFETY: the variant for IPv4 is the one that is used below.
            let v4 = unsafe { &mut tuple.__bindgen_anon_1.ipv4 };
            v4.saddr = flow.client[3].to_be();
            v4.daddr = flow.vip[3].to_be();
            v4.sport = sport;
            v4.dport = dport;
            return self.lookup(&mut tuple, 12);
        }
        // SAFETY: the variant for IPv6 is the one that is used below.
        let v6 = unsafe { &mut tuple.__bindgen_anon_1.ipv6 };
        v6.saddr = flow.client.map(u32::to_be);
        v6.daddr = flow.vip.map(u32::to_be);
        v6.sport = sport;
        v6.dport = dport;
        self.lookup(&mut tuple, size_of::<bpf_sock_tuple>())
    }

    #[inline(always)]
    fn has_begun(&self, flow: &Flow) -> bool {
        // SAFETY: the value is not read, only its presence counts.
        unsafe { FLOWS.get(flow) }.is_some()
    }

    #[inline(always)]
    fn began(&self, flow: &Flow) {
        // A full map forgets the connection unused for longest; then its socket tells.
        let _ = FLOWS.insert(flow, &1, 0);
    }

    #[inline(always)]
    fn is_expired(&self, module: u8) -> bool {
        let Some(deadline) = DEADLINES.get(u32::from(module)) else { return true };
        if *deadline == NO_DEADLINE {
            return false;
        }
        // SAFETY: reads a clock.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        now >= *deadline
    }

    #[inline(always)]
    fn fate(&self, key: &FragmentKey) -> Option<FragmentFate> {
        // SAFETY: four bytes that are written as a whole; another fragment of the same packet on
        // another processor would write the same.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_fate(&self, key: &FragmentKey, fate: FragmentFate) {
        let _ = FRAGMENTS.insert(key, &fate, 0);
    }
}

/// Entry point: one frame that arrived.
#[xdp]
pub fn havre_filter(ctx: XdpContext) -> u32 {
    let Some(active) = ACTIVE.get(0) else { return xdp_action::XDP_PASS };
    let Some(table) = TABLES.get(*active) else { return xdp_action::XDP_PASS };
    let verdict = judge(&Frame(&ctx), table, &Helpers(&ctx));
    if let Some((group, counter)) = verdict.counted
        && let Some(count) = COUNTERS.get_ptr_mut(counter.index(group))
    {
        // SAFETY: this processor's own number, which nothing interrupts this program to change.
        unsafe { *count += 1 };
    }
    match apply(&mut Frame(&ctx), table, verdict.action) {
        Fate::Pass => xdp_action::XDP_PASS,
        Fate::Drop => xdp_action::XDP_DROP,
        Fate::Transmit => xdp_action::XDP_TX,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
