//! `POST /v1/access`: the one call that devices make.

use super::body::Body;
use super::problem::Problem;
use super::text;
use crate::admit::{self, Admission, Ask, Proof};
use crate::clock::now_ms;
use crate::config::Config;
use crate::grant::POLICY_VERSION;
use crate::placement::Placed;
use crate::proof::hmac::{HmacProof, HmacText};
use crate::refusal::Refusal;
use crate::shared::Shared;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use hawser_proto::id::{AppId, BusinessId, DeviceId};
use hawser_proto::limits::BUSINESSES_PER_CONNECTION_MAX;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;
use utoipa::ToSchema;

/// Where the call is served; the guard adds CORS there.
pub(super) const PATH: &str = "/v1/access";

/// A device asks to come in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessRequest {
    app: String,
    /// 1 to 128 bytes without control characters.
    device: String,
    /// `web` and `mini-program` get WebSocket access points only.
    platform: Option<String>,
    /// For example `wifi`.
    network: Option<String>,
    /// Name and version of the SDK.
    sdk: Option<String>,
    app_version: Option<String>,
    /// Businesses the token should allow. Left out or empty: all of the app.
    #[serde(default)]
    businesses: Vec<String>,
    proof: AccessProof,
}

/// How the device proves who it is.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum AccessProof {
    /// Not at all; for development.
    Open {},
    /// HMAC-SHA256 with the client secret over
    /// `hawser-access-v1\n{app}\n{device}\n{time}\n{nonce}\n{device_key or empty}`.
    Hmac {
        /// Seconds since 1970, within 300 s of the server's.
        time: u64,
        /// 16 to 64 characters of a-z, A-Z, 0-9, - and _, never used before.
        nonce: String,
        /// 64 hexadecimal digits.
        signature: String,
        /// Ed25519 public key, base64url. The first one shown is bound to the device.
        device_key: Option<String>,
        /// Ed25519 signature over the same text, base64url.
        device_signature: Option<String>,
    },
    /// A JWT of the app's backend: `sub` is the device, `app` or `aud` the app, `exp` is there.
    Jwt {
        /// In compact form, at most 8 KiB.
        token: String,
    },
}

/// All that a device needs to connect.
#[derive(Serialize, ToSchema)]
pub(super) struct Access {
    /// A JWT; opaque to the device.
    token: String,
    issued_at_ms: u64,
    /// Refresh on the live connection from then on.
    refresh_at_ms: u64,
    expires_at_ms: u64,
    /// In the order to try them.
    access_points: Vec<AccessPoint>,
    heartbeat_ms: u32,
    idle_timeout_ms: u32,
    backoff: AccessBackoff,
    /// After a lost connection, spread the first try over this.
    reconnect_window_ms: u64,
    /// Wait this long before the first dial.
    start_after_ms: u64,
    policy_version: u64,
    /// Ask for access points again after this.
    refresh_after_ms: u64,
}

/// Where to connect.
#[derive(Serialize, ToSchema)]
struct AccessPoint {
    /// `tcp`, `tls`, `quic`, `ws` or `wss`.
    protocol: &'static str,
    host: String,
    port: u16,
    /// The name the certificate is checked against.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
    /// 1 to 100, from free capacity.
    weight: u32,
    node: String,
}

/// How to wait before trying again.
#[derive(Serialize, ToSchema)]
struct AccessBackoff {
    base_ms: u64,
    max_ms: u64,
    factor: f64,
    /// Share of a delay that is random.
    jitter: f64,
}

impl From<Placed> for AccessPoint {
    fn from(placed: Placed) -> Self {
        let Placed { endpoint, node, weight } = placed;
        let protocol = endpoint.protocol.name();
        let (host, port, server_name) = (endpoint.host, endpoint.port, endpoint.server_name);
        Self { protocol, host, port, server_name, weight, node }
    }
}

