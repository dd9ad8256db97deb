//! Power, daemons, pauses: how machines of the direct engine come and go.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use havre_core::{
    config::{
        cluster::{ClusterConfig, Lan, LanNode, LinkTiming, WitnessAddress},
        module::{
            BootPolicy, DefaultPrimary, HeartConfig, HeartbeatConfig, InterfaceConfig,
            InterfaceKind, ModuleConfig, QuorumPolicy, ReplicatedConfig, RfsConfig, ServiceConfig,
            ServiceMode, UserConfig, VirtualAddrConfig, WriteMode,
        },
    },
    effect::{Input, SavedState},
    ids::{Incarnation, NodeId},
    machine::Out,
    module::ModuleSetup,
    node::{Node, NodeConfig},
    quorum::witness::Witness,
    rng::Rng,
};

use crate::{
    chance::{Chance, Purpose},
    direct::{
        Direct, MODULE,
        clock::Clock,
        event::Event,
        hosted::Change,
        is_witness,
        machine::{Daemon, Machine, NodeDaemon, WitnessDaemon, node_of},
        node::{checks_name, record_name},
        os::App,
        store::Store,
        witness::WITNESS_FILE,
    },
    fact::Fact,
    net::HostId,
    pending::Pending,
    plan::{Policy, Preferred, Setup},
    volume::{SimVolume, VolumeConfig},
};

/// How long a source gathers marks before it clears them; shorter than in production, so that
/// marks are cleared often within a short run.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// Name of the one module.
pub(super) const MODULE_NAME: &str = "ledger";
/// How long a machine takes to boot, in microseconds.
const BOOT_US: (u64, u64) = (300_000, 2_000_000);

