//! Bytes of any kind are survived, big files are read fast, endless ones are refused.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::config::{expanded, names, script, signature};

/// Feeds a text to everything that reads texts.
fn survive(text: &str) {
    let file = Path::new("any.xml");
    let environment = BTreeMap::from([("A".to_owned(), "%A%".to_owned())]);
    let _ = cluster::parse(file, text);
    let cluster = pair();
    if let Ok(parsed) = module::parse(file, text, &cluster, &environment) {
        let _ = signature(&cluster, &parsed.value);
    }
    let _ = expanded(text, &names(text, &environment));
    let _ = script::check(file, text);
}

/// Pieces that make texts look like configurations.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "<safe>",
        "</safe>",
        "<service mode=\"mirror\"",
        ">",
        "/>",
        "<heart>",
        "</heart>",
        "<heartbeat name=\"default\"",
        " ident=”flow”",
        "<rfs",
        "<replicated dir=\"",
        "\"",
        "'",
        "=",
        " ",
        "\n",
        "<!--",
        "-->",
        "<![CDATA[",
        "]]>",
        "<?",
        "<!DOCTYPE safe",
        "&amp;",
        "&",
        "%A%",
        "%",
        "<macro name=\"A\" value=\"%A%\"/>",
        "”",
        "<",
        "</",
        "/",
        "<user/>",
        "<cluster>",
        "<lans>",
        "<lan name=\"l\">",
        "<node name=\"a\" addr=\"1.1.1.1\"/>",
        "\u{feff}",
        "regexpath=\"[[:a\"",
        "timeout=\"99999999999d\"",
        "<check>",
        "\r\n",
        "é",
        "\0",
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survive(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_pieces_of_configurations_are_survived(pieces in prop::collection::vec(piece(), 0..60)) {
        survive(&pieces.concat());
    }

    #[test]
    fn a_correct_file_with_one_part_cut_out_is_survived_and_places_stay_inside(
        from in 0usize..2000, length in 0usize..40,
    ) {
        let whole = mirror("<rfs><replicated dir=\"/a\"/></rfs><vip><interface_list><interface>\
            <real_interface><virtual_addr addr=\"10.0.0.9\"/></real_interface></interface>\
            </interface_list></vip>");
        let from = from % whole.len();
        let text = format!("{}{}", &whole[..from], &whole[(from + length).min(whole.len())..]);
        if let Err(errors) = parse(&text) {
            prop_assert!(!errors.0.is_empty());
            for error in errors.0 {
                let line = text.split('\n').nth(error.line as usize - 1);
                let line = line.expect("every diagnostic names a line of the file");
                prop_assert!(error.column as usize <= line.chars().count() + 1, "{error}");
            }
        }
    }
}

#[test]
fn a_file_of_500_lines_is_read_in_milliseconds() {
    let mut inside = String::from("<rfs>\n");
    for number in 0..160 {
        let _ = writeln!(inside, "<replicated dir=\"/data/{number}\" mode=\"read_only\">");
        let _ = writeln!(inside, "<notreplicated regexpath=\"^(tmp|cache)[0-9]+$\"/>");
        let _ = writeln!(inside, "</replicated>");
    }
    inside.push_str("</rfs>\n");
    let text = mirror(&inside);
    assert!(text.lines().count() > 480);
    #[expect(
        clippy::disallowed_methods,
        clippy::disallowed_types,
        reason = "a test measures the time of the machine"
    )]
    let begin = std::time::Instant::now();
    accepted(&text);
    let elapsed = begin.elapsed();
    // Debug build on a loaded machine; docs/performance.md has the release figure.
    assert!(elapsed.as_millis() < 500, "{elapsed:?}");
}

#[test]
fn endless_nesting_and_endless_files_are_refused() {
    has(&errors(&"<safe>".repeat(100_000)), "elements are nested more than 32 deep");
    has(&errors(&" ".repeat(2 << 20)), "more than 1048576");
    let wrong = mirror(&"<x/>".repeat(10_000));
    assert_eq!(parse(&wrong).expect_err("wrong").0.len(), super::super::error::DIAGNOSTICS_MAX);
}

#[test]
fn macros_cannot_grow_without_bound() {
    let mut text = String::from("<safe><macro name=\"M0\" value=\"0123456789\"/>");
    for number in 1..20 {
        let before = format!("%M{}%", number - 1);
        let _ = write!(text, "<macro name=\"M{number}\" value=\"{}\"/>", before.repeat(10));
    }
    text.push_str("</safe>");
    has(&errors(&text), "a value has more than 65536 bytes");
}
