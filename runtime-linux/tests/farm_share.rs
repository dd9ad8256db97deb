//! Whole daemons of a farm that shares one address, with a real web server: who answers whom
//! through the death and the return of a node. Needs root.
//!
//! `HAVRE_CLIENTS=2000` asks from that many addresses instead of 200.

use std::{
    io,
    net::IpAddr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use havre_core::status::MemberStatus;
use havre_linux::lab::farm::{Connection, Farm, FarmSpec, Server};

const LIMIT: Duration = Duration::from_secs(30);
/// How long a client waits for one answer.
const ANSWER: Duration = Duration::from_secs(2);

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_havre"))
}

fn clients() -> usize {
    std::env::var("HAVRE_CLIENTS").ok().and_then(|count| count.parse().ok()).unwrap_or(200)
}

fn farm(interface: Option<&'static str>) -> Option<(Farm, tempfile::TempDir)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let spec = FarmSpec::of(3, interface, &Server::choose(&program()));
    let farm = Farm::build(directory.path(), &program(), spec).expect("root may build a farm");
    Some((farm, directory))
}

/// Runs where the clients are.
fn as_client<T: Send>(farm: &Farm, job: impl FnOnce() -> T + Send) -> T {
    farm.cluster().lab().machine(farm.client()).in_network(job)
}

fn number_of(node: &str) -> usize {
    node.trim_start_matches("node").parse::<usize>().expect("nodes are numbered") - 1
}

/// Every client asks once on a new connection; who answered each.
fn ask_all(farm: &Farm, clients: &[IpAddr]) -> Vec<io::Result<usize>> {
    let to = farm.address();
    as_client(farm, || {
        let ask = |from: &IpAddr| Connection::open(*from, to, ANSWER)?.ask();
        clients.iter().map(|from| ask(from).map(|node| number_of(&node))).collect()
    })
}

/// The node that a daemon names as owner of each client.
fn owners(farm: &Farm, asked: usize, clients: &[IpAddr]) -> Vec<usize> {
    let owner = |client: &IpAddr| farm.owner(asked, (*client, 0).into()).expect("an owner");
    clients.iter().map(owner).collect()
}

/// Every client is answered, and by its owner.
fn compare(farm: &Farm, clients: &[IpAddr], owners: &[usize], when: &str) {
    for ((client, answered), owner) in clients.iter().zip(ask_all(farm, clients)).zip(owners) {
        let answered = answered.unwrap_or_else(|error| panic!("{when}: {client}: {error}"));
        assert_eq!(answered, *owner, "{when}: {client}");
    }
}

fn add_clients(farm: &Farm, count: usize) -> Vec<IpAddr> {
    farm.add_clients(count).expect("addresses").into_iter().map(IpAddr::from).collect()
}

/// The node that leads, as another sees it.
fn leader(farm: &Farm, asked: usize) -> usize {
    let seen = farm.status(asked).and_then(|status| status.farm).expect("a farm answers");
    let leads = |member: &MemberStatus| Some(member.node) == seen.leader;
    number_of(&seen.members.iter().find(|member| leads(member)).expect("somebody leads").name)
}

/// Asks for these clients, one after the other, until each is answered; the time since `fault`.
fn wait_served(farm: &Farm, lost: &[IpAddr], fault: Instant) -> Duration {
    let to = farm.address();
    as_client(farm, || {
        let short = Duration::from_millis(100);
        let served = |from: &IpAddr| Connection::open(*from, to, short).and_then(|mut c| c.ask());
        for client in lost {
            while served(client).is_err() {
                assert!(fault.elapsed() < LIMIT, "{client} is not served again");
            }
        }
    });
    fault.elapsed()
}

/// Connections that stay open, and the node at the other end of each.
struct Standing {
    connections: Vec<(Connection, usize)>,
}

impl Standing {
    fn open(farm: &Farm, clients: &[IpAddr]) -> Self {
        let to = farm.address();
        let connections = as_client(farm, || {
            let open = |from: &IpAddr| {
                let mut connection = Connection::open(*from, to, ANSWER)?;
                let node = number_of(&connection.ask()?);
                Ok((connection, node))
            };
            clients.iter().map(open).collect::<io::Result<_>>().expect("all connect")
        });
        Self { connections }
    }

    /// Those to the node that died are reset, so that their clients need not wait.
    fn are_reset(&mut self, farm: &Farm, dead: usize) {
        as_client(farm, || {
            for (connection, _) in self.connections.iter_mut().filter(|(_, h)| *h == dead) {
                let error = connection.ask().expect_err("the server is dead");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
            }
        });
    }

    /// Those to other nodes than `dead` still end where they did.
    fn ask(&mut self, farm: &Farm, dead: usize, when: &str) {
        as_client(farm, || {
            for (connection, host) in self.connections.iter_mut().filter(|(_, h)| *h != dead) {
                let node = connection.ask();
                let node = node.unwrap_or_else(|e| panic!("{when}: of node{}: {e}", *host + 1));
                assert_eq!(number_of(&node), *host, "{when}: a connection moved");
            }
        });
    }
}

