//! Output of the daemon's own traces, for its developers and the service manager's journal.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

/// Variable that selects what is traced, e.g. `HAVRE_LOG=havre_core=debug`.
pub const FILTER_VARIABLE: &str = "HAVRE_LOG";

/// How traces look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TraceFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Sends traces to the standard error output. Does nothing if that was done before.
pub fn start(format: TraceFormat) {
    let filter =
        EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        TraceFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        TraceFormat::Json => builder.json().try_init(),
    };
    // A second start is a test in the same process.
    drop(started);
}