impl Direct<'_> {
    /// Starts the daemon of a machine, unless it runs.
    pub(super) fn daemon_starts(&mut self, host: HostId) {
        let now = self.now;
        let seed = self.seed;
        let machine = &mut self.machines[host.index()];
        if !machine.powered || !matches!(machine.daemon, Daemon::Off) {
            return;
        }
        if machine.paused {
            machine.starts_on_resume = true;
            return;
        }
        machine.run += 1;
        machine.inbox.clear();
        let local = machine.clock.local(now);
        let run = u64::from(machine.run);
        let secret = Chance::new(seed, Purpose::Node, u64::from(host.0)).bits(run);
        self.fact(Fact::Started(host));
        if self.hosting.is_some() {
            return self.hosted_starts(host, secret);
        }
        let machine = &mut self.machines[host.index()];
        if is_witness(host) {
            let saved = machine
                .disk
                .peek_file(WITNESS_FILE)
                .and_then(|bytes| serde_json::from_slice(bytes).ok());
            let saved: BTreeMap<_, _> = saved.map(|record| (MODULE, record)).into_iter().collect();
            machine.daemon = Daemon::Witness(Box::new(WitnessDaemon {
                witness: Witness::new(local, saved),
                out: Out::new(),
                store: Store::default(),
                wake: None,
            }));
            return;
        }
        let (config, volume) = daemon_config(&self.plan.setup, host);
        let mut volume = SimVolume::new(volume, Rng::new(secret ^ 1));
        if machine.os.distrusts_cache {
            volume.distrust_cache();
        }
        machine.daemon = Daemon::Node(Box::new(NodeDaemon {
            node: Node::new(config, Rng::new(secret)),
            out: Out::new(),
            volume,
            volume_out: Out::new(),
            volume_io: Pending::default(),
            store: Store::default(),
            held: Vec::new(),
            unsaved: Vec::new(),
            wake: None,
            volume_wake: None,
            requests: 0,
            serving: None,
            stream: None,
            connecting: None,
            attempts: 0,
        }));
        let saved = saved_state(machine);
        let incarnation = Incarnation(secret | 1);
        self.node_input(host, Input::Booted { incarnation, saved });
    }

    /// The daemon dies.
    pub(super) fn crash(&mut self, host: HostId) -> bool {
        if !self.daemon_runs(host) {
            return false;
        }
        let machine = &mut self.machines[host.index()];
        machine.run += 1;
        machine.inbox.clear();
        machine.os.distrusts_cache = match &machine.daemon {
            Daemon::Node(node) => node.volume.distrusts_cache(),
            Daemon::Hosted(hosted) => hosted.port.distrusts_cache.get(),
            _ => false,
        };
        machine.daemon = Daemon::Off;
        machine.disk.process_crash();
        self.fact(Fact::Crashed(host));
        if !is_witness(host) {
            self.os_loses_daemon(host);
        }
        self.hosted_changes(host, Change::Dies);
        // The kernel closes what the process had open: the other end is told.
        for stream in self.streams.of(host) {
            self.close_stream(host, stream, true);
        }
        true
    }

    /// The power fails.
    pub(super) fn power_fails(&mut self, host: HostId) -> bool {
        let machine = &mut self.machines[host.index()];
        if !machine.powered {
            return false;
        }
        machine.run += 1;
        machine.powered = false;
        machine.paused = false;
        machine.starts_on_resume = false;
        machine.inbox.clear();
        machine.daemon = Daemon::Off;
        machine.os = super::os::Os {
            faults_hit: machine.os.faults_hit,
            address_sets: machine.os.address_sets,
            app_lives: machine.os.app_lives + 1,
            ..Default::default()
        };
        let cut = machine.disk.power_cut();
        self.hosted_changes(host, Change::PowerFails);
        self.streams.falls_silent(host);
        for stream in self.streams.of(host) {
            self.close_stream(host, stream, false);
        }
        self.fact(Fact::PoweredOff(host, cut));
        true
    }

    /// The power returns: the machine boots and starts its daemon.
    pub(super) fn power_returns(&mut self, host: HostId) -> bool {
        let machine = &mut self.machines[host.index()];
        if machine.powered {
            return false;
        }
        machine.powered = true;
        self.streams.speaks_again(host);
        let machine = &mut self.machines[host.index()];
        let ppm = self.plan.setup.drift_of(host);
        let (low, high) = BOOT_US;
        let lasts = machine.draw(low, high);
        // The clock counts from boot.
        machine.clock = Clock::new(self.now, 0, ppm);
        self.at(self.now.plus_micros(lasts), Event::DaemonStarts(host));
        true
    }

    /// The machine stands still.
    pub(super) fn pause(&mut self, host: HostId) -> Option<u32> {
        let machine = &mut self.machines[host.index()];
        if !machine.is_live() {
            return None;
        }
        machine.paused = true;
        machine.pauses += 1;
        let pause = machine.pauses;
        self.fact(Fact::Paused(host));
        Some(pause)
    }

    /// The machine goes on.
    pub(super) fn resume(&mut self, host: HostId, pause: Option<u32>) {
        let machine = &mut self.machines[host.index()];
        if !machine.paused || pause.is_some_and(|pause| machine.pauses != pause) {
            return;
        }
        machine.paused = false;
        let run = machine.run;
        let mut waiting: Vec<_> = machine.inbox.drain(..).collect();
        // What the process sees first after a pause is not defined: its timers or its inbox.
        if machine.draw(0, 1) == 0 {
            waiting.sort_by_key(|work| !matches!(work, super::event::Work::Wake));
        }
        let starts = std::mem::take(&mut machine.starts_on_resume);
        self.fact(Fact::Resumed(host));
        if starts {
            self.at(self.now.plus_micros(20), Event::DaemonStarts(host));
        }
        for (index, work) in waiting.into_iter().enumerate() {
            let event = Event::Host { host, run, work, delayed: false };
            self.at(self.now.plus_micros(20 + index as u64 * 3), event);
        }
    }
}

/// The configuration of a node and of its data path.
pub(super) fn daemon_config(setup: &Setup, host: HostId) -> (NodeConfig, VolumeConfig) {
    let config = match &setup.farm {
        Some(farm) => super::farm::node_config(setup, farm, host),
        None => node_config(setup, host),
    };
    // The data path of a farm has nothing to do.
    let rfs = module_config(setup).rfs.expect("the module of a mirror replicates");
    let volume = VolumeConfig {
        module: MODULE,
        signature: config.modules[&MODULE].signature,
        rfs,
        regions: setup.load.blocks.div_ceil(setup.load.region_blocks),
        region_blocks: setup.load.region_blocks,
        checkpoint_period: CHECKPOINT,
    };
    (config, volume)
}

