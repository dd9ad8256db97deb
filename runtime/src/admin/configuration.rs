//! Configurations over the interface: staged on every node first, then applied on each.
//!
//! | request | answer |
//! |---|---|
//! | `POST /api/v1/configurations/NAME/stage?id=`, body: a package | [`Staged`], or 409 |
//! | `POST /api/v1/configurations/NAME/apply` | 202 once it is in force, or 409 |
//! | `POST /api/v1/configurations/NAME/unstage` | 202 |

use std::{path::PathBuf, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path as Segments, Query, State},
    http::StatusCode,
    routing::post,
};
use havre_core::status::{Phase, State as ModuleState};
use serde::Deserialize;

use super::{
    Staged,
    api::{Api, Refused, node_status, reload_now},
};
use crate::{
    cluster::Membership,
    modules::{ModuleError, Modules},
    package::{PACKAGE_BYTES_MAX, Package},
};

/// The routes.
pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/configurations/{name}/stage", post(stage))
        .route("/api/v1/configurations/{name}/apply", post(apply))
        .route("/api/v1/configurations/{name}/unstage", post(unstage))
        .layer(DefaultBodyLimit::max(PACKAGE_BYTES_MAX))
}

#[derive(Debug, Deserialize)]
struct StageQuery {
    id: u16,
}

/// Works with files on a thread of its own: the agent shares this one.
async fn with_modules<T: Send + 'static>(
    state_dir: PathBuf,
    work: impl FnOnce(&Modules, &Membership) -> Result<T, ModuleError> + Send + 'static,
) -> Result<T, Refused> {
    let conflict = |text: String| Refused(StatusCode::CONFLICT, text);
    let done = tokio::task::spawn_blocking(move || {
        let membership = Membership::load(&state_dir).map_err(|error| error.to_string())?;
        work(&Modules::of(&state_dir), &membership).map_err(|error| error.to_string())
    });
    match done.await {
        Ok(result) => result.map_err(conflict),
        Err(error) => Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

async fn stage(
    State(api): State<Arc<Api>>,
    Segments(name): Segments<String>,
    Query(query): Query<StageQuery>,
    body: Bytes,
) -> Result<Json<Staged>, Refused> {
    let own = name.clone();
    let outlook = with_modules(api.state_dir.clone(), move |modules, membership| {
        let package = Package::read(&body)?;
        modules.stage(&own, query.id, &package, membership.config())
    });
    let outlook = outlook.await?;
    let status = node_status(&api).await?;
    let runs =
        |name: &str| status.modules.iter().any(|m| m.name == name && m.state != ModuleState::Stop);
    let running: Vec<&str> =
        status.modules.iter().map(|m| m.name.as_str()).filter(|name| runs(name)).collect();
    if outlook.needs_stop && !running.is_empty() {
        let changes = outlook.changes.iter().filter(|change| !change.live);
        let changes: String = changes.map(|change| format!("\n    {change}")).collect();
        let api = Arc::clone(&api);
        let own = name.clone();
        with_modules(api.state_dir.clone(), move |modules, _| modules.unstage(&own)).await?;
        return Err(Refused(
            StatusCode::CONFLICT,
            format!(
                "such a change is applied while the modules of the node are stopped; stop first: \
                 {}{changes}",
                running.join(", ")
            ),
        ));
    }
    let busy = status.modules.iter().find(|module| {
        let resting = matches!(module.state, ModuleState::Stop)
            || (module.phase != Phase::Transient && module.state != ModuleState::Wait);
        module.name == name && !resting
    });
    if let Some(module) = busy {
        let (state, phase) = (module.state, module.phase);
        with_modules(api.state_dir.clone(), move |modules, _| modules.unstage(&name)).await?;
        return Err(Refused(
            StatusCode::CONFLICT,
            format!("the module is {state} {phase}: try again when it has settled, or stop it"),
        ));
    }
    Ok(Json(Staged {
        signature: outlook.module.signature,
        revision: outlook.module.revision,
        active: outlook.active,
        needs_stop: outlook.needs_stop,
        running: runs(&name),
        changes: outlook.changes,
    }))
}

async fn apply(
    State(api): State<Arc<Api>>,
    Segments(name): Segments<String>,
) -> Result<StatusCode, Refused> {
    with_modules(api.state_dir.clone(), move |modules, membership| {
        modules.apply_staged(&name, membership.config()).map(drop)
    })
    .await?;
    reload_now(&api).await
}

async fn unstage(
    State(api): State<Arc<Api>>,
    Segments(name): Segments<String>,
) -> Result<StatusCode, Refused> {
    with_modules(api.state_dir.clone(), move |modules, _| modules.unstage(&name)).await?;
    Ok(StatusCode::ACCEPTED)
}
