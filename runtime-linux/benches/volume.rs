//! The table of docs/performance.md:
//! `cargo bench --bench volume [-- DIRECTORY [SECONDS [ROUNDS]]]`.

use std::{path::PathBuf, time::Duration};

use havre_linux::volume::{Security, bench};

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let rounds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1);
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let plan = bench::Plan {
        directory,
        time: Duration::from_secs_f64(seconds),
        rounds,
        security: (Security::Plain, Security::Plain),
    };
    match bench::run(&plan) {
        Ok(table) => println!("{table}"),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
