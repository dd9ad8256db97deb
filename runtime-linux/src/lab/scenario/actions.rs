//! The steps of a plan, done to real machines, and what they hit.

use std::{fs, io::Write, time::Duration};

use anyhow::{Context, Result};
use havre_core::effect::ModuleOrder;
use havre_runtime::admin::client::ClientError;
use havre_sim::{
    disk::Cut,
    fact::Fact,
    net::{HostId, Weather},
    plan::{Action, ScriptFault, ScriptKind, Selector},
};

use super::{Run, stage::MODULE};
use crate::lab::firewall::{Firewall, Hits, Link};

/// What is done at a moment.
#[derive(Debug, Clone)]
pub(super) enum Due {
    /// A step fires.
    Step(usize),
    /// Power returns, or a dead daemon is started.
    Return(HostId),
    /// A machine that stands still goes on.
    Thaw(HostId),
    /// Losses on these links end.
    Lossless(Vec<Link>),
    /// An administrator starts a module that was stopped.
    StartIfStopped(HostId),
}

/// How what a step hit is counted.
#[derive(Debug, Clone)]
pub(super) enum Probe {
    /// Counted when it fired.
    Fixed(u64),
    /// Frames dropped on these links since.
    Dropped(Vec<Link>, u64),
    /// Frames seen on these links since.
    Seen(Vec<Link>, u64),
    /// Scripts spoiled on these hosts since.
    Scripts(Vec<HostId>, u64),
}

/// The words of the daemon's interface for an order: name, full copy, force.
fn words_of(order: ModuleOrder) -> Option<(&'static str, bool, bool)> {
    Some(match order {
        ModuleOrder::Start => ("start", false, false),
        ModuleOrder::Prim { full_resync, force } => ("prim", full_resync, force),
        ModuleOrder::Second { full_resync } => ("second", full_resync, false),
        ModuleOrder::Stop => ("stop", false, false),
        ModuleOrder::ForceStop => ("forcestop", false, false),
        ModuleOrder::Restart => ("restart", false, false),
        ModuleOrder::StopStart => ("stopstart", false, false),
        ModuleOrder::Swap => ("swap", false, false),
        #[allow(unreachable_patterns, reason = "orders of farms come")]
        _ => return None,
    })
}

