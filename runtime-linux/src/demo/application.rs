//! Which application the demonstration makes highly available, and what it needs of it.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::{
    PORT,
    postgresql::PostgreSql,
    workload::{Connect, to_ledger},
};
use crate::lab::pair::{Pair, PairSpec};

/// An application that acknowledges records.
#[derive(Debug, Clone)]
pub enum Application {
    /// The bundled one: appends lines to a file, each made durable.
    Ledger,
    /// A database server, run by the scripts of `modules/postgresql`.
    PostgreSql(PostgreSql),
}

impl Application {
    /// PostgreSQL if it is installed, unless the ledger is wanted.
    pub fn choose(ledger: bool) -> Self {
        let installed = if ledger { None } else { PostgreSql::installed() };
        installed.map_or(Self::Ledger, Self::PostgreSql)
    }

    /// What a user calls it.
    pub fn name(&self) -> String {
        match self {
            Self::Ledger => "a ledger that appends lines and makes each durable".to_owned(),
            Self::PostgreSql(server) => format!("PostgreSQL ({})", server.bin().display()),
        }
    }

    /// What the pair runs; its replicated directory is made in `directory`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn spec(&self, directory: &Path, program: &Path) -> Result<PairSpec> {
        let mut spec = super::spec(directory, program)?;
        if let Self::PostgreSql(server) = self {
            let data = spec.replicated.clone().unwrap_or_else(PathBuf::new);
            spec.variables = server.variables(&data);
            spec.scripts = server.scripts(directory);
        }
        Ok(spec)
    }

    /// Makes the first data, on the disk of the node that becomes primary first.
    ///
    /// # Errors
    /// The application's own programs refuse.
    pub fn prepare(&self, disk: &Path) -> Result<()> {
        match self {
            Self::Ledger => Ok(()),
            Self::PostgreSql(server) => server.create(disk),
        }
    }

    /// How clients connect to it.
    pub fn client(&self, address: IpAddr) -> Connect {
        match self {
            Self::Ledger => to_ledger((address, PORT).into()),
            Self::PostgreSql(_) => PostgreSql::client((address, PORT).into()),
        }
    }

    /// Lets the application look for damage in its data; says what it looked at. The service is
    /// stopped afterwards if that needs it.
    ///
    /// # Errors
    /// The data are damaged; the text is the application's own.
    pub fn verify(&self, pair: &Pair) -> Result<String> {
        match self {
            Self::Ledger => Ok(String::new()),
            Self::PostgreSql(server) => server.verify(pair),
        }
    }
}
