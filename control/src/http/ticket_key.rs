//! The keys of resume tickets. They are secrets, so nothing of them but their names is ever shown.

use super::auth::Operator;
use super::body::OptionalBody;
use super::problem::Problem;
use crate::catalogue::edit::ticket_key as edit;
use crate::shared::Shared;
use crate::store::Actor;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hawser_proto::code::ErrorCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// How ticket keys are to be rotated.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateTicketKeys {
    /// No ticket made before is good any more: for when a key was seen by others. Devices log in with their
    /// tokens then. Default false: tickets end when they would have.
    #[serde(default)]
    at_once: bool,
}

/// A new ticket key.
#[derive(Serialize, ToSchema)]
pub(super) struct NewTicketKey {
    kid: u32,
    /// Tickets are made with it from then on.
    active_from_ms: u64,
}

/// Make a new key of resume tickets. Control does so by itself twice a day.
#[utoipa::path(post, path = "/v1/ticket-keys/rotate", tag = "operator",
    request_body = Option<RotateTicketKeys>,
    responses((status = 201, description = "Told to access nodes.", body = NewTicketKey),
              (status = 403, description = "Refused: `permission_denied`; `disabled`: resume tickets are switched off.",
               body = super::problem::ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn rotate(
    State(shared): State<Arc<Shared>>,
    _: Operator,
    OptionalBody(body): OptionalBody<RotateTicketKeys>,
) -> Result<(StatusCode, Json<NewTicketKey>), Problem> {
    if !shared.config.resume_tickets {
        return Err(Problem::new(ErrorCode::Disabled, "resume tickets are switched off"));
    }
    let (sealer, delay) = (shared.sealer.clone(), shared.config.signing_activation_delay);
    let key = shared
        .store
        .edit(Actor::Admin, move |catalogue, now_ms| {
            if body.at_once {
                edit::start_over(catalogue, &sealer, now_ms)
            } else {
                edit::rotate(catalogue, &sealer, delay, now_ms)
            }
        })
        .await?;
    let key = NewTicketKey { kid: key.kid, active_from_ms: key.active_from_ms };
    Ok((StatusCode::CREATED, Json(key)))
}
