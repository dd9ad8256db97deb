//! `havre cluster`: make a cluster, join it, show it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context, Result};
use clap::Subcommand;
use havre_core::ids::NodeId;

use super::print;
use crate::{
    cluster::{self, Bundle, Membership},
    events::time::unix_ms,
    store::write_private,
    transport::udp,
    witness::disk,
};

#[derive(Debug, Clone, Subcommand)]
pub(super) enum ClusterCommand {
    /// Make a new cluster: its keys and certificates, and a bundle for each other member.
    #[command(after_help = "Run it once, on the first node; then copy each bundle to its machine \
        (a bundle holds secrets)\nand run `havre cluster join` there.\nExample:\n  \
        havre cluster init --config cluster.xml --node node1\n  scp havre-node2.bundle node2:\n  \
        ssh node2 havre cluster join havre-node2.bundle")]
    Init {
        /// The cluster's nodes and networks.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Name of this node in that file.
        #[arg(long, value_name = "NAME")]
        node: String,
        /// Where the bundles are written.
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
        /// Leave the cluster of which this machine is a member.
        #[arg(long)]
        replace: bool,
    },
    /// Make this machine the member that a bundle names.
    #[command(after_help = "Example: havre cluster join havre-node2.bundle --node node2")]
    Join {
        /// The file that `havre cluster init` wrote for this machine.
        bundle: PathBuf,
        /// Refuse a bundle that is not for this node.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// Leave the cluster of which this machine is a member.
        #[arg(long)]
        replace: bool,
    },
    /// Make new certificates for every member before the old ones end.
    #[command(after_help = "Run it on one node; then copy each bundle to its machine, run \
        `havre cluster join` there,\nand restart the daemons, the secondary's first. Between the \
        restarts the application goes on\nwithout replication; then only changes are copied.\n\
        Example: havre cluster renew")]
    Renew {
        /// Where the bundles are written.
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
    },
    /// Show the cluster of which this machine is a member.
    #[command(after_help = "Example: havre cluster state")]
    State,
}

pub(super) fn run(dir: &Path, command: ClusterCommand) -> Result<ExitCode> {
    match command {
        ClusterCommand::Init { config, node, out, replace } => {
            init(dir, &config, &node, &out, replace)?;
        }
        ClusterCommand::Join { bundle, node, replace } => {
            join(dir, &bundle, node.as_deref(), replace)?;
        }
        ClusterCommand::Renew { out } => renew(dir, &out)?,
        ClusterCommand::State => state(dir)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn init(dir: &Path, config: &Path, node: &str, out: &Path, replace: bool) -> Result<()> {
    let text =
        fs::read_to_string(config).with_context(|| format!("cannot read {}", config.display()))?;
    let made = cluster::create(config, &text, node, unix_ms(SystemTime::now()))?;
    made.own.check_installable(dir, replace)?;
    // Bundles first: an installed cluster without bundles would have to be made again.
    let lines = write_bundles(&made.others, out)?;
    made.own.install(dir, replace)?;
    let id = made.own.cluster();
    print(&format!(
        "cluster {:016x} made; this machine is {node}\n{lines}\
         bundles hold secrets: delete them once they are installed\n",
        id.0
    ))
}

/// Writes the others' bundles; returns what to do with them.
fn write_bundles(others: &[Bundle], out: &Path) -> Result<String> {
    let mut lines = String::new();
    for bundle in others {
        let path = out.join(bundle.file_name());
        write_private(&path, bundle.text().expose().as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        let path = path.display();
        lines += &format!(
            "  copy {path} to {}, and run there: havre cluster join {}\n",
            bundle.name,
            bundle.file_name()
        );
    }
    Ok(lines)
}

fn renew(dir: &Path, out: &Path) -> Result<()> {
    let old = Membership::load(dir)?;
    let made = cluster::renew(&old, unix_ms(SystemTime::now()))?;
    let lines = write_bundles(&made.others, out)?;
    made.own.install(dir, false)?;
    let end = made.own.stream_security()?.own_end();
    print(&format!(
        "new certificates of cluster {:016x}, valid until {end}; this machine has its own\n{lines}\
         \x20 then restart the daemons, the secondary's first: until both have restarted, the \
         application goes on without replication\n\
         bundles hold secrets: delete them once they are installed\n",
        made.own.cluster().0
    ))
}

fn join(dir: &Path, bundle: &Path, node: Option<&str>, replace: bool) -> Result<()> {
    let membership = cluster::open_bundle(bundle, node)?;
    let id = membership.cluster().0;
    if membership.node() == NodeId::WITNESS {
        disk::install(dir, &membership)?;
        return print(&format!(
            "this machine is a witness of cluster {id:016x}\n  start it with: havre witness\n"
        ));
    }
    membership.install(dir, replace)?;
    print(&format!(
        "this machine is {} of cluster {id:016x}\n  delete {} (it holds secrets), then: \
         systemctl start havre\n",
        membership.name(),
        bundle.display()
    ))
}

fn state(dir: &Path) -> Result<()> {
    let membership = Membership::load(dir)?;
    let config = membership.config();
    let security = membership.stream_security()?;
    let mut text = format!(
        "cluster {:016x}, this machine is {}\ncertificate valid until {}\n",
        membership.cluster().0,
        membership.name(),
        security.own_end()
    );
    for lan in &config.lans {
        text += &format!("lan {}\n", lan.name);
        for member in &lan.nodes {
            let name = config.name_of(member.node);
            let address = udp::resolve(&member.addr, config.port)
                .map_or_else(|error| error.to_string(), |address| address.to_string());
            text += &format!("  {name:<20} {address}\n");
        }
    }
    match &config.witness {
        Some(witness) => text += &format!("witness {}:{}\n", witness.addr, witness.port),
        None => text += "no witness\n",
    }
    print(&text)
}
