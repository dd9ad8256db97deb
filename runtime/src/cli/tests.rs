//! Tests of the command line as a whole.

use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_help_and_every_one_with_arguments_an_example() {
    fn visit(command: &clap::Command, path: &str) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let path = format!("{path} {}", sub.get_name());
            assert!(sub.get_about().is_some(), "{path} has no help");
            let mut words = sub.get_arguments().filter(|a| !a.is_global_set());
            let has_examples =
                sub.get_after_help().is_some_and(|help| help.to_string().contains("havre "));
            let exempt = ["daemon", "bench"].contains(&sub.get_name());
            let needs = words.next().is_some() && !exempt;
            assert!(!needs || has_examples, "{path} has no example");
            visit(sub, &path);
        }
    }
    visit(&Cli::command(), "havre");
}

#[test]
fn options_stand_before_or_behind_the_command() {
    for words in [
        &["havre", "--state-dir", "/x", "state", "-m", "db", "-lq"][..],
        &["havre", "state", "-lq", "-m", "db", "--state-dir", "/x"],
    ] {
        let cli = Cli::try_parse_from(words).expect("parses");
        assert_eq!(cli.state_dir, Path::new("/x"));
    }
    assert!(Cli::try_parse_from(["havre", "waitstate", "-m", "db", "DANCE"]).is_err());
    assert!(Cli::try_parse_from(["havre", "waitstate", "-m", "db", "prim", "ALONE"]).is_ok());
    assert!(Cli::try_parse_from(["havre", "holder", "--fd", "3"]).is_ok());
}
