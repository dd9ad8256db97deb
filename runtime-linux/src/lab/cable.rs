//! Two network namespaces joined by one cable, without a switch: for measurements.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use super::{namespace::NetworkNamespace, wiring};

/// The interface at each end.
const INTERFACE: &str = "net0";

/// The cable and its two ends; they go with it.
#[derive(Debug)]
pub struct Cable {
    ends: [NetworkNamespace; 2],
}

impl Cable {
    /// Makes it, switched on, with an address at each end. Needs root.
    pub fn new() -> io::Result<Self> {
        let ends = [NetworkNamespace::new()?, NetworkNamespace::new()?];
        ends[0].enter(|| wiring::create_veth(INTERFACE, INTERFACE, &ends[1]))?;
        for (index, end) in ends.iter().enumerate() {
            end.enter(|| {
                wiring::switch_on("lo")?;
                wiring::give_address(INTERFACE, Self::address(index), 24)?;
                wiring::switch_on(INTERFACE)
            })?;
        }
        Ok(Self { ends })
    }

    /// The address of an end, 0 or 1.
    pub const fn address(end: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, 77, 1 + end as u8))
    }

    /// Runs `job` at an end, 0 or 1; threads that it starts stay there.
    pub fn at<T: Send>(&self, end: usize, job: impl FnOnce() -> T + Send) -> T {
        self.ends[end].enter(job)
    }
}
