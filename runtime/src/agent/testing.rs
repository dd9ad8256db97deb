//! The smallest leaves under which an agent runs, for tests of what is around it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use havre_core::{
    checks::probe::{Finding, Probe},
    effect::{AddressRequest, Outcome, Record, SavedState, ScriptCall, ScriptEnd, VolumeRequest},
    event::Event,
    farm::table::FilterRequest,
    ids::{CheckerId, ClusterId, Incarnation, LinkId, ModuleId, NodeId},
    time::Instant,
};

use super::AgentConfig;
use crate::{
    net::{Datagram, Net, Peers},
    os::Os,
    redacted::Redacted,
    seal::{Identity, KEY_BYTES, Sealer},
};

/// Does everything it is told, at once.
pub(crate) struct IdleOs;

impl Os for IdleOs {
    fn now(&self) -> Instant {
        Instant::from_millis(1_000)
    }
    async fn load(&self) -> Result<SavedState, String> {
        Ok(SavedState::default())
    }
    async fn persist(&self, _record: Record) -> Outcome {
        Outcome::Done
    }
    async fn run_script(&self, _module: ModuleId, _call: ScriptCall) -> ScriptEnd {
        ScriptEnd::Absent
    }
    async fn kill_scripts(&self, _module: ModuleId) -> Outcome {
        Outcome::Done
    }
    async fn address(&self, _module: ModuleId, _request: AddressRequest) -> Outcome {
        Outcome::Done
    }
    async fn filter(&self, _module: ModuleId, _request: FilterRequest) -> Outcome {
        Outcome::Done
    }
    async fn ping(&self, _targets: Vec<IpAddr>, _limit: Duration) -> bool {
        false
    }
    async fn probe(
        &self,
        _module: ModuleId,
        _checker: CheckerId,
        _what: Probe,
        _limit: Option<Duration>,
    ) -> Finding {
        Finding::Up
    }
    fn watch(&self, _module: ModuleId, _checker: CheckerId, _what: Probe) {}
    fn unwatch(&self, _module: ModuleId, _checker: CheckerId) {}
    fn reboot(&self, _module: ModuleId) {}
    async fn volume(&self, _module: ModuleId, _request: VolumeRequest) -> Outcome {
        Outcome::Done
    }
    fn guard(&self, _module: ModuleId, _until: Option<Instant>) {}
    fn notify(&self, _event: &Event) {}
}

/// A node without networks.
pub(crate) struct NoNet;

impl Net for NoNet {
    fn send(&self, _link: LinkId, _to: SocketAddr, _bytes: &[u8]) {}
    async fn receive(&self) -> Datagram {
        std::future::pending().await
    }
    fn try_receive(&self) -> Option<Datagram> {
        None
    }
}

/// The configuration of a node that knows nobody.
pub(crate) fn config() -> AgentConfig {
    let key = Redacted::new([3; KEY_BYTES]);
    let sealer = Sealer::new(Identity::of_node(ClusterId(1), NodeId(0), &key), 1);
    AgentConfig { incarnation: Incarnation(1), peers: Peers::new(), sealer }
}
