//! The health check: may a load balancer send clients to this node?
//!
//! | request | answer |
//! |---|---|
//! | `GET /health/NAME` | 200 if the module is PRIM, ALONE or UP, and Ready; otherwise 404 |
//! | `GET /var/modules/NAME/ready.txt` | the same |
//! | `HEAD` of the same | the same without a body |
//! | anything else | 404, or 405 for other methods |
//!
//! Nobody is asked who he is: load balancers cannot log in, and the answer is one word. Never 503:
//! some balancers treat it as a reason to ask again instead of going elsewhere.
//!
//! The server has a thread and a port of its own. It reads the [`Board`], which the daemon's loop
//! writes after each change ([`keep`]): however many ask, the loop is never held up. A board that
//! the loop does not confirm any more answers 404: a daemon that hangs is no healthy one.
//!
//! Source of paths and codes: SafeKit 8.2 User's Guide, "health check" of load balancers.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use havre_core::{
    effect::{Answer, Command},
    status::{ModuleStatus, NodeStatus, Phase, State},
};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::AbortHandle,
};
use tracing::{info, warn};

use crate::agent::Inbox;

/// TCP port unless the daemon is told otherwise. Source: SafeKit's web port.
pub const HEALTH_PORT_DEFAULT: u16 = 9010;

/// Connections at once; a further one ends the oldest.
const CONNECTIONS_MAX: usize = 256;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Longest request that is read, in bytes of its line and headers.
const HEADER_BYTES_MAX: usize = 8 * 1024;
/// Headers of a request at most.
const HEADERS_MAX: usize = 64;
/// Longest time between connection, or the answer before, and the end of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before the port is tried again when another program has it.
const RETRY: Duration = Duration::from_secs(10);
/// Pause after a connection that could not be accepted, for want of descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pause between two confirmations of the board.
const CONFIRM_PERIOD: Duration = Duration::from_millis(500);
/// Age from which the board is not believed.
const STALE: Duration = Duration::from_secs(3);

/// What the health check knows: the state of each module, and since when that is not confirmed.
#[derive(Debug, Clone, Default)]
pub struct Board {
    picture: Arc<Mutex<Option<Picture>>>,
}

#[derive(Debug)]
struct Picture {
    confirmed: Instant,
    modules: BTreeMap<String, (State, Phase)>,
}

/// What is said about a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Clients may come.
    Ready(State),
    /// They may not.
    NotReady(State, Phase),
    /// There is no such module.
    Unknown,
    /// The daemon starts, ends, or does not turn its loop.
    Silent,
}

impl Board {
    /// Takes the picture of the node.
    pub fn show(&self, status: &NodeStatus) {
        let state_of = |module: &ModuleStatus| (module.name.clone(), (module.state, module.phase));
        let modules = status.modules.iter().map(state_of).collect();
        *self.picture() = Some(Picture { confirmed: Instant::now(), modules });
    }

    /// The picture still holds.
    pub fn confirm(&self) {
        if let Some(picture) = self.picture().as_mut() {
            picture.confirmed = Instant::now();
        }
    }

    /// Nothing is known any more.
    pub fn clear(&self) {
        *self.picture() = None;
    }

    /// What is said about a module at a moment.
    pub fn health(&self, now: Instant, module: &str) -> Health {
        let picture = self.picture();
        let Some(picture) = picture.as_ref() else { return Health::Silent };
        if now.saturating_duration_since(picture.confirmed) > STALE {
            return Health::Silent;
        }
        match picture.modules.get(module) {
            Some((state @ (State::Prim | State::Alone | State::Up), Phase::Ready)) => {
                Health::Ready(*state)
            }
            Some((state, phase)) => Health::NotReady(*state, *phase),
            None => Health::Unknown,
        }
    }

    fn picture(&self) -> std::sync::MutexGuard<'_, Option<Picture>> {
        // A picture is replaced as a whole: no panic leaves half of one.
        self.picture.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a board true for as long as the agent runs: after each of its news, and confirmed in
/// between by the thread on which the agent runs.
pub async fn keep(board: Board, mut inbox: Inbox) {
    loop {
        let Ok(Answer::Status(status)) = inbox.ask(Command::Status).await else { break };
        board.show(&status);
        loop {
            tokio::select! {
                biased;
                news = inbox.news() => match news {
                    Ok(()) => break,
                    Err(_) => return board.clear(),
                },
                () = tokio::time::sleep(CONFIRM_PERIOD) => board.confirm(),
            }
        }
    }
    board.clear();
}

/// The running server. Ends when dropped.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on a port of every address of this machine. A port that another program has is said
    /// in the trace and tried again until it is free.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(port: u16, board: Board) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("health".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    // An end without a word is one too.
                    _ = stopped => {}
                    () = serve(port, &board) => {}
                }
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A server that panicked has already said so.
            drop(thread.join());
        }
    }
}

async fn serve(port: u16, board: &Board) {
    let listener = loop {
        match listen(port) {
            Ok(listener) => break listener,
            Err(error) => warn!(
                port,
                %error,
                "health check not served: load balancers see this node as down; free the port, \
                 or choose another with `havre daemon --health-port`"
            ),
        }
        tokio::time::sleep(RETRY).await;
    };
    if let Ok(address) = listener.local_addr() {
        info!(%address, "health check served");
    }
    answer_all(listener, board).await;
}

/// Opens the port for IPv6 and IPv4, or for IPv4 alone where there is no IPv6.
pub(super) fn listen(port: u16) -> io::Result<TcpListener> {
    let both = open(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into());
    match both {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => open(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into()),
        Ok(listener) => Ok(listener),
    }
}

fn open(domain: Domain, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    // The daemon before this one may have left connections that linger.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn answer_all(listener: TcpListener, board: &Board) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "health check: a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS_MAX
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tokio::spawn(converse(stream, board.clone())).abort_handle());
    }
}

async fn converse(stream: TcpStream, board: Board) {
    // Only a matter of speed.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let response = answer(&board, &request);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
    builder.max_buf_size(HEADER_BYTES_MAX).max_headers(HEADERS_MAX);
    // What a client does wrong ends its connection, nothing else.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// The module that a path asks about.
fn module_of(path: &str) -> Option<&str> {
    let name = match path.strip_prefix("/health/") {
        Some(name) => name,
        None => path.strip_prefix("/var/modules/")?.strip_suffix("/ready.txt")?,
    };
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

fn answer(board: &Board, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, words) = if request.method() != Method::GET && request.method() != Method::HEAD {
        (StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".to_owned())
    } else {
        match module_of(request.uri().path()) {
            None => (StatusCode::NOT_FOUND, "no such page\n".to_owned()),
            Some(name) => match board.health(Instant::now(), name) {
                Health::Ready(state) => (StatusCode::OK, format!("{state} Ready\n")),
                Health::NotReady(state, phase) => {
                    (StatusCode::NOT_FOUND, format!("{state} {phase}\n"))
                }
                Health::Unknown => (StatusCode::NOT_FOUND, "no such module\n".to_owned()),
                Health::Silent => (StatusCode::NOT_FOUND, "unknown\n".to_owned()),
            },
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(words)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests;
