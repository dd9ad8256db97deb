//! Repairs and places, on small texts.

use std::path::Path;

use super::*;

/// The findings of a text as `line:column message`, and its tree in brackets.
fn reading(text: &str) -> (Vec<String>, String) {
    let mut report = Report::new(Path::new("x"));
    let tops = read(text, &mut report);
    let found = report.into_diagnostics();
    let found = found.iter().map(|d| format!("{}:{} {}", d.line, d.column, d.message)).collect();
    (found, tops.iter().map(tree).collect())
}

fn tree(element: &Element) -> String {
    let attributes: Vec<String> =
        element.attributes.iter().map(|a| format!(" {}={}", a.name, a.value)).collect();
    let children: String = element.children.iter().map(tree).collect();
    let text: String = element.sections.iter().map(|section| section.text.as_str()).collect();
    format!("({}{}{}{children})", element.name, attributes.concat(), text.trim())
}

#[test]
fn well_formed_text_is_read_without_findings() {
    let (found, tree) = reading("<a x='1' y=\"&lt;2&#x41;\"><b/>t&amp;u<![CDATA[<c>]]></a>");
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(tree, "(a x=1 y=<2At&u<c>(b))");
}

#[test]
fn quotes_of_every_wrong_kind_are_repaired() {
    for (text, place, repaired) in [
        ("<a x=“1” y=\"2\"/>", "1:6", "(a x=1 y=2)"),
        ("<a x=\"1” y=\"2\"/>", "1:8", "(a x=1 y=2)"),
        ("<a x=‘1’/>", "1:6", "(a x=1)"),
        ("<a x=\"\"1\" y=\"2\"/>", "1:6", "(a x=1 y=2)"),
        ("<a x=\"\"1\"\" y=\"2\"/>", "1:6", "(a x=1 y=2)"),
        ("<a x=\"1 y=\"2\"/>", "1:6", "(a x=1 y=2)"),
        ("<a x=\"/b/c y=\"2\"/>", "1:6", "(a x=/b/c y=2)"),
        ("<a x=\"1><b/></a>", "1:6", "(a x=1(b))"),
        ("<a x=1 y=\"2\"/>", "1:6", "(a x=1 y=2)"),
        ("<a x=1/>", "1:6", "(a x=1)"),
        ("<a x=\"1\"y=\"2\"/>", "1:9", "(a x=1 y=2)"),
        ("<a x=\"\"y=\"2\"/>", "1:8", "(a x= y=2)"),
        ("<a x=\"1<2\" y=\"2\"/>", "1:7", "(a x=1<2 y=2)"),
        ("<a x=\"1\", y=\"2\"/>", "1:9", "(a x=1 y=2)"),
    ] {
        let (found, tree) = reading(text);
        assert!(found.iter().any(|f| f.starts_with(place)), "{text}: {found:?}");
        assert_eq!(tree, repaired, "{text}: {found:?}");
    }
}

#[test]
fn attributes_without_value_or_twice_are_reported_and_the_others_kept() {
    let (found, tree) = reading("<a x y=\"2\"/>");
    assert_eq!((found.len(), tree.as_str()), (1, "(a y=2)"), "{found:?}");
    let (found, tree) = reading("<a x=\"1\" x=\"2\" y=\"3\"/>");
    assert_eq!(found, ["1:10 the attribute occurs twice in this tag"]);
    assert_eq!(tree, "(a x=1 y=3)");
    let (found, _) = reading("<a x=/>");
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn tags_that_do_not_match_are_told_once() {
    let (found, tree) = reading("<a>\n<b>\n</a></b>");
    assert_eq!(found, ["3:1 <b> of line 2 is not closed before </a>"]);
    assert_eq!(tree, "(a(b))");
    let (found, _) = reading("<a><b/></b></a>");
    assert_eq!(found, ["1:8 </b> closes nothing: <b> of line 1 is closed"]);
    let (found, _) = reading("<a>\n<b></b>");
    assert_eq!(found, ["1:1 <a> is never closed"]);
    let (found, tree) = reading("<a><b>\n<c/>\n<b>\n<d/></a>");
    assert_eq!(found, ["3:1 <b> opens again inside <b> of line 1"]);
    assert_eq!(tree, "(a(b(c))(d))");
    let (found, tree) = reading("<a><b></b</a>");
    assert_eq!((found.len(), tree.as_str()), (1, "(a(b))"), "{found:?}");
}

#[test]
fn places_behind_repairs_are_those_of_the_original() {
    let text = "<a x=”é” y=\"\"2\"/>\n<b z=1 w=“2” q=\"3\"/>";
    let mut report = Report::new(Path::new("x"));
    let tops = read(text, &mut report);
    let place = |e: &Element, n: &str| e.attribute(n).map(|a| (a.at.line, a.at.column));
    assert_eq!(place(&tops[0], "y"), Some((1, 10)));
    assert_eq!(place(&tops[1], "z"), Some((2, 4)));
    assert_eq!(place(&tops[1], "q"), Some((2, 14)));
}

#[test]
fn what_cannot_be_repaired_ends_the_reading_with_its_place() {
    let (found, _) = reading("<a>\n<!-- never closed");
    assert!(found[0].starts_with("2:1 "), "{found:?}");
    let (found, _) = reading("word <a/>");
    assert!(found[0].starts_with("1:1 text \"word\" outside"), "{found:?}");
    let (found, _) = reading("<a>1 < 2 & 3</a>");
    assert_eq!(found.len(), 1, "{found:?}");
}
