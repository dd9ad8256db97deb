//! Traffic to a node of a farm is open only while its application runs: it opens after the start
//! script and closes before the stop script.

use crate::{expect::Property, fact::Fact, oracle::Cx};

use super::Invariant;

pub(super) struct OpenWhenReady;

impl Invariant for OpenWhenReady {
    fn property(&self) -> Property {
        Property::OpenWhenReady
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        if let Fact::TurnedAway(client, host) = fact {
            let text = format!("{host} takes client {client:08x} and runs no application");
            cx.violated(Property::OpenWhenReady, text);
        }
    }
}
