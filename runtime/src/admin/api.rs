//! The interface of a daemon, version 1:
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/v1/status` | [`Snapshot`] |
//! | `POST /api/v1/modules/NAME/ORDER?full=&force=&by=` | 202, or 409 with a [`Problem`] |
//! | `POST /api/v1/modules/NAME/resource`, `switch`, `class`, `loop` | see [`checks`] |
//! | `GET /api/v1/modules/NAME/log?count=&all=` | [`LogReply`] |
//! | `GET /api/v1/modules/NAME/explain?client=&client_port=&to=&protocol=&port=` | [`Explained`] |
//! | `GET /api/v1/log?count=&all=` | [`LogReply`] of the node itself |
//! | `POST /api/v1/modules/NAME/log?level=I\|E\|W` with a text | 202: the text is in the log |
//! | `GET /api/v1/commands?count=` | [`LogReply`]: the orders given to this node |
//! | `POST /api/v1/reload` | 202 once the active modules were read again |
//! | `POST /api/v1/configurations/NAME/...` | see [`super::configuration`] |
//! | `GET /api/v1/nodes` | [`NodeNames`] |
//! | any of `/api/v1/nodes/NODE/...` | what node NODE answers to `/api/v1/...` |
//!
//! It is served on `STATE/havre.sock`, which only root may open: no further check is made. Without
//! the last line it is also served to the other nodes ([`super::remote`]).

pub mod checks;

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path as Segments, Query, Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use havre_core::{
    config::module::RuleProtocol,
    effect::{Answer, Command, ModuleOrder},
    event::Level,
    farm::{explain::Question, hash::Client},
    ids::ModuleId,
    status::NodeStatus,
    time::Instant,
};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::{
    Explained, LogReply, NodeNames, Problem, Snapshot, configuration,
    remote::{Neighbours, RemoteError},
};
use crate::{
    agent::Inbox,
    events::{
        log::{self, COMMAND_LOG, Entry, NODE_LOG},
        report::LogHandle,
    },
};

/// Name of the socket in the state directory.
pub const SOCKET_NAME: &str = "havre.sock";
/// Entries of a log that are returned unless the request says otherwise.
pub const LOG_COUNT_DEFAULT: usize = 300;
/// Entries of a log that are returned at most.
pub const LOG_COUNT_MAX: usize = 100_000;

/// Largest request that is passed on, in bytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Lines of one printed text that are kept.
const PRINT_LINES_MAX: usize = 100;
/// Characters of one printed line that are kept.
const PRINT_LINE_CHARS_MAX: usize = 2_000;

/// A request to read the active modules again; the answer says why it was refused.
pub type Reload = oneshot::Sender<Result<(), String>>;

/// What the interface works with.
#[derive(Clone)]
pub struct Api {
    /// The agent.
    pub inbox: Inbox,
    /// Where the logs are.
    pub state_dir: PathBuf,
    /// The node's boot clock.
    pub clock: fn() -> Instant,
    /// Takes requests to read the modules again.
    pub reload: mpsc::UnboundedSender<Reload>,
    /// Takes entries of logs.
    pub log: LogHandle,
    /// The other nodes; `None`: the daemon was told not to talk to them about commands.
    pub neighbours: Option<Arc<Neighbours>>,
}

/// Who gives an order, in words.
#[derive(Debug, Clone)]
pub struct Caller(pub String);

/// A request that was not carried out.
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(Problem { error: self.1 })).into_response()
    }
}

/// The interface's routes for this machine.
pub fn routes(api: Api) -> Router {
    let nodes = Router::new()
        .route("/api/v1/nodes", get(nodes))
        .route("/api/v1/nodes/{node}/{*rest}", any(passed_on))
        .with_state(Arc::new(api.clone()));
    node_routes(api).merge(nodes).layer(Extension(Caller("root".to_owned())))
}

/// The interface's routes for the other nodes: what concerns this one. Who serves them adds the
/// [`Caller`] to each request.
pub fn node_routes(api: Api) -> Router {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/modules/{name}/log", get(module_log).post(print))
        .route("/api/v1/modules/{name}/explain", get(explain))
        .route("/api/v1/modules/{name}/{order}", post(order))
        .route("/api/v1/log", get(node_log))
        .route("/api/v1/commands", get(command_log))
        .route("/api/v1/reload", post(reload))
        .merge(checks::routes())
        .merge(configuration::routes())
        .with_state(Arc::new(api))
}

/// Opens the socket of a state directory, mode 0600. The caller holds the directory's lock: an
/// older socket is a dead one.
///
/// # Errors
/// The operating system refuses.
#[cfg(unix)]
pub fn listen(state_dir: &Path) -> io::Result<tokio::net::UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let path = state_dir.join(SOCKET_NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = tokio::net::UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn ask(api: &Api, command: Command) -> Result<Answer, Refused> {
    let gone = |error: crate::agent::AgentGone| {
        Refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    };
    api.inbox.ask(command).await.map_err(gone)
}

pub(super) async fn node_status(api: &Api) -> Result<NodeStatus, Refused> {
    match ask(api, Command::Status).await? {
        Answer::Status(status) => Ok(status),
        Answer::Accepted | Answer::Refused(_) | Answer::Loop(_) | Answer::Explained { .. } => {
            let text = "the node did not tell its state".to_owned();
            Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, text))
        }
    }
}

async fn status(State(api): State<Arc<Api>>) -> Result<Json<Snapshot>, Refused> {
    let node = node_status(&api).await?;
    Ok(Json(Snapshot::of((api.clock)(), node)))
}

async fn module_named(api: &Api, name: &str) -> Result<ModuleId, Refused> {
    let status = node_status(api).await?;
    if let Some(module) = status.modules.iter().find(|module| module.name == name) {
        return Ok(module.module);
    }
    let known: Vec<&str> = status.modules.iter().map(|module| module.name.as_str()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let text = format!(
        "module \"{name}\" is not configured here (configured: {known}); \
         run `havre module config -m {name}`"
    );
    Err(Refused(StatusCode::NOT_FOUND, text))
}

#[derive(Debug, Deserialize)]
struct OrderQuery {
    #[serde(default)]
    full: bool,
    #[serde(default)]
    force: bool,
    /// The detector in whose name the order is given; `None`: an administrator.
    by: Option<String>,
}

async fn order(
    State(api): State<Arc<Api>>,
    Segments((name, order)): Segments<(String, String)>,
    Query(query): Query<OrderQuery>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, Refused> {
    let by = query.by.as_deref().map(checks::checked).transpose()?;
    let done = give_order(&api, &name, &order, &query).await;
    let flags = [(query.full, " --fullsync"), (query.force, " --force")];
    let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
    let by = by.map_or(String::new(), |by| format!(" -i {by}"));
    note_command(&api, &caller, &format!("{order} -m {name}{flags}{by}"), done.as_ref().err());
    done
}

/// Notes an order and what became of it.
fn note_command(api: &Api, caller: &Caller, command: &str, refused: Option<&Refused>) {
    let outcome = refused.map_or("accepted", |refused| refused.1.as_str());
    let text = format!("{command} | {} | {outcome}", caller.0);
    // A command is not refused because its note is lost.
    api.log.write(COMMAND_LOG, Entry::of_text(Level::Event, "command", &text));
}

async fn give_order(
    api: &Api,
    name: &str,
    order: &str,
    query: &OrderQuery,
) -> Result<StatusCode, Refused> {
    let module = module_named(api, name).await?;
    let Some(order) = order_named(order, query.full, query.force) else {
        let text = format!("\"{order}\" is not an order");
        return Err(Refused(StatusCode::NOT_FOUND, text));
    };
    let command = match &query.by {
        Some(by) => Command::ModuleBy { module, order, detector: by.clone() },
        None => Command::Module { module, order },
    };
    give(api, command).await
}

/// Asks for something that is accepted or refused.
async fn give(api: &Api, command: Command) -> Result<StatusCode, Refused> {
    match ask(api, command).await? {
        Answer::Refused(reason) => Err(Refused(StatusCode::CONFLICT, reason)),
        Answer::Accepted | Answer::Status(_) | Answer::Loop(_) | Answer::Explained { .. } => {
            Ok(StatusCode::ACCEPTED)
        }
    }
}

#[derive(Debug, Deserialize)]
struct ExplainQuery {
    client: IpAddr,
    #[serde(default)]
    client_port: u16,
    to: IpAddr,
    protocol: RuleProtocol,
    #[serde(default)]
    port: u16,
}

async fn explain(
    State(api): State<Arc<Api>>,
    Segments(name): Segments<String>,
    Query(query): Query<ExplainQuery>,
) -> Result<Json<Explained>, Refused> {
    let module = module_named(&api, &name).await?;
    let question = Question {
        client: Client { addr: query.client, port: query.client_port, ipid: 0 },
        addr: query.to,
        protocol: query.protocol,
        port: query.port,
    };
    match ask(&api, Command::Explain { module, question }).await? {
        Answer::Explained { explanation, words } => Ok(Json(Explained { explanation, words })),
        Answer::Refused(reason) => Err(Refused(StatusCode::CONFLICT, reason)),
        _ => {
            let text = "the node did not explain it".to_owned();
            Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, text))
        }
    }
}

/// The order of that name.
pub fn order_named(name: &str, full_resync: bool, force: bool) -> Option<ModuleOrder> {
    Some(match name {
        "start" => ModuleOrder::Start,
        "prim" => ModuleOrder::Prim { full_resync, force },
        "second" => ModuleOrder::Second { full_resync },
        "stop" => ModuleOrder::Stop,
        "forcestop" => ModuleOrder::ForceStop,
        "restart" => ModuleOrder::Restart,
        "stopstart" => ModuleOrder::StopStart,
        "swap" => ModuleOrder::Swap,
        "drain" => ModuleOrder::Drain { stop: false },
        "drainstop" => ModuleOrder::Drain { stop: true },
        "undrain" => ModuleOrder::Undrain,
        _ => return None,
    })
}

#[derive(Debug, Deserialize)]
struct LogQuery {
    count: Option<usize>,
    #[serde(default)]
    all: bool,
}

async fn module_log(
    State(api): State<Arc<Api>>,
    Segments(name): Segments<String>,
    Query(query): Query<LogQuery>,
) -> Result<Json<LogReply>, Refused> {
    module_named(&api, &name).await?;
    read_log(&api, &name, &query)
}

async fn node_log(
    State(api): State<Arc<Api>>,
    Query(query): Query<LogQuery>,
) -> Result<Json<LogReply>, Refused> {
    read_log(&api, NODE_LOG, &query)
}

async fn command_log(
    State(api): State<Arc<Api>>,
    Query(query): Query<LogQuery>,
) -> Result<Json<LogReply>, Refused> {
    read_log(&api, COMMAND_LOG, &query)
}

#[derive(Debug, Deserialize)]
struct PrintQuery {
    level: char,
}

/// Writes a text of a script or an operator into a module's log, line by line.
async fn print(
    State(api): State<Arc<Api>>,
    Segments(name): Segments<String>,
    Query(query): Query<PrintQuery>,
    text: String,
) -> Result<StatusCode, Refused> {
    module_named(&api, &name).await?;
    let level = match query.level {
        'I' => Level::Info,
        'E' => Level::Event,
        'W' => Level::Warning,
        _ => {
            let text = "the level of a text is I, E or W".to_owned();
            return Err(Refused(StatusCode::BAD_REQUEST, text));
        }
    };
    for line in text.lines().take(PRINT_LINES_MAX) {
        let line: String = line.chars().take(PRINT_LINE_CHARS_MAX).collect();
        if !api.log.write(&name, Entry::of_text(level, "user", &line)) {
            let text = "the log cannot take the text now: its disk is too slow".to_owned();
            return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, text));
        }
    }
    Ok(StatusCode::ACCEPTED)
}

fn read_log(api: &Api, name: &str, query: &LogQuery) -> Result<Json<LogReply>, Refused> {
    let count = query.count.unwrap_or(LOG_COUNT_DEFAULT).min(LOG_COUNT_MAX);
    let entries = log::read(&api.state_dir, name, count, query.all)
        .map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(Json(LogReply { entries }))
}

fn neighbours(api: &Api) -> Result<&Neighbours, Refused> {
    api.neighbours.as_deref().ok_or_else(|| {
        let text = "this daemon runs with `--admin-port off`: it does not talk to other nodes";
        Refused(StatusCode::NOT_FOUND, text.to_owned())
    })
}

async fn nodes(State(api): State<Arc<Api>>) -> Result<Json<NodeNames>, Refused> {
    let neighbours = neighbours(&api)?;
    let own = neighbours.own_name().to_owned();
    Ok(Json(NodeNames { own, nodes: neighbours.names().to_vec() }))
}

/// Passes a request on to the node that it names; this node may be named too.
async fn passed_on(
    State(api): State<Arc<Api>>,
    Segments((node, rest)): Segments<(String, String)>,
    request: Request,
) -> Result<Response, Refused> {
    let neighbours = neighbours(&api)?;
    let query = request.uri().query().map_or(String::new(), |query| format!("?{query}"));
    let path = format!("/api/v1/{rest}{query}");
    let (head, body) = request.into_parts();
    if node == neighbours.own_name() {
        let mut own = Request::from_parts(head, body);
        *own.uri_mut() = path.parse().map_err(|_| no_such_path(&path))?;
        let routes = TowerToHyperService::new(node_routes((*api).clone()));
        return Ok(hyper::service::Service::call(&routes, own).await.into_response());
    }
    let body = axum::body::to_bytes(body, REQUEST_BYTES_MAX)
        .await
        .map_err(|error| Refused(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))?;
    let content_type = head.headers.get(CONTENT_TYPE).cloned();
    let answer = neighbours
        .ask(&node, (head.method, &path), (content_type, body))
        .await
        .map_err(|error| Refused(status_for(&error), error.to_string()))?;
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    if let Some(content_type) = answer.content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    Ok(response)
}

fn no_such_path(path: &str) -> Refused {
    Refused(StatusCode::NOT_FOUND, format!("{path} is no path of this interface"))
}

fn status_for(error: &RemoteError) -> StatusCode {
    match error {
        RemoteError::UnknownNode { .. } => StatusCode::NOT_FOUND,
        RemoteError::Unreachable { .. }
        | RemoteError::Untrusted(_)
        | RemoteError::Silent { .. } => StatusCode::BAD_GATEWAY,
    }
}

async fn reload(State(api): State<Arc<Api>>) -> Result<StatusCode, Refused> {
    reload_now(&api).await
}

/// Makes the daemon read the active modules again.
pub(super) async fn reload_now(api: &Api) -> Result<StatusCode, Refused> {
    let stopping = || Refused(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping".to_owned());
    let (reply, done) = oneshot::channel();
    api.reload.send(reply).map_err(|_| stopping())?;
    match done.await.map_err(|_| stopping())? {
        Ok(()) => Ok(StatusCode::ACCEPTED),
        Err(reason) => Err(Refused(StatusCode::CONFLICT, reason)),
    }
}

#[cfg(all(test, unix))]
mod tests;
