//! A connection to a node of a farm is not reset by another node that hears it: not when a node
//! returns, not when shares change.

use crate::{expect::Property, fact::Fact, oracle::Cx};

use super::{Invariant, clients_once::agreed_after};

pub(super) struct ConnectionsStay;

impl Invariant for ConnectionsStay {
    fn property(&self) -> Property {
        Property::ConnectionsStay
    }

    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>) {
        let Fact::Reset(client, on, by) = fact else { return };
        if cx.world.joined_for(*on, *by) >= agreed_after(cx) {
            let text = format!("client {client:08x} is connected to {on} and is reset by {by}");
            cx.violated(Property::ConnectionsStay, text);
        }
    }
}