/// What a machine holds for a daemon that starts.
pub(super) fn saved_state(machine: &Machine) -> SavedState {
    let mut saved = SavedState::default();
    if let Some(bytes) = machine.disk.peek_file(&record_name(MODULE))
        && let Ok(record) = serde_json::from_slice(bytes)
    {
        saved.modules.insert(MODULE, record);
    }
    if let Some(bytes) = machine.disk.peek_file(&checks_name(MODULE))
        && let Ok(record) = serde_json::from_slice(bytes)
    {
        saved.checks.insert(MODULE, record);
    }
    if matches!(machine.os.app, App::Orphan | App::Runs)
        && let Some(until) = machine.os.guard
    {
        saved.running.insert(MODULE, until);
    }
    saved
}

fn node_config(setup: &Setup, host: HostId) -> NodeConfig {
    let nets = setup.nets.clamp(1, 2);
    let lans = (0..nets)
        .map(|net| Lan {
            name: format!("net{net}"),
            command: false,
            nodes: HostId::DATA
                .iter()
                .map(|data| LanNode {
                    node: node_of(*data),
                    addr: format!("10.0.{net}.{}", data.0 + 1),
                    local_addr: None,
                })
                .collect(),
        })
        .collect();
    let cluster = ClusterConfig {
        port: 4800,
        nodes: vec!["a".into(), "b".into()],
        lans,
        witness: (setup.policy == Policy::Lease)
            .then(|| WitnessAddress { addr: "10.0.0.3".into(), port: 4799 }),
    };
    let module =
        ModuleSetup { name: MODULE_NAME.into(), signature: 0x1ed6e7, config: module_config(setup) };
    NodeConfig { cluster, node: node_of(host), modules: BTreeMap::from([(MODULE, module)]) }
}

pub(super) fn module_config(setup: &Setup) -> ModuleConfig {
    let timing = LinkTiming { pulse: setup.pulse, timeout: setup.timeout };
    let heartbeat = |net: u8| HeartbeatConfig {
        name: format!("net{net}"),
        ident: if net == 0 { "flow".into() } else { format!("net{net}") },
        timing,
    };
    let address = VirtualAddrConfig {
        addr: IpAddr::from([10, 0, 0, 100]),
        prefix: Some(24),
        check: false,
        connections: false,
    };
    ModuleConfig {
        service: ServiceConfig {
            mode: ServiceMode::Mirror,
            boot: BootPolicy::Auto,
            boot_delay: Duration::ZERO,
            failover: setup.failover,
            default_primary: match setup.preferred {
                Preferred::Alone => DefaultPrimary::Alone,
                Preferred::Node(host) => DefaultPrimary::Node(NodeId(u16::from(host.0))),
                Preferred::Last => DefaultPrimary::Last,
            },
            maxloop: setup.guard.maxloop,
            loop_interval: setup.guard.interval,
            automatic_reboot: setup.guard.reboot,
            maxloop_retry: setup.guard.retry,
            on_start_failure: setup.guard.on_start_failure,
        },
        members: vec![NodeId(0), NodeId(1)],
        farm: None,
        heart: HeartConfig {
            timing,
            heartbeats: (0..setup.nets.clamp(1, 2)).map(heartbeat).collect(),
        },
        interfaces: vec![InterfaceConfig {
            check: false,
            arp_reroute: false,
            arp_interval: Duration::from_secs(60),
            arp_elapse: Duration::from_secs(1_200),
            name: None,
            kind: InterfaceKind::Real,
            addresses: vec![address],
        }],
        tcp_reset: true,
        checks: setup.checks.clone(),
        rfs: Some(RfsConfig {
            contract: setup.contract,
            write: WriteMode::Back,
            acl: true,
            port: None,
            lock_timeout: Duration::from_secs(20),
            send_timeout: Duration::from_secs(10),
            resync_bytes_per_second_max: None,
            directories: vec![ReplicatedConfig {
                dir: "/data".into(),
                excluded_paths: Vec::new(),
                excluded_names: Vec::new(),
                to_check: Vec::new(),
            }],
        }),
        user: Some(UserConfig {
            nice_stop_timeout: Duration::from_secs(5),
            force_stop_timeout: Duration::from_secs(5),
            logging: true,
            log_size_kib: 2_048,
            variables: Vec::new(),
        }),
        quorum: match setup.policy {
            Policy::None => QuorumPolicy::None,
            Policy::Ping => QuorumPolicy::Ping(vec![IpAddr::from([10, 0, 0, 254])]),
            Policy::Lease => QuorumPolicy::Lease,
        },
    }
}
