//! The laboratory itself, and virtual addresses in it: what a cut, a crash and a freeze look like
//! from the other side. Needs root.

use std::{
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use havre_core::status::VirtualIp;
use havre_linux::{
    arp,
    interface::{self, Interface},
    lab::{Lab, SharedPath},
    netlink::{Family, Netlink},
    packet::{ETHERTYPE_ARP, PacketSocket},
    vip::{VipError, VipSettings, VirtualAddresses},
};

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

struct Fixture {
    lab: Lab,
    directory: tempfile::TempDir,
}

fn pair() -> Fixture {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_havre"));
    let mut lab = Lab::new(directory.path(), &program, 1).expect("root may build a laboratory");
    let shared = SharedPath { path: directory.path().join("shared") };
    std::fs::create_dir(&shared.path).expect("a new directory");
    for name in ["one", "two"] {
        lab.add_machine(name, std::slice::from_ref(&shared)).expect("a machine can be added");
    }
    Fixture { lab, directory }
}

fn virtual_ip(addr: IpAddr) -> VirtualIp {
    VirtualIp { addr, prefix: None, interface: None, shared: false }
}

fn settings() -> VipSettings {
    VipSettings { tcp_reset: true, ..VipSettings::default() }
}

/// Whether a datagram travels from machine `from` to machine `to`.
fn reaches(lab: &Lab, from: usize, to: usize) -> bool {
    let target = (IpAddr::from(lab.machine(to).v4(0)), 7000);
    let receiver = lab.machine(to).enter(|| UdpSocket::bind(target)).expect("a free port");
    receiver.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
    lab.machine(from)
        .enter(|| UdpSocket::bind(("0.0.0.0", 0))?.send_to(b"x", target).map(drop))
        .is_ok()
        && receiver.recv(&mut [0; 8]).is_ok()
}

/// Whether datagrams travel both ways within two seconds: a port that was unplugged takes up to
/// a second to come up.
fn both_reach_soon(lab: &Lab) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        if reaches(lab, 0, 1) && reaches(lab, 1, 0) {
            return true;
        }
    }
    false
}

#[test]
fn machines_reach_each_other_until_a_cut_and_again_after_the_repair() {
    if !is_root() {
        return;
    }
    let Fixture { lab, .. } = pair();
    assert!(both_reach_soon(&lab));
    lab.isolate(0, 0).expect("the switch obeys");
    assert!(!reaches(&lab, 0, 1) && !reaches(&lab, 1, 0));
    lab.repair(0, 0).expect("the switch obeys");
    assert!(both_reach_soon(&lab));
    lab.cut_one_way(0, 1, 0).expect("the neighbour table obeys");
    assert!(!reaches(&lab, 0, 1) && reaches(&lab, 1, 0));
    lab.heal_one_way(0, 1, 0).expect("the neighbour table obeys");
    assert!(both_reach_soon(&lab));
    lab.unplug(1, 0).expect("the switch obeys");
    assert!(!reaches(&lab, 0, 1) && !reaches(&lab, 1, 0));
    lab.repair(1, 0).expect("the switch obeys");
    assert!(both_reach_soon(&lab));
}

#[test]
fn a_power_cut_kills_everything_and_leaves_the_disk() {
    if !is_root() {
        return;
    }
    let Fixture { mut lab, directory } = pair();
    let file = directory.path().join("shared/file");
    let script = format!("echo $$ > {}; (setsid sleep 600 &); sleep 600", file.display());
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script).stdout(Stdio::null());
    let mut child = lab.machine(0).spawn(&mut command).expect("a shell starts");
    let begun = Instant::now();
    let content = loop {
        let content = lab.machine(0).enter(|| std::fs::read_to_string(&file));
        if let Ok(content) = content
            && !content.is_empty()
        {
            break content;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "the shell wrote nothing");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(content.trim().parse::<u32>().is_ok_and(|pid| pid < 100), "own process numbers");
    assert!(!file.exists(), "the machine's disk is not visible outside");
    assert!(!lab.machine(1).enter(|| Ok(file.exists())).expect("machine two is on"));
    lab.machine_mut(0).power_off().expect("the power can be cut");
    let status = child.wait().expect("it ended");
    assert!(!status.success(), "the shell was killed");
    lab.machine_mut(0).power_on().expect("the machine starts again");
    let again = lab.machine(0).enter(|| std::fs::read_to_string(&file)).expect("it is on disk");
    assert_eq!(again, content);
}

