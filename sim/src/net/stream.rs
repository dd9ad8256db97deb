//! Reliable ordered streams between two hosts, as TCP offers them to a data path.
//!
//! A chunk arrives once, in order, or the stream breaks. A lost packet costs a retransmission; a
//! cut link holds everything back and breaks the stream once the sender has tried for
//! [`BREAK_AFTER_US`]. The sender's end learns that at once; the receiver's end, which cannot be
//! told, learns it when its own keep-alive has found nobody.

use std::collections::{BTreeMap, VecDeque};

use super::{HostId, Network};
use crate::{
    chance::{Chance, Purpose},
    time::SimTime,
};

/// How long a sender tries before its stream breaks.
pub const BREAK_AFTER_US: u64 = 10_000_000;
/// Pause between retransmissions.
const RETRY_US: u64 = 200_000;
/// Chunks under way in one direction at most; beyond it the stream breaks, because a data path
/// that ignores its window is wrong.
const CHUNKS_MAX: usize = 65_536;

/// Names a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId(pub u64);

/// One direction of a stream.
#[derive(Debug, Clone)]
struct Lane<M> {
    chunks: VecDeque<(SimTime, M)>,
    number: u64,
    delay: Chance,
    blocked_since: Option<SimTime>,
}

/// One stream: `ends[0]` connected to `ends[1]`.
#[derive(Debug, Clone)]
struct Stream<M> {
    ends: [HostId; 2],
    /// Which ends still have it open.
    open: [bool; 2],
    /// Ends whose machine has no power: it does not even refuse.
    silent: [bool; 2],
    lanes: [Lane<M>; 2],
}

/// All streams of a simulation, on network 0.
#[derive(Debug, Clone)]
pub struct Streams<M> {
    seed: u64,
    streams: BTreeMap<StreamId, Stream<M>>,
    made: u64,
}

/// What the head of a lane did when its time came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<M> {
    /// It arrived; the next one is due then.
    Arrived {
        /// The chunk.
        chunk: M,
        /// Who receives it.
        to: HostId,
        /// When to look again.
        next: Option<SimTime>,
    },
    /// It could not pass; look again then.
    Blocked(SimTime),
    /// The sender gave up.
    Broken,
    /// There is nothing to do.
    Idle,
}

impl<M> Streams<M> {
    /// Makes an empty set.
    pub const fn new(seed: u64) -> Self {
        Self { seed, streams: BTreeMap::new(), made: 0 }
    }

    /// Opens a stream.
    pub fn open(&mut self, from: HostId, to: HostId) -> StreamId {
        self.made += 1;
        let id = StreamId(self.made);
        let lane = |direction: u64| Lane {
            chunks: VecDeque::new(),
            number: 0,
            delay: Chance::new(self.seed, Purpose::StreamDelay, self.made * 2 + direction),
            blocked_since: None,
        };
        let stream = Stream {
            ends: [from, to],
            open: [true; 2],
            silent: [false; 2],
            lanes: [lane(0), lane(1)],
        };
        self.streams.insert(id, stream);
        id
    }

    /// The other end of a stream that is open at `host`.
    pub fn peer(&self, id: StreamId, host: HostId) -> Option<HostId> {
        let stream = self.streams.get(&id)?;
        let side = stream.ends.iter().position(|end| *end == host)?;
        stream.open[side].then_some(stream.ends[1 - side])
    }

    /// Puts a chunk on its way. Returns the lane to look at and when, if it was empty before.
    pub fn send(
        &mut self,
        now: SimTime,
        id: StreamId,
        from: HostId,
        chunk: M,
        net: &Network,
    ) -> Option<(usize, SimTime)> {
        let stream = self.streams.get_mut(&id)?;
        let side = stream.ends.iter().position(|end| *end == from)?;
        if !stream.open[side] {
            return None;
        }
        let weather = net.weather(0, from, stream.ends[1 - side]);
        let lane = &mut stream.lanes[side];
        let number = lane.number;
        lane.number += 1;
        let (low, high) = weather.delay_us;
        let mut delay = lane.delay.between(number, low, high).max(1);
        // A lost packet is sent again after a time-out; the same draw decides how often.
        let mut again = 0;
        while again < 5 && lane.delay.child(number).hits(again, weather.loss_ppm) {
            delay += RETRY_US;
            again += 1;
        }
        let earliest = lane.chunks.back().map_or(SimTime::ZERO, |(at, _)| *at);
        let at = now.plus_micros(delay).max(earliest);
        assert!(lane.chunks.len() < CHUNKS_MAX, "a data path respects its window");
        lane.chunks.push_back((at, chunk));
        (lane.chunks.len() == 1).then_some((side, at))
    }

