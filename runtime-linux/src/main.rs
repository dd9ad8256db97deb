//! The `havre` program on Linux: daemon, command line, demonstration.

use std::{ffi::OsString, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use havre_linux::{bench, demo, guard, holder, lab, ledger, platform};
use havre_runtime::cli::{self, Commands, DemoArgs};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // Commands that this program gives to itself, or to applications of the laboratory.
    let own = match arguments.first().and_then(|a| a.to_str()) {
        Some(lab::init::COMMAND) => lab::init::run(&arguments[1..]).context("lab"),
        Some(guard::COMMAND) => platform::run_guard(&arguments[1..]),
        Some(ledger::COMMAND) => run_ledger(&arguments[1..]),
        Some(lab::farm::server::COMMAND) => run_web_server(&arguments[1..]),
        _ => return cli::main(&Linux),
    };
    match own {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("havre: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_ledger(arguments: &[OsString]) -> Result<()> {
    let [file, address] = arguments else { bail!("usage: havre ledger FILE ADDRESS:PORT") };
    let address = address.to_str().and_then(|a| a.parse().ok()).context("not ADDRESS:PORT")?;
    ledger::serve(Path::new(file), address).with_context(|| file.display().to_string())
}

fn run_web_server(arguments: &[OsString]) -> Result<()> {
    let [name, address] = arguments else { bail!("usage: havre lab-web NAME ADDRESS:PORT") };
    let name = name.to_str().context("not a name")?;
    let address = address.to_str().and_then(|a| a.parse().ok()).context("not ADDRESS:PORT")?;
    lab::farm::server::serve(name, address).context("web server")
}

/// The commands that differ between operating systems.
struct Linux;

impl Commands for Linux {
    type Platform = platform::Linux;

    fn platform(&self) -> Result<platform::Linux> {
        platform::Linux::new()
    }

    fn demo(&self, args: &DemoArgs) -> Result<ExitCode> {
        demo::run(args)
    }

    fn bench(&self, args: &[OsString]) -> Result<ExitCode> {
        bench::run(&["bench".into()], args)
    }

    fn lab(&self, args: &[OsString]) -> Result<ExitCode> {
        lab::command::run(args)
    }

    fn holder(&self, args: &[OsString]) -> Result<ExitCode> {
        let [socket] = args else { bail!("holder: started by the daemon only") };
        holder::run(Path::new(socket)).with_context(|| Path::new(socket).display().to_string())?;
        Ok(ExitCode::SUCCESS)
    }
}
