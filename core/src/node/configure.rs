//! New settings for modules that run.

use std::time::Duration;

use super::{Node, pulses_of};
use crate::{
    config::difference::needs_stop,
    effect::{Answer, Effect},
    ids::{LinkId, ModuleId},
    machine::Out,
    module::ModuleSetup,
    time::Instant,
};

/// How long a node goes on sending as often as before: its peer may get the new time-outs later.
pub(super) const PULSE_GRACE: Duration = Duration::from_secs(30);

impl Node {
    /// Takes a new configuration of a module, if it may change now.
    pub(super) fn configure(
        &mut self,
        now: Instant,
        id: ModuleId,
        setup: ModuleSetup,
        out: &mut Out<Effect>,
    ) -> Answer {
        let refused = |text: &str| Answer::Refused(format!("module {}: {text}", setup.name));
        let (Some(module), Some(old)) = (self.modules.get_mut(&id), self.config.modules.get(&id))
        else {
            return refused("it is not run by this node");
        };
        if needs_stop(&old.config, &setup.config) || old.name != setup.name {
            return refused("such a change needs a stop");
        }
        if let Some(why) = module.busy() {
            return refused(&format!("{why}; try again when it does not, or stop it first"));
        }
        module.configure(now, (id, &setup), (&self.config.cluster, self.config.node), out);
        self.config.modules.insert(id, setup);
        let wanted = pulses_of(&self.config, false);
        let faster = |(link, pulse): (&LinkId, &Duration)| {
            let before = self.pulses.get(link).copied();
            (*link, before.map_or(*pulse, |before| before.min(*pulse)))
        };
        self.pulses = wanted.iter().map(faster).collect();
        for peer in self.peers.values_mut() {
            peer.use_links(&self.pulses, now);
        }
        self.slower = Some((now + PULSE_GRACE, wanted));
        Answer::Accepted
    }

    /// Sends as seldom as the configuration says, once the peers must have it too.
    pub(super) fn slow_down(&mut self, now: Instant) {
        if let Some((_, pulses)) = self.slower.take_if(|(at, _)| now >= *at) {
            self.pulses = pulses;
        }
    }
}
