//! `havre witness`: the third-party arbiter as a process.

use std::{net::SocketAddr, path::Path, process::ExitCode, rc::Rc};

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::task::LocalSet;
use tracing::info;

use crate::{
    daemon::Platform,
    events::trace::TraceFormat,
    seal::Sealer,
    store::{StateLock, next_run},
    transport::udp::UdpNet,
    witness::{
        self,
        disk::{self, DiskWitness},
    },
};

#[derive(Debug, Args)]
pub(super) struct WitnessArgs {
    /// Address and UDP port on which nodes are heard.
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:4799")]
    listen: SocketAddr,
    /// How the witness's own traces look (HAVRE_LOG selects what is traced).
    #[arg(long, value_enum, default_value = "text")]
    pub(super) trace: TraceFormat,
}

pub(super) fn run<P: Platform>(dir: &Path, args: &WitnessArgs, platform: &P) -> Result<ExitCode> {
    let _lock = StateLock::take(dir)?;
    let clusters = disk::clusters(dir)?;
    if clusters.is_empty() {
        bail!(
            "this machine is no cluster's witness yet: run `havre cluster join \
             havre-witness.bundle` with the bundle that `havre cluster init` wrote"
        );
    }
    let floor = clusters.iter().map(|member| member.run_floor()).max().unwrap_or(0);
    let run = next_run(dir, floor)?;
    let sealers = clusters.iter().map(|member| Sealer::new(member.identity(), run));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new()
        .block_on(&runtime, async {
            let net = UdpNet::listen(args.listen)?;
            let os = DiskWitness::open(dir, platform.clock())?;
            info!(address = %args.listen, clusters = clusters.len(), "witness starts");
            platform.ready();
            let alive = async {
                let mut period = tokio::time::interval(std::time::Duration::from_secs(1));
                loop {
                    period.tick().await;
                    platform.alive();
                }
            };
            tokio::select! {
                biased;
                () = platform.stop_requested() => Ok(ExitCode::SUCCESS),
                ended = witness::run(net, Rc::new(os), sealers) => match ended {
                    Ok(()) => Ok(ExitCode::SUCCESS),
                    Err(reason) => bail!("{reason}"),
                },
                never = alive => never,
            }
        })
        .context("the witness ended")
}
