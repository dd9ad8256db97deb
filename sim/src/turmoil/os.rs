//! The operating system under the production agent: every order goes to the simulated machine.

use std::{collections::BTreeMap, net::IpAddr, rc::Rc, time::Duration};

use havre_core::{
    checks::probe::{Finding, Probe},
    effect::{
        AddressRequest, Outcome, Record, SavedState, ScriptCall, ScriptEnd, VolumeRequest,
        WitnessRecord,
    },
    event::Event,
    farm::table::FilterRequest,
    ids::{CheckerId, ModuleId},
    time::Instant,
};
use havre_runtime::{
    os::Os,
    witness::{Key, WitnessOs},
};

use super::cluster::witness_records;
use crate::{
    port::{Port, Saved, Wish},
    time::micros,
    volume::VolumeInput,
};

/// One host's.
pub(super) struct HostOs {
    port: Rc<Port>,
}

impl HostOs {
    pub(super) const fn new(port: Rc<Port>) -> Self {
        Self { port }
    }

    async fn sleep(&self, deadline: Instant) {
        if deadline > self.port.now() {
            self.port.node_alarm.wait(Some(deadline)).await;
        }
    }
}

impl Os for HostOs {
    fn now(&self) -> Instant {
        self.port.now()
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.sleep(deadline).await;
    }

    async fn load(&self) -> Result<SavedState, String> {
        Ok(self.port.birth.saved.clone())
    }

    async fn persist(&self, record: Record) -> Outcome {
        let record = Saved::Node(record);
        self.port.order(|op| Wish::Persist { op, record }).await
    }

    async fn run_script(&self, _module: ModuleId, call: ScriptCall) -> ScriptEnd {
        match self.port.order(|op| Wish::Script { op, call }).await {
            Outcome::Script(end) => end,
            other => ScriptEnd::NotStarted(format!("{other:?}")),
        }
    }

    async fn kill_scripts(&self, _module: ModuleId) -> Outcome {
        self.port.order(|op| Wish::KillScripts { op }).await
    }

    async fn address(&self, _module: ModuleId, request: AddressRequest) -> Outcome {
        self.port.order(|op| Wish::Address { op, request }).await
    }

    async fn filter(&self, _module: ModuleId, request: FilterRequest) -> Outcome {
        self.port.order(|op| Wish::Filter { op, request }).await
    }

    async fn ping(&self, _targets: Vec<IpAddr>, limit: Duration) -> bool {
        let limit_us = micros(limit);
        self.port.order(|op| Wish::Ping { op, limit_us }).await == Outcome::Reached(true)
    }

    async fn probe(
        &self,
        _module: ModuleId,
        checker: CheckerId,
        _what: Probe,
        limit: Option<Duration>,
    ) -> Finding {
        let limit_us = limit.map(micros);
        match self.port.order(|op| Wish::Probe { op, checker, limit_us }).await {
            Outcome::Probed(finding) => finding,
            other => Finding::Unable(format!("{other:?}")),
        }
    }

    fn watch(&self, _module: ModuleId, checker: CheckerId, _what: Probe) {
        self.port.wish(Wish::Watch(checker));
    }

    fn unwatch(&self, _module: ModuleId, checker: CheckerId) {
        self.port.wish(Wish::Unwatch(checker));
    }

    fn reboot(&self, _module: ModuleId) {
        self.port.wish(Wish::Reboot);
    }

    async fn volume(&self, _module: ModuleId, request: VolumeRequest) -> Outcome {
        let serves = matches!(request, VolumeRequest::Serve { .. });
        self.port.wish(Wish::Ordered(request.clone()));
        let (op, ended) = self.port.expect_end();
        self.port.volume_input(VolumeInput::Request { op, request });
        let outcome =
            ended.await.unwrap_or_else(|_| Outcome::Failed("the data path is gone".into()));
        if serves && outcome == Outcome::Done {
            self.port.wish(Wish::Serves);
        }
        outcome
    }

    fn guard(&self, _module: ModuleId, until: Option<Instant>) {
        self.port.wish(Wish::Guard(until));
    }

    fn notify(&self, event: &Event) {
        self.port.wish(Wish::News(event.clone()));
    }
}

impl WitnessOs for HostOs {
    fn now(&self) -> Instant {
        self.port.now()
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.sleep(deadline).await;
    }

    async fn load(&self) -> Result<BTreeMap<Key, WitnessRecord>, String> {
        Ok(witness_records(&self.port))
    }

    async fn persist(&self, (_, _): Key, record: WitnessRecord) -> bool {
        let record = Saved::Witness(record);
        self.port.order(|op| Wish::Persist { op, record }).await == Outcome::Done
    }
}
