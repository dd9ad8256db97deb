//! Project chores, `cargo xtask COMMAND`. Each is short and prints what to do when it fails.
//!
//! `ci` is the gate: it reads only and runs everything, so that one run shows all failures.
//! Left to others: tests (`cargo test --workspace`) and installing what they need (`.ci/run`).

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

mod bpf;
mod docs;
mod tidy;

const USAGE: &str = "usage: cargo xtask COMMAND
  ci             everything a machine can check without running tests; changes nothing
  fix            format, apply clippy's own corrections, regenerate documents
  tidy           sizes, dependency arrows, bans, paths of this machine
  docs [--check] generate docs/user/reference and docs/man, or compare
  bpf [--write]  build the packet filter for the kernel and compare it with ebpf/prebuilt, or
                 replace that; installs what this needs under target/bpf-tools";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = root();
    let done = match words.as_slice() {
        ["ci"] => ci(&root),
        ["fix"] => fix(&root),
        ["tidy"] => tidy::run(&root),
        ["docs"] => docs::write(&root),
        ["docs", "--check"] => docs::check(&root),
        ["bpf"] => compare_bpf(&root),
        ["bpf", "--write"] => bpf::write(&root),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's directory: this package's parent.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies inside the workspace").to_path_buf()
}

fn ci(root: &Path) -> Result<()> {
    let mut failed: Vec<&str> = Vec::new();
    let mut step = |name: &'static str, done: Result<()>| match &done {
        Ok(()) => println!("ok      {name}"),
        Err(error) => {
            println!("FAILED  {name}\n{error:#}");
            failed.push(name);
        }
    };
    step("fmt", cargo(root, &["fmt", "--all", "--check"]));
    step("tidy", tidy::run(root));
    step("docs", docs::check(root));
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--keep-going",
        "--",
        "-D",
        "warnings",
    ];
    step("clippy", cargo(root, &clippy));
    if has_cargo_deny(root) {
        step("deny", cargo(root, &["deny", "check", "bans", "licenses", "sources"]));
    } else {
        println!("skipped deny: cargo-deny is not installed (cargo install cargo-deny)");
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed: {} (cargo xtask fix corrects what a machine can)", failed.join(", "))
}

fn compare_bpf(root: &Path) -> Result<()> {
    match bpf::check(root)? {
        bpf::Comparison::Equal => println!("ok      the packet filter is what its sources give"),
        bpf::Comparison::Skipped(reason) => println!("SKIPPED the packet filter: {reason}"),
    }
    Ok(())
}

fn fix(root: &Path) -> Result<()> {
    let clippy = ["clippy", "--fix", "--allow-dirty", "--allow-staged", "--workspace"];
    cargo(root, &[clippy.as_slice(), &["--all-targets"]].concat())?;
    cargo(root, &["fmt", "--all"])?;
    docs::write(root)
}

fn has_cargo_deny(root: &Path) -> bool {
    let mut command = cargo_command(root);
    let output = command.args(["deny", "--version"]).output();
    output.is_ok_and(|output| output.status.success())
}

fn cargo_command(root: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root);
    command
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    let status = cargo_command(root).args(arguments).status();
    let status = status.with_context(|| format!("cannot run cargo {}", arguments.join(" ")))?;
    if status.success() {
        return Ok(());
    }
    bail!("cargo {} ended with {status}", arguments.join(" "))
}