impl Run<'_> {
    pub(super) fn perform(&mut self, due: Due) -> Result<()> {
        match due {
            Due::Step(index) => self.perform_step(index),
            Due::Return(host) => self.power_on(host).map(drop),
            Due::Thaw(host) => self.thaw(host).map(drop),
            Due::Lossless(links) => self.lose(&links, self.plan.setup.weather.loss_ppm),
            Due::StartIfStopped(host) => {
                let stopped = self.stage.status(host);
                if stopped.is_some_and(|s| s.state == havre_core::status::State::Stop) {
                    self.order(host, ModuleOrder::Start)?;
                }
                Ok(())
            }
        }
    }

    /// Performs a step that is no look at conditions.
    pub(super) fn act(&mut self, index: usize, action: &Action) -> Result<Probe> {
        match action {
            Action::Cut { from, to, both, net } => {
                let pairs = self.pairs(*from, *to, *both);
                self.cut(index, &pairs, *net)
            }
            Action::Heal { from, to } => {
                let links = self.links(&self.pairs(*from, *to, true), None);
                self.firewall.cut(self.stage.cluster.lab(), &links, false)?;
                Ok(Probe::Fixed(1))
            }
            Action::HealAll => {
                self.firewall.heal(self.stage.cluster.lab())?;
                Ok(Probe::Fixed(1))
            }
            Action::Isolate(who) => {
                let inside = self.hosts(*who, &[]);
                let outside = HostId::ALL.into_iter().filter(|host| !inside.contains(host));
                let pairs: Vec<_> = outside
                    .flat_map(|out| {
                        inside.iter().flat_map(move |within| [(out, *within), (*within, out)])
                    })
                    .collect();
                self.cut(index, &pairs, None)
            }
            Action::PowerCut { who, in_write, back_after } => {
                if *in_write {
                    self.skip(index, "nobody knows when the disk writes (the power is cut now)");
                }
                self.each(*who, *back_after, Due::Return, Self::power_off)
            }
            Action::PowerOn(who) => self.each(*who, None, Due::Return, Self::power_on),
            Action::Crash { who, back_after } => {
                self.each(*who, *back_after, Due::Return, Self::crash)
            }
            Action::Pause { who, span } => self.each(*who, *span, Due::Thaw, Self::freeze),
            Action::Resume(who) => self.each(*who, None, Due::Thaw, Self::thaw),
            action => self.act_more(index, action),
        }
    }

    fn act_more(&mut self, index: usize, action: &Action) -> Result<Probe> {
        match action {
            Action::Slow { .. } => self.skip(index, "processors are as fast as they are"),
            Action::Drift { .. } => self.skip(index, "all machines have one clock"),
            Action::Disk { .. } => self.skip(index, "disks of this machine do not fail on demand"),
            Action::Weather { from, to, weather, span } => {
                let links = self.links(&self.pairs(*from, *to, true), None);
                return self.weather(index, links, weather, *span);
            }
            Action::Script { who, kind, fault, times } => {
                let hosts = self.hosts(*who, &[]);
                let hosts: Vec<HostId> = hosts.into_iter().filter(|h| h.index() < 2).collect();
                let before = self.scripts_hit(&hosts);
                for host in &hosts {
                    self.spoil(*host, *kind, *fault, *times)?;
                }
                return Ok(Probe::Scripts(hosts, before));
            }
            Action::Order { who, order } => {
                return self.each(*who, None, Due::Return, |run, host| run.order(host, *order));
            }
            Action::Write(who) => {
                let hosts = self.hosts(*who, &[]);
                for host in hosts.into_iter().filter(|host| host.index() < 2) {
                    self.wrote.insert(host, self.stage.write(host));
                }
            }
            Action::Load(on) => self.load.switch(&self.stage, *on)?,
            Action::Calm => self.calm()?,
            Action::Settled => self.settled = true,
            Action::Expect { .. } | Action::Hold { .. } | Action::End => {}
            #[allow(unreachable_patterns, reason = "steps of farms and checkers come")]
            _ => self.skip(index, "this laboratory does not know the step"),
        }
        Ok(Probe::Fixed(1))
    }

    /// Does something to each machine that is meant, and undoes it later; counts the hits.
    fn each(
        &mut self,
        who: Selector,
        undo_after: Option<Duration>,
        undo: impl Fn(HostId) -> Due,
        what: impl Fn(&mut Self, HostId) -> Result<bool>,
    ) -> Result<Probe> {
        let mut hits = 0;
        for host in self.hosts(who, &[]) {
            if self.stage.machine(host).is_none() || host == HostId::R || host == HostId::C {
                continue;
            }
            hits += u64::from(what(self, host)?);
            if let Some(span) = undo_after {
                self.due.push((self.now() + span, undo(host)));
            }
        }
        Ok(Probe::Fixed(hits))
    }

    fn power_off(&mut self, host: HostId) -> Result<bool> {
        let hit = self.stage.power_off(host)?;
        if hit {
            self.fact(&Fact::PoweredOff(host, Cut::default()));
        }
        Ok(hit)
    }

    fn power_on(&mut self, host: HostId) -> Result<bool> {
        let hit = self.stage.power_on(host)?;
        if hit {
            self.fact(&Fact::Started(host));
        }
        Ok(hit)
    }

    fn crash(&mut self, host: HostId) -> Result<bool> {
        let hit = self.stage.crash(host)?;
        if hit {
            self.fact(&Fact::Crashed(host));
        }
        Ok(hit)
    }

    fn freeze(&mut self, host: HostId) -> Result<bool> {
        let hit = self.stage.freeze(host, true)?;
        if hit {
            self.fact(&Fact::Paused(host));
        }
        Ok(hit)
    }

    fn thaw(&mut self, host: HostId) -> Result<bool> {
        let hit = self.stage.freeze(host, false)?;
        if hit {
            self.fact(&Fact::Resumed(host));
        }
        Ok(hit)
    }

    /// Gives an order; a daemon that does not run is hit by none.
    fn order(&mut self, host: HostId, order: ModuleOrder) -> Result<bool> {
        let (name, full, force) = words_of(order).context("an order that nobody can give")?;
        let machine = self.stage.node(host);
        if !self.stage.cluster.runs(machine) || self.stage.is_frozen(host) {
            return Ok(false);
        }
        self.fact(&Fact::Ordered(host, order));
        let asked = self
            .stage
            .cluster
            .ask(machine, async |client| client.order(MODULE, name, full, force).await);
        let refusal = asked.err().and_then(|error| match error.downcast::<ClientError>() {
            Ok(ClientError::Refused(reason)) => Some(reason),
            _ => None,
        });
        self.refused.insert(host, refusal.is_some());
        if let Some(reason) = refusal {
            self.fact(&Fact::Refused(host, reason));
        }
        Ok(true)
    }

    /// Every link between these hosts, on one network or all.
    fn links(&self, pairs: &[(HostId, HostId)], net: Option<u8>) -> Vec<Link> {
        let mut links = Vec::new();
        for (from, to) in pairs {
            let (Some(from), Some(to)) = (self.stage.machine(*from), self.stage.machine(*to))
            else {
                continue;
            };
            let networks = (0..self.stage.networks).filter(|n| net.is_none_or(|net| net == *n));
            links.extend(networks.map(|network| Link { network, from, to }));
        }
        links
    }

    fn cut(&mut self, index: usize, pairs: &[(HostId, HostId)], net: Option<u8>) -> Result<Probe> {
        if !Firewall::is_possible() {
            self.skip(index, "there is no program nft");
            return Ok(Probe::Fixed(1));
        }
        let links = self.links(pairs, net);
        let before = self.firewall.hits(self.stage.cluster.lab(), &links)?.dropped;
        self.firewall.cut(self.stage.cluster.lab(), &links, true)?;
        Ok(Probe::Dropped(links, before))
    }

    fn weather(
        &mut self,
        index: usize,
        links: Vec<Link>,
        weather: &Weather,
        span: Option<Duration>,
    ) -> Result<Probe> {
        let usual = Weather { loss_ppm: weather.loss_ppm, ..Weather::default() };
        if *weather != usual {
            self.skip(index, "messages are delayed, doubled and reordered by simulation only");
        }
        if !Firewall::is_possible() {
            self.skip(index, "there is no program nft");
            return Ok(Probe::Fixed(1));
        }
        let before = self.firewall.hits(self.stage.cluster.lab(), &links)?.seen;
        self.lose(&links, weather.loss_ppm)?;
        if let Some(span) = span {
            self.due.push((self.now() + span, Due::Lossless(links.clone())));
        }
        if weather.loss_ppm == 0 {
            return Ok(Probe::Fixed(1));
        }
        Ok(Probe::Seen(links, before))
    }

    pub(super) fn lose(&mut self, links: &[Link], ppm: u32) -> Result<()> {
        Ok(self.firewall.lose(self.stage.cluster.lab(), links, ppm)?)
    }

    /// Links between all machines, for the setup's own losses.
    pub(super) fn every_link(&self) -> Vec<Link> {
        self.links(&self.pairs(Selector::All, Selector::All, true), None)
    }

    fn spoil(&self, host: HostId, kind: ScriptKind, fault: ScriptFault, times: u32) -> Result<()> {
        let kind = if kind == ScriptKind::Start { "start" } else { "stop" };
        let word = if fault == ScriptFault::Hang { "hang\n" } else { "fail\n" };
        let path = self.stage.user_var(host).join(format!("fault-{kind}"));
        let mut file = fs::File::options().create(true).append(true).open(&path)?;
        for _ in 0..times {
            file.write_all(word.as_bytes())?;
        }
        Ok(())
    }

    fn scripts_hit(&self, hosts: &[HostId]) -> u64 {
        let hit = |host: &HostId| {
            let file = self.stage.user_var(*host).join("faults-hit");
            fs::read_to_string(file).map_or(0, |text| text.lines().count() as u64)
        };
        hosts.iter().map(hit).sum()
    }

    /// Every fault is over: networks heal, machines run, modules are started.
    fn calm(&mut self) -> Result<()> {
        self.calmed = true;
        self.firewall.heal(self.stage.cluster.lab())?;
        self.due.retain(|(_, due)| matches!(due, Due::Step(_)));
        let links = self.every_link();
        self.lose(&links, self.plan.setup.weather.loss_ppm)?;
        for host in [HostId::W, HostId::A, HostId::B] {
            self.thaw(host)?;
            if HostId::DATA.contains(&host) {
                let files = self.stage.user_var(host);
                for fault in ["fault-start", "fault-stop"] {
                    // It exists only if a script was spoiled.
                    let _ = fs::remove_file(files.join(fault));
                }
                // What hangs ends now.
                fs::write(files.join("release"), "")?;
            }
            self.power_on(host)?;
        }
        self.fact(&Fact::Calm);
        for host in HostId::DATA {
            self.due.push((self.now() + Duration::from_secs(3), Due::StartIfStopped(host)));
        }
        Ok(())
    }

    /// The steps that hit nothing, or never fired.
    pub(super) fn idle_steps(&self) -> Result<Vec<usize>> {
        let mut idle = Vec::new();
        for (index, probe) in self.probes.iter().enumerate() {
            let hits = match probe {
                None => 0,
                Some(Probe::Fixed(hits)) => *hits,
                Some(Probe::Dropped(links, before)) => self.hits(links)?.dropped - before,
                Some(Probe::Seen(links, before)) => self.hits(links)?.seen - before,
                Some(Probe::Scripts(hosts, before)) => {
                    self.scripts_hit(hosts).saturating_sub(*before)
                }
            };
            if hits == 0 {
                idle.push(index);
            }
        }
        Ok(idle)
    }

    fn hits(&self, links: &[Link]) -> Result<Hits> {
        Ok(self.firewall.hits(self.stage.cluster.lab(), links)?)
    }
}
