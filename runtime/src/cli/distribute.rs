//! `havre module config`: one configuration on all nodes of a module, or on none.
//!
//! Every node takes the package, checks it and keeps it durably; only when all have said yes does
//! each apply it, which then is a rename. A node that dies in between has another signature: it
//! says so, takes no part, and gets the configuration when the command is given again.

use std::path::Path;

use anyhow::{Context, Result, bail};
use havre_core::status::{ModuleStatus, State};

use super::{Target, module::show_notices, print, with_client};
use crate::{
    admin::{
        Staged,
        client::{Client, ClientError},
    },
    cluster::Membership,
    modules::Modules,
};

/// Names of the modules that are not stopped.
pub(super) fn running(modules: &[ModuleStatus]) -> Vec<&str> {
    let running = modules.iter().filter(|module| module.state != State::Stop);
    running.map(|module| module.name.as_str()).collect()
}

/// Which nodes get a configuration.
#[derive(Debug)]
pub(super) enum Scope {
    /// Those of the module.
    Members,
    /// This one.
    Here,
    /// Those that were named.
    Named(Vec<String>),
}

impl Scope {
    /// The nodes of `-H`, if it was given.
    pub(super) fn of(nodes: Option<Vec<String>>) -> Self {
        nodes.map_or(Self::Members, Self::Named)
    }
}

pub(super) fn config(dir: &Path, modules: &Modules, name: &str, scope: Scope) -> Result<()> {
    let membership = Membership::load(dir)?;
    let cluster = membership.config();
    // Checked here before anybody is asked, so that its errors appear once.
    let outlook = modules.outlook(name, cluster)?;
    show_notices(&outlook.module)?;
    let members: Vec<String> = match scope {
        Scope::Here => vec![membership.name().to_owned()],
        Scope::Named(nodes) => nodes,
        Scope::Members => {
            let members = outlook.module.config.members.iter();
            members.map(|member| cluster.name_of(*member).to_owned()).collect()
        }
    };
    with_client(&Target::here(dir), async |client| {
        match client.status().await {
            Ok(_) => {}
            Err(ClientError::NotRunning(_)) => {
                let applied = modules.apply(name, cluster)?;
                return print(&format!(
                    "module {name} configured on this node (signature {:016x}); the daemon is not \
                     running: systemctl start havre\n",
                    applied.signature
                ));
            }
            Err(error) => return Err(error.into()),
        }
        let (id, package) = modules.pack(name)?;
        let bytes = package.to_zip().context("cannot pack the module")?;
        let at = |node: &str| {
            if node == membership.name() { client.clone() } else { client.clone().on_node(node) }
        };
        let clients: Vec<(String, Client)> =
            members.iter().map(|node| (node.clone(), at(node))).collect();
        let staged = stage(&clients, (name, id.0), &bytes).await?;
        apply(&clients, name, &staged).await
    })
}

/// Brings the package to every node; takes it back everywhere if one refuses.
async fn stage(
    clients: &[(String, Client)],
    (name, id): (&str, u16),
    bytes: &[u8],
) -> Result<Vec<Staged>> {
    let mut staged = Vec::new();
    let mut refused = String::new();
    for (node, client) in clients {
        match client.stage(name, id, bytes.to_vec()).await {
            Ok(answer) => staged.push(answer),
            Err(error) => refused += &format!("\n  {node}: {error}"),
        }
    }
    if let Some(first) = staged.first()
        && let Some((node, other)) = clients
            .iter()
            .map(|(node, _)| node)
            .zip(&staged)
            .find(|(_, other)| other.revision != first.revision)
    {
        refused += &format!(
            "\n  {node}: reads it differently (revision {:016x}): is cluster.xml the same there?",
            other.revision
        );
    }
    if refused.is_empty() {
        return Ok(staged);
    }
    for (_, client) in clients {
        // One that cannot be reached keeps a package that nobody will apply.
        let _ = client.unstage(name).await;
    }
    bail!("nothing was changed on any node:{refused}\n  (on this node only: --local)")
}

async fn apply(clients: &[(String, Client)], name: &str, staged: &[Staged]) -> Result<()> {
    let mut failed = String::new();
    let mut text = String::new();
    for ((node, client), staged) in clients.iter().zip(staged) {
        match client.apply_staged(name).await {
            Ok(()) => {
                let how = match (staged.active, staged.needs_stop, staged.running) {
                    (true, false, true) => "while it runs",
                    _ => "",
                };
                text += &format!("{node}: configured (signature {:016x}) {how}", staged.signature);
                text = text.trim_end().to_owned() + "\n";
            }
            Err(error) => failed += &format!("\n  {node}: {error}"),
        }
    }
    print(&text)?;
    if failed.is_empty() {
        return Ok(());
    }
    bail!("some nodes could not apply it; repair them and give the command again:{failed}")
}
