//! Drives the data paths of the nodes: their disks, their streams, the calls of the application.

use havre_core::{
    effect::{Input, Outcome, VolumeRequest},
    ids::{NodeId, OpId},
    machine::Out,
};

use crate::{
    direct::{
        Direct, MODULE,
        event::{Event, Work},
        machine::{Daemon, host_of},
    },
    disk::DiskDone,
    fact::Fact,
    net::{
        HostId,
        stream::{BREAK_AFTER_US, Step, StreamId},
    },
    time::SimTime,
    volume::{Call, CallId, VolumeAction, VolumeInput},
};

/// Pause between two attempts of a connecting kernel.
const CONNECT_RETRY_US: u64 = 1_000_000;

impl Direct<'_> {
    /// An order of the node to its data path.
    pub(super) fn volume_order(&mut self, host: HostId, op: OpId, request: VolumeRequest) {
        self.fact(Fact::VolumeOrdered(host, request.clone()));
        if let (VolumeRequest::Serve { .. }, Some(daemon)) =
            (&request, self.machines[host.index()].node_mut())
        {
            daemon.serving = Some(op);
        }
        self.volume_input(host, VolumeInput::Request { op, request });
    }

    /// A call of the application; whether the daemon is there to take it.
    pub(super) fn volume_call(&mut self, host: HostId, id: CallId, call: Call) {
        self.volume_input(host, VolumeInput::Call { id, call });
    }

    pub(super) fn volume_disk_done(&mut self, host: HostId, io: u64, done: DiskDone) {
        self.volume_input(host, VolumeInput::Disk { id: io, done });
    }

    pub(super) fn volume_input(&mut self, host: HostId, input: VolumeInput) {
        let Some(input) = self.hosted_volume(host, input) else { return };
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        let local = machine.clock.local(now);
        let Some(daemon) = machine.node_mut() else { return };
        let mut out = std::mem::take(&mut daemon.volume_out);
        daemon.volume.handle(local, input, &mut out);
        self.volume_actions(host, out);
    }

    /// The data path's deadline may have come.
    pub(super) fn wake_volume(&mut self, host: HostId) {
        if self.hosted_wakes(host, 1) {
            return;
        }
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        let local = machine.clock.local(now);
        let Some(daemon) = machine.node_mut() else { return };
        daemon.volume_wake = None;
        let mut out = std::mem::take(&mut daemon.volume_out);
        if daemon.volume.deadline().is_some_and(|at| local >= at) {
            daemon.volume.handle_timeout(local, &mut out);
        }
        self.volume_actions(host, out);
    }

    fn volume_actions(&mut self, host: HostId, mut out: Out<VolumeAction>) {
        let run = self.machines[host.index()].run;
        for action in out.drain() {
            self.volume_action(host, action);
        }
        let now = self.now;
        let machine = &mut self.machines[host.index()];
        if machine.run != run {
            return;
        }
        let clock = machine.clock;
        let Some(daemon) = machine.node_mut() else { return };
        daemon.volume_out = out;
        let Some(deadline) = daemon.volume.deadline() else { return };
        let at = clock.when(deadline).max(now.plus_micros(1));
        if daemon.volume_wake.is_none_or(|wake| at < wake) {
            daemon.volume_wake = Some(at);
            self.at(at, Event::Host { host, run, work: Work::WakeVolume, delayed: false });
        }
    }

    fn volume_action(&mut self, host: HostId, action: VolumeAction) {
        match action {
            VolumeAction::Disk { id, op } => {
                let now = self.now;
                let machine = &mut self.machines[host.index()];
                let submitted = machine.disk.submit(now, op);
                let Daemon::Node(daemon) = &mut machine.daemon else { return };
                daemon.volume_io.insert(submitted.ticket.0, id);
                self.await_disk(host, Some(submitted));
            }
            VolumeAction::Connect { peer } => self.stream_wanted(host, peer),
            VolumeAction::Send(frame) => {
                let Some(id) = self.machines[host.index()].node_mut().and_then(|d| d.stream) else {
                    return;
                };
                let head = self.streams.send(self.now, id, host, frame, &self.net);
                if let Some((side, at)) = head {
                    self.at(at, Event::Stream { id, side });
                }
            }
            VolumeAction::Disconnect => {
                let Some(daemon) = self.machines[host.index()].node_mut() else { return };
                daemon.connecting = None;
                if let Some(id) = daemon.stream.take() {
                    self.close_stream(host, id, true);
                }
            }
            // The rest becomes input of somebody else a moment later, never within this call.
            VolumeAction::Answer { id, answer } => {
                self.later(host, 1, Work::Answered { id, answer });
            }
            VolumeAction::Completed { op, outcome } => {
                self.later(host, 1, Work::VolumeCompleted { op, outcome });
            }
            VolumeAction::News(news) => self.later(host, 1, Work::VolumeNews(news)),
        }
    }

    /// The data path has carried out an order.
    pub(super) fn volume_completed(&mut self, host: HostId, op: OpId, outcome: Outcome) {
        let serves = self.machines[host.index()].node().is_some_and(|d| d.serving == Some(op));
        if serves && outcome == Outcome::Done {
            self.app_goes_on(host);
        }
        self.completed(host, op, outcome);
    }

    /// The data path told its node something.
    pub(super) fn volume_news(&mut self, host: HostId, news: havre_core::effect::VolumeNews) {
        self.fact(Fact::VolumeTold(host, news.clone()));
        self.node_input(host, Input::Volume { module: MODULE, news });
    }

    fn stream_wanted(&mut self, host: HostId, peer: NodeId) {
        let machine = &mut self.machines[host.index()];
        let run = machine.run;
        let delay = machine.draw(200, 2_000);
        let Some(daemon) = machine.node_mut() else { return };
        daemon.attempts += 1;
        let attempt = daemon.attempts;
        daemon.connecting = Some(attempt);
        let old = daemon.stream.take();
        if let Some(old) = old {
            self.close_stream(host, old, true);
        }
        let event = Event::Opening { from: host, run, attempt, to: host_of(peer), since: self.now };
        self.at(self.now.plus_micros(delay), event);
    }

    /// A connecting kernel knocks.
    pub(super) fn stream_opens(
        &mut self,
        from: HostId,
        run: u32,
        attempt: u64,
        to: HostId,
        since: SimTime,
    ) {
        let machine = &self.machines[from.index()];
        let wanted = machine.node().is_some_and(|d| d.connecting == Some(attempt));
        if machine.run != run || !wanted {
            return;
        }
        let open = self.net.arrives(0, from, to) && self.net.arrives(0, to, from);
        if !open || !self.machines[to.index()].powered {
            let tried = self.now.since(since).as_micros() as u64;
            if tried >= BREAK_AFTER_US {
                return self.works(from, Work::NotConnected { attempt });
            }
            let event = Event::Opening { from, run, attempt, to, since };
            return self.at(self.now.plus_micros(CONNECT_RETRY_US), event);
        }
        if !self.daemon_runs(to) {
            return self.works(from, Work::NotConnected { attempt });
        }
        let id = self.streams.open(from, to);
        self.works(to, Work::Incoming { stream: id });
        let delay = self.machines[from.index()].draw(100, 1_000);
        self.later(from, delay, Work::Connected { stream: id, attempt });
    }

    /// The peer's data path connected: an earlier stream is gone.
    pub(super) fn incoming(&mut self, host: HostId, stream: StreamId) {
        let Some(daemon) = self.machines[host.index()].node_mut() else { return };
        let old = daemon.stream.replace(stream);
        if let Some(old) = old {
            self.close_stream(host, old, true);
        }
        self.volume_input(host, VolumeInput::Connected);
    }

    /// The stream that was asked for stands.
    pub(super) fn connected(&mut self, host: HostId, stream: StreamId, attempt: u64) {
        let Some(daemon) = self.machines[host.index()].node_mut() else { return };
        if daemon.connecting != Some(attempt) {
            return self.close_stream(host, stream, true);
        }
        daemon.connecting = None;
        daemon.stream = Some(stream);
        self.volume_input(host, VolumeInput::Connected);
    }

    /// The stream that was asked for could not be opened.
    pub(super) fn not_connected(&mut self, host: HostId, attempt: u64) {
        let Some(daemon) = self.machines[host.index()].node_mut() else { return };
        if daemon.connecting == Some(attempt) {
            daemon.connecting = None;
            let reason = "cannot connect".into();
            self.volume_input(host, VolumeInput::Disconnected { reason });
        }
    }

    /// The head of one direction of a stream is due.
    pub(super) fn stream_step(&mut self, id: StreamId, side: usize) {
        match self.streams.step(self.now, id, side, &mut self.net) {
            Step::Arrived { chunk, to, next } => {
                if let Some(at) = next {
                    self.at(at, Event::Stream { id, side });
                }
                self.works(to, Work::Chunk { stream: id, frame: Box::new(chunk) });
            }
            Step::Blocked(at) => self.at(at, Event::Stream { id, side }),
            Step::Broken => {
                for host in HostId::DATA {
                    self.at(self.now, Event::StreamGone { id, host });
                }
            }
            Step::Idle => {}
        }
    }

    /// A frame came in.
    pub(super) fn chunk(&mut self, host: HostId, stream: StreamId, frame: crate::volume::Frame) {
        if self.machines[host.index()].node().is_some_and(|d| d.stream == Some(stream)) {
            self.volume_input(host, VolumeInput::Frame(frame));
        }
    }

    /// One end of a stream learns that it is gone.
    pub(super) fn stream_gone(&mut self, id: StreamId, host: HostId) {
        if self.streams.peer(id, host).is_some() {
            self.streams.close(id, host);
            self.works(host, Work::Closed { stream: id });
        }
    }

    pub(super) fn closed(&mut self, host: HostId, stream: StreamId) {
        let Some(daemon) = self.machines[host.index()].node_mut() else { return };
        if daemon.stream == Some(stream) {
            daemon.stream = None;
            let reason = "the connection ended".into();
            self.volume_input(host, VolumeInput::Disconnected { reason });
        }
    }

    /// Closes one end. `told`: the kernel lives to say so; otherwise, and through a cut, the
    /// other end finds out by its own keep-alive.
    pub(super) fn close_stream(&mut self, host: HostId, id: StreamId, told: bool) {
        let Some(other) = self.streams.close(id, host) else { return };
        let passes = told && self.net.is_open(0, host, other);
        let (low, high) = self.net.weather(0, host, other).delay_us;
        let delay = if passes {
            // After everything that was sent before.
            self.streams.drained_after(id, host, self.now)
                + self.machines[host.index()].draw(low, high)
        } else {
            BREAK_AFTER_US + self.machines[host.index()].draw(0, 1_000_000)
        };
        self.at(self.now.plus_micros(delay), Event::StreamGone { id, host: other });
    }
}
