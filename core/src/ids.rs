//! Newtypes for everything that is counted or named.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize,
            Deserialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl $name {
            /// The id that follows this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("ids do not run out within a node's life"))
            }
        }
    };
}

id!(
    /// A member of the cluster: its position in the order of names of `cluster.xml`.
    ///
    /// [`NodeId::WITNESS`] names the third-party arbiter, which is not in that list.
    NodeId(u16), "n"
);
id!(
    /// A network of the cluster: its position among the `<lan>` elements of `cluster.xml`.
    LinkId(u16), "lan"
);
id!(
    /// A module, by the small number that all nodes share; ports derive from it. From 1 up.
    ModuleId(u16), "m"
);
id!(
    /// An order whose completion will be reported; unique within one run of one node.
    OpId(u64), "op"
);
id!(
    /// A question from the command line or the API; unique within one run of one node.
    RequestId(u64), "rq"
);
id!(
    /// Position in the one log order of a module's replicated changes. 0 is before the first.
    Seq(u64), "#"
);
id!(
    /// Number of a right to run as primary under policy `lease`; never reused, never lower.
    Epoch(u64), "e"
);
id!(
    /// A checker of a module: its position among the module's checkers.
    CheckerId(u16), "k"
);
id!(
    /// One run of a node's daemon: drawn at random when the daemon starts.
    Incarnation(u64), "i"
);
id!(
    /// One cluster: drawn at random by `havre cluster init`, so that datagrams of another
    /// cluster are recognised, and told apart by a witness that serves many.
    ClusterId(u64), "c"
);

impl NodeId {
    /// The witness, as sender or receiver of messages.
    pub const WITNESS: Self = Self(u16::MAX);
}

impl LinkId {
    /// The way to the witness, which is on none of the networks of `cluster.xml`.
    pub const WITNESS: Self = Self(u16::MAX);
}
