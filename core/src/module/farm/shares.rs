//! What this node takes: from who shares to the table of the packet filter.
//!
//! A bucket changes hands in two steps, so that no client is taken by two nodes: whoever gives it
//! away says so once its filter has let go, and whoever is to get it waits for that. What a node
//! may be taking is named by its *claims*: the sets of sharing members by whose maps its filter
//! judges, the one that stands and those on their way. A node that was lost claims nothing.
//! News of a claim may be on their way too: a bucket is taken only once all members that share and
//! are heard have said that they share by the same set.
//!
//! Connections that began here stay here. A bucket that was given away is *held* until the
//! operating system finds no connection in it; the others are told, so that its owner does not
//! answer for connections that it does not know.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    farm::{
        BUCKETS, BucketSet, MemberSet, Slot,
        buckets::Plan,
        election::View,
        set::buckets,
        table::{FilterBucket, FilterGroup, FilterTable},
    },
    ids::OpId,
    mutant::{self, Mutant},
    time::Instant,
    wire::message::FarmBeat,
};

use super::{roster::Roster, settings::Settings};

/// What the filter does, is about to do, and must not forget.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    /// The last table that was ordered.
    table: Option<Box<FilterTable>>,
    number: u64,
    /// By whose map the filter takes new connections now; nobody: it takes none.
    standing: MemberSet,
    /// Orders on their way, oldest first.
    flights: VecDeque<(OpId, MemberSet)>,
    /// Group by group: buckets of others in which this node may have connections.
    held: Vec<BucketSet>,
}

/// What a table is made of besides the view.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// New clients may be taken.
    pub(super) open: bool,
    /// A member that has not been heard by now takes nothing.
    pub(super) listened: bool,
    /// An administrator drains this node.
    pub(super) draining: bool,
    /// When the others count this node as lost.
    pub(super) until: Option<Instant>,
}

