//! What the client wrote, and what of it was acknowledged.

use havre_core::{config::module::Contract, effect::VolumeNews};

use crate::{disk::Block, fact::Fact, net::HostId, time::SimTime};

/// One block's history.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    acked: u64,
}

/// Writes and acknowledgements of a run. Tags are unique and grow with the order in which the
/// one client submitted its writes.
#[derive(Debug, Clone)]
pub struct Ledger {
    entries: Vec<Entry>,
    /// The block of each tag; tag 0 is the initial content.
    blocks: Vec<u64>,
    acked_count: u64,
    last_ack: Option<(SimTime, HostId)>,
    /// Writes up to this tag had been submitted when a node lost what it had received and not
    /// carried out, with its power or its daemon, unless its copy was caught up since.
    power_cut: [u64; 2],
    /// Where the application runs: there everything was carried out before it was acknowledged.
    runs: [bool; 2],
    contract: Contract,
}

impl Ledger {
    /// A ledger of so many blocks, all of them zero.
    pub fn new(blocks: u64, contract: Contract) -> Self {
        Self {
            entries: vec![Entry::default(); blocks as usize],
            blocks: vec![u64::MAX],
            acked_count: 0,
            last_ack: None,
            power_cut: [0; 2],
            runs: [false; 2],
            contract,
        }
    }

    /// Takes note.
    pub fn observe(&mut self, now: SimTime, fact: &Fact) {
        match fact {
            Fact::AppRuns(host) if host.index() < 2 => self.runs[host.index()] = true,
            Fact::AppStopped(host, _) if host.index() < 2 => self.runs[host.index()] = false,
            _ => {}
        }
        match fact {
            Fact::Submitted(_, block, tag) => {
                assert_eq!(*tag, self.blocks.len() as u64, "tags are given out in order");
                self.blocks.push(*block);
            }
            Fact::Acked(host, writes) => {
                self.last_ack = Some((now, *host));
                self.acked_count += 1;
                for (block, tag) in writes {
                    let entry = &mut self.entries[*block as usize];
                    entry.acked = entry.acked.max(*tag);
                }
            }
            Fact::PoweredOff(host, _) if host.index() < 2 => {
                self.power_cut[host.index()] = self.next_tag();
                self.runs[host.index()] = false;
            }
            Fact::Crashed(host) if host.index() < 2 && !self.runs[host.index()] => {
                self.power_cut[host.index()] = self.next_tag();
            }
            // Under contract `received`, a node whose power or daemon failed may have lost what it
            // had only received. If the other node is gone too, that is the documented loss.
            Fact::AppRuns(host) if self.contract == Contract::Received => {
                let lost_below = std::mem::take(&mut self.power_cut[host.index()]);
                for entry in &mut self.entries {
                    if entry.acked < lost_below {
                        entry.acked = 0;
                    }
                }
            }
            Fact::VolumeTold(host, VolumeNews::CaughtUp { .. }) => {
                self.power_cut[host.index()] = 0;
            }
            _ => {}
        }
    }

    /// The next tag to be given out.
    pub fn next_tag(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Number of blocks.
    pub fn block_count(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Transactions acknowledged so far.
    pub const fn acked_count(&self) -> u64 {
        self.acked_count
    }

    /// The last acknowledgement.
    pub const fn last_ack(&self) -> Option<(SimTime, HostId)> {
        self.last_ack
    }

    /// The newest acknowledged tag of a block.
    pub fn acked(&self, block: u64) -> u64 {
        self.entries[block as usize].acked
    }

    /// What is wrong with this content of a block, if anything: every sector must be the last
    /// acknowledged write of that block or a later one.
    pub fn judge(&self, block: u64, content: &Block) -> Option<String> {
        self.judge_from(self.acked(block), block, content)
    }

    /// The same, for a reader that asked when `acked` was the newest acknowledged write.
    pub fn judge_from(&self, acked: u64, block: u64, content: &Block) -> Option<String> {
        for tag in content.0 {
            if tag < acked {
                return Some(format!(
                    "block {block} holds write {tag}, but write {acked} was acknowledged"
                ));
            }
            if tag != 0 && self.blocks.get(tag as usize) != Some(&block) {
                return Some(format!(
                    "block {block} holds {tag:#x}, which was never written there"
                ));
            }
        }
        None
    }
}
