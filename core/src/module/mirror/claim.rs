//! Consent: what this node answers a peer that wants to begin a generation without it.

use super::{Action, Data, Mirror, Mode, Purpose};
use crate::{
    machine::Out,
    module::record::Change,
    mutant::{self, Mutant},
    quorum,
    replication::generation::{CopyState, Relation, compare},
    status::{State, WaitReason},
    time::Instant,
    wire::message::{Claim, ClaimVerdict},
};

impl Mirror {
    pub(super) fn claimed(&mut self, now: Instant, claim: &Claim, out: &mut Out<Action>) {
        let nonce = claim.nonce;
        // A claim that the network kept back may be given up already: believe it only if the
        // peer's heartbeats agree, the next of which may be on its way. It is repeated as long as
        // it stands.
        let stands = self.peer.beat.as_ref().is_some_and(|b| b.wanting || b.serving);
        if !stands {
            self.peer.early = Some(claim.clone());
            return;
        }
        // Nor may this copy be judged while it moves on to another generation.
        if claim.promote && !claim.forced && self.keeper.advances() {
            return;
        }
        let verdict = self.judge(claim);
        if verdict != ClaimVerdict::Granted {
            out.push(Action::ClaimAnswer { nonce, verdict });
            return;
        }
        if let Mode::Acquiring { from, .. } = self.mode {
            // Both ask at once: the lower number goes first.
            out.push(Action::Quorum(quorum::Input::Release));
            self.give_up(now, from, WaitReason::PeerNotReady, out);
        }
        if claim.promote {
            self.promised_until = now + self.settings.timeout;
        }
        self.outdated = true;
        if let Mode::Secondary { data: Data::Ready } = self.mode {
            let data = Data::Detached;
            self.transition(now, Mode::Secondary { data }, "the primary goes on alone", out);
        }
        let consistent = self.keeper.durable().lineage.copy == CopyState::Consistent;
        let pending = self.keeper.pending().any(|p| matches!(p, Purpose::Consent { .. }));
        let settled = self.keeper.pending().next().is_none() && !consistent;
        if mutant::active(Mutant::ConsentBeforeDurable) || settled {
            out.push(Action::ClaimAnswer { nonce, verdict });
        }
        if !settled && !pending {
            self.persist(vec![Change::Outdated], Purpose::Consent { nonce }, out);
        }
    }

    fn judge(&self, claim: &Claim) -> ClaimVerdict {
        if self.serving() {
            return ClaimVerdict::RefusedServing;
        }
        if !claim.promote {
            return ClaimVerdict::Granted;
        }
        if matches!(self.mode, Mode::Acquiring { .. }) && self.settings.node < self.settings.peer {
            return ClaimVerdict::RefusedServing;
        }
        if claim.forced {
            return ClaimVerdict::Granted;
        }
        let Some(beat) = self.peer.beat.as_ref() else { return ClaimVerdict::RefusedLineage };
        if beat.signature != self.settings.signature {
            return ClaimVerdict::RefusedConfiguration;
        }
        let local = &self.lineage();
        let behind =
            local.copy == CopyState::Consistent && beat.lineage.copy != CopyState::Consistent;
        match compare(local, &beat.lineage) {
            Relation::Same if behind => ClaimVerdict::RefusedLineage,
            Relation::Same | Relation::RemoteNewer => ClaimVerdict::Granted,
            _ if !self.settings.shape.replicated => ClaimVerdict::Granted,
            // This copy claims nothing, and the peer's is whole.
            _ if local.copy != CopyState::Consistent
                && beat.lineage.copy == CopyState::Consistent =>
            {
                ClaimVerdict::Granted
            }
            _ => ClaimVerdict::RefusedLineage,
        }
    }

    /// That this copy is outdated is durable: consent.
    pub(super) fn consented(&mut self, nonce: u64, out: &mut Out<Action>) {
        // Between the claim and now this node may have become something else.
        let verdict =
            if self.serving() { ClaimVerdict::RefusedServing } else { ClaimVerdict::Granted };
        out.push(Action::ClaimAnswer { nonce, verdict });
    }

    /// The role shown to scripts when nothing else is known.
    pub(super) fn script_role(&self) -> State {
        self.role
    }
}
