//! Questions and watches of checkers, on Linux.
//!
//! Each watch is a task of the agent's thread that sleeps until the kernel tells of a change; each
//! question is a future of the agent. Whatever reads many files runs on a thread of its own.

mod address;
mod processes;
mod program;
mod service;

use std::{
    cell::RefCell, collections::BTreeMap, io, net::IpAddr, os::fd::OwnedFd, path::PathBuf, rc::Rc,
    time::Duration,
};

use havre_core::{
    checks::probe::{Finding, Probe},
    ids::{CheckerId, ModuleId},
};
use havre_runtime::{agent::Inbox, probe as sockets};
use tokio::{
    io::unix::AsyncFd,
    net::lookup_host,
    task::{AbortHandle, spawn_blocking, spawn_local},
};

use crate::{ping, script::ScriptPlace};
use processes::Pattern;

/// How long a question without a limit of its own may take.
const LIMIT_DEFAULT: Duration = Duration::from_secs(5);

/// A checker of a module.
type Asker = (ModuleId, CheckerId);

/// What is asked and watched for the checkers of a node.
#[derive(Debug)]
pub struct Probes {
    inbox: Inbox,
    places: BTreeMap<ModuleId, ScriptPlace>,
    watches: RefCell<BTreeMap<Asker, AbortHandle>>,
    programs: Rc<program::Programs>,
}

impl Probes {
    /// Prepares; `places` say where the programs of modules are.
    pub fn new(inbox: Inbox, places: BTreeMap<ModuleId, ScriptPlace>) -> Self {
        let (watches, programs) = Default::default();
        Self { inbox, places, watches, programs }
    }

    /// Asks something.
    pub async fn ask(&self, asker: Asker, what: Probe, limit: Option<Duration>) -> Finding {
        match what {
            Probe::Tcp { addr, port } => sockets::connects(&addr, port, limit).await,
            Probe::Ping { hosts } => pinged(hosts, limit.unwrap_or(LIMIT_DEFAULT)).await,
            Probe::Module { secure: true, .. } => {
                Finding::Unable("secure=\"on\" is not supported: use secure=\"off\"".to_owned())
            }
            Probe::Module { name, addr, port, .. } => {
                sockets::module(&name, &addr, port, limit).await
            }
            Probe::Program { exec, args } => match self.places.get(&asker.0) {
                Some(place) => {
                    self.programs.run(asker, place.user_bin.join(exec), &args, place, limit).await
                }
                None => Finding::Unable("the module has no <user>: no program runs".to_owned()),
            },
            Probe::Processes { name, name_regex, arg_regex } => {
                match Pattern::new(&name, name_regex.as_deref(), arg_regex.as_deref()) {
                    Ok(pattern) => on_a_thread(move || processes::count(&pattern)).await,
                    Err(error) => Finding::Unable(error),
                }
            }
            Probe::Service { name } => {
                on_a_thread(move || service::state(&name).map_or_else(Finding::Unable, |s| s.found))
                    .await
            }
            Probe::Interface { local_addr } => {
                on_a_thread(move || address::link_of(local_addr)).await
            }
            Probe::Address { addr, exclusive } => match first_address(&addr).await {
                Ok(addr) if exclusive => on_a_thread(move || address::held(addr)).await,
                Ok(addr) => on_a_thread(move || address::is_set(addr)).await,
                Err(error) => Finding::Unable(error),
            },
        }
    }

    /// Begins to watch something, if it can be watched.
    pub fn watch(&self, asker: Asker, what: Probe) {
        let inbox = self.inbox.clone();
        let report = move |finding| inbox.checked(asker.0, asker.1, finding);
        let task = match what {
            Probe::Processes { name, name_regex, arg_regex } => {
                match Pattern::new(&name, name_regex.as_deref(), arg_regex.as_deref()) {
                    Ok(pattern) => spawn_local(processes::watch(pattern, report)),
                    Err(error) => return report(Finding::Unable(error)),
                }
            }
            Probe::Service { name } => spawn_local(service::watch(name, report)),
            Probe::Interface { local_addr } => {
                spawn_local(address::watch(move || address::link_of(local_addr), report))
            }
            Probe::Address { addr, .. } => match addr.parse() {
                // Whether another host has it, too, is asked at each period.
                Ok(addr) => spawn_local(address::watch(move || address::is_set(addr), report)),
                Err(_) => return,
            },
            _ => return,
        };
        let before = self.watches.borrow_mut().insert(asker, task.abort_handle());
        before.iter().for_each(AbortHandle::abort);
    }

    /// Ends the watch of a checker, and kills its program.
    pub fn unwatch(&self, asker: Asker) {
        if let Some(watch) = self.watches.borrow_mut().remove(&asker) {
            watch.abort();
        }
        self.programs.kill(asker);
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.watches.borrow().values().for_each(AbortHandle::abort);
    }
}

/// A descriptor whose readiness can be waited for.
fn awaitable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the value that is registered, is never replaced in it,
    // and is closed only when that value is dropped, after it was deregistered.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}

async fn on_a_thread(work: impl FnOnce() -> Finding + Send + 'static) -> Finding {
    match spawn_blocking(work).await {
        Ok(finding) => finding,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels, and then nobody waits for the result.
            Err(_) => std::future::pending().await,
        },
    }
}

async fn first_address(name: &str) -> Result<IpAddr, String> {
    if let Ok(addr) = name.parse() {
        return Ok(addr);
    }
    let mut found = lookup_host((name, 0)).await.map_err(|error| format!("{name}: {error}"))?;
    found.next().map(|a| a.ip()).ok_or_else(|| format!("{name} has no address"))
}

async fn pinged(hosts: Vec<String>, limit: Duration) -> Finding {
    let mut targets = Vec::new();
    let mut wrong = Vec::new();
    for host in hosts {
        match tokio::time::timeout(limit, first_address(&host)).await {
            Ok(Ok(addr)) => targets.push(addr),
            Ok(Err(error)) => wrong.push(error),
            Err(_) => wrong.push(format!("{host}: its name is not resolved in time")),
        }
    }
    if targets.is_empty() {
        return Finding::Down(wrong.join(", "));
    }
    on_a_thread(move || {
        if ping::any_answers(&targets, limit) {
            Finding::Up
        } else {
            Finding::Down(format!("no answer within {} ms", limit.as_millis()))
        }
    })
    .await
}

/// Reboots this machine, with the modules stopped first as the service manager does it.
///
/// # Errors
/// There is no program that could.
pub fn reboot() -> io::Result<()> {
    let program = ["/usr/bin/systemctl", "/bin/systemctl", "/sbin/reboot", "/usr/sbin/reboot"]
        .map(PathBuf::from)
        .into_iter()
        .find(|program| program.exists())
        .ok_or_else(|| io::Error::other("neither systemctl nor reboot is installed"))?;
    let mut command = std::process::Command::new(&program);
    if program.ends_with("systemctl") {
        command.arg("reboot");
    }
    command.spawn().map(drop)
}
