//! The simulated network: directed links with loss, delay, duplication, reordering and cuts.
//!
//! A message's fate depends only on (seed, link, number of the message on that link), never on
//! other faults. Every link counts what its faults hit: a cut that dropped nothing proves nothing.
//! The reliable streams of the data paths run over the same links ([`stream`]).

use serde::{Deserialize, Serialize};

use crate::{
    chance::{Chance, Purpose},
    time::SimTime,
};

pub mod stream;

/// A machine of the simulation.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct HostId(pub u8);

impl HostId {
    /// First data node.
    pub const A: Self = Self(0);
    /// Second data node.
    pub const B: Self = Self(1);
    /// The witness.
    pub const W: Self = Self(2);
    /// The host that answers pings, a router say.
    pub const R: Self = Self(3);
    /// The client.
    pub const C: Self = Self(4);
    /// Data nodes of a mirror.
    pub const DATA: [Self; 2] = [Self::A, Self::B];
    /// Everybody in the simulation of a mirror.
    pub const ALL: [Self; HOSTS] = [Self::A, Self::B, Self::W, Self::R, Self::C];

    /// The n-th node of a farm, from 0 on: the first two are those of a mirror, the others come
    /// behind everybody else.
    pub const fn node(number: u8) -> Self {
        if number < 2 { Self(number) } else { Self(number + 3) }
    }

    /// Position in arrays.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The other data node.
    pub const fn other(self) -> Self {
        if self.0 == 0 { Self::B } else { Self::A }
    }

    /// Name in scenarios and timelines.
    pub const fn name(self) -> &'static str {
        NAMES[if self.index() < NAMES.len() { self.index() } else { 4 }]
    }
}

impl std::fmt::Display for HostId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

const NAMES: [&str; HOSTS + NODES_MAX as usize - 2] = [
    "a", "b", "w", "r", "c", "n3", "n4", "n5", "n6", "n7", "n8", "n9", "n10", "n11", "n12", "n13",
    "n14", "n15", "n16", "n17", "n18", "n19", "n20", "n21", "n22", "n23", "n24", "n25", "n26",
    "n27", "n28", "n29", "n30", "n31", "n32",
];

/// Hosts in the simulation of a mirror.
pub const HOSTS: usize = 5;
/// Nodes of a simulated farm at most.
pub const NODES_MAX: u8 = 32;
/// Networks in a simulation at most.
pub const NETS_MAX: usize = 2;

/// What one direction of a link does to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weather {
    /// Shortest and longest delay, in microseconds.
    pub delay_us: (u64, u64),
    /// Messages lost, per million.
    pub loss_ppm: u32,
    /// Messages delivered twice, per million.
    pub duplicate_ppm: u32,
    /// Messages that are held back far longer than others, per million.
    pub reorder_ppm: u32,
    /// How long these are held back, in microseconds.
    pub reorder_us: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            delay_us: (100, 900),
            loss_ppm: 0,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            reorder_us: 50_000,
        }
    }
}

/// What happened to messages so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkHits {
    /// Messages handed to the link.
    pub sent: u64,
    /// Messages dropped because the link was cut.
    pub cut: u64,
    /// Messages lost by chance.
    pub lost: u64,
    /// Messages delivered twice.
    pub duplicated: u64,
    /// Messages held back.
    pub reordered: u64,
}

/// One direction between two hosts on one network.
#[derive(Debug, Clone)]
struct Link {
    cut: bool,
    weather: Weather,
    hits: LinkHits,
    delay: Chance,
    loss: Chance,
    duplicate: Chance,
    reorder: Chance,
}

/// All links of a simulation.
#[derive(Debug, Clone)]
pub struct Network {
    hosts: usize,
    links: Vec<Link>,
}

/// When a message arrives: never, once or twice.
pub type Arrivals = [Option<SimTime>; 2];

impl Network {
    /// Makes a fully connected network of so many hosts with this weather everywhere.
    pub fn new(seed: u64, weather: Weather, hosts: usize) -> Self {
        let links = (0..(NETS_MAX * hosts * hosts) as u64)
            .map(|which| Link {
                cut: false,
                weather,
                hits: LinkHits::default(),
                delay: Chance::new(seed, Purpose::LinkDelay, which),
                loss: Chance::new(seed, Purpose::LinkLoss, which),
                duplicate: Chance::new(seed, Purpose::LinkDuplicate, which),
                reorder: Chance::new(seed, Purpose::LinkReorder, which),
            })
            .collect();
        Self { hosts, links }
    }

    fn slot(&self, net: u8, from: HostId, to: HostId) -> usize {
        (usize::from(net) * self.hosts + from.index()) * self.hosts + to.index()
    }

