//! Tests of the loop with a toy machine, a toy operating system and networks in memory.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use havre_core::{
    checks::probe::{Finding, Probe},
    effect::{
        AddressRequest, Command, ModuleOrder, ModuleRecord, Record, Route, SavedState, ScriptCall,
        ScriptEnd, VolumeNews, VolumeRequest,
    },
    farm::table::FilterRequest,
    ids::{CheckerId, ClusterId, LinkId, ModuleId},
    wire::message::{ClaimVerdict, Message},
};
use tokio::{sync::Notify, task::LocalSet, time};

use super::*;
use crate::{redacted::Redacted, seal::Identity};

const M: ModuleId = ModuleId(1);
const LAN: LinkId = LinkId(0);

fn address(node: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 4000 + node))
}

fn message(nonce: u64) -> Message {
    Message::ClaimReply { module: M, nonce, verdict: ClaimVerdict::Granted }
}

fn send(nonce: u64, after: Option<OpId>) -> Effect {
    Effect::Send { to: NodeId(1), route: Route::All, message: message(nonce), after }
}

fn persist(op: u64) -> Effect {
    let record = Record::Module { module: M, record: ModuleRecord::blank() };
    Effect::Persist { op: OpId(op), record }
}

/// Notes what it is told, and answers each command with the orders prepared for it.
#[derive(Default)]
struct Toy {
    heard: Rc<RefCell<Vec<String>>>,
    scripts: VecDeque<Vec<Effect>>,
    deadline: Option<Instant>,
    /// The start, and each news of a data path, move the deadline to this long after them.
    patience: Option<Duration>,
}

impl Machine for Toy {
    type Input = Input;
    type Action = Effect;

    fn handle(&mut self, now: Instant, input: Input, out: &mut Out<Effect>) {
        let moves = matches!(input, Input::Booted { .. } | Input::Volume { .. });
        let line = match &input {
            Input::Booted { .. } => "booted".to_owned(),
            Input::Received { from, message, .. } => match message {
                Message::ClaimReply { nonce, .. } => format!("{from} says {nonce}"),
                _ => format!("{from} says something"),
            },
            Input::Asked { request, .. } => {
                out.push(Effect::Answer { request: *request, answer: Answer::Accepted });
                for effect in self.scripts.pop_front().unwrap_or_default() {
                    out.push(effect);
                }
                "asked".to_owned()
            }
            Input::Completed { op, outcome } => format!("{op} {outcome:?}"),
            Input::Volume { news, .. } => format!("{news:?}"),
            Input::Filter { news, .. } => format!("{news:?}"),
            Input::Checked { checker, finding, .. } => format!("{checker} {finding:?}"),
        };
        self.heard.borrow_mut().push(line);
        if let Some(patience) = self.patience.filter(|_| moves) {
            self.deadline = Some(now + patience);
        }
    }

    fn handle_timeout(&mut self, now: Instant, _out: &mut Out<Effect>) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.heard.borrow_mut().push("time is up".to_owned());
            self.deadline = None;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

/// Does orders after a pause, and notes when it begins and ends them.
struct ToyOs {
    start: time::Instant,
    done: RefCell<Vec<String>>,
    disk_fails: Cell<bool>,
    pause: Duration,
}

impl ToyOs {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            start: time::Instant::now(),
            done: RefCell::default(),
            disk_fails: Cell::new(false),
            pause: Duration::from_millis(10),
        })
    }

    async fn work(&self, what: String) -> Outcome {
        self.done.borrow_mut().push(format!("{what} begins"));
        time::sleep(self.pause).await;
        self.done.borrow_mut().push(format!("{what} ends"));
        Outcome::Done
    }
}

