//! What the agent asks of the operating system. Implemented by Linux, by Windows and by the
//! simulator.
//!
//! All futures run on one thread (a `LocalSet`), need not be `Send`, and are dropped when the
//! agent ends. A fault of the environment is a value ([`Outcome::Failed`]), never a panic.

use std::{net::IpAddr, time::Duration};

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

use crate::modules::Module;

/// The operating system under one agent.
#[expect(async_fn_in_trait, reason = "agents are single-threaded: futures need not be Send")]
pub trait Os: 'static {
    /// The present moment on this node's boot clock, time asleep included.
    fn now(&self) -> Instant;

    /// Returns at `deadline` or a little later.
    ///
    /// The agent reads the clock again afterwards, so that returning early is harmless. A system
    /// whose boot clock runs apart from tokio's (suspended machine, simulated drift) overrides
    /// this.
    async fn sleep_until(&self, deadline: Instant) {
        tokio::time::sleep(deadline.since(self.now())).await;
    }

    /// Reads what earlier runs made durable. Called once, before anything is decided.
    ///
    /// # Errors
    /// The records cannot be read; the text says why and what to do. The agent does not start.
    async fn load(&self) -> Result<SavedState, String>;

    /// Makes a record durable. [`Outcome::Done`] only after it would survive a power cut.
    ///
    /// Called for one record at a time, in the order of the orders.
    async fn persist(&self, record: Record) -> Outcome;

    /// Runs a script of a module in a process group of its own, and kills that group at the
    /// call's limit. Several calls may be pending at once.
    async fn run_script(&self, module: ModuleId, call: ScriptCall) -> ScriptEnd;

    /// Kills every process that scripts of this module started and that still runs.
    async fn kill_scripts(&self, module: ModuleId) -> Outcome;

    /// Sets, removes or announces virtual addresses. One request of a module at a time, in order.
    async fn address(&self, module: ModuleId, request: AddressRequest) -> Outcome;

    /// Changes how packets to virtual addresses are judged. One request of a module at a time, in
    /// order, with one exception: [`FilterRequest::Clear`] is asked at once, even while another
    /// request of the same module is pending, which is then void.
    async fn filter(&self, module: ModuleId, request: FilterRequest) -> Outcome;

    /// Whether any of these hosts answers within `limit`.
    async fn ping(&self, targets: Vec<IpAddr>, limit: Duration) -> bool;

    /// Asks something for a checker, for at most `limit`. Several may be pending at once; those of
    /// a checker may be given up when [`unwatch`](Self::unwatch) is called for it.
    async fn probe(
        &self,
        module: ModuleId,
        checker: CheckerId,
        what: Probe,
        limit: Option<Duration>,
    ) -> Finding;

    /// Begins to watch something for a checker: what is found, at first and whenever it changes,
    /// is put into the agent's inbox ([`Inbox::checked`](crate::agent::Inbox::checked)). Must
    /// return at once; what cannot be watched is only asked for from time to time.
    fn watch(&self, module: ModuleId, checker: CheckerId, what: Probe);

    /// Ends the watch of a checker, and kills its program. Must return at once.
    fn unwatch(&self, module: ModuleId, checker: CheckerId);

    /// Reboots this machine because of a module. Must return at once.
    fn reboot(&self, module: ModuleId);

    /// Carries out an order to a module's data path. One request of a module at a time, in
    /// order, with one exception: [`VolumeRequest::Fence`] is asked at once, even while another
    /// request of the same module is pending.
    async fn volume(&self, module: ModuleId, request: VolumeRequest) -> Outcome;

    /// Tells the independent guard until when a module may serve here; `None`: it serves nothing.
    /// Must return at once.
    fn guard(&self, module: ModuleId, until: Option<Instant>);

    /// Takes what scripts are told, of a module whose configuration has changed while it runs.
    /// Nothing else of such a change concerns the operating system.
    fn configure(&self, module: &Module) {
        let _ = module;
    }

    /// Takes news: log, trace, watchers. Must return at once.
    fn notify(&self, event: &Event);

    /// Takes one entry of the input journal: a fact, or `None` for the passing of time. Must
    /// return at once; may drop entries rather than wait. Does nothing unless overridden.
    fn journal(&self, now: Instant, input: Option<&Input>) {
        let _ = (now, input);
    }
}
