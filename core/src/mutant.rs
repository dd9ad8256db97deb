//! Planted bugs. With feature `mutants` a test harness switches one of them on; without it, every
//! question is answered "no" at compile time.
//!
//! They measure the simulator: each must be found within a fixed number of seeds.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// A planted bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant {
            $($(#[$doc])* $name,)+
        }

        impl Mutant {
            /// Every planted bug.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name, as the command line takes it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

mutants! {
    /// A primary believes that its right lasts for a whole lease longer than it does.
    LeaseOutlivesPromise,
    /// A restarted node forgets that it may have promised not to take over.
    NoBootHold,
    /// The witness answers before its record is durable.
    WitnessGrantsBeforeDurable,
    /// A restarted witness does not let old leases run out.
    WitnessForgetsLeases,
    /// A primary goes on alone before that is on record anywhere else.
    SoloBeforeCommit,
    /// A node whose copy is outdated may take over.
    OutdatedMayPromote,
    /// The peer consents before its own copy is durably marked as outdated.
    ConsentBeforeDurable,
    /// A target calls itself consistent as soon as the resynchronisation begins.
    ConsistentTooEarly,
    /// A fenced node leaves its address in place.
    FenceKeepsAddress,
    /// A primary counts its secondary's promise from the hearing of it, not from the sending of
    /// the heartbeat that it answers.
    BackingCountsFromHearing,
    /// A primary does not announce its address again when a network came back.
    HealNotAnnounced,
    /// A change is applied although its mark is not durable yet.
    MarkNotAwaited,
    /// Marks are cleared although the target may not hold the change durably.
    ClearMarksEarly,
    /// A barrier completes although the target has not received what precedes it.
    AckBeforeReceipt,
    /// The source says that the target caught up while items changed since they were copied.
    EnlistBeforeFinalPass,
    /// A source that lost its enlisted target completes barriers by itself.
    CompleteBarrierWhileOrphaned,
    /// A fenced source goes on completing changes as successful.
    FenceIgnored,
    /// The target says "durable" before its disk does.
    TargetAcksBeforeSync,
    /// The target says that it caught up while it is still being resynchronised.
    CaughtUpTooEarly,
    /// A target that is promoted does not carry out what it has received.
    PromoteWithoutDrain,
    /// The source drops the marks that the target sends at the start of a resynchronisation.
    TargetMarksIgnored,
    /// A node of a farm takes a bucket before its former owner has let go.
    FarmTakesBeforeRelease,
    /// A new owner does not know that others have connections in its buckets.
    FarmForgetsHolders,
    /// A node goes on taking clients while its daemon sleeps and the others count it as lost.
    FarmNeverExpires,
    /// A node of a farm stops its application before it lets new clients go elsewhere.
    FarmStopsBeforeClosing,
    /// Nodes with different configurations share a farm.
    FarmCountsAnyConfiguration,
    /// A leader that lost a follower does not count it again.
    FarmForgetsReturned,
    /// The loop guard never stops an application that fails again and again.
    LoopForever,
    /// A count of detections is believed before it is durable.
    CountNotAwaited,
    /// A module leaves WAIT although a checker of a wait rule has not reported yet.
    WakesTooEarly,
    /// A shared checker makes a healthy application wait although no node reaches the target.
    SharedIgnored,
}

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Switches one planted bug on in this thread, or all off.
    pub fn select(mutant: Option<Mutant>) {
        ACTIVE.with(|active| active.set(mutant));
    }

    /// Whether this planted bug is on.
    pub fn active(mutant: Mutant) -> bool {
        ACTIVE.with(|active| active.get() == Some(mutant))
    }
}

#[cfg(feature = "mutants")]
pub use switch::{active, select};

/// Whether this planted bug is on: never, in a build without the feature.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn active(_mutant: Mutant) -> bool {
    false
}
