//! One file per property; each judges performed effects in true time.

use crate::{expect::Property, fact::Fact, oracle::Cx};

mod acked_survive;
mod announced;
mod clients_once;
mod connections_stay;
mod copies_equal;
mod divergence;
mod epochs;
mod loops;
mod one_holder;
mod open_when_ready;
mod reads;
mod rules;
mod shares_whole;
mod stale_start;
mod status;

/// A property that is judged fact by fact.
pub trait Invariant {
    /// Which.
    fn property(&self) -> Property;
    /// Takes a fact.
    fn observe(&mut self, fact: &Fact, cx: &mut Cx<'_>);
    /// The run is over; `settled`: the cluster was left in peace long enough.
    fn finish(&mut self, _settled: bool, _cx: &mut Cx<'_>) {}
}

/// Every property of a mirror, or of a farm, that is judged fact by fact.
pub fn all(farm: bool) -> Vec<Box<dyn Invariant>> {
    if farm {
        return vec![
            Box::new(clients_once::ClientsOnce),
            Box::new(connections_stay::ConnectionsStay),
            Box::new(open_when_ready::OpenWhenReady),
            Box::new(shares_whole::SharesWhole),
        ];
    }
    vec![
        Box::new(one_holder::OneHolder::application()),
        Box::new(one_holder::OneHolder::address()),
        Box::new(acked_survive::AckedSurvive),
        Box::new(stale_start::NoStaleStart::default()),
        Box::new(reads::ReadsCorrect::default()),
        Box::new(copies_equal::CopiesEqual::default()),
        Box::new(divergence::NoSilentDivergence::default()),
        Box::new(status::StatusTruthful::default()),
        Box::new(epochs::EpochsUnique::default()),
        Box::new(loops::LoopsBounded::default()),
        Box::new(rules::RulesKept::default()),
        Box::new(announced::Announced::default()),
    ]
}
