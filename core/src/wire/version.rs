//! Versions of the protocol, and which of them two ends speak with each other.
//!
//! A release speaks its own version and the one before, so that nodes are upgraded one by one.
//! Each end says the range it speaks; the newest common version is used.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Newest version this release speaks.
pub const VERSION_NEWEST: u8 = 1;
/// Oldest version this release speaks.
pub const VERSION_OLDEST: u8 = 1;

/// The versions one end speaks, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest.
    pub oldest: u8,
    /// The newest.
    pub newest: u8,
}

/// The versions this release speaks.
pub const OURS: VersionRange = VersionRange { oldest: VERSION_OLDEST, newest: VERSION_NEWEST };

/// Two ends have no version in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "no common protocol version: this node speaks {}, the other {}; upgrade the {} one, \
     one release at a time",
    show(.ours), show(.theirs), if .ours.newest < .theirs.oldest { "local" } else { "other" }
)]
pub struct VersionMismatch {
    /// What this end speaks.
    pub ours: VersionRange,
    /// What the other end speaks.
    pub theirs: VersionRange,
}

fn show(range: &VersionRange) -> String {
    if range.oldest == range.newest {
        range.newest.to_string()
    } else {
        format!("{} to {}", range.oldest, range.newest)
    }
}

/// The version two ends speak with each other.
///
/// # Errors
/// They have none in common.
pub fn negotiate(ours: VersionRange, theirs: VersionRange) -> Result<u8, VersionMismatch> {
    let newest = ours.newest.min(theirs.newest);
    if newest >= ours.oldest && newest >= theirs.oldest {
        Ok(newest)
    } else {
        Err(VersionMismatch { ours, theirs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(oldest: u8, newest: u8) -> VersionRange {
        VersionRange { oldest, newest }
    }

    #[test]
    fn neighbouring_releases_speak_the_older_ones_version() {
        assert_eq!(negotiate(range(1, 2), range(2, 3)), Ok(2));
        assert_eq!(negotiate(range(2, 3), range(1, 2)), Ok(2));
        assert_eq!(negotiate(range(3, 3), range(3, 3)), Ok(3));
    }

    #[test]
    fn distant_releases_are_told_which_one_to_upgrade() {
        let old_here = negotiate(range(1, 2), range(3, 4)).expect_err("nothing in common");
        assert!(old_here.to_string().contains("upgrade the local one"), "{old_here}");
        let old_there = negotiate(range(3, 4), range(1, 2)).expect_err("nothing in common");
        assert!(old_there.to_string().contains("upgrade the other one"), "{old_there}");
    }
}
