//! Speaks to the service manager: ready, status, watchdog, stopping.
//!
//! Without a service manager every call does nothing. Source: sd_notify(3), systemd.service(5).

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

/// The connection to the service manager.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Reads from the environment whether there is one and how often it wants to hear from us.
    pub fn from_environment() -> io::Result<Self> {
        let address = env::var_os("NOTIFY_SOCKET");
        let usec = env::var("WATCHDOG_USEC").ok();
        let pid = env::var("WATCHDOG_PID").ok();
        let for_us = pid.is_none_or(|pid| pid == std::process::id().to_string());
        Self::new(address.as_ref().map(|a| a.as_bytes()), usec.filter(|_| for_us).as_deref())
    }

    fn new(address: Option<&[u8]>, watchdog_usec: Option<&str>) -> io::Result<Self> {
        let socket = match address {
            None | Some([]) => None,
            Some(address) => {
                let address = match address.strip_prefix(b"@") {
                    Some(name) => SocketAddr::from_abstract_name(name)?,
                    None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(address))?,
                };
                Some((UnixDatagram::unbound()?, address))
            }
        };
        let usec = watchdog_usec.and_then(|usec| usec.parse().ok()).filter(|usec| *usec > 0);
        let watchdog = socket.as_ref().and(usec).map(Duration::from_micros);
        Ok(Self { socket, watchdog })
    }

    /// The daemon serves.
    pub fn ready(&self) -> io::Result<()> {
        self.send("READY=1")
    }

    /// One line about what the daemon does, for `systemctl status`.
    pub fn status(&self, text: &str) -> io::Result<()> {
        self.send(&format!("STATUS={}", text.replace('\n', " ")))
    }

    /// The daemon ends by itself.
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1")
    }

    /// The daemon's loop turns. To be called every [`watchdog_period`](Self::watchdog_period).
    pub fn alive(&self) -> io::Result<()> {
        self.send("WATCHDOG=1")
    }

    /// Half of what the service manager tolerates; `None` if it does not watch.
    pub fn watchdog_period(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    fn send(&self, text: &str) -> io::Result<()> {
        if let Some((socket, address)) = &self.socket {
            socket.send_to_addr(text.as_bytes(), address)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_hears_what_it_asked_for() {
        let name = format!("havre-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a valid name");
        let manager = UnixDatagram::bind_addr(&address).expect("a free name");
        let at = format!("@{name}");
        let service =
            ServiceManager::new(Some(at.as_bytes()), Some("3000000")).expect("it listens");
        service.ready().expect("it listens");
        service.status("PRIM\nReady").expect("it listens");
        service.alive().expect("it listens");
        service.stopping().expect("it listens");
        for expected in ["READY=1", "STATUS=PRIM Ready", "WATCHDOG=1", "STOPPING=1"] {
            let mut buffer = [0; 64];
            let length = manager.recv(&mut buffer).expect("it was sent");
            assert_eq!(&buffer[..length], expected.as_bytes());
        }
        assert_eq!(service.watchdog_period(), Some(Duration::from_millis(1_500)));
    }

    #[test]
    fn without_a_service_manager_nothing_happens() {
        let service = ServiceManager::new(None, Some("3000000")).expect("nothing to open");
        service.ready().expect("nothing is sent");
        assert_eq!(service.watchdog_period(), None);
    }
}