    /// Looks at the head of a lane whose time has come.
    pub fn step(&mut self, now: SimTime, id: StreamId, side: usize, net: &mut Network) -> Step<M> {
        let Some(stream) = self.streams.get_mut(&id) else { return Step::Idle };
        let (from, to) = (stream.ends[side], stream.ends[1 - side]);
        let lane = &mut stream.lanes[side];
        let Some((at, _)) = lane.chunks.front() else { return Step::Idle };
        if *at > now {
            return Step::Blocked(*at);
        }
        let silent = stream.silent[1 - side];
        if silent || !net.arrives(0, from, to) || !net.is_open(0, to, from) {
            // Without acknowledgements the sender cannot go on either.
            let since = *lane.blocked_since.get_or_insert(now);
            if now.since(since).as_micros() as u64 >= BREAK_AFTER_US {
                return Step::Broken;
            }
            return Step::Blocked(now.plus_micros(RETRY_US));
        }
        lane.blocked_since = None;
        let (_, chunk) = lane.chunks.pop_front().expect("the head was there a moment ago");
        let next = lane.chunks.front().map(|(at, _)| *at);
        if !stream.open[1 - side] {
            return Step::Broken;
        }
        Step::Arrived { chunk, to, next }
    }

    /// Closes one end. Returns the other end, if it is still open and must be told.
    pub fn close(&mut self, id: StreamId, host: HostId) -> Option<HostId> {
        let stream = self.streams.get_mut(&id)?;
        let side = stream.ends.iter().position(|end| *end == host)?;
        stream.open[side] = false;
        let other = stream.open[1 - side].then_some(stream.ends[1 - side]);
        if other.is_none() {
            self.streams.remove(&id);
        }
        other
    }

    /// A machine lost its power: its ends are closed and nobody is told.
    pub fn falls_silent(&mut self, host: HostId) {
        for stream in self.streams.values_mut() {
            for side in 0..2 {
                stream.silent[side] |= stream.ends[side] == host;
            }
        }
    }

    /// A machine has power again: it refuses what belongs to streams of its earlier life.
    pub fn speaks_again(&mut self, host: HostId) {
        for stream in self.streams.values_mut() {
            for side in 0..2 {
                stream.silent[side] &= stream.ends[side] != host;
            }
        }
    }

    /// Microseconds until what `host` has sent will have arrived.
    pub fn drained_after(&self, id: StreamId, host: HostId, now: SimTime) -> u64 {
        let Some(stream) = self.streams.get(&id) else { return 0 };
        let Some(side) = stream.ends.iter().position(|end| *end == host) else { return 0 };
        let last = stream.lanes[side].chunks.back().map_or(now, |(at, _)| *at);
        last.since(now).as_micros() as u64
    }

    /// The streams that are open at `host`.
    pub fn of(&self, host: HostId) -> Vec<StreamId> {
        let open = |stream: &Stream<M>| {
            stream.ends.iter().zip(stream.open).any(|(end, open)| open && *end == host)
        };
        self.streams.iter().filter(|(_, stream)| open(stream)).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Weather;

    #[test]
    fn chunks_arrive_in_order_whatever_the_weather() {
        let weather = Weather { loss_ppm: 300_000, delay_us: (1, 50_000), ..Weather::default() };
        let mut net = Network::new(3, weather, crate::net::HOSTS);
        let mut streams = Streams::new(3);
        let id = streams.open(HostId::A, HostId::B);
        for chunk in 0..100 {
            streams.send(SimTime::from_micros(chunk), id, HostId::A, chunk, &net);
        }
        let mut seen = Vec::new();
        let mut now = SimTime::ZERO;
        loop {
            match streams.step(now, id, 0, &mut net) {
                Step::Arrived { chunk, next, .. } => {
                    seen.push(chunk);
                    now = next.unwrap_or(now);
                }
                Step::Blocked(at) => now = at,
                Step::Idle => break,
                Step::Broken => panic!("nothing breaks it"),
            }
        }
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_cut_holds_chunks_back_and_breaks_the_stream_in_the_end() {
        let mut net = Network::new(3, Weather::default(), crate::net::HOSTS);
        let mut streams = Streams::new(3);
        let id = streams.open(HostId::A, HostId::B);
        let (side, at) = streams.send(SimTime::ZERO, id, HostId::A, 7, &net).expect("first");
        net.set_cut(0, HostId::A, HostId::B, true);
        let Step::Blocked(mut now) = streams.step(at, id, side, &mut net) else {
            panic!("a cut link lets nothing pass")
        };
        loop {
            match streams.step(now, id, side, &mut net) {
                Step::Blocked(at) => now = at,
                Step::Broken => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(now >= SimTime::from_micros(BREAK_AFTER_US));
        assert_eq!(streams.close(id, HostId::A), Some(HostId::B));
        assert_eq!(streams.close(id, HostId::B), None);
    }
}
