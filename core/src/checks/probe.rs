//! What checkers ask of the outside, and what they are told.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One question about the outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// Does this port accept a connection?
    Tcp {
        /// Address or name.
        addr: String,
        /// Port.
        port: u16,
    },
    /// Does any of these hosts answer an echo?
    Ping {
        /// Addresses or names.
        hosts: Vec<String>,
    },
    /// Does the network card with this address, or else with its network, have a link?
    Interface {
        /// The address.
        local_addr: IpAddr,
    },
    /// Is this address set here?
    Address {
        /// Address or name.
        addr: String,
        /// No other host may answer for it.
        exclusive: bool,
    },
    /// Does this program end with 0?
    Program {
        /// Program in the module's `bin`.
        exec: String,
        /// All its arguments.
        args: Vec<String>,
    },
    /// Is a module Ready on another machine?
    Module {
        /// The module.
        name: String,
        /// Address or name of the machine.
        addr: String,
        /// Port of its health page.
        port: u16,
        /// Whether to use TLS.
        secure: bool,
    },
    /// How many processes match? Expressions are the `regex` crate's: matched in linear time.
    Processes {
        /// Command name; not looked at if there is an expression.
        name: String,
        /// Expression on the command name.
        name_regex: Option<String>,
        /// Expression on the command line.
        arg_regex: Option<String>,
    },
    /// Does this service of the operating system run?
    Service {
        /// Its name.
        name: String,
    },
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    /// It works.
    Up,
    /// It does not; the text says what was seen.
    Down(String),
    /// That many processes.
    Count(u32),
    /// Another module.
    Module {
        /// Whether it is Ready there.
        ready: bool,
        /// Changes whenever its application was started; 0: not told.
        starts: u64,
    },
    /// The question could not be asked; the text says why and what to do.
    Unable(String),
}
