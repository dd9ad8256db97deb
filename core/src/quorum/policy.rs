//! Pure parts of the quorum: which policy, and how long a lease is.

use std::time::Duration;

use crate::config::module::QuorumPolicy;

/// The policy without its hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Heartbeats only.
    None,
    /// Ping.
    Ping,
    /// Lease of the witness.
    Lease,
}

impl From<&QuorumPolicy> for Kind {
    fn from(policy: &QuorumPolicy) -> Self {
        match policy {
            QuorumPolicy::None => Self::None,
            QuorumPolicy::Ping(_) => Self::Ping,
            QuorumPolicy::Lease => Self::Lease,
        }
    }
}

/// Longest lease, so that a site with a generous heartbeat time-out still restarts quickly.
pub const LEASE_MAX: Duration = Duration::from_secs(10);
/// Shortest lease.
pub const LEASE_MIN: Duration = Duration::from_millis(60);

/// Length of a lease for a module with this heartbeat time-out: three quarters of it, so that a
/// lease has always run out when the secondary gives its primary up.
pub fn lease_length(timeout: Duration) -> Duration {
    (timeout * 3 / 4).clamp(LEASE_MIN, LEASE_MAX)
}
