//! Orders that must be carried out one after the other, and those that wait for their turn.

use std::collections::{BTreeMap, VecDeque};

use havre_core::{
    effect::{AddressRequest, Effect},
    farm::table::FilterRequest,
    ids::ModuleId,
};

use super::overtakes;

/// A sequence of orders of which one at a time is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Durable records.
    Disk,
    /// The data path of a module.
    Volume(ModuleId),
    /// The virtual addresses of a module.
    Address(ModuleId),
    /// The packet filter of a module.
    Filter(ModuleId),
}

impl Lane {
    /// The lane of an order; `None` if it starts at once.
    pub(super) fn of(effect: &Effect) -> Option<Self> {
        match effect {
            Effect::Persist { .. } => Some(Self::Disk),
            Effect::Volume { module, request, .. } if !overtakes(request) => {
                Some(Self::Volume(*module))
            }
            // Removing is the first act of fencing, and waits for nothing.
            Effect::Address { request: AddressRequest::Remove(_), .. }
            | Effect::Filter { request: FilterRequest::Clear, .. } => None,
            Effect::Filter { module, .. } => Some(Self::Filter(*module)),
            Effect::Address { module, .. } => Some(Self::Address(*module)),
            _ => None,
        }
    }
}

/// The lanes with an order under way, and the orders behind it.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    busy: BTreeMap<Lane, VecDeque<Effect>>,
}

impl Lanes {
    /// Returns the order if it starts now; keeps it for later otherwise.
    pub(super) fn admit(&mut self, effect: Effect) -> Option<Effect> {
        let Some(lane) = Lane::of(&effect) else { return Some(effect) };
        match self.busy.get_mut(&lane) {
            Some(queue) => {
                queue.push_back(effect);
                None
            }
            None => {
                self.busy.insert(lane, VecDeque::new());
                Some(effect)
            }
        }
    }

    /// Takes out the orders that `effect` makes void before they have begun: those that would set
    /// or announce addresses after their removal, or set a filter after it was taken away. One
    /// that has begun is withdrawn by the removal itself.
    pub(super) fn withdrawn_by(&mut self, effect: &Effect) -> Vec<Effect> {
        let lane = match effect {
            Effect::Address { module, request: AddressRequest::Remove(_), .. } => {
                Lane::Address(*module)
            }
            Effect::Filter { module, request: FilterRequest::Clear, .. } => Lane::Filter(*module),
            _ => return Vec::new(),
        };
        let waiting = self.busy.get_mut(&lane);
        waiting.map(|queue| queue.drain(..).collect()).unwrap_or_default()
    }

    /// Notes that the order under way has ended; returns the one that starts now.
    pub(super) fn ended(&mut self, lane: Lane) -> Option<Effect> {
        let next = self.busy.get_mut(&lane)?.pop_front();
        if next.is_none() {
            self.busy.remove(&lane);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use havre_core::{
        effect::VolumeRequest,
        ids::{NodeId, OpId},
        time::Instant,
    };

    use super::*;

    fn volume(op: u64, request: VolumeRequest) -> Effect {
        Effect::Volume { op: OpId(op), module: ModuleId(1), request }
    }

    #[test]
    fn orders_to_a_data_path_start_one_after_the_other() {
        let mut lanes = Lanes::default();
        let first = volume(1, VolumeRequest::Prepare);
        let second = volume(2, VolumeRequest::Admit { peer: NodeId(1), full: false });
        assert_eq!(lanes.admit(first.clone()), Some(first));
        assert_eq!(lanes.admit(second.clone()), None);
        assert_eq!(lanes.ended(Lane::Volume(ModuleId(1))), Some(second));
        assert_eq!(lanes.ended(Lane::Volume(ModuleId(1))), None);
        let third = volume(3, VolumeRequest::Close { clean: true });
        assert_eq!(lanes.admit(third.clone()), Some(third));
    }

    fn address(op: u64, request: AddressRequest) -> Effect {
        Effect::Address { op: OpId(op), module: ModuleId(1), request }
    }

    #[test]
    fn removing_addresses_overtakes_what_is_under_way_and_voids_what_waits() {
        let mut lanes = Lanes::default();
        let remove = || AddressRequest::Remove(Vec::new());
        let adding = address(1, AddressRequest::Add(Vec::new()));
        let waiting = address(2, AddressRequest::Announce(Vec::new()));
        let later = address(3, AddressRequest::Add(Vec::new()));
        assert_eq!(lanes.withdrawn_by(&adding), []);
        assert_eq!(lanes.admit(adding.clone()), Some(adding));
        assert_eq!(lanes.admit(waiting.clone()), None);
        let fence = address(4, remove());
        assert_eq!(lanes.withdrawn_by(&fence), [waiting]);
        assert_eq!(lanes.admit(fence.clone()), Some(fence));
        assert_eq!(lanes.admit(later.clone()), None, "the first addition has not ended");
        assert_eq!(lanes.ended(Lane::Address(ModuleId(1))), Some(later));
    }

    #[test]
    fn taking_the_filter_away_overtakes_and_voids_what_waits() {
        let mut lanes = Lanes::default();
        let filter = |op, request| Effect::Filter { op: OpId(op), module: ModuleId(1), request };
        let extend = |op| filter(op, FilterRequest::Extend { until: Instant::ZERO });
        assert_eq!(lanes.admit(extend(1)), Some(extend(1)));
        assert_eq!(lanes.admit(extend(2)), None);
        let clear = filter(3, FilterRequest::Clear);
        assert_eq!(lanes.withdrawn_by(&clear), [extend(2)]);
        assert_eq!(lanes.admit(clear.clone()), Some(clear));
        assert_eq!(lanes.ended(Lane::Filter(ModuleId(1))), None);
    }

    #[test]
    fn fencing_overtakes_an_order_under_way() {
        let mut lanes = Lanes::default();
        assert!(lanes.admit(volume(1, VolumeRequest::Close { clean: true })).is_some());
        let fence = volume(2, VolumeRequest::Fence);
        assert_eq!(lanes.admit(fence.clone()), Some(fence));
    }
}
