//! The interface of a daemon, version 1:
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/v1/status` | [`Snapshot`] |
//! | `POST /api/v1/modules/NAME/ORDER?full=&force=` | 202, or 409 with a [`Problem`] |
//! | `GET /api/v1/modules/NAME/log?count=&all=` | [`LogReply`] |
//! | `GET /api/v1/log?count=&all=` | [`LogReply`] of the node itself |
//! | `POST /api/v1/reload` | 202 once the active modules were read again |
//!
//! It is served on `STATE/havre.sock`, which only root may open: no further check is made.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{Path as Segments, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use havre_core::{
    effect::{Answer, Command, ModuleOrder},
    ids::ModuleId,
    status::NodeStatus,
    time::Instant,
};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::{LogReply, Problem, Snapshot};
use crate::{
    agent::Inbox,
    events::log::{self, NODE_LOG},
};

/// Name of the socket in the state directory.
pub const SOCKET_NAME: &str = "havre.sock";
/// Entries of a log that are returned unless the request says otherwise.
pub const LOG_COUNT_DEFAULT: usize = 300;
/// Entries of a log that are returned at most.
pub const LOG_COUNT_MAX: usize = 100_000;

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
}

/// A request that was not carried out.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(Problem { error: self.1 })).into_response()
    }
}

/// The interface's routes.
pub fn routes(api: Api) -> Router {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/modules/{name}/log", get(module_log))
        .route("/api/v1/modules/{name}/{order}", post(order))
        .route("/api/v1/log", get(node_log))
        .route("/api/v1/reload", post(reload))
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

async fn node_status(api: &Api) -> Result<NodeStatus, Refused> {
    match ask(api, Command::Status).await? {
        Answer::Status(status) => Ok(status),
        Answer::Accepted | Answer::Refused(_) => {
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
}

async fn order(
    State(api): State<Arc<Api>>,
    Segments((name, order)): Segments<(String, String)>,
    Query(query): Query<OrderQuery>,
) -> Result<StatusCode, Refused> {
    let module = module_named(&api, &name).await?;
    let Some(order) = order_named(&order, query.full, query.force) else {
        let text = format!("\"{order}\" is not an order");
        return Err(Refused(StatusCode::NOT_FOUND, text));
    };
    match ask(&api, Command::Module { module, order }).await? {
        Answer::Refused(reason) => Err(Refused(StatusCode::CONFLICT, reason)),
        Answer::Accepted | Answer::Status(_) => Ok(StatusCode::ACCEPTED),
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

fn read_log(api: &Api, name: &str, query: &LogQuery) -> Result<Json<LogReply>, Refused> {
    let count = query.count.unwrap_or(LOG_COUNT_DEFAULT).min(LOG_COUNT_MAX);
    let entries = log::read(&api.state_dir, name, count, query.all)
        .map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(Json(LogReply { entries }))
}

async fn reload(State(api): State<Arc<Api>>) -> Result<StatusCode, Refused> {
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