    /// Hands a message to a link and says when it arrives.
    pub fn send(&mut self, now: SimTime, net: u8, from: HostId, to: HostId) -> Arrivals {
        let slot = self.slot(net, from, to);
        let link = &mut self.links[slot];
        let number = link.hits.sent;
        link.hits.sent += 1;
        if link.cut {
            link.hits.cut += 1;
            return [None, None];
        }
        let weather = link.weather;
        if link.loss.hits(number, weather.loss_ppm) {
            link.hits.lost += 1;
            return [None, None];
        }
        let (low, high) = weather.delay_us;
        let mut delay = link.delay.between(number, low, high).max(1);
        if link.reorder.hits(number, weather.reorder_ppm) {
            link.hits.reordered += 1;
            delay += link.reorder.child(number).between(0, 1, weather.reorder_us);
        }
        let first = Some(now.plus_micros(delay));
        if link.duplicate.hits(number, weather.duplicate_ppm) {
            link.hits.duplicated += 1;
            let again = link.duplicate.child(number).between(0, 1, weather.reorder_us.max(2));
            return [first, Some(now.plus_micros(delay + again))];
        }
        [first, None]
    }

    /// Whether a message that arrives now is let through; counts it if not.
    pub fn arrives(&mut self, net: u8, from: HostId, to: HostId) -> bool {
        let slot = self.slot(net, from, to);
        let link = &mut self.links[slot];
        link.hits.cut += u64::from(link.cut);
        !link.cut
    }

    /// Whether messages pass in this direction.
    pub fn is_open(&self, net: u8, from: HostId, to: HostId) -> bool {
        !self.links[self.slot(net, from, to)].cut
    }

    /// Cuts or heals one direction.
    pub fn set_cut(&mut self, net: u8, from: HostId, to: HostId, cut: bool) {
        let slot = self.slot(net, from, to);
        self.links[slot].cut = cut;
    }

    /// Changes the weather of one direction.
    pub fn set_weather(&mut self, net: u8, from: HostId, to: HostId, weather: Weather) {
        let slot = self.slot(net, from, to);
        self.links[slot].weather = weather;
    }

    /// The weather of one direction.
    pub fn weather(&self, net: u8, from: HostId, to: HostId) -> Weather {
        self.links[self.slot(net, from, to)].weather
    }

    /// What happened so far in one direction.
    pub fn hits(&self, net: u8, from: HostId, to: HostId) -> LinkHits {
        self.links[self.slot(net, from, to)].hits
    }

    /// Heals everything.
    pub fn heal_all(&mut self) {
        for link in &mut self.links {
            link.cut = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lossy() -> Network {
        let weather = Weather { loss_ppm: 200_000, duplicate_ppm: 100_000, ..Weather::default() };
        Network::new(5, weather, HOSTS)
    }

    #[test]
    fn a_cut_in_one_direction_leaves_the_other_open() {
        let mut net = Network::new(1, Weather::default(), HOSTS);
        net.set_cut(0, HostId::A, HostId::B, true);
        assert_eq!(net.send(SimTime::ZERO, 0, HostId::A, HostId::B), [None, None]);
        assert!(net.send(SimTime::ZERO, 0, HostId::B, HostId::A)[0].is_some());
        assert_eq!(net.hits(0, HostId::A, HostId::B).cut, 1);
    }

    #[test]
    fn a_cut_does_not_change_the_fate_of_other_links_or_of_later_messages() {
        let (mut plain, mut cut) = (lossy(), lossy());
        cut.set_cut(0, HostId::A, HostId::B, true);
        for number in 0..200 {
            if number == 50 {
                cut.set_cut(0, HostId::A, HostId::B, false);
            }
            let expected = plain.send(SimTime::ZERO, 0, HostId::A, HostId::B);
            let seen = cut.send(SimTime::ZERO, 0, HostId::A, HostId::B);
            assert!(number < 50 || seen == expected, "message {number}");
            let expected = plain.send(SimTime::ZERO, 0, HostId::A, HostId::W);
            assert_eq!(cut.send(SimTime::ZERO, 0, HostId::A, HostId::W), expected);
        }
    }

    #[test]
    fn loss_and_duplication_are_counted() {
        let mut net = lossy();
        let arrivals: usize = (0..1_000)
            .map(|_| net.send(SimTime::ZERO, 0, HostId::A, HostId::B).iter().flatten().count())
            .sum();
        let hits = net.hits(0, HostId::A, HostId::B);
        assert!(hits.lost > 100 && hits.duplicated > 40);
        assert_eq!(arrivals as u64, 1_000 - hits.lost + hits.duplicated);
    }
}
