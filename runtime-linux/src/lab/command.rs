//! `havre lab run FILE...`: scenario files on real daemons, with the exit codes of `havre-sim`.

use std::{ffi::OsString, io, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use havre_sim::{
    fuzz::Verdict,
    scenario::{Scenario, files_below},
};

use super::scenario::{self, Outcome};

/// A property was violated.
const VIOLATED: u8 = 1;
/// Wrong usage, or a file that is no scenario.
const USAGE: u8 = 2;
/// Nothing wrong was seen, but the file did not test what it says.
const INCONCLUSIVE: u8 = 3;
/// The laboratory itself failed.
const INTERNAL: u8 = 5;

/// Runs scenario files of the simulator on real daemons in network namespaces.
#[derive(Debug, Parser)]
#[command(name = "havre lab", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenario files, or every one below a folder. Needs root.
    #[command(after_help = "Exit codes: 0 as expected, 1 a property was violated, 2 wrong usage \
        or scenario, 3 inconclusive (also if a step is not possible on real machines), 5 failure \
        of the laboratory itself.\nExample: havre lab run scenarios/mirror/swap.toml")]
    Run {
        /// Files or folders.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Stretch every span of the file, and the module's time-outs, on a busy machine.
        #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = factor)]
        scale: f64,
        /// Print what happens, and which properties only the simulator can judge.
        #[arg(short, long)]
        verbose: bool,
        /// Keep the files of the machines (states, logs, traces), and say where.
        #[arg(long)]
        keep: bool,
    },
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(factor) if (0.5..=100.0).contains(&factor) => Ok(factor),
        _ => Err("must be a number from 0.5 to 100".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
/// Not root, or no place for files.
pub fn run(words: &[OsString]) -> Result<ExitCode> {
    let name = OsString::from("havre lab");
    let arguments = match Arguments::try_parse_from(std::iter::once(&name).chain(words)) {
        Ok(arguments) => arguments,
        Err(error) => {
            error.print()?;
            return Ok(ExitCode::from(if error.use_stderr() { USAGE } else { 0 }));
        }
    };
    let Command::Run { paths, scale, verbose, keep } = arguments.command;
    let mut files = Vec::new();
    for path in &paths {
        files_below(path, &mut files).with_context(|| path.display().to_string())?;
    }
    let mut scenarios = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let source = std::fs::read_to_string(&file).with_context(|| name.clone())?;
        match Scenario::parse(&name, &source) {
            Ok(scenario) => scenarios.push((name, scenario)),
            Err(error) => {
                eprintln!("{error}");
                return Ok(ExitCode::from(USAGE));
            }
        }
    }
    if !rustix::process::geteuid().is_root() {
        bail!("a laboratory of network namespaces needs root: run it with sudo");
    }
    let mut worst = 0;
    for (name, scenario) in &scenarios {
        let code = run_one(name, scenario, scale, verbose, keep)?;
        worst = worse(worst, code);
    }
    Ok(ExitCode::from(worst))
}

/// A violation is worse than a failure of the laboratory, which is worse than no conclusion.
fn worse(one: u8, other: u8) -> u8 {
    let order = |code| match code {
        VIOLATED => 3,
        INTERNAL => 2,
        INCONCLUSIVE => 1,
        _ => 0,
    };
    if order(other) > order(one) { other } else { one }
}

fn run_one(name: &str, scenario: &Scenario, scale: f64, verbose: bool, keep: bool) -> Result<u8> {
    let program = std::env::current_exe().context("the path of this program")?;
    let directory = Directory::create(keep)?;
    let began = Instant::now();
    let mut tell = |at, text: &str| {
        if verbose {
            println!("{at} {text}");
        }
    };
    let outcome = scenario::run(&scenario.plan, &directory.path, &program, scale, &mut tell);
    let took = began.elapsed().as_secs_f64();
    let code = match outcome {
        Err(error) => {
            println!("FAILED        {name}: {error:#}");
            INTERNAL
        }
        Ok(outcome) => {
            if verbose && !outcome.not_judged.is_empty() {
                let names: Vec<&str> = outcome.not_judged.iter().map(|p| p.name()).collect();
                println!("judged by the simulator only: {}", names.join(", "));
            }
            print(name, &outcome, took)
        }
    };
    if keep || code == VIOLATED || code == INTERNAL {
        println!("              files of the machines: {}", directory.keep().display());
    }
    Ok(code)
}

fn print(name: &str, outcome: &Outcome, took: f64) -> u8 {
    let code = match &outcome.verdict {
        Verdict::Passed => {
            let records = outcome.acknowledged;
            println!("pass          {name} ({records} records acknowledged, {took:.1} s)");
            0
        }
        Verdict::Inconclusive(why) => {
            println!("inconclusive  {name}: {why}");
            INCONCLUSIVE
        }
        Verdict::Violated { violation, .. } => {
            let (property, at) = (violation.property, violation.at);
            println!("VIOLATED      {name}: {property} at {at}: {}", violation.text);
            VIOLATED
        }
    };
    for skipped in outcome.skipped.iter().skip(usize::from(code == INCONCLUSIVE)) {
        println!("              {skipped}");
    }
    code
}

/// A directory that is removed at the end, unless it is kept.
struct Directory {
    path: PathBuf,
    kept: bool,
}

impl Directory {
    fn create(kept: bool) -> Result<Self> {
        for number in 0..1_000 {
            let name = format!("havre-lab-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path, kept }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
        bail!("too many directories havre-lab-* in {}", std::env::temp_dir().display())
    }

    fn keep(mut self) -> PathBuf {
        self.kept = true;
        self.path.clone()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is in the directory for temporary files.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