impl Access {
    fn new(admission: Admission, config: &Config) -> Self {
        let Admission { grant, access_points, start_after, heartbeat_ms, idle_timeout_ms } =
            admission;
        let backoff = config.backoff;
        Self {
            token: grant.token,
            issued_at_ms: grant.issued_at_ms,
            refresh_at_ms: grant.refresh_at_ms,
            expires_at_ms: grant.expires_at_ms,
            access_points: access_points.into_iter().map(Into::into).collect(),
            heartbeat_ms,
            idle_timeout_ms,
            backoff: AccessBackoff {
                base_ms: backoff.base.as_millis() as u64,
                max_ms: backoff.max.as_millis() as u64,
                factor: backoff.factor,
                jitter: backoff.jitter,
            },
            reconnect_window_ms: config.reconnect_window.as_millis() as u64,
            start_after_ms: start_after.as_millis() as u64,
            policy_version: POLICY_VERSION,
            refresh_after_ms: config.access_refresh.as_millis() as u64,
        }
    }
}

impl AccessRequest {
    fn ask(self, headers: &HeaderMap) -> Result<Ask, Refusal> {
        let app = AppId::new(&self.app).map_err(|e| Refusal::invalid(format!("app: {e}")))?;
        let device =
            DeviceId::new(&self.device).map_err(|e| Refusal::invalid(format!("device: {e}")))?;
        for (field, value) in [
            ("platform", &self.platform),
            ("network", &self.network),
            ("sdk", &self.sdk),
            ("app_version", &self.app_version),
        ] {
            text::label(field, value.as_deref())?;
        }
        if self.businesses.len() > BUSINESSES_PER_CONNECTION_MAX {
            return Err(Refusal::invalid("more than 32 businesses"));
        }
        let businesses: Result<Vec<_>, _> =
            self.businesses.iter().map(|name| BusinessId::new(name)).collect();
        let mut businesses =
            businesses.map_err(|e| Refusal::invalid(format!("businesses: {e}")))?;
        businesses.sort_unstable();
        businesses.dedup();
        let proof = match self.proof {
            AccessProof::Open {} => Proof::Open,
            AccessProof::Hmac { time, nonce, signature, device_key, device_signature } => {
                let text = HmacText {
                    time,
                    nonce: &nonce,
                    signature: &signature,
                    device_key: device_key.as_deref(),
                    device_signature: device_signature.as_deref(),
                };
                Proof::Hmac(HmacProof::parse(text).map_err(Refusal::invalid)?)
            }
            AccessProof::Jwt { token } => Proof::Jwt(token),
        };
        // An unreadable origin is one that no app allows.
        let origin =
            headers.get(header::ORIGIN).map(|value| value.to_str().unwrap_or_default().to_owned());
        Ok(Ask { app, device, platform: self.platform, businesses, proof, origin })
    }
}

/// Admit a device: it proves who it is and gets a token and access points.
#[utoipa::path(post, path = "/v1/access", tag = "devices", request_body = AccessRequest,
    responses((status = 200, description = "Admitted.", body = Access),
              (status = 401, description = "Refused: `proof_invalid`, `proof_expired`, `proof_replayed`.",
               body = super::problem::ProblemBody, content_type = "application/problem+json"),
              (status = 403, description = "Refused: `disabled`, `device_key_mismatch`, `permission_denied` \
               (a page of an origin the app does not allow).",
               body = super::problem::ProblemBody, content_type = "application/problem+json"),
              (status = 404, description = "Refused: `not_found`.",
               body = super::problem::ProblemBody, content_type = "application/problem+json"),
              (status = 503, description = "Refused: `no_access_point`, `unavailable`.",
               body = super::problem::ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Result<Body<AccessRequest>, Problem>,
) -> Result<Json<Access>, Problem> {
    let begun = Instant::now();
    let answer = async {
        let ask = body?.0.ask(&headers)?;
        Ok(admit::admit(&shared, &ask, now_ms()).await?)
    };
    let answer: Result<Admission, Problem> = answer.await;
    shared.metrics.access_outcome(answer.as_ref().err().map(|problem| problem.0.code));
    shared.metrics.access_seconds.observe(begun.elapsed().as_secs_f64());
    Ok(Json(Access::new(answer?, &shared.config)))
}

/// What a browser asks before it posts.
#[utoipa::path(options, path = "/v1/access", tag = "devices",
    responses((status = 204, description = "CORS preflight: POST with a JSON body may be sent.")))]
pub(super) async fn preflight() -> impl IntoResponse {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type"),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers)
}
