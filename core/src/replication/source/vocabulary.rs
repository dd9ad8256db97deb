//! The vocabulary of a source: what the data path and the control loop tell it, what it orders.

use std::time::Duration;

use crate::{
    config::module::{Contract, RfsConfig, WriteMode},
    effect::{Outcome, VolumeNews},
    ids::{ModuleId, OpId, Seq},
    replication::{
        generation::Generation,
        intent::{BatchId, MarkId, MarkSet},
        stream::{Hello, ToTarget},
    },
};

/// Changes of the application that may be open at once.
pub const TICKETS_MAX: u32 = 16_384;

/// Names an open change: a small number, chosen by the data path, free again after
/// [`SourceAction::Complete`]. Below [`TICKETS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u32);

/// What kind of request a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// Changes data, names or attributes.
    Change,
    /// Changes nothing; completes when every earlier completed change is safe (fsync, syncfs).
    Barrier,
    /// As `Change`, and a barrier is expected to follow at once: the target may sync early.
    ChangeBeforeBarrier,
    /// Both in one: a write on a file opened with O_SYNC, a rename that must be durable.
    ChangeAndBarrier,
}

/// One request of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Its kind.
    pub kind: ChangeKind,
    /// Payload bytes it will put into the stream; 0 for a barrier.
    pub bytes: u32,
    /// What it changes; empty for a barrier.
    pub marks: MarkSet,
}

/// How the local application of a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Applied {
    /// It changed the copy as recorded (a short write: record what was written).
    Changed,
    /// It was refused and changed nothing (EEXIST, ENOENT, ENOSPC before the first byte).
    Refused,
    /// It failed and may have changed something that the record does not say (EIO).
    Unsure,
}

/// What the application is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The result of the local application, good or bad; a barrier succeeded.
    AsApplied,
    /// EROFS or EIO: the right to complete changes was taken away, or the data path is closed.
    Fenced,
    /// EIO: the local disk or mark log failed.
    LocalFailure,
}

/// Orders of the control loop, see [`crate::effect::VolumeRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceOrder {
    /// Changes are made under this generation; takes a fence away.
    Serve(Generation),
    /// The target may connect; `full`: copy everything.
    Admit {
        /// Copy everything, whatever is marked.
        full: bool,
    },
    /// Barriers no longer wait for the target.
    Solo(Generation),
    /// Nothing completes as successful any more.
    Fence,
    /// End: `clean` waits for the target to hold everything.
    Close {
        /// Whether to wait for the target.
        clean: bool,
    },
}

/// Facts that a source takes.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceInput {
    /// The application asks for something.
    Submit {
        /// Its name; must not be open.
        ticket: Ticket,
        /// What it asks.
        change: Change,
    },
    /// [`SourceAction::Apply`] ended. The order of these facts is the order of the log.
    Applied {
        /// The change.
        ticket: Ticket,
        /// How.
        applied: Applied,
    },
    /// [`SourceAction::Flush`] ended.
    Flushed {
        /// The barrier.
        ticket: Ticket,
        /// Whether the disk holds everything that was applied before it was ordered.
        ok: bool,
    },
    /// [`SourceAction::PersistMarks`] ended: the batch, or what the operating system said.
    MarksPersisted {
        /// The batch.
        batch: BatchId,
        /// Whether it is durable.
        result: Result<(), String>,
    },
    /// [`SourceAction::SyncAll`] ended.
    Synced {
        /// Whether everything that was applied before it was ordered is durable.
        ok: bool,
    },
    /// The target or the connection says something.
    Peer(PeerInput),
    /// A resynchronisation order was carried out.
    Resync(ResyncInput),
    /// An order; reported by [`SourceAction::Finished`].
    Order {
        /// Its name.
        op: OpId,
        /// What.
        order: SourceOrder,
    },
}

/// Facts about the target.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerInput {
    /// A target connected and said this; an earlier connection is gone.
    Connected(Hello),
    /// Parts of its copy that may differ, translated from the message of that name.
    Marks {
        /// The parts; [`MarkId::EVERYTHING`] if the whole copy may differ.
        marks: Vec<MarkId>,
        /// No further ones follow.
        last: bool,
    },
    /// Cumulative acknowledgement.
    Ack {
        /// Everything up to here was received.
        received: Seq,
        /// Everything up to here is durable.
        durable: Seq,
    },
    /// The connection ended, the target failed, or it broke the protocol.
    Gone {
        /// Why, in words.
        reason: String,
    },
}

