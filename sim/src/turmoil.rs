//! The turmoil engine: the production agent and witness on turmoil hosts, under the same plans,
//! faults, oracle and invariants as the direct engine.
//!
//! ```text
//!   world (machines, weather, client, plan)      turmoil host a, b: agent, data path; w: witness
//!     advance to the tick's beginning  --port-->  run for one tick: seal, frame, UDP, TCP
//!     read what the daemons wish for   <--desk--
//! ```
//! What it exercises beyond the direct engine: the agent's loop and tasks, sealing and encoding
//! of datagrams, framing, reconnection and time limits of streams. Loss, delay, repetition, cuts
//! and power cuts are the world's ([`crate::net`], [`crate::disk`]); turmoil's own fault switches
//! are not used as evidence (its fail rate heals one-way cuts, its crash says good-bye). A power
//! cut is: cut the host off, crash it, lose what the disk had not flushed, restart.
//!
//! Everything happens at ticks: a resolution of 1 ms for plans of up to two minutes, of 10 ms for
//! longer ones.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};

use ::turmoil::{Builder, Sim};

use crate::{
    direct::hosted::{Change, Stage},
    net::HostId,
    plan::Plan,
    port::Port,
    run::{Report, RunOptions},
    time::SimTime,
};

mod cluster;
mod net;
mod os;
mod stream;
mod volume;

/// Latest end of a plan that is run at the fine resolution: two minutes, and the room that plans
/// leave after their last step.
const FINE_MAX: SimTime = SimTime::from_secs(240);
/// Datagrams and segments that may wait in one socket.
const CAPACITY: usize = 65_536;
/// The epoch that hosts would see if they asked for the date.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

type Cradle = Rc<RefCell<Option<Rc<Port>>>>;

/// Performs `plan` with the weather of `seed`.
pub fn run(plan: &Plan, seed: u64, options: RunOptions) -> Report {
    let tick = Duration::from_millis(if plan.ends <= FINE_MAX { 1 } else { 10 });
    let mut stage = Stage::new(plan, seed, options);
    let mut sim = Builder::new()
        .rng_seed(seed)
        .epoch(UNIX_EPOCH + EPOCH)
        .tick_duration(tick)
        .simulation_duration(Duration::MAX)
        .min_message_latency(Duration::ZERO)
        .max_message_latency(Duration::ZERO)
        .tcp_capacity(CAPACITY)
        .udp_capacity(CAPACITY)
        .build();
    let daemons = plan.setup.daemons();
    let hosts = plan.setup.everybody().len();
    let cradles: Vec<Cradle> = (0..hosts).map(|_| Cradle::default()).collect();
    let mut born = vec![false; hosts];
    let mut now = SimTime::ZERO;
    while !stage.ended() {
        stage.advance(now);
        for (host, change) in stage.changes() {
            let (cradle, born) = (&cradles[host.index()], &mut born[host.index()]);
            change_host(&mut sim, (cradle, born), (host, &daemons), change);
        }
        match catch_unwind(AssertUnwindSafe(|| sim.step())) {
            Ok(Ok(_)) => stage.read_desks(),
            Ok(Err(error)) => stage.panicked(error.to_string()),
            Err(_) => stage.panicked("the turmoil engine panicked".into()),
        }
        now += tick;
    }
    stage.finish()
}

fn change_host(
    sim: &mut Sim<'_>,
    (cradle, born): (&Cradle, &mut bool),
    (host, daemons): (HostId, &[HostId]),
    change: Change,
) {
    let ip = ip_of(host);
    match change {
        Change::Starts(port) => {
            *cradle.borrow_mut() = Some(port);
            if std::mem::replace(born, true) {
                return sim.bounce(ip);
            }
            let cradle = Rc::clone(cradle);
            sim.host(ip, move || {
                let port = cradle.borrow_mut().take();
                async move {
                    let port = port.ok_or("a host starts only when its machine does")?;
                    Ok(cluster::daemon(port).await?)
                }
            });
        }
        Change::Dies => sim.crash(ip),
        Change::PowerFails => {
            // A crash alone would close the streams politely.
            for other in daemons.iter().filter(|other| **other != host) {
                sim.partition(ip, ip_of(*other));
            }
            sim.crash(ip);
            for other in daemons.iter().filter(|other| **other != host) {
                sim.repair(ip, ip_of(*other));
            }
        }
    }
}

/// The address of a host.
pub(crate) const fn ip_of(host: HostId) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, host.0 + 1))
}

/// Which host has this address.
const fn host_of(ip: IpAddr) -> HostId {
    match ip {
        IpAddr::V4(ip) => HostId(ip.octets()[3].wrapping_sub(1)),
        IpAddr::V6(_) => HostId::C,
    }
}

/// The UDP port that stands for a network.
pub(crate) const fn port_of(net: u8) -> u16 {
    4_800 + net as u16
}

#[cfg(test)]
mod tests;
