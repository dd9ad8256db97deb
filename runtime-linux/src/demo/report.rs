//! The table at the end of the demonstration.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::Seen;

/// One fault and what came of it.
#[derive(Debug, Clone)]
pub(super) struct Round {
    /// When the primary was killed.
    pub(super) fault_at: Instant,
    /// When both nodes were whole again.
    pub(super) whole_at: Instant,
    /// Longest time without an acknowledgement in between.
    pub(super) gap: Duration,
    /// Bytes copied to the node that came back.
    pub(super) copied: u64,
}

/// The figures of a demonstration.
#[derive(Debug, Clone)]
pub(super) struct Report {
    acknowledged: usize,
    lost: Vec<u64>,
    rounds: Vec<Round>,
}

impl Report {
    pub(super) fn new(seen: &Seen, found: &[String], rounds: Vec<Round>) -> Self {
        let lost = seen.lost(found).collect();
        Self { acknowledged: seen.acknowledged.len(), lost, rounds }
    }

    /// Number of acknowledged records that are not there.
    pub(super) fn lost(&self) -> usize {
        self.lost.len()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        writeln!(f, "  acknowledged writes   {:>12}", self.acknowledged)?;
        writeln!(f, "  lost writes           {:>12}", self.lost.len())?;
        for (index, round) in self.rounds.iter().enumerate() {
            writeln!(f, "  takeover {:<3}", index + 1)?;
            writeln!(f, "    service gap         {:>9} ms", round.gap.as_millis())?;
            writeln!(f, "    bytes resynchronised{:>12}", round.copied)?;
        }
        if let Some(first) = self.lost.first() {
            writeln!(f, "  FAILED: acknowledged record {first} is missing")?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::workload::text, *};

    #[test]
    fn the_table_names_the_losses() {
        let now = Instant::now();
        let seen = Seen { acknowledged: vec![(1, now), (2, now)], last: 2 };
        let report = Report::new(&seen, &[text(1)], Vec::new());
        assert_eq!(report.lost(), 1);
        assert!(report.to_string().contains("record 2 is missing"), "{report}");
        let report = Report::new(&seen, &[text(2), text(1)], Vec::new());
        assert_eq!(report.lost(), 0);
        assert!(!report.to_string().contains("FAILED"), "{report}");
    }
}