impl Shares {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            table: None,
            number: 0,
            standing: MemberSet::EMPTY,
            flights: VecDeque::new(),
            held: vec![BucketSet::EMPTY; settings.groups.len()],
        }
    }

    /// An earlier run of the daemon may have left connections in any bucket.
    pub(super) fn hold_everything(&mut self) {
        self.held.iter_mut().for_each(|held| *held = buckets().collect());
    }

    /// The sets by whose maps new connections may be taken here.
    pub(super) fn claims(&self) -> Vec<MemberSet> {
        let all = std::iter::once(self.standing).chain(self.flights.iter().map(|(_, set)| *set));
        let mut claims: Vec<_> = all.filter(|set| !set.is_empty()).collect();
        claims.dedup();
        claims
    }

    /// Whether new connections are taken here now.
    pub(super) fn takes(&self) -> bool {
        !self.standing.is_empty()
    }

    /// Whether an order is on its way.
    pub(super) fn busy(&self) -> bool {
        !self.flights.is_empty()
    }

    /// The last order that is on its way.
    pub(super) fn last_order(&self) -> Option<OpId> {
        self.flights.back().map(|(op, _)| *op)
    }

    /// Buckets of others in which there may be connections; empty if there are none.
    pub(super) fn held(&self) -> Vec<BucketSet> {
        if self.held.iter().all(BucketSet::is_empty) { Vec::new() } else { self.held.clone() }
    }

    /// The last table that was ordered.
    pub(super) fn table(&self) -> Option<&FilterTable> {
        self.table.as_deref()
    }

    /// The table that this view makes, if it differs from the last one ordered.
    pub(super) fn due(
        &mut self,
        settings: &Settings,
        view: View,
        roster: &Roster,
        terms: Terms,
    ) -> Option<Box<FilterTable>> {
        let own = settings.own?;
        self.let_go(settings, own, view, terms);
        let table = self.compose(settings, own, view, roster, terms);
        let settled = self.table.as_ref().is_some_and(|last| {
            let same = FilterTable { number: last.number, until: last.until, ..table.clone() };
            **last == same
        });
        (!settled).then(|| Box::new(table))
    }

    /// Notes that a table was ordered.
    pub(super) fn ordered(
        &mut self,
        op: OpId,
        mut table: Box<FilterTable>,
        view: View,
    ) -> Box<FilterTable> {
        self.number += 1;
        table.number = self.number;
        // What is taken again is not held for others any more; what is withheld still is.
        for (index, held) in self.held.iter_mut().enumerate() {
            table.own(index).iter().for_each(|bucket| held.remove(bucket));
        }
        let takes = (0..table.groups.len()).any(|group| !table.own(group).is_empty());
        let claim = if takes { view.sharing } else { MemberSet::EMPTY };
        self.flights.push_back((op, claim));
        self.table = Some(table.clone());
        table
    }

    /// An order has ended; whether it was one of these.
    pub(super) fn completed(&mut self, op: OpId) -> bool {
        let Some(index) = self.flights.iter().position(|(flight, _)| *flight == op) else {
            return false;
        };
        for (_, set) in self.flights.drain(..=index) {
            self.standing = set;
        }
        true
    }

    /// The filter is gone.
    pub(super) fn cleared(&mut self) {
        self.table = None;
        self.standing = MemberSet::EMPTY;
        self.flights.clear();
        self.held.iter_mut().for_each(|held| *held = BucketSet::EMPTY);
    }

    /// The operating system has looked: buckets of others without connections are free.
    pub(super) fn looked(&mut self, table: u64, foreign: &[BucketSet]) -> bool {
        if table != self.number || self.busy() {
            return false;
        }
        let before = self.held.clone();
        for (held, found) in self.held.iter_mut().zip(foreign) {
            *held = held.iter().filter(|bucket| found.contains(*bucket)).collect();
        }
        before != self.held
    }

    /// Buckets that are given away by this view are held from now on.
    fn let_go(&mut self, settings: &Settings, own: Slot, view: View, terms: Terms) {
        let Some(last) = &self.table else { return };
        for (index, (_, plan)) in settings.groups.iter().enumerate() {
            let before = last.own(index);
            let after = own_of(plan, own, view.sharing, terms.open);
            let held = &mut self.held[index];
            before.iter().filter(|b| !after.contains(*b)).for_each(|b| held.insert(b));
        }
    }

    fn compose(
        &self,
        settings: &Settings,
        own: Slot,
        view: View,
        roster: &Roster,
        terms: Terms,
    ) -> FilterTable {
        let live = roster.hears().with(own);
        let mut members = settings.members.clone();
        for (slot, member) in (0..).map(Slot).zip(&mut members) {
            member.live = live.contains(slot);
        }
        let others: Vec<_> = roster.counted().collect();
        let group = |(index, (name, plan)): (usize, &(String, Plan))| FilterGroup {
            name: name.clone(),
            buckets: self.buckets_of((index, plan), own, (view, &terms), &others),
        };
        FilterTable {
            number: self.number,
            local: own,
            members,
            leader: view.leader,
            interfaces: settings.interfaces.clone(),
            rules: settings.rules.clone(),
            groups: settings.groups.iter().enumerate().map(group).collect(),
            keep_established: true,
            draining: terms.draining,
            until: terms.until,
        }
    }

    fn buckets_of(
        &self,
        (index, plan): (usize, &Plan),
        own: Slot,
        (view, terms): (View, &Terms),
        others: &[(Slot, &FarmBeat)],
    ) -> Vec<FilterBucket> {
        let taken = self.table.as_ref().map_or(BucketSet::EMPTY, |last| last.own(index));
        let claimed = claimed(plan, own, others);
        // Who may hold connections in which buckets, by its own word.
        let mut holders = [MemberSet::EMPTY; BUCKETS];
        for (slot, beat) in others {
            for bucket in beat.held.get(index).into_iter().flat_map(BucketSet::iter) {
                holders[usize::from(bucket)] = holders[usize::from(bucket)].with(*slot);
            }
        }
        let hasty = mutant::active(Mutant::FarmTakesBeforeRelease);
        let forgetful = mutant::active(Mutant::FarmForgetsHolders);
        let hearing = others.iter().filter(|(_, beat)| beat.hears.contains(own));
        let known: MemberSet = hearing.map(|(slot, _)| *slot).collect();
        let certain = terms.listened || view.sharing.without(own).minus(known).is_empty();
        // What a member by another view takes may be news that is still on its way.
        let heard = view.sharing.intersection(known);
        let mut sharing = others.iter().filter(|(slot, _)| heard.contains(*slot));
        let agreed = sharing.all(|(_, beat)| beat.sharing == view.sharing);
        let owners = plan.owners(view.sharing);
        let line = |bucket: u8| {
            let at = usize::from(bucket);
            let owner = owners[at];
            let unclaimed = claimed[at].is_empty() && certain && agreed;
            let free = taken.contains(bucket) || unclaimed || hasty;
            let takes = owner.filter(|owner| *owner != own || terms.open && free);
            let here = if self.held[index].contains(bucket) {
                MemberSet::only(own)
            } else {
                MemberSet::EMPTY
            };
            let all = claimed[at].union(holders[at]).union(here);
            let holders = owner.map_or(all, |owner| all.without(owner));
            FilterBucket {
                owner: takes,
                holders: if forgetful { MemberSet::EMPTY } else { holders },
            }
        };
        buckets().map(line).collect()
    }
}

/// Who may be taking which buckets, by its own word. Most members claim by the same set, whose
/// map is made once.
fn claimed(plan: &Plan, own: Slot, others: &[(Slot, &FarmBeat)]) -> [MemberSet; BUCKETS] {
    let mut claimants: BTreeMap<MemberSet, MemberSet> = BTreeMap::new();
    // What one takes that does not hear this node is an isolation, and blocks nothing.
    for (slot, beat) in others.iter().filter(|(_, beat)| beat.hears.contains(own)) {
        for set in &beat.claims {
            let known = claimants.entry(*set).or_default();
            *known = known.with(*slot);
        }
    }
    let mut claimed = [MemberSet::EMPTY; BUCKETS];
    for (set, by) in claimants {
        for (claimed, owner) in claimed.iter_mut().zip(plan.owners(set)) {
            if let Some(owner) = owner.filter(|owner| by.contains(*owner)) {
                *claimed = claimed.with(owner);
            }
        }
    }
    claimed
}

/// The buckets that this node is to take by a view.
fn own_of(plan: &Plan, own: Slot, sharing: MemberSet, open: bool) -> BucketSet {
    if open { plan.own(own, sharing) } else { BucketSet::EMPTY }
}
