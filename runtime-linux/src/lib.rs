//! Havre on Linux: what the operating system is asked to do.

pub mod arp;
pub mod bench;
pub mod clock;
pub mod demo;
pub mod fuse;
pub mod guard;
pub mod holder;
pub mod interface;
pub mod lab;
pub mod ledger;
pub mod nd;
pub mod netlink;
pub mod os;
pub mod packet;
mod pieces;
pub mod ping;
pub mod platform;
pub mod priority;
pub mod probe;
pub mod script;
pub mod service;
pub mod tcp_reset;
pub mod vip;
pub mod volume;
pub mod waker;
pub mod xdp;