/// What a program says.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How many answers the first echo request to the shared address gets.
fn echoes(farm: &Farm) -> usize {
    let vip = farm.address().ip().to_string();
    let text = as_client(farm, || said("ping", &["-n", "-c", "2", "-i", "0.5", "-w", "2", &vip]));
    text.lines().filter(|line| line.contains("icmp_seq=1 ")).count()
}

/// The Ethernet address that the client has for the shared address.
fn neighbour(farm: &Farm) -> Option<String> {
    let vip = farm.address().ip().to_string();
    let text = as_client(farm, || said("ip", &["neigh", "show", &vip]));
    let mut words = text.split_whitespace();
    words.find(|word| *word == "lladdr")?;
    words.next().map(str::to_owned)
}

/// The Ethernet address of a node's own interface.
fn ether_of(farm: &Farm, node: usize) -> String {
    let machine = farm.cluster().lab().machine(node);
    let text = machine.in_network(|| said("ip", &["-br", "link", "show", "net0"]));
    text.split_whitespace().nth(2).expect("an Ethernet address").to_owned()
}

#[test]
fn each_client_is_answered_by_the_node_that_explain_names_through_death_and_return() {
    let Some((mut farm, _directory)) = farm(Some("vmac_invisible")) else { return };
    farm.start_all().expect("three nodes share");
    let clients = add_clients(&farm, clients());
    let before = owners(&farm, 0, &clients);
    compare(&farm, &clients, &before, "three nodes");
    for node in 0..3 {
        let count = before.iter().filter(|owner| **owner == node).count();
        assert!(count > clients.len() / 6, "node{} takes {count}", node + 1);
    }
    assert_eq!(echoes(&farm), 3, "every node answers a ping");
    let mut standing = Standing::open(&farm, &clients[..clients.len().min(100)]);

    // A node that is no leader dies; then one client of it after the other is served elsewhere.
    let leader = leader(&farm, 0);
    let dead = (0..3).rev().find(|node| *node != leader).expect("three nodes");
    let lost: Vec<IpAddr> =
        clients.iter().zip(&before).filter(|(_, owner)| **owner == dead).map(|(c, _)| *c).collect();
    let fault = Instant::now();
    farm.cluster_mut().power_off(dead).expect("it dies");
    let served = wait_served(&farm, &lost, fault);
    eprintln!(
        "{} clients of a dead node served elsewhere after {} ms (time-out {} ms)",
        lost.len(),
        served.as_millis(),
        (farm.spec().pulse * farm.spec().lost_counts.0).as_millis()
    );
    let live: Vec<usize> = (0..3).filter(|node| *node != dead).collect();
    farm.wait_shared(&live, LIMIT).expect("two nodes share");
    let after = owners(&farm, live[0], &clients);
    for (old, new) in before.iter().zip(&after) {
        assert!(old == new || *old == dead, "a client of a living node moved");
    }
    compare(&farm, &clients, &after, "two nodes");
    assert_eq!(echoes(&farm), 2, "every node that lives answers a ping");
    standing.ask(&farm, dead, "after the death");
    standing.are_reset(&farm, dead);
    // Their buckets go back to the node that returns, but they stay where they are.
    let mut lent = Standing::open(&farm, &lost);

    farm.cluster_mut().power_on(dead).expect("it comes back");
    farm.cluster_mut().start(dead).expect("it starts");
    farm.wait_shared(&[0, 1, 2], LIMIT).expect("three nodes share again");
    assert_eq!(owners(&farm, 0, &clients), before, "the same members give the same map");
    standing.ask(&farm, dead, "after the return");
    lent.ask(&farm, dead, "connections of moved clients after the return");
    compare(&farm, &clients, &before, "three nodes again");
}

#[test]
fn a_directed_address_is_at_one_node_and_at_another_after_its_death() {
    let Some((mut farm, _directory)) = farm(Some("vmac_directed")) else { return };
    farm.start_all().expect("three nodes share");
    let clients = add_clients(&farm, clients());
    let before = owners(&farm, 0, &clients);
    compare(&farm, &clients, &before, "three nodes");
    let first = leader(&farm, 0);
    assert_eq!(neighbour(&farm), Some(ether_of(&farm, first)), "at the leader");
    assert_eq!(echoes(&farm), 1, "one node receives a ping");
    let mut standing = Standing::open(&farm, &clients[..clients.len().min(100)]);

    let fault = Instant::now();
    farm.cluster_mut().power_off(first).expect("it dies");
    let served = wait_served(&farm, &clients, fault);
    eprintln!(
        "all clients served after {} ms without the leader (time-out {} ms)",
        served.as_millis(),
        farm.spec().timeout().as_millis()
    );
    let live: Vec<usize> = (0..3).filter(|node| *node != first).collect();
    farm.wait_shared(&live, LIMIT).expect("two nodes share");
    let after = owners(&farm, live[0], &clients);
    compare(&farm, &clients, &after, "two nodes");
    let second = leader(&farm, live[0]);
    assert_eq!(neighbour(&farm), Some(ether_of(&farm, second)), "at the new leader");
    standing.ask(&farm, first, "after the leader's death");
    standing.are_reset(&farm, first);
}
