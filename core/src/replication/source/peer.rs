//! The target, as the source sees it: let in, acknowledging, lost.

use super::{Health, Mode, PeerInput, Source, SourceAction};
use crate::{
    effect::VolumeNews,
    ids::Seq,
    machine::{Out, earliest},
    replication::{
        intent::MarkId,
        source::resync::Resync,
        stream::{Element, Hello, STREAM_PROTOCOL, ToTarget},
    },
    time::Instant,
};

impl Source {
    pub(super) fn peer(&mut self, now: Instant, input: PeerInput, out: &mut Out<SourceAction>) {
        match input {
            PeerInput::Connected(hello) => self.connect(now, &hello, out),
            PeerInput::Marks { marks, last } => self.peer_marks(now, &marks, last, out),
            PeerInput::Ack { received, durable } => self.acknowledged(now, received, durable, out),
            PeerInput::Gone { reason } => self.lose(now, reason, out),
        }
    }

    fn connect(&mut self, now: Instant, hello: &Hello, out: &mut Out<SourceAction>) {
        if self.connected {
            // The new connection has replaced the old one: there is nothing to close.
            self.connected = false;
            self.lose(now, "the other node connected anew".into(), out);
        }
        if let Some(reason) = self.refusal(hello) {
            out.push(SourceAction::Send(ToTarget::Refused { reason }));
            out.push(SourceAction::Disconnect);
            return;
        }
        self.connected = true;
        self.received_at = now;
        self.durable_at = now;
        let resumable = hello.resume.filter(|resume| {
            matches!(self.mode, Mode::Orphaned)
                && resume.session == self.session
                && self.window.can_resume(resume.received)
        });
        match resumable {
            Some(resume) => self.resume(now, resume.received, out),
            None => self.start_resync(now, out),
        }
    }

    fn refusal(&self, hello: &Hello) -> Option<String> {
        let Some(_) = self.admission else {
            return Some("the primary does not expect a secondary yet".into());
        };
        if self.health != Health::Sound || self.closing.is_some() {
            return Some("the primary is stopping".into());
        }
        if hello.protocol < 1 || hello.module != self.config.module {
            return Some(format!(
                "expected module {} and protocol 1 to {STREAM_PROTOCOL}, got {} and {}",
                self.config.module, hello.module, hello.protocol
            ));
        }
        if hello.signature != self.config.signature {
            return Some(format!(
                "the configurations differ: {:016x} here, {:016x} on the other node",
                self.config.signature, hello.signature
            ));
        }
        (hello.generation != self.generation)
            .then(|| format!("the primary is at {}, not at {}", self.generation, hello.generation))
    }

    fn accept(&self, protocol: u16, after: Seq, resumed: bool, full: bool) -> SourceAction {
        let session = self.session;
        SourceAction::Send(ToTarget::Accept { protocol, session, after, resumed, full })
    }

    fn resume(&mut self, now: Instant, received: Seq, out: &mut Out<SourceAction>) {
        out.push(self.accept(STREAM_PROTOCOL, received, true, false));
        out.push(SourceAction::Resend { after: received });
        self.mode = Mode::Enlisted;
        self.announce_caught_up(now, 0, out);
        self.acknowledged(now, received, self.window.durable(), out);
    }

    fn start_resync(&mut self, now: Instant, out: &mut Out<SourceAction>) {
        let stalled = matches!(self.mode, Mode::Orphaned);
        self.forget_shipped(out);
        self.session = self.rng.next_u64();
        let full = self.admission.is_some_and(|admission| admission.full);
        out.push(self.accept(STREAM_PROTOCOL, self.window.last(), false, full));
        let mut resync = Resync::new(now, stalled);
        if full {
            // Durable before the first item is copied: a cut resynchronisation stays full.
            resync.wait_for(self.intent.add(MarkId::EVERYTHING));
        }
        self.mode = Mode::Resyncing(Box::new(resync));
        self.persist_marks(out);
        self.pump(now, out);
    }

    pub(super) fn announce_caught_up(
        &mut self,
        now: Instant,
        bytes_copied: u64,
        out: &mut Out<SourceAction>,
    ) {
        let generation = self.generation;
        self.ship_element(Element::CaughtUp { generation, bytes_copied }, now, out);
        out.push(SourceAction::News(VolumeNews::CaughtUp { generation, bytes_copied }));
    }

    fn acknowledged(
        &mut self,
        now: Instant,
        received: Seq,
        durable: Seq,
        out: &mut Out<SourceAction>,
    ) {
        if !self.connected {
            return;
        }
        let before = (self.window.received(), self.window.durable());
        if let Err(error) = self.window.acknowledge(received, durable) {
            self.lose(now, error.to_string(), out);
            return;
        }
        if self.window.received() > before.0 {
            self.received_at = now;
        }
        if self.window.durable() > before.1 {
            self.durable_at = now;
        }
        if matches!(self.mode, Mode::Enlisted) {
            self.release_acknowledged(out);
        }
        self.checkpoint_acknowledged(out);
        if !self.held.is_empty() {
            self.pump(now, out);
        }
    }

    /// The target is gone or useless.
    pub(super) fn lose(&mut self, now: Instant, reason: String, out: &mut Out<SourceAction>) {
        if self.connected {
            self.connected = false;
            out.push(SourceAction::Disconnect);
        }
        let stalled = match &self.mode {
            Mode::Solo | Mode::Orphaned => return,
            Mode::Enlisted => None,
            Mode::Resyncing(resync) => Some(resync.stalled),
        };
        out.push(SourceAction::News(VolumeNews::PeerLost { reason }));
        match stalled {
            None => self.mode = Mode::Orphaned,
            Some(stalled) => {
                self.forget_shipped(out);
                self.mode = if stalled { Mode::Orphaned } else { Mode::Solo };
                // What was shipped is forgotten, so no stream can be resumed.
                self.session = self.rng.next_u64();
            }
        }
        self.pump(now, out);
    }

    pub(super) fn peer_deadline(&self) -> Option<Instant> {
        if !self.connected {
            return None;
        }
        let receipt = self.window.is_waiting().then(|| self.received_at + self.config.send_timeout);
        let asked = !self.awaiting_durable.is_empty()
            || self.closing.is_some()
            || matches!(&self.mode, Mode::Resyncing(resync) if resync.waits_for_target());
        let heard = self.durable_at.max(self.received_at_if_resyncing());
        let answer = asked.then(|| heard + self.config.lock_timeout);
        earliest(receipt, answer)
    }

    /// While items are copied, receipt is an answer too: the disk is asked at the end.
    fn received_at_if_resyncing(&self) -> Instant {
        match self.mode {
            Mode::Resyncing(_) => self.received_at,
            _ => Instant::ZERO,
        }
    }

    pub(super) fn check_peer(&mut self, now: Instant, out: &mut Out<SourceAction>) {
        if self.peer_deadline().is_some_and(|deadline| deadline <= now) {
            let reason = format!(
                "the other node did not answer within its time limit (sendtimeout {} s, \
                 locktimeout {} s)",
                self.config.send_timeout.as_secs(),
                self.config.lock_timeout.as_secs()
            );
            self.lose(now, reason, out);
        }
    }
}
