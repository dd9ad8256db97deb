//! Real networks: UDP sockets for datagrams, TLS for the data paths' streams.

pub mod tls;
pub mod udp;
