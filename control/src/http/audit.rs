//! `/v1/audit`: who changed what, and when.

use super::auth::Operator;
use super::body::Query;
use super::page::{Page, PageQuery, token};
use super::problem::Problem;
use crate::shared::Shared;
use crate::store::Table;
use crate::store::records;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// One change.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditEntry {
    at_ms: u64,
    /// `admin`, `owner <key id>`, or `control` itself.
    actor: String,
    /// For example `app.create`.
    action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    /// What was changed within the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl From<records::AuditEntry> for AuditEntry {
    fn from(entry: records::AuditEntry) -> Self {
        let records::AuditEntry { at_ms, actor, action, app, target } = entry;
        Self { at_ms, actor, action, app, target }
    }
}

/// List changes, newest first.
#[utoipa::path(get, path = "/v1/audit", tag = "operator", params(PageQuery),
    responses((status = 200, description = "A page of them.", body = Page<AuditEntry>)))]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    _: Operator,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    let size = page.size()?;
    let after: Option<[u8; 8]> = page.after(|bytes| bytes.try_into().ok())?;
    let found = shared.store.read(move |engine| {
        let after = after.as_ref().map(<[u8; 8]>::as_slice);
        let mut found = engine.scan(Table::Audit, b"", after, true, size + 1)?;
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = found.last().filter(|_| more).map(|(sequence, _)| token(sequence));
        let mut items = Vec::with_capacity(found.len());
        for (_, value) in &found {
            items.push(serde_json::from_slice::<records::AuditEntry>(value)?.into());
        }
        Ok(Page { items, next_page_token })
    });
    Ok(Json(found.await?))
}
