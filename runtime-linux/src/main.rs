//! The `havre` program on Linux: daemon, command line, demonstration.

use std::{ffi::OsString, process::ExitCode};

use havre_linux::lab;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.first().and_then(|a| a.to_str()) {
        Some(lab::init::COMMAND) => exit(lab::init::run(&arguments[1..])),
        _ => ExitCode::from(2),
    }
}

fn exit(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
