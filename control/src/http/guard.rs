//! What stands around every request: a bound on how many are in work, a deadline, headers that are
//! always right, CORS for the one call that browsers make, and the count.

use super::access;
use super::body::read;
use super::problem::Problem;
use crate::refusal::Refusal;
use crate::shared::Shared;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hawser_proto::code::ErrorCode;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tracing::error;

/// Places for requests in work.
#[derive(Clone)]
pub(super) struct Guard {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
}

impl Guard {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let places = Arc::new(Semaphore::new(shared.config.http_requests_max));
        Self { shared, places }
    }
}

/// Lets a request through, within the bounds.
pub(super) async fn pass(
    State(guard): State<Guard>,
    matched: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = match guard.places.try_acquire() {
        Err(_) => {
            let refusal = Refusal::new(ErrorCode::Overloaded, "too many requests are in work");
            Problem(refusal.retry_after(Duration::from_secs(1))).into_response()
        }
        Ok(_place) => {
            let timeout = guard.shared.config.http_request_timeout;
            let answer = async {
                let version = request.version();
                match whole(request).await {
                    Ok(request) => next.run(request).await,
                    Err(problem) => last_answer(version, problem),
                }
            };
            tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| {
                let detail = "the request was not done in time";
                Problem::new(ErrorCode::DeadlineExceeded, detail).into_response()
            })
        }
    };
    let route = matched.as_ref().map_or("none", MatchedPath::as_str);
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Answers hold secrets, or change with every call; the few that may be kept say so themselves.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let (access::PATH, Some(origin)) = (route, origin) {
        // Any page may read the answer; a page of an origin the app does not allow gets no token.
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    guard.shared.metrics.http_request(route, response.status().as_u16());
    response
}

/// The request with its body at hand, within the limit. A refusal that left a body unread would end the
/// connection behind it, under the caller's next request.
async fn whole(request: Request) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = read(Request::from_parts(parts.clone(), body), &()).await?;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// The answer to a request of which a part was not read: nothing can follow it on an HTTP/1 connection,
/// and the caller is told so.
fn last_answer(version: Version, problem: Problem) -> Response {
    let mut response = problem.into_response();
    if version <= Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The answer when a handler panicked; the connection goes on.
pub(super) fn panicked(_cause: Box<dyn Any + Send>) -> Response {
    error!("a handler panicked");
    Problem(Refusal::internal()).into_response()
}
