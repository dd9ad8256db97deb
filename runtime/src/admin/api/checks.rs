//! The part of the interface about checkers: resources, maintenance switches, classes, loop guard.
//!
//! | request | answer |
//! |---|---|
//! | `POST /api/v1/modules/NAME/resource?name=&state=&by=&history=` | 202 |
//! | `POST /api/v1/modules/NAME/switch?name=&on=` | 202 |
//! | `POST /api/v1/modules/NAME/class?name=&on=` | 202 |
//! | `POST /api/v1/modules/NAME/loop?verb=&by=` | [`LoopStatus`] |
//!
//! A resource that a checker sets again and again to what it is already is not noted as a command.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Path as Segments, Query, State},
    http::StatusCode,
    routing::post,
};
use havre_core::{
    checks::{
        record::{LoopStatus, Switch},
        resource::{ResourceName, ResourceState},
    },
    effect::{Answer, Command, LoopVerb},
};
use serde::{Deserialize, Serialize};

use super::{Api, Caller, Refused, ask, give, module_named, node_status, note_command};

/// Longest name of a detector or a class, in bytes.
const WORD_BYTES_MAX: usize = 64;

/// What is done with a loop guard, in the words of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoopWord {
    /// Count one detection.
    IncLoop,
    /// Forget every detection.
    ResetLoop,
    /// Only look.
    CheckLoop,
}

impl LoopWord {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::IncLoop => "incloop",
            Self::ResetLoop => "resetloop",
            Self::CheckLoop => "checkloop",
        }
    }
}

/// Checks the name of a detector or a class: it is shown in logs and travels in addresses.
///
/// # Errors
/// It is empty or too long, or has other characters than letters, digits and `_-.:@`.
pub fn plain_word(word: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.:@".contains(c);
    if word.is_empty() || word.len() > WORD_BYTES_MAX || !word.chars().all(plain) {
        return Err(format!(
            "{word:?} is no name: write 1 to {WORD_BYTES_MAX} letters, digits and _-.:@"
        ));
    }
    Ok(word.to_owned())
}

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/modules/{name}/resource", post(set_resource))
        .route("/api/v1/modules/{name}/switch", post(switch))
        .route("/api/v1/modules/{name}/class", post(class))
        .route("/api/v1/modules/{name}/loop", post(loop_guard))
}

/// A name that came with a request.
pub(super) fn checked(word: &str) -> Result<String, Refused> {
    plain_word(word).map_err(|reason| Refused(StatusCode::BAD_REQUEST, reason))
}

#[derive(Debug, Deserialize)]
struct ResourceQuery {
    name: ResourceName,
    state: ResourceState,
    by: Option<String>,
    #[serde(default = "kept")]
    history: bool,
}

/// Changes are kept in the history unless a request says otherwise.
const fn kept() -> bool {
    true
}

async fn set_resource(
    State(api): State<Arc<Api>>,
    Segments(name): Segments<String>,
    Query(query): Query<ResourceQuery>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, Refused> {
    let ResourceQuery { name: resource, state, by, history } = query;
    let by = by.as_deref().map(checked).transpose()?;
    let as_before = state_of(&api, &name, &resource).await? == Some(state);
    let by_option = by.as_ref().map_or(String::new(), |by| format!(" -i {by}"));
    let done = async {
        let module = module_named(&api, &name).await?;
        let by = by.unwrap_or_else(|| caller.0.clone());
        let resource = resource.clone();
        give(&api, Command::SetResource { module, resource, state, by, history }).await
    };
    let done = done.await;
    if done.is_err() || !as_before {
        let text = format!("set -m {name} -r {resource} -v {state}{by_option}");
        note_command(&api, &caller, &text, done.as_ref().err());
    }
    done
}

/// The state of a resource; `None` if there is no such module or resource.
async fn state_of(
    api: &Api,
    module: &str,
    resource: &ResourceName,
) -> Result<Option<ResourceState>, Refused> {
    let status = node_status(api).await?;
    let module = status.modules.iter().find(|known| known.name == module);
    let resources = module.map_or(&[][..], |module| &module.checks.resources);
    Ok(resources.iter().find(|known| known.name == *resource).map(|known| known.state))
}

#[derive(Debug, Deserialize)]
struct SwitchQuery {
    name: Switch,
    on: bool,
}

async fn switch(
    State(api): State<Arc<Api>>,
    Segments(name): Segments<String>,
    Query(query): Query<SwitchQuery>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, Refused> {
    let SwitchQuery { name: switch, on } = query;
    let done = async {
        let module = module_named(&api, &name).await?;
        give(&api, Command::Switch { module, switch, on }).await
    };
    let done = done.await;
    let position = if on { "on" } else { "off" };
    let text = format!("{} {position} -m {name}", switch.word());
    note_command(&api, &caller, &text, done.as_ref().err());
    done
}

#[derive(Debug, Deserialize)]
struct ClassQuery {
    name: String,
    on: bool,
}

async fn class(
    State(api): State<Arc<Api>>,
    Segments(name): Segments<String>,
    Query(query): Query<ClassQuery>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, Refused> {
    let class = checked(&query.name)?;
    let on = query.on;
    let verb = if on { "enable" } else { "disable" };
    let text = format!("errd {verb} {class} -m {name}");
    let done = async {
        let module = module_named(&api, &name).await?;
        give(&api, Command::Class { module, class, on }).await
    };
    let done = done.await;
    note_command(&api, &caller, &text, done.as_ref().err());
    done
}

#[derive(Debug, Deserialize)]
struct LoopQuery {
    verb: LoopWord,
    by: Option<String>,
}

async fn loop_guard(
    State(api): State<Arc<Api>>,
    Segments(name): Segments<String>,
    Query(query): Query<LoopQuery>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<LoopStatus>, Refused> {
    let by = query.by.as_deref().map_or_else(|| Ok(caller.0.clone()), checked)?;
    let text = format!("{} -m {name} -i {by}", query.verb.word());
    let verb = match query.verb {
        LoopWord::IncLoop => LoopVerb::Increment { by },
        LoopWord::ResetLoop => LoopVerb::Reset,
        LoopWord::CheckLoop => LoopVerb::Check,
    };
    let done = async {
        let module = module_named(&api, &name).await?;
        match ask(&api, Command::Loop { module, verb }).await? {
            Answer::Loop(status) => Ok(Json(status)),
            Answer::Refused(reason) => Err(Refused(StatusCode::CONFLICT, reason)),
            _ => {
                let text = "the node did not tell the state of its loop guard".to_owned();
                Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, text))
            }
        }
    };
    let done = done.await;
    if query.verb != LoopWord::CheckLoop {
        note_command(&api, &caller, &text, done.as_ref().err());
    }
    done
}
