//! Scenario files are read strictly, and written as they are read.

use super::*;

const MINIMAL: &str = r#"
format = 1
name = "x"
timeline = [
  { at = "10s", cut = "primary | others" },
]
"#;

#[track_caller]
fn error(source: &str) -> String {
    Scenario::parse("x.toml", source).expect_err("the source is wrong").to_string()
}

#[test]
fn a_minimal_scenario_gets_every_default() {
    let scenario = Scenario::parse("x.toml", MINIMAL).expect("it is right");
    assert_eq!(scenario.runs, RUNS_DEFAULT);
    assert_eq!(scenario.plan.setup, Setup::default());
    assert_eq!(scenario.plan.expect.always.len(), Property::ALL.len());
}

#[test]
fn an_unknown_key_is_an_error_at_its_place() {
    let text = error(&MINIMAL.replace("cut =", "kut ="));
    assert!(text.starts_with("x.toml:5:"), "{text}");
    assert!(text.contains("kut"), "{text}");
}

#[test]
fn an_unknown_host_is_an_error_at_its_step() {
    let text = error(&MINIMAL.replace("primary |", "primry |"));
    assert!(text.starts_with("x.toml:5:3: unknown host `primry`"), "{text}");
}

#[test]
fn a_modifier_that_means_nothing_to_the_verb_is_an_error() {
    let text = error(&MINIMAL.replace("others\"", "others\", lag = \"1s\""));
    assert!(text.contains("`lag` means nothing to this verb"), "{text}");
}

#[test]
fn a_step_with_two_verbs_is_an_error() {
    let text = error(&MINIMAL.replace("others\"", "others\", heal = \"all\""));
    assert!(text.contains("exactly one verb"), "{text}");
}

#[test]
fn an_exported_plan_reads_back_as_the_same_plan() {
    for seed in 0..200 {
        let plan = crate::faults::plan(seed);
        let source = export(&plan, "about", 3, &[("seed", seed.to_string())]);
        let back = Scenario::parse("x.toml", &source).unwrap_or_else(|e| panic!("{e}\n{source}"));
        assert_eq!(back.runs, 3);
        assert_eq!(back.plan.setup, plan.setup, "seed {seed}");
        let strip = |steps: &[Step]| steps.iter().map(step_text).collect::<Vec<_>>();
        assert_eq!(strip(&back.plan.steps), strip(&plan.steps), "seed {seed}");
    }
}

#[test]
fn spans_have_a_unit() {
    assert_eq!(parse_span("1.5s"), Ok(Duration::from_millis(1_500)));
    assert_eq!(parse_span("40us"), Ok(Duration::from_micros(40)));
    assert!(parse_span("40").is_err());
}
