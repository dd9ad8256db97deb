//! Values kind by kind.

use super::*;

fn good(kind: Kind, value: &str) -> bool {
    fault("x", &kind, value).is_none()
}

#[test]
fn addresses_names_and_masks_are_told_from_mistyped_ones() {
    for value in ["10.0.0.1", "fd00::1", "[fd00::1]", "node1", "db-1.example.org"] {
        assert!(good(Kind::Host, value), "{value}");
    }
    for value in ["10.0.0", "10.0.0.256", "[10.0.0.1]", "a..b", "-a", "a b", "fd00:::1"] {
        assert!(!good(Kind::Host, value), "{value}");
    }
    assert!(good(Kind::Address, "[fd00::1]") && !good(Kind::Address, "node1"));
    assert_eq!(prefix("255.255.252.0"), Some(22));
    assert_eq!(prefix("64"), Some(64));
    assert_eq!(prefix("/24"), Some(24));
    assert_eq!([prefix("0.0.0.0"), prefix("255.0.255.0"), prefix("129")], [None; 3]);
}

#[test]
fn ports_counts_and_words_have_their_ranges() {
    assert!(good(Kind::Port, "65535") && !good(Kind::Port, "0") && !good(Kind::Port, "65536"));
    assert!(good(Kind::Count(-1, 5), "-1") && !good(Kind::Count(-1, 5), "6"));
    assert!(!good(Kind::Count(0, 5), "many"));
    assert!(good(Kind::OnOff, "on") && !good(Kind::OnOff, "yes"));
    let (_, remedy) = fault("x", &Kind::Choice(&["second", "none"]), "secnod").expect("misspelt");
    assert_eq!(remedy, "did you mean \"second\"?");
}

#[test]
fn relative_paths_stay_below_their_directory() {
    for value in ["a", "a/b", "a\\b", "a b/c.d"] {
        assert!(good(Kind::RelativePath, value), "{value}");
    }
    for value in ["/a", "..", "a/../b", "C:\\a", "\\a"] {
        assert!(!good(Kind::RelativePath, value), "{value}");
    }
}

#[test]
fn patterns_with_unmatched_brackets_are_refused() {
    for value in [".*\\.tmp$", "!^(a|b)$", "[]x]", "[^]]", "[[:alpha:]]+", "a\\(b", "[(]"] {
        assert!(good(Kind::Pattern, value), "{value}");
    }
    for value in ["*.tmp", "(a", "a)", "[a", "!+", ")("] {
        assert!(!good(Kind::Pattern, value), "{value}");
    }
}

#[test]
fn placeholders_and_empty_values_are_refused_whatever_the_kind() {
    for kind in [Kind::Filled, Kind::Port, Kind::Host, Kind::Name, Kind::Directory] {
        assert!(!good(kind, "") && !good(kind, "  ") && !good(kind, "X_TO_BE_DEFINED"), "{kind:?}");
    }
    assert!(good(Kind::Text, "") && !good(Kind::Text, "X_TO_BE_DEFINED"));
}