/// Receives ARP frames as a client.
fn client_interface(lab: &Lab) -> (Interface, PacketSocket) {
    lab.as_client(|| {
        let mut netlink = Netlink::open(Family::Route).expect("netlink opens");
        let all = interface::interfaces(&mut netlink).expect("interfaces can be read");
        let bridge = all.into_iter().find(|i| i.name == "switch0").expect("the bridge");
        let socket = PacketSocket::open(bridge.index, ETHERTYPE_ARP).expect("root may listen");
        (bridge, socket)
    })
}

#[test]
fn a_virtual_address_is_announced_at_once_and_moves_with_its_clients() {
    if !is_root() {
        return;
    }
    let Fixture { lab, .. } = pair();
    for addr in [IpAddr::from(Lab::virtual_v4(0)), IpAddr::from(Lab::virtual_v6(0))] {
        let hosts = [0, 1].map(|machine| {
            lab.machine(machine)
                .enter(|| VirtualAddresses::start(settings()))
                .expect("the keeper starts")
        });
        for round in 0..3 {
            for (machine, host) in hosts.iter().enumerate() {
                let begun = Instant::now();
                let listener = lab.machine(machine).enter(|| {
                    host.add(&virtual_ip(addr)).expect("nobody else has it");
                    TcpListener::bind((addr, 7100))
                });
                let took = begun.elapsed();
                let _listener = listener.expect("the address is set");
                assert!(took < Duration::from_millis(200), "round {round}: {took:?} to set");
                assert_eq!(host.held(), [addr]);
                let begun = Instant::now();
                lab.as_client(|| {
                    TcpStream::connect_timeout(&(addr, 7100).into(), Duration::from_secs(2))
                })
                .expect("clients reach the new holder");
                let took = begun.elapsed();
                assert!(took < Duration::from_millis(100), "round {round}: {took:?} to reach");
                let removed = lab.machine(machine).enter(|| Ok(host.remove(addr)));
                assert!(removed.expect("the machine is on").expect("the kernel obeys"));
                let again = lab.machine(machine).enter(|| Ok(host.remove(addr)));
                assert!(!again.expect("the machine is on").expect("removing twice is no error"));
            }
        }
    }
}

#[test]
fn an_announcement_reaches_every_host_and_is_repeated() {
    if !is_root() {
        return;
    }
    let Fixture { lab, .. } = pair();
    let (bridge, socket) = client_interface(&lab);
    let own = bridge.mac.expect("bridges have an Ethernet address");
    let vip = Lab::virtual_v4(0);
    let host =
        lab.machine(0).enter(|| VirtualAddresses::start(settings())).expect("the keeper starts");
    lab.machine(0)
        .enter(|| Ok(host.add(&virtual_ip(vip.into()))))
        .expect("the machine is on")
        .expect("nobody else has it");
    let end = Instant::now() + Duration::from_millis(1_500);
    let mut buffer = [0; 128];
    let mut claims = 0;
    while let Some(frame) = socket.receive(&mut buffer, end).expect("the socket works") {
        claims += u32::from(arp::claimant(frame, own, vip).is_some());
    }
    // Five announcements (at once and four repetitions) of two frames.
    // The interface may report that it came up meanwhile, which starts the repetition afresh.
    assert!((10..=24).contains(&claims), "{claims} frames");
}

