//! The client of the daemon's interface that the command line uses.

mod checks;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use havre_core::farm::explain::Question;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::timeout;

use super::{Explained, LogReply, NodeNames, Problem, Snapshot, Staged, api::SOCKET_NAME};

/// What every path begins with.
const PREFIX: &str = "/api/v1/";
/// Longest time a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest answer that is read, in bytes.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nothing listens.
    #[error(
        "the havre daemon is not running ({}): start it with `systemctl start havre`, or give \
         the right --state-dir", .0.display()
    )]
    NotRunning(PathBuf),
    /// The socket belongs to root.
    #[error("{}: permission denied; run the command as root", .0.display())]
    Forbidden(PathBuf),
    /// The daemon said no, and why.
    #[error("{0}")]
    Refused(String),
    /// The daemon does not answer.
    #[error("the havre daemon does not answer: see `journalctl -u havre`")]
    Silent,
    /// The answer cannot be used.
    #[error("the havre daemon answers something else ({0}): are both of the same release?")]
    Unusable(String),
}

/// Talks to the daemon of one state directory.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    /// The node that is meant, if it is another one than the daemon's.
    node: Option<String>,
}

impl Client {
    /// The client of a state directory's daemon.
    pub fn of(state_dir: &Path) -> Self {
        Self { socket: state_dir.join(SOCKET_NAME), node: None }
    }

    /// The client of another node, by way of this one's daemon.
    #[must_use]
    pub fn on_node(self, node: &str) -> Self {
        Self { node: Some(node.to_owned()), ..self }
    }

    /// The nodes of the cluster.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn nodes(&self) -> Result<NodeNames, ClientError> {
        read(&self.request(Method::GET, "/api/v1/nodes").await?)
    }

    /// The picture of the node.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn status(&self) -> Result<Snapshot, ClientError> {
        read(&self.request(Method::GET, "/api/v1/status").await?)
    }

    /// Orders something of a module.
    ///
    /// # Errors
    /// The daemon refuses, or there is no answer.
    pub async fn order(
        &self,
        module: &str,
        order: &str,
        full: bool,
        force: bool,
    ) -> Result<(), ClientError> {
        let path = format!("/api/v1/modules/{module}/{order}?full={full}&force={force}");
        self.request(Method::POST, &path).await.map(drop)
    }

    /// The last entries of a module's log, or of the node's.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn log(
        &self,
        module: Option<&str>,
        count: usize,
        all: bool,
    ) -> Result<LogReply, ClientError> {
        let log = module.map_or("log".to_owned(), |module| format!("modules/{module}/log"));
        read(&self.request(Method::GET, &format!("/api/v1/{log}?count={count}&all={all}")).await?)
    }

    /// The orders that were given to the node.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn commands(&self, count: usize) -> Result<LogReply, ClientError> {
        read(&self.request(Method::GET, &format!("/api/v1/commands?count={count}")).await?)
    }

    /// Writes a text into a module's log; `level` is `I`, `E` or `W`.
    ///
    /// # Errors
    /// The daemon refuses, or there is no answer.
    pub async fn print(&self, module: &str, level: char, text: &str) -> Result<(), ClientError> {
        let path = format!("/api/v1/modules/{module}/log?level={level}");
        self.send(Method::POST, &path, Bytes::from(text.to_owned())).await.map(drop)
    }

    /// Which node of a farm takes a client's new connections.
    ///
    /// # Errors
    /// The module shares nothing there, or there is no answer.
    pub async fn explain(
        &self,
        module: &str,
        question: Question,
    ) -> Result<Explained, ClientError> {
        let Question { client, addr, protocol, port } = question;
        let protocol = format!("{protocol:?}").to_lowercase();
        let path = format!(
            "/api/v1/modules/{module}/explain?client={}&client_port={}&to={addr}&\
             protocol={protocol}&port={port}",
            client.addr, client.port
        );
        read(&self.request(Method::GET, &path).await?)
    }

    /// Makes the daemon read the active modules again.
    ///
    /// # Errors
    /// The daemon refuses, or there is no answer.
    pub async fn reload(&self) -> Result<(), ClientError> {
        self.request(Method::POST, "/api/v1/reload").await.map(drop)
    }

    /// Brings a configuration to the node, as a package; nothing changes yet.
    ///
    /// # Errors
    /// It could not be applied there, or there is no answer.
    pub async fn stage(
        &self,
        module: &str,
        id: u16,
        package: Vec<u8>,
    ) -> Result<Staged, ClientError> {
        let path = format!("/api/v1/configurations/{module}/stage?id={id}");
        read(&self.send(Method::POST, &path, package.into()).await?)
    }

    /// Applies what was staged.
    ///
    /// # Errors
    /// It cannot be applied, or there is no answer.
    pub async fn apply_staged(&self, module: &str) -> Result<(), ClientError> {
        let path = format!("/api/v1/configurations/{module}/apply");
        self.request(Method::POST, &path).await.map(drop)
    }

    /// Forgets what was staged.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn unstage(&self, module: &str) -> Result<(), ClientError> {
        let path = format!("/api/v1/configurations/{module}/unstage");
        self.request(Method::POST, &path).await.map(drop)
    }

    async fn request(&self, method: Method, path: &str) -> Result<Bytes, ClientError> {
        self.send(method, path, Bytes::new()).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        match timeout(REQUEST_TIMEOUT, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Silent),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let unusable = |error: &dyn std::fmt::Display| ClientError::Unusable(error.to_string());
        let path = match (&self.node, path.strip_prefix(PREFIX)) {
            (Some(node), Some(rest)) => format!("{PREFIX}nodes/{node}/{rest}"),
            _ => path.to_owned(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "havre")
            .body(Full::new(body))
            .map_err(|e| unusable(&e))?;
        let stream = connect(&self.socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(self.socket.clone()),
            _ => ClientError::NotRunning(self.socket.clone()),
        })?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| unusable(&e))?;
        let driving = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|_| ClientError::Silent);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                driving.abort();
                return Err(error);
            }
        };
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        driving.abort();
        let body = body.map_err(|e| unusable(&e))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(ClientError::Refused(problem.error)),
            Err(_) => Err(unusable(&status)),
        }
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Unusable(error.to_string()))
}

#[cfg(unix)]
async fn connect(socket: &Path) -> io::Result<tokio::net::UnixStream> {
    tokio::net::UnixStream::connect(socket).await
}