/// Facts about the resynchronisation.
#[derive(Debug, Clone, PartialEq)]
pub enum ResyncInput {
    /// A step of comparing or copying `item` is ready to be sent. The answer, within the same
    /// call, is [`SourceAction::ShipItem`].
    Step {
        /// The item.
        item: MarkId,
        /// Payload bytes of the step.
        bytes: u32,
    },
    /// [`SourceAction::CopyItem`] ended: all its steps were shipped. An item that no longer
    /// exists is done with zero bytes.
    Done {
        /// The item.
        item: MarkId,
        /// Bytes compared.
        bytes_compared: u64,
        /// Bytes sent because they differed.
        bytes_copied: u64,
    },
    /// An item could not be read here; the resynchronisation is given up.
    Failed {
        /// What the operating system said.
        error: String,
    },
    /// More items of the whole copy, as asked by [`SourceAction::Enumerate`].
    Items {
        /// The items, in any order, at most [`ENUMERATE_MAX`].
        items: Vec<MarkId>,
        /// There are no more.
        last: bool,
    },
}

/// Items in one answer to [`SourceAction::Enumerate`].
pub const ENUMERATE_MAX: usize = 1_024;

/// Orders that a source gives.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceAction {
    /// Make these marks durable in the mark log. Orders to the mark log take effect in sequence.
    PersistMarks {
        /// Name of the batch.
        batch: BatchId,
        /// The marks.
        marks: Vec<MarkId>,
    },
    /// Take these marks out of the mark log, at leisure.
    ClearMarks {
        /// The marks.
        marks: Vec<MarkId>,
    },
    /// Apply a change to the local copy.
    Apply {
        /// The change.
        ticket: Ticket,
    },
    /// Make what this barrier covers durable on the local disk.
    Flush {
        /// The barrier.
        ticket: Ticket,
    },
    /// Put the change into the stream under this number, now, and keep the frame until the
    /// target has received it or until [`SourceAction::Discard`]. Without a connection: keep it.
    Ship {
        /// The change.
        ticket: Ticket,
        /// Its number.
        seq: Seq,
        /// See [`Element::Change`](crate::replication::stream::Element::Change).
        sync: bool,
    },
    /// Answer the application.
    Complete {
        /// The change; the ticket is free again.
        ticket: Ticket,
        /// The answer.
        verdict: Verdict,
    },
    /// Make everything applied so far durable on the local disk.
    SyncAll,
    /// Send a message on the stream. An element is kept as in [`SourceAction::Ship`].
    Send(ToTarget),
    /// Put the step of [`ResyncInput::Step`] into the stream under this number.
    ShipItem {
        /// The item.
        item: MarkId,
        /// The number.
        seq: Seq,
    },
    /// Send the kept frames after this number again, in order.
    Resend {
        /// The last one that the target has.
        after: Seq,
    },
    /// Drop the kept frames, and stop every [`SourceAction::CopyItem`] without a report.
    Discard,
    /// Compare this item with the target's and copy what differs. What is read must be read
    /// after this order.
    CopyItem {
        /// The item.
        item: MarkId,
    },
    /// List items of the whole copy, from the beginning or from where the last list ended.
    Enumerate {
        /// From the beginning.
        restart: bool,
    },
    /// Close the connection (after what was sent on it).
    Disconnect,
    /// Tell the control loop.
    News(VolumeNews),
    /// An order ended.
    Finished {
        /// Its name.
        op: OpId,
        /// How.
        outcome: Outcome,
    },
}

/// What a source needs to know beforehand.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceConfig {
    /// The module.
    pub module: ModuleId,
    /// Digest of the module's configuration; a target with another one is refused.
    pub signature: u64,
    /// `async=`.
    pub contract: Contract,
    /// `write=`.
    pub mode: WriteMode,
    /// Longest silence on a request before the source goes on alone.
    pub lock_timeout: Duration,
    /// Longest time in which the target takes nothing off the stream.
    pub send_timeout: Duration,
    /// Cap of the resynchronisation.
    pub resync_bytes_per_second_max: Option<u64>,
    /// Largest item, for estimates of what remains.
    pub item_bytes_max: u64,
    /// How often marks are looked at for clearing. Default [`CHECKPOINT_PERIOD`].
    pub checkpoint_period: Duration,
    /// Whether a successful sync proves that the local disk holds everything. False after a sync
    /// failed since the machine started: the system then counts as clean what the disk never got,
    /// and no mark is cleared until this copy has been rewritten. Default true.
    pub syncs_prove: bool,
}

/// Default of [`SourceConfig::checkpoint_period`]: twice this after the last change, an idle
/// module has no marks.
pub const CHECKPOINT_PERIOD: Duration = Duration::from_secs(10);

impl SourceConfig {
    /// The configuration that `<rfs>` says.
    pub fn new(module: ModuleId, signature: u64, rfs: &RfsConfig, item_bytes_max: u64) -> Self {
        Self {
            module,
            signature,
            contract: rfs.contract,
            mode: rfs.write,
            lock_timeout: rfs.lock_timeout,
            send_timeout: rfs.send_timeout,
            resync_bytes_per_second_max: rfs.resync_bytes_per_second_max,
            item_bytes_max,
            checkpoint_period: CHECKPOINT_PERIOD,
            syncs_prove: true,
        }
    }
}