#[test]
fn an_address_in_use_is_refused_and_names_the_holder() {
    if !is_root() {
        return;
    }
    let Fixture { lab, .. } = pair();
    for addr in [IpAddr::from(Lab::virtual_v4(0)), IpAddr::from(Lab::virtual_v6(0))] {
        let [first, second] = [0, 1].map(|machine| {
            lab.machine(machine)
                .enter(|| VirtualAddresses::start(settings()))
                .expect("the keeper starts")
        });
        let add = |machine: usize, host: &VirtualAddresses| {
            lab.machine(machine).enter(|| Ok(host.add(&virtual_ip(addr)))).expect("it is on")
        };
        add(0, &first).expect("nobody else has it");
        let error = add(1, &second).expect_err("machine one has it");
        assert!(matches!(error, VipError::InUse { .. }), "{error}");
        assert!(error.to_string().contains("another host uses it"), "{error}");
        assert!(second.held().is_empty());
        // Kept alive by its keeper all the while, beyond its lifetime.
        assert_eq!(holders(&lab, addr), [true, false]);
    }
}

/// Which machines have the address set.
fn holders(lab: &Lab, addr: IpAddr) -> [bool; 2] {
    [0, 1].map(|machine| {
        lab.machine(machine)
            .enter(|| interface::addresses(&mut Netlink::open(Family::Route)?))
            .expect("the machine is on")
            .iter()
            .any(|a| a.addr == addr)
    })
}

#[test]
fn the_kernel_takes_the_address_of_a_daemon_that_stopped_renewing_and_the_other_gets_it() {
    if !is_root() {
        return;
    }
    let Fixture { lab, .. } = pair();
    let addr = IpAddr::from(Lab::virtual_v4(0));
    // A holder that set the address with its lifetime and then froze.
    lab.machine(0)
        .enter(|| {
            let mut netlink = Netlink::open(Family::Route)?;
            let all = interface::interfaces(&mut netlink)?;
            let index = all.iter().find(|i| i.name == "net0").expect("its interface").index;
            let address = interface::Address { index, addr, prefix: 24 };
            interface::set_address(&mut netlink, address, havre_linux::vip::LIFETIME_S)
        })
        .expect("root may set addresses");
    let second =
        lab.machine(1).enter(|| VirtualAddresses::start(settings())).expect("the keeper starts");
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let adding = scope.spawn(|| {
            lab.machine(1).enter(|| Ok(second.add(&virtual_ip(addr)))).expect("it is on")
        });
        while !adding.is_finished() {
            assert_ne!(holders(&lab, addr), [true, true], "two holders");
            std::thread::sleep(Duration::from_millis(1));
        }
        adding.join().expect("no panic").expect("the first one's lifetime ended");
    });
    let took = begun.elapsed();
    eprintln!("the address of a frozen holder was free after {took:?}");
    assert!(took < Duration::from_millis(3_500), "{took:?}");
    assert_eq!(holders(&lab, addr), [false, true]);
}

#[test]
fn a_removal_overtakes_a_pending_addition() {
    if !is_root() {
        return;
    }
    let Fixture { lab, .. } = pair();
    let addr = IpAddr::from(Lab::virtual_v4(0));
    let host =
        lab.machine(0).enter(|| VirtualAddresses::start(settings())).expect("the keeper starts");
    let result = std::thread::scope(|scope| {
        let adding = scope
            .spawn(|| lab.machine(0).enter(|| Ok(host.add(&virtual_ip(addr)))).expect("it is on"));
        std::thread::sleep(Duration::from_millis(15));
        let begun = Instant::now();
        lab.machine(0).enter(|| Ok(host.remove(addr))).expect("it is on").expect("it obeys");
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(15), "removal waited for the addition: {took:?}");
        adding.join().expect("no panic")
    });
    assert!(matches!(result, Err(VipError::Withdrawn { .. })), "{result:?}");
    assert_eq!(holders(&lab, addr), [false, false]);
}

#[test]
fn nothing_is_left_of_a_laboratory_that_ended() {
    if !is_root() {
        return;
    }
    let Fixture { lab, directory } = pair();
    let first = lab.machine(0).first_process().expect("it is on");
    drop(lab);
    assert!(!Path::new(&format!("/proc/{first}")).exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("proc is mounted");
    assert!(!mounts.contains(&directory.path().display().to_string()), "{mounts}");
}
