//! The interface of the other nodes: each daemon serves its own over TLS to the members of its
//! cluster, and passes requests for `/api/v1/nodes/NODE/...` on to that node.
//!
//! Both sides show a certificate of the cluster's authority. Every member may order everything:
//! who is root on one node of a cluster decides for the cluster, as with SafeKit's `-H`.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Router};
use havre_core::{
    config::cluster::{ClusterConfig, Lan},
    ids::NodeId,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1 as client,
    header::{CONTENT_TYPE, HOST, HeaderValue},
    server::conn::http1 as server,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{api::Caller, client::ANSWER_BYTES_MAX, health};
use crate::transport::tls::{StreamSecurity, TlsError};

/// TCP port unless the daemon is told otherwise. Source: SafeKit's HTTPS port.
pub const ADMIN_PORT_DEFAULT: u16 = 9453;

/// Connections at once; a further one waits.
const CONNECTIONS_MAX: usize = 32;
/// Longest time from a connection to its request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time until one address of a node answers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time until a node has answered a request. Shorter than the command line waits.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause before the port is tried again when another program has it.
const RETRY: Duration = Duration::from_secs(10);
/// Pause after a connection that could not be accepted, for want of descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why another node did not answer.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// There is no such node.
    #[error("\"{name}\" is not a node of this cluster ({})", .known.join(", "))]
    UnknownNode {
        /// The name.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// No address of it answers.
    #[error("{node} cannot be reached ({tried}): is its daemon running, and TCP port {port} open?")]
    Unreachable {
        /// The node.
        node: String,
        /// The port.
        port: u16,
        /// What each address said.
        tried: String,
    },
    /// It is not who it should be.
    #[error("{0}")]
    Untrusted(#[from] TlsError),
    /// It answered nothing, or something else.
    #[error("{node} does not answer: {error}")]
    Silent {
        /// The node.
        node: String,
        /// What happened.
        error: String,
    },
}

/// What a node answered.
#[derive(Debug)]
pub struct RemoteAnswer {
    /// The status.
    pub status: StatusCode,
    /// What kind of body.
    pub content_type: Option<HeaderValue>,
    /// The body.
    pub body: Bytes,
}

/// The other nodes of the cluster, as seen by this one.
#[derive(Debug, Clone)]
pub struct Neighbours {
    config: ClusterConfig,
    own: NodeId,
    security: StreamSecurity,
    port: u16,
}

impl Neighbours {
    /// The neighbours of `own`, whose daemons serve `port`.
    pub fn new(config: ClusterConfig, own: NodeId, security: StreamSecurity, port: u16) -> Self {
        Self { config, own, security, port }
    }

    /// The names of all nodes, this one included.
    pub fn names(&self) -> &[String] {
        &self.config.nodes
    }

    /// The name of this node.
    pub fn own_name(&self) -> &str {
        self.config.name_of(self.own)
    }

    /// Asks a node; `path` begins with `/api/`.
    ///
    /// # Errors
    /// There is no such node, it cannot be reached, or it is another one.
    pub async fn ask(
        &self,
        node: &str,
        (method, path): (Method, &str),
        (content_type, body): (Option<HeaderValue>, Bytes),
    ) -> Result<RemoteAnswer, RemoteError> {
        let id = self.config.node_named(node).ok_or_else(|| RemoteError::UnknownNode {
            name: node.to_owned(),
            known: self.config.nodes.clone(),
        })?;
        let stream = self.connect(id, node).await?;
        let stream = match timeout(HANDSHAKE_TIMEOUT, self.security.connect(stream, id)).await {
            Ok(stream) => stream?,
            Err(_) => return Err(silent(node, &"no TLS handshake within 5 s")),
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, "havre");
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request.body(Full::new(body)).map_err(|e| silent(node, &e))?;
        match timeout(ANSWER_TIMEOUT, exchange(TokioIo::new(stream), request)).await {
            Ok(answer) => answer.map_err(|error| silent(node, &error)),
            Err(_) => Err(silent(node, &"no answer within 15 s")),
        }
    }

    async fn connect(&self, id: NodeId, node: &str) -> Result<TcpStream, RemoteError> {
        let mut tried = Vec::new();
        for name in addresses(&self.config, id) {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect((name, self.port))).await {
                Ok(Ok(stream)) => {
                    // Only a matter of speed.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => tried.push(format!("{name}: {error}")),
                Err(_) => tried.push(format!("{name}: silent")),
            }
        }
        let (node, tried) = (node.to_owned(), tried.join(", "));
        Err(RemoteError::Unreachable { node, port: self.port, tried })
    }
}

fn silent(node: &str, error: &dyn fmt::Display) -> RemoteError {
    RemoteError::Silent { node: node.to_owned(), error: error.to_string() }
}

/// The addresses of a node, those of networks for distributed commands first.
fn addresses(config: &ClusterConfig, node: NodeId) -> Vec<&str> {
    let on = |lan: &&Lan| lan.command;
    let lans = config.lans.iter().filter(on).chain(config.lans.iter().filter(|lan| !lan.command));
    let members = lans.flat_map(|lan| &lan.nodes).filter(|member| member.node == node);
    let mut found: Vec<&str> = Vec::new();
    for member in members {
        let addr = member.addr.trim_start_matches('[').trim_end_matches(']');
        if !found.contains(&addr) {
            found.push(addr);
        }
    }
    found
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<RemoteAnswer, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        client::handshake(stream).await.map_err(|error| error.to_string())?;
    let driving = tokio::spawn(connection);
    let answered = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let content_type = answer.headers().get(CONTENT_TYPE).cloned();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok(RemoteAnswer { status, content_type, body })
    };
    let answer = answered.await;
    driving.abort();
    answer
}

/// Serves `router` to the members of the cluster on a port of every address of this machine. A
/// port that another program has is said in the trace and tried again until it is free.
pub async fn serve(port: u16, security: StreamSecurity, router: Router) {
    let listener = loop {
        match health::listen(port) {
            Ok(listener) => break listener,
            Err(error) => warn!(
                port,
                %error,
                "commands of other nodes are not served: free the port, or choose another on \
                 every node with `havre daemon --admin-port`"
            ),
        }
        sleep(RETRY).await;
    };
    if let Ok(address) = listener.local_addr() {
        info!(%address, "commands of other nodes served");
    }
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let (security, router) = (security.clone(), router.clone());
                tokio::spawn(async move {
                    converse(stream, from, &security, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "a command's connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection carries one request.
async fn converse(stream: TcpStream, from: SocketAddr, security: &StreamSecurity, router: Router) {
    let (node, stream) = match timeout(HANDSHAKE_TIMEOUT, security.accept(stream)).await {
        Ok(Ok((node, stream))) => (node, stream),
        Ok(Err(error)) => return warn!(%from, %error, "a command's connection was refused"),
        Err(_) => return,
    };
    let router = router.layer(Extension(Caller(format!("root@{}", security.name_in_words(node)))));
    let mut builder = server::Builder::new();
    builder.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT);
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // What the other side does wrong ends its connection, nothing else.
    let _ = timeout(ANSWER_TIMEOUT, serving).await;
}

#[cfg(test)]
mod tests;
