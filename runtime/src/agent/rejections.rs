//! Datagrams that were refused: counted, and reported at most once per minute.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use havre_core::time::Instant;

use crate::seal::Rejected;

/// Least time between two reports.
const REPORT_PERIOD: Duration = Duration::from_secs(60);

/// Counts since the last report.
#[derive(Debug, Default)]
pub(crate) struct Rejections {
    counts: BTreeMap<Rejected, (u64, SocketAddr)>,
    due: Option<Instant>,
    not_before: Instant,
}

impl Rejections {
    /// Counts one refused datagram. Repetitions are normal on redundant networks: not counted.
    pub(crate) fn count(&mut self, now: Instant, reason: Rejected, from: SocketAddr) {
        if reason == Rejected::Replayed {
            return;
        }
        let entry = self.counts.entry(reason).or_insert((0, from));
        *entry = (entry.0 + 1, from);
        self.due.get_or_insert(self.not_before.max(now));
    }

    /// When the next report is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// The report, if it is due.
    pub(crate) fn report(&mut self, now: Instant) -> Option<String> {
        self.due.filter(|due| *due <= now)?;
        self.due = None;
        self.not_before = now + REPORT_PERIOD;
        let parts: Vec<String> = std::mem::take(&mut self.counts)
            .into_iter()
            .map(|(reason, (count, from))| format!("{count} from {from}: {reason}"))
            .collect();
        Some(format!("datagrams refused: {}", parts.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_datagrams_are_reported_at_once_and_then_once_per_minute() {
        let from = SocketAddr::from(([127, 0, 0, 1], 4800));
        let mut rejections = Rejections::default();
        let start = Instant::from_millis(1_000);
        rejections.count(start, Rejected::Seal, from);
        let report = rejections.report(start).expect("the first report is due at once");
        assert!(report.starts_with("datagrams refused: 1 from 127.0.0.1:4800"), "{report}");
        for _ in 0..5 {
            rejections.count(start, Rejected::Seal, from);
        }
        assert_eq!(rejections.report(start), None);
        let later = start + REPORT_PERIOD;
        assert_eq!(rejections.deadline(), Some(later));
        assert!(rejections.report(later).is_some_and(|r| r.contains("5 from")));
    }
}
