//! `havre state`: the picture of a node for people, programs and scripts.

use std::{fmt::Write, io::IsTerminal, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;
use havre_core::{
    status::{ModuleStatus, Phase, Progress},
    time::Instant,
};

use super::{ModuleArg, STATE_UNKNOWN, Target, meant, print, with_client};
use crate::admin::Snapshot;

mod checks;
mod farm;

pub(super) const EXAMPLES: &str = "\
Examples:
  havre state                       every module of this node
  havre state -m mymodule -v        with generation, networks, resources, failover rule and
                                    loop counter; of a farm, with the owner of each bucket
  havre state -m mymodule -lq       for scripts: exit code 0 STOP, 1 WAIT, 2 ALONE or UP, 3 PRIM,
                                    4 SECOND, 255 unknown
  havre state --json                for programs";

#[derive(Debug, Args)]
pub(super) struct StateArgs {
    #[command(flatten)]
    module: ModuleArg,
    /// Show details.
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Print one word per module.
    #[arg(short = 'l', long)]
    level: bool,
    /// Say the state of one module with the exit code; print nothing more than -l does.
    #[arg(short = 'q', long)]
    quiet: bool,
    /// The whole picture as JSON.
    #[arg(long, conflicts_with_all = ["verbose", "level", "quiet"])]
    json: bool,
}

pub(super) fn run(target: &Target, args: &StateArgs) -> Result<ExitCode> {
    let shown = with_client(target, async |client| {
        let snapshot = client.status().await?;
        let name = match (&args.module.module, args.quiet) {
            (None, true) => Some(meant(&client, &args.module).await?),
            (name, _) => name.clone(),
        };
        show(snapshot, name.as_deref(), args)
    });
    match shown {
        Err(error) if args.quiet => {
            eprintln!("havre: {error:#}");
            Ok(ExitCode::from(STATE_UNKNOWN))
        }
        other => other,
    }
}

fn show(mut snapshot: Snapshot, name: Option<&str>, args: &StateArgs) -> Result<ExitCode> {
    if let Some(name) = name {
        let known: Vec<String> = snapshot.node.modules.iter().map(|m| m.name.clone()).collect();
        snapshot.node.modules.retain(|module| module.name == name);
        if snapshot.node.modules.is_empty() {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            anyhow::bail!("module \"{name}\" is not configured here (configured: {known})");
        }
    }
    if args.json {
        print(&(serde_json::to_string_pretty(&snapshot)? + "\n"))?;
    } else if args.level {
        let words: String =
            snapshot.node.modules.iter().map(|m| format!("{} {}\n", m.state, m.phase)).collect();
        print(&words)?;
    } else if !args.quiet {
        let colours = std::io::stdout().is_terminal();
        print(&text_of(&snapshot, args.verbose, colours))?;
    }
    match (&snapshot.node.modules[..], args.quiet) {
        ([only], true) => Ok(ExitCode::from(only.state.exit_code())),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The picture for people.
pub(super) fn text_of(snapshot: &Snapshot, verbose: bool, colours: bool) -> String {
    let node = &snapshot.node;
    let mut text = format!("node {}", node.name);
    match node.witness {
        Some(true) => text.push_str(", the witness answers"),
        Some(false) => text.push_str(", the witness does not answer"),
        None => {}
    }
    text.push('\n');
    if node.modules.is_empty() {
        text.push_str("no module is configured; use `havre module install` and `module config`\n");
    }
    for module in &node.modules {
        let waits = snapshot.waits.get(&module.name);
        describe(&mut text, module, snapshot.now, waits.map(String::as_str), colours);
        if verbose {
            details(&mut text, module, snapshot.now);
        }
    }
    text
}

fn describe(
    text: &mut String,
    module: &ModuleStatus,
    now: Instant,
    waits: Option<&str>,
    colours: bool,
) {
    let state = paint(&format!("{} {}", module.state, module.phase), module.phase, colours);
    let data = match (&module.farm, module.up_to_date) {
        (Some(_), _) => "",
        (None, true) => ", data up to date",
        (None, false) => ", data not up to date",
    };
    line(text, format_args!("{:<16} {state}{data}", module.name));
    for peer in &module.peers {
        let theirs = match (peer.alive, peer.state) {
            (true, Some((state, phase))) => format!("{state} {phase}"),
            (true, None) => "alive, state unknown".to_owned(),
            (false, _) => "not heard".to_owned(),
        };
        line(text, format_args!("  peer           {} {theirs}", peer.name));
    }
    if let Some(farm) = &module.farm {
        farm::describe(text, farm);
    }
    if let Some(progress) = &module.resync {
        line(text, format_args!("  resync         {}", resync(progress)));
    }
    for kept in &module.kept_aside {
        let (entries, place) = (kept.entries, &kept.place);
        line(text, format_args!("  kept aside     {entries} entries in {place} (split brain)"));
    }
    if let Some(waits) = waits {
        line(text, format_args!("  waits          {waits}"));
    }
    let since = span(now.since(module.since));
    line(text, format_args!("  since          {since}: {}", module.reason));
}

fn details(text: &mut String, module: &ModuleStatus, now: Instant) {
    let yes = |flag| if flag { "yes" } else { "no" };
    line(text, format_args!("  application    {}", yes(module.application)));
    line(text, format_args!("  virtual IP     {}", yes(module.address_held)));
    if let Some(farm) = &module.farm {
        farm::details(text, farm);
    } else {
        let generation = module.lineage.current.map_or("none".to_owned(), |g| g.to_string());
        let copy = format!("{:?}", module.lineage.copy).to_lowercase();
        line(text, format_args!("  generation     {generation} ({copy})"));
    }
    for generation in module.peers.iter().filter_map(|peer| peer.generation) {
        line(text, format_args!("  peer's         {generation}"));
    }
    if let Some(epoch) = module.epoch {
        let rest = module.right_until.map(|end| end.since(now).as_millis());
        let rest = rest.map_or("no end".to_owned(), |rest| format!("{rest} ms left"));
        line(text, format_args!("  right to run   {epoch}, {rest}"));
    }
    for (_, name, up) in module.peers.iter().flat_map(|peer| &peer.links) {
        let state = if *up { "heartbeats arrive" } else { "no heartbeats" };
        line(text, format_args!("  network        {name}: {state}"));
    }
    checks::details(text, &module.checks, now);
    line(text, format_args!("  signature      {:016x}", module.signature));
    line(text, format_args!("  number         {}", module.module.0));
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("writing to a string cannot fail");
}

fn paint(words: &str, phase: Phase, colours: bool) -> String {
    let code = match phase {
        Phase::NotReady => "31",
        Phase::Transient => "33",
        Phase::Ready => "32",
    };
    if colours { format!("\x1b[{code}m{words}\x1b[0m") } else { words.to_owned() }
}

/// `1.2 GiB of 3.4 GiB, 120.0 MiB/s, 18 s left`
fn resync(progress: &Progress) -> String {
    let Progress { bytes_total, bytes_done, elapsed, .. } = *progress;
    let mut text = format!("{} of {}", bytes(bytes_done), bytes(bytes_total));
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 || bytes_done == 0 {
        return text;
    }
    let rate = u64::try_from(u128::from(bytes_done) * 1_000 / u128::from(millis)).unwrap_or(0);
    text += &format!(", {}/s", bytes(rate));
    if let Some(seconds) = bytes_total.saturating_sub(bytes_done).checked_div(rate) {
        text += &format!(", {} left", span(Duration::from_secs(seconds)));
    }
    text
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut tenths = count.saturating_mul(10) / 1024;
    let mut unit = 0;
    while tenths >= 10 * 1024 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `5 s`, `3 h`
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use havre_core::status::{KeptAside, State, WaitReason};

    use super::*;
    use crate::cli::samples::node_status;

    #[test]
    fn a_healthy_pair_is_shown_in_a_few_lines() {
        let snapshot = Snapshot::of(Instant::from_millis(70_000), node_status(&["db"]));
        let expected = "node node1, the witness answers\n\
            db               PRIM Ready, data up to date\n  \
              peer           node2 SECOND Ready\n  \
              since          60 s: the secondary is synchronised\n";
        assert_eq!(text_of(&snapshot, false, false), expected);
    }

    #[test]
    fn a_waiting_module_says_what_to_do_and_a_resync_how_long_it_takes() {
        let mut node = node_status(&["db"]);
        let module = &mut node.modules[0];
        (module.state, module.phase) = (State::Wait, Phase::NotReady);
        module.wait = Some(WaitReason::NeverStarted);
        module.up_to_date = false;
        module.kept_aside =
            vec![KeptAside { place: "/data/.havre/diverged/g1".into(), entries: 7 }];
        module.peers[0].alive = false;
        module.resync = Some(Progress {
            bytes_total: 3 << 30,
            bytes_done: 1 << 30,
            bytes_copied: 5,
            elapsed: Duration::from_secs(8),
        });
        let text = text_of(&Snapshot::of(Instant::from_millis(70_000), node), true, true);
        for part in [
            "\x1b[31mWAIT NotReady\x1b[0m, data not up to date",
            "node2 not heard",
            "1.0 GiB of 3.0 GiB, 128.0 MiB/s, 16 s left",
            "run `prim` on the node whose data are right",
            "default: heartbeats arrive",
            "7 entries in /data/.havre/diverged/g1 (split brain)",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }

    #[test]
    fn amounts_and_spans_have_readable_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "1638.3 PiB");
        assert_eq!(span(Duration::from_secs(119)), "119 s");
        assert_eq!(span(Duration::from_secs(3_600)), "60 min");
        assert_eq!(span(Duration::from_secs(200_000)), "2 days");
    }
}