impl Os for ToyOs {
    async fn probe(
        &self,
        _module: ModuleId,
        checker: CheckerId,
        _what: Probe,
        _limit: Option<Duration>,
    ) -> Finding {
        self.work(format!("probe of {checker}")).await;
        Finding::Up
    }
    fn watch(&self, _module: ModuleId, checker: CheckerId, _what: Probe) {
        self.done.borrow_mut().push(format!("watch of {checker}"));
    }
    fn unwatch(&self, _module: ModuleId, checker: CheckerId) {
        self.done.borrow_mut().push(format!("end of watch of {checker}"));
    }
    fn reboot(&self, _module: ModuleId) {
        self.done.borrow_mut().push("reboot".to_owned());
    }
    fn now(&self) -> Instant {
        Instant::from_millis(1_000) + self.start.elapsed()
    }
    async fn load(&self) -> Result<SavedState, String> {
        Ok(SavedState::default())
    }
    async fn persist(&self, _record: Record) -> Outcome {
        time::sleep(self.pause).await;
        if self.disk_fails.get() { Outcome::Failed("disk".to_owned()) } else { Outcome::Done }
    }
    async fn run_script(&self, _module: ModuleId, call: ScriptCall) -> ScriptEnd {
        self.work(call.name.file_name().to_owned()).await;
        ScriptEnd::Exited(0)
    }
    async fn kill_scripts(&self, _module: ModuleId) -> Outcome {
        Outcome::Done
    }
    async fn address(&self, _module: ModuleId, request: AddressRequest) -> Outcome {
        self.work(format!("{request:?}")).await
    }
    async fn filter(&self, _module: ModuleId, request: FilterRequest) -> Outcome {
        self.work(format!("{request:?}")).await
    }
    async fn ping(&self, _targets: Vec<IpAddr>, _limit: Duration) -> bool {
        true
    }
    async fn volume(&self, _module: ModuleId, request: VolumeRequest) -> Outcome {
        self.work(format!("{request:?}")).await
    }
    fn guard(&self, _module: ModuleId, _until: Option<Instant>) {}

    fn notify(&self, event: &Event) {
        self.done.borrow_mut().push(format!("{:?}", event.kind));
    }
}

/// A socket in memory.
#[derive(Default)]
struct Wire {
    sent: RefCell<Vec<Vec<u8>>>,
    arrived: RefCell<VecDeque<Datagram>>,
    news: Notify,
}

impl Wire {
    fn deliver(&self, bytes: Vec<u8>) {
        self.arrived.borrow_mut().push_back(Datagram { link: LAN, from: address(1), bytes });
        self.news.notify_one();
    }
}

impl Net for Rc<Wire> {
    fn send(&self, _link: LinkId, _to: SocketAddr, bytes: &[u8]) {
        self.sent.borrow_mut().push(bytes.to_vec());
    }
    async fn receive(&self) -> Datagram {
        loop {
            if let Some(datagram) = self.try_receive() {
                return datagram;
            }
            self.news.notified().await;
        }
    }
    fn try_receive(&self) -> Option<Datagram> {
        self.arrived.borrow_mut().pop_front()
    }
}

fn sealer(node: u16) -> Sealer {
    let key = Redacted::new([3; crate::seal::KEY_BYTES]);
    Sealer::new(Identity::of_node(ClusterId(1), NodeId(node), &key), 1)
}

struct Bench {
    heard: Rc<RefCell<Vec<String>>>,
    os: Rc<ToyOs>,
    wire: Rc<Wire>,
    inbox: Inbox,
    peer: Sealer,
}

impl Bench {
    async fn ask(&self) {
        let order = ModuleOrder::Start;
        let answer = self.inbox.ask(Command::Module { module: M, order }).await;
        assert_eq!(answer, Ok(Answer::Accepted));
    }

    fn nonces_sent(&mut self) -> Vec<u64> {
        let mut nonces = Vec::new();
        for bytes in self.wire.sent.borrow().iter() {
            let (_, message) = self.peer.open(bytes).expect("sealed for the peer");
            let Message::ClaimReply { nonce, .. } = message else { panic!("unexpected") };
            nonces.push(nonce);
        }
        nonces
    }
}

/// Runs a toy agent on paused time while `test` drives it.
fn with_agent(toy: Toy, test: impl AsyncFnOnce(Bench)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let (heard, os, wire) = (Rc::clone(&toy.heard), ToyOs::new(), Rc::new(Wire::default()));
        let (inbox, letters) = inbox();
        let mut peers = Peers::new();
        peers.insert(NodeId(1), LAN, address(1));
        let config = AgentConfig { incarnation: Incarnation(1), peers, sealer: sealer(0) };
        let agent = run(toy, Rc::clone(&wire), Rc::clone(&os), config, letters);
        let agent = tokio::task::spawn_local(agent);
        test(Bench { heard, os, wire, inbox: inbox.clone(), peer: sealer(1) }).await;
        inbox.stop();
        assert_eq!(agent.await.expect("the agent does not panic"), Ok(()));
    });
}

