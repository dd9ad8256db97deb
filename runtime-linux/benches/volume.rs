//! The table of docs/performance.md: `cargo bench --bench volume [-- DIRECTORY OPTIONS]`, the same
//! as `havre bench`.

use std::{ffi::OsString, process::ExitCode};

fn main() -> ExitCode {
    let words: Vec<OsString> =
        std::env::args_os().skip(1).filter(|word| word != "--bench").collect();
    match havre_linux::bench::run(&[], &words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
