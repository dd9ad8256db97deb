//! A toy operating system under whole daemons: scripts, addresses and data paths succeed at once,
//! records and logs are real.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    cell::RefCell,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant as Moment},
};

use anyhow::Result;
use havre_core::{
    checks::probe::{Finding, Probe},
    effect::{
        AddressRequest, Input, Outcome, Record, SavedState, ScriptCall, ScriptEnd, VolumeRequest,
    },
    event::Event,
    farm::table::FilterRequest,
    ids::{CheckerId, ModuleId},
    time::Instant,
};
use havre_runtime::{
    admin::{Snapshot, client::Client},
    daemon::{DaemonContext, Platform},
    events::report::Reporter,
    journal::Journal,
    os::Os,
    store::ModuleRecords,
};
use tokio::sync::watch;

/// Tells daemons to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// Makes one that has not been told.
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::channel(false).0))
    }

    /// Tells them.
    pub(crate) fn stop(&self) {
        self.0.send_replace(true);
    }

    async fn wait(&self) {
        if self.0.subscribe().wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Runs one exchange with a daemon.
pub(crate) fn ask<T>(client: &Client, exchange: impl AsyncFnOnce(&Client) -> T) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(exchange(client))
}

/// The picture of a node, if its daemon answers.
pub(crate) fn status(client: &Client) -> Option<Snapshot> {
    ask(client, async |client| client.status().await.ok())
}

/// Looks until there is something, for at most 20 s.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Moment::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Moment::now() < end, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The clock of all nodes.
pub(crate) fn clock() -> Instant {
    static START: std::sync::OnceLock<Moment> = std::sync::OnceLock::new();
    Instant::from_millis(3_600_000) + START.get_or_init(Moment::now).elapsed()
}

/// Does everything it is told, at once; keeps records and news on disk.
pub(crate) struct ToyOs {
    records: ModuleRecords,
    reporter: std::sync::Arc<Reporter>,
    journal: RefCell<Journal>,
}

impl Os for ToyOs {
    fn now(&self) -> Instant {
        clock()
    }
    async fn load(&self) -> Result<SavedState, String> {
        self.records.load().map(|(saved, _)| saved).map_err(|e| e.to_string())
    }
    async fn persist(&self, record: Record) -> Outcome {
        match self.records.save(&record) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
    async fn run_script(&self, _module: ModuleId, _call: ScriptCall) -> ScriptEnd {
        ScriptEnd::Exited(0)
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
    fn notify(&self, event: &Event) {
        self.reporter.report(event);
    }
    fn journal(&self, now: Instant, input: Option<&Input>) {
        self.journal.borrow_mut().take(now, input);
    }
}

/// Makes toy operating systems.
pub(crate) struct ToyPlatform {
    /// Told when the daemon is to end.
    pub(crate) stop: Stop,
}

impl Platform for ToyPlatform {
    type Os = ToyOs;

    fn clock(&self) -> fn() -> Instant {
        clock
    }
    async fn os(&self, context: DaemonContext) -> Result<Rc<ToyOs>> {
        let DaemonContext { records, reporter, journal, .. } = context;
        Ok(Rc::new(ToyOs { records, reporter, journal: RefCell::new(journal) }))
    }
    async fn stop_requested(&self) {
        self.stop.wait().await;
    }
}