#[test]
fn a_datagram_waits_for_the_durability_of_its_record() {
    let orders = vec![send(1, Some(OpId(1))), persist(1), send(2, None)];
    let toy = Toy { scripts: VecDeque::from([orders]), ..Toy::default() };
    with_agent(toy, async |mut bench| {
        bench.ask().await;
        assert_eq!(bench.nonces_sent(), [2]);
        bench.wire.sent.borrow_mut().clear();
        time::sleep(Duration::from_millis(20)).await;
        assert_eq!(bench.nonces_sent(), [1]);
        assert_eq!(bench.heard.borrow().last().map(String::as_str), Some("op1 Done"));
    });
}

#[test]
fn a_datagram_whose_record_cannot_be_written_is_never_sent() {
    let orders = vec![persist(1), send(1, Some(OpId(1)))];
    let later = vec![send(2, Some(OpId(1))), send(3, None)];
    let toy = Toy { scripts: VecDeque::from([orders, later]), ..Toy::default() };
    with_agent(toy, async |mut bench| {
        bench.os.disk_fails.set(true);
        bench.ask().await;
        time::sleep(Duration::from_millis(20)).await;
        bench.ask().await;
        assert_eq!(bench.nonces_sent(), [3]);
    });
}

#[test]
fn orders_to_one_data_path_follow_each_other_and_fencing_overtakes_them() {
    let volume = |op, request| Effect::Volume { op: OpId(op), module: M, request };
    let orders = vec![
        volume(1, VolumeRequest::Prepare),
        volume(2, VolumeRequest::Close { clean: true }),
        volume(3, VolumeRequest::Fence),
    ];
    let toy = Toy { scripts: VecDeque::from([orders]), ..Toy::default() };
    with_agent(toy, async |bench| {
        bench.ask().await;
        time::sleep(Duration::from_millis(100)).await;
        assert_eq!(
            *bench.os.done.borrow(),
            [
                "Prepare begins",
                "Fence begins",
                "Prepare ends",
                "Fence ends",
                "Close { clean: true } begins",
                "Close { clean: true } ends",
            ]
        );
        assert_eq!(bench.heard.borrow()[2..], ["op1 Done", "op3 Done", "op2 Done"]);
    });
}

#[test]
fn what_has_arrived_is_heard_before_the_time_is_up() {
    let patience = Some(Duration::from_millis(500));
    let toy = Toy { patience, ..Toy::default() };
    with_agent(toy, async |bench| {
        tokio::task::yield_now().await;
        let mut peer = sealer(1);
        let datagram =
            |nonce, peer: &mut Sealer| peer.seal(NodeId(0), &message(nonce)).expect("small");
        // The process is stopped for longer than its patience while all this arrives; only the
        // last of it moves the deadline.
        bench.wire.deliver(datagram(1, &mut peer));
        bench.wire.deliver(datagram(2, &mut peer));
        bench.inbox.volume_news(M, VolumeNews::Failed { error: "disk".to_owned() });
        time::advance(Duration::from_millis(2_000)).await;
        time::sleep(Duration::from_millis(1)).await;
        let heard = bench.heard.borrow().clone();
        let expected = ["booted", "n1 says 1", "n1 says 2", "Failed { error: \"disk\" }"];
        assert_eq!(heard, expected);
        time::sleep(Duration::from_millis(600)).await;
        assert_eq!(bench.heard.borrow().last().map(String::as_str), Some("time is up"));
    });
}

#[test]
fn datagrams_of_strangers_are_reported_once_per_minute() {
    with_agent(Toy::default(), async |bench| {
        let key = Redacted::new([4; crate::seal::KEY_BYTES]);
        let identity = Identity::of_node(ClusterId(1), NodeId(1), &key);
        let mut stranger = Sealer::new(identity, 1);
        for _ in 0..30 {
            for _ in 0..10 {
                let datagram = stranger.seal(NodeId(0), &message(1)).expect("small");
                bench.wire.deliver(datagram);
            }
            time::sleep(Duration::from_secs(3)).await;
        }
        let done = bench.os.done.borrow();
        assert_eq!(done.len(), 2, "{done:?}");
        assert!(
            done[1].contains("wrong key") && done[1].contains("havre cluster join"),
            "{done:?}"
        );
        assert_eq!(*bench.heard.borrow(), ["booted"]);
    });
}

#[test]
fn after_the_end_of_the_agent_questions_fail() {
    let kept = RefCell::new(None);
    with_agent(Toy::default(), async |bench| {
        *kept.borrow_mut() = Some(bench.inbox.clone());
    });
    let inbox = kept.into_inner().expect("kept above");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    assert_eq!(runtime.block_on(inbox.ask(Command::Status)), Err(AgentGone));
}
