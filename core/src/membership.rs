//! Decides whether a module's peer is alive, from heartbeats over several networks.
//!
//! One instance per module, because each module sets its own time-outs. The peer is alive while
//! any network carries its heartbeats. Sending them is [`link`]'s concern.
//!
//! ```text
//!             heartbeat                silence on every link
//!   unheard ------------> alive  <------------------------> silent
//! ```
//!
//! A node that was itself not scheduled for a while must not blame its peer: when a time-out is
//! noticed late, each link gets one grace of a few pulses (measured need: peers that only shorten
//! their intervals fail over falsely under load, docs/performance.md).

pub mod link;

use std::{collections::BTreeMap, time::Duration};

use crate::{
    config::cluster::LinkTiming,
    ids::LinkId,
    machine::{Machine, Out},
    time::Instant,
};

/// Lateness of our own wake-up from which on silence is not believed at once.
const LATE_MIN: Duration = Duration::from_millis(20);
/// Pulses that a link gets to prove itself after a late wake-up.
const GRACE_PULSES: u32 = 2;

/// How long after a change of the configuration the longer time-out counts.
const CHANGE_GRACE: Duration = Duration::from_secs(20);

/// Facts about heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A new heartbeat of the peer arrived on this network.
    Heard(LinkId),
}

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A network began or ceased to carry the peer's heartbeats.
    LinkChanged {
        /// The network.
        link: LinkId,
        /// Whether it carries heartbeats now.
        up: bool,
    },
    /// The peer is heard on at least one network.
    PeerAlive,
    /// The peer is heard on none.
    PeerSilent,
}

#[derive(Debug, Clone)]
struct Watch {
    timing: LinkTiming,
    /// A shorter time-out that begins at a moment, after a change of the configuration.
    sooner: Option<(Instant, Duration)>,
    up: bool,
    expires: Instant,
    graced: bool,
}

/// Liveness of one peer as one module judges it.
#[derive(Debug, Clone)]
pub struct Membership {
    links: BTreeMap<LinkId, Watch>,
    alive: bool,
}

impl Membership {
    /// Watches the peer on these networks.
    pub fn new(links: impl IntoIterator<Item = (LinkId, LinkTiming)>) -> Self {
        let links = links
            .into_iter()
            .map(|(id, timing)| {
                (
                    id,
                    Watch {
                        timing,
                        sooner: None,
                        up: false,
                        expires: Instant::FAR_FUTURE,
                        graced: false,
                    },
                )
            })
            .collect();
        Self { links, alive: false }
    }

    /// Watches the peer on these networks from now on. The peer may get the new settings later:
    /// for a while the longer of the two time-outs counts.
    pub fn configure(
        &mut self,
        now: Instant,
        links: impl IntoIterator<Item = (LinkId, LinkTiming)>,
    ) {
        let mut before = std::mem::take(&mut self.links);
        for (link, timing) in links {
            let watch = match before.remove(&link) {
                Some(mut watch) => {
                    let longer = timing.timeout.max(watch.timing.timeout);
                    watch.sooner = Some((now + CHANGE_GRACE, timing.timeout));
                    watch.timing = LinkTiming { timeout: longer, ..timing };
                    watch
                }
                None => Watch {
                    timing,
                    sooner: None,
                    up: false,
                    expires: Instant::FAR_FUTURE,
                    graced: false,
                },
            };
            self.links.insert(link, watch);
        }
    }

    /// Whether the peer is heard on any network.
    pub fn alive(&self) -> bool {
        self.alive
    }

    /// Whether heartbeats arrive on this network.
    pub fn link_up(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(|w| w.up)
    }

    /// The networks watched.
    pub fn links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.links.keys().copied()
    }

    fn settle(&mut self, out: &mut Out<Action>) {
        let alive = self.links.values().any(|w| w.up);
        if alive != self.alive {
            self.alive = alive;
            out.push(if alive { Action::PeerAlive } else { Action::PeerSilent });
        }
    }
}

impl Machine for Membership {
    type Input = Input;
    type Action = Action;

    fn handle(&mut self, now: Instant, input: Input, out: &mut Out<Action>) {
        let Input::Heard(link) = input;
        let Some(watch) = self.links.get_mut(&link) else { return };
        if let Some((_, timeout)) = watch.sooner.take_if(|(at, _)| now >= *at) {
            watch.timing.timeout = timeout;
        }
        watch.expires = now + watch.timing.timeout;
        watch.graced = false;
        if !watch.up {
            watch.up = true;
            out.push(Action::LinkChanged { link, up: true });
        }
        self.settle(out);
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Out<Action>) {
        for (&link, watch) in &mut self.links {
            if !watch.up || now < watch.expires {
                continue;
            }
            if !watch.graced && now.since(watch.expires) >= LATE_MIN {
                watch.graced = true;
                watch.expires = now + watch.timing.pulse * GRACE_PULSES;
                continue;
            }
            watch.up = false;
            watch.expires = Instant::FAR_FUTURE;
            out.push(Action::LinkChanged { link, up: false });
        }
        self.settle(out);
    }

    fn deadline(&self) -> Option<Instant> {
        self.links.values().filter(|w| w.up).map(|w| w.expires).min()
    }
}
