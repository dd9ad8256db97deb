//! The packet filter of a farm: what it decides about one frame, and the layout of what it reads.
//!
//! The same code runs in the kernel (`src/main.rs`, an XDP program) and in the daemon, which
//! fills the tables, and in ordinary tests. Nothing here allocates, and nothing can panic: the
//! kernel refuses a program that might. Array indices are therefore masked by powers of two.
//!
//! ```text
//! frame ─ verdict::judge(frame, Table, Kernel) ─> Verdict ─ rewrite::apply(frame, Verdict)
//!            │ which VIP, rule, bucket              │ pass, drop, forward, answer
//!            └ packet: headers                      └ counters: one number per group and verdict
//! ```
//!
//! Left to others: who owns which bucket (core), loading and filling (runtime-linux).
#![no_std]

#[cfg(any(test, feature = "frames"))]
extern crate std;

pub mod builder;
pub mod counters;
#[cfg(any(test, feature = "frames"))]
pub mod frames;
pub mod hash;
pub mod layout;
pub mod packet;
pub mod rewrite;
pub mod verdict;
