//! The OpenAPI document: what all operations have in common is added here, once.

use super::Http;
use super::problem::ProblemBody;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use hawser_proto::code::ErrorCode;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr,
    ResponseBuilder,
};
use utoipa::{PartialSchema as _, ToSchema as _};

const DESCRIPTION: &str = "Registers apps and businesses, and admits devices. Calls under /v1 take \
    `Authorization: Bearer` with the admin token, or with an owner key for what is of its app; \
    `POST /v1/access` takes none. Unknown fields are refused. Every error is a problem document whose \
    `code` is one of the published error codes.";

/// Everything but the operations.
pub(super) fn base() -> OpenApi {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let mut components = ComponentsBuilder::new()
        .schema(ProblemBody::name(), ProblemBody::schema())
        .security_scheme("bearer", SecurityScheme::Http(bearer))
        .build();
    components.schemas.insert("ErrorCode".to_owned(), error_code_schema());
    let info = InfoBuilder::new()
        .title("hawser control")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

fn error_code_schema() -> RefOr<utoipa::openapi::Schema> {
    let lines: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|code| format!("- `{}` ({}): {}", code.name(), code.http_status(), code.meaning()))
        .collect();
    utoipa::openapi::ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::Type::String)
        .description(Some(lines.join("\n")))
        .enum_values(Some(ErrorCode::ALL.iter().map(|code| code.name())))
        .into()
}

/// Adds what follows from an operation's place and form: who may call it, and how it can fail.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        let bearer = path.starts_with("/v1/") && path != super::access::PATH;
        for operation in operations(item) {
            if bearer {
                let requirement = SecurityRequirement::new("bearer", Vec::<String>::new());
                operation.security = Some(vec![requirement]);
                refuse(operation, &[401, 403]);
            }
            let params = operation.parameters.as_deref().unwrap_or_default();
            let in_path = params
                .iter()
                .any(|it| matches!(it, RefOr::T(it) if it.parameter_in == ParameterIn::Path));
            let any = !params.is_empty();
            if any || operation.request_body.is_some() {
                refuse(operation, &[400]);
            }
            if in_path {
                refuse(operation, &[404]);
            }
            if operation.request_body.is_some() {
                refuse(operation, &[413]);
            }
            // From the guard and the store.
            refuse(operation, &[429, 500, 503, 504]);
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.options,
        &mut item.patch,
    ]
    .into_iter()
    .flatten()
}

fn refuse(operation: &mut Operation, statuses: &[u16]) {
    for status in statuses {
        let codes = ErrorCode::ALL.iter().filter(|code| code.http_status() == *status);
        let names: Vec<_> = codes.map(|code| format!("`{}`", code.name())).collect();
        let schema = Ref::from_schema_name(ProblemBody::name());
        let response = ResponseBuilder::new()
            .description(format!("Refused: {}.", names.join(", ")))
            .content("application/problem+json", ContentBuilder::new().schema(Some(schema)).build())
            .build();
        let all = &mut operation.responses.responses;
        all.entry(status.to_string()).or_insert_with(|| response.into());
    }
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "service",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)))]
pub(super) async fn document(State(http): State<Http>) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "public, max-age=300"),
    ];
    (headers, http.document)
}

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", tag = "service",
    responses((status = 200, description = "It does.", body = String, content_type = "text/plain")))]
pub(super) async fn health() -> &'static str {
    "ok\n"
}
