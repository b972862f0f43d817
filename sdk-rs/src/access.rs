//! The access call: `POST /v1/access` of control, from proof to advice.

use crate::advice::{ACCESS_POINTS_MAX, AccessPoint, Advice, TOKEN_BYTES_MAX, Token};
use crate::backoff::Settings;
use crate::driver::chain;
use crate::link::{DialError, Dialer};
use crate::proof::{Proof, Wire};
use crate::session::{Refusal, Setup};
use crate::state::Reason;
use bytes::Bytes;
use hawser_proto::code::{ErrorCode, Retry};
use http::header::{ACCEPT, CONTENT_TYPE, DATE, HOST, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::time::{Duration, Instant, SystemTime};
use tokio::select;

/// The largest answer read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why an address is not one of control's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("control's address must be http://host[:port] or https://host[:port]")]
pub struct ControlAddressError;

/// Where control is, and what this device tells it.
#[derive(Debug)]
pub(crate) struct Control {
    host: String,
    port: u16,
    is_secure: bool,
    /// As it stands in the Host header.
    authority: String,
    path: String,
    proof: Proof,
    clock: Clock,
}

/// How far control's clock is ahead of ours. Set by control's `Date` when it finds a proof's time
/// wrong; a second time in a row is not put right that way.
#[derive(Debug, Default)]
struct Clock {
    ahead_s: AtomicI64,
    was_set: AtomicBool,
}

impl Clock {
    fn unix_s(&self) -> u64 {
        let ours = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        ours.saturating_add_signed(self.ahead_s.load(Relaxed))
    }

    /// False: it was set before, and that did not help.
    fn set(&self, headers: &HeaderMap) -> bool {
        let date = headers.get(DATE).and_then(|value| value.to_str().ok());
        let Some(date) = date.and_then(|text| httpdate::parse_http_date(text).ok()) else {
            return false;
        };
        let seconds = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        };
        self.ahead_s.store(seconds(date) - seconds(SystemTime::now()), Relaxed);
        !self.was_set.swap(true, Relaxed)
    }
}

/// Why a call gave no answer at all.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("cannot reach control")]
    Dial(#[from] DialError),
    #[error("the request cannot be built")]
    Build(#[from] http::Error),
    #[error("the HTTP exchange failed")]
    Http(#[from] hyper::Error),
    #[error("the answer cannot be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Control {
    pub(crate) fn new(address: &str, proof: Proof) -> Result<Self, ControlAddressError> {
        let uri: Uri = address.parse().map_err(|_| ControlAddressError)?;
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(ControlAddressError),
        };
        let authority = uri.authority().ok_or(ControlAddressError)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let path = format!("{}/v1/access", uri.path().trim_end_matches('/'));
        let authority = authority.as_str().rsplit('@').next().unwrap_or_default().to_owned();
        if host.is_empty() || uri.query().is_some() {
            return Err(ControlAddressError);
        }
        Ok(Self { host, port, is_secure, authority, path, proof, clock: Clock::default() })
    }

    /// The answer of a client that has nobody to ask.
    pub(crate) fn missing() -> Refusal {
        let reason = Reason::ControlUnreachable("this client does not know control".to_owned());
        Refusal { reason, retry: Retry::Never, retry_after: Duration::ZERO }
    }

    /// Whether its proof wants a device key from storage.
    pub(crate) fn binds_stored_key(&self) -> bool {
        self.proof.wants_stored_key()
    }

    /// One access call. Takes no time-out: the session ends it by dropping it.
    pub(crate) async fn ask(
        &self,
        setup: &Setup,
        dialer: &Dialer,
        device_key: Option<[u8; 32]>,
    ) -> Result<Advice, Refusal> {
        let proof =
            self.proof.make(&setup.app, &setup.device, self.clock.unix_s(), device_key).await;
        let proof = proof.map_err(|error| later(Reason::NoProof(error.to_string())))?;
        let client = &setup.client;
        let body = serde_json::to_vec(&AccessRequest {
            app: &setup.app,
            device: &setup.device,
            platform: &client.platform,
            network: &client.network,
            sdk: &client.sdk,
            app_version: &client.app_version,
            businesses: setup.businesses.iter().map(AsRef::as_ref).collect(),
            proof,
        });
        let body = body.map_err(|error| later(unusable(&error.to_string())))?;
        match self.call(dialer, body.into()).await {
            Ok((200, _, body)) => {
                self.clock.was_set.store(false, Relaxed);
                read_answer(&body, tokio::time::Instant::now().into_std())
            }
            Ok((status, headers, body)) => Err(self.refused(status, &headers, &body)),
            Err(error) => Err(later(Reason::ControlUnreachable(chain(&error)))),
        }
    }

    fn refused(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> Refusal {
        let refusal = read_problem(status, headers, body);
        let code = match &refusal.reason {
            Reason::Refused { code, .. } => *code,
            _ => None,
        };
        let is_lost = code == Some(ErrorCode::ProofExpired)
            && self.proof.is_timed()
            && !self.clock.set(headers);
        if is_lost { Refusal { retry: Retry::Never, ..refusal } } else { refusal }
    }

    async fn call(
        &self,
        dialer: &Dialer,
        body: Bytes,
    ) -> Result<(u16, HeaderMap, Bytes), CallError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, application/problem+json")
            .body(Full::new(body))?;
        let pipe = dialer.http(&self.host, self.port, self.is_secure).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(pipe)).await?;
        let exchange = async {
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(CallError::Body)?.to_bytes();
            Ok((parts.status.as_u16(), parts.headers, body))
        };
        // The connection is driven from here, so that a client stays one task. Once it has ended the
        // exchange still reads what it was given.
        let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
        select! {
            biased;
            answer = &mut exchange => answer,
            _ = &mut connection => exchange.await,
        }
    }
}

fn later(reason: Reason) -> Refusal {
    Refusal { reason, retry: Retry::Later, retry_after: Duration::ZERO }
}

fn unusable(what: &str) -> Reason {
    Reason::ControlUnreachable(format!("its answer cannot be used: {what}"))
}

#[derive(Serialize)]
struct AccessRequest<'a> {
    app: &'a str,
    device: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    platform: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    network: &'a str,
    sdk: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    app_version: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    businesses: Vec<&'a str>,
    proof: Wire,
}

#[derive(Deserialize)]
struct AccessAnswer {
    token: String,
    #[serde(default)]
    issued_at_ms: u64,
    #[serde(default)]
    refresh_at_ms: u64,
    #[serde(default)]
    expires_at_ms: u64,
    access_points: Vec<PointAnswer>,
    backoff: Option<BackoffAnswer>,
    #[serde(default)]
    reconnect_window_ms: u64,
    #[serde(default)]
    start_after_ms: u64,
    #[serde(default)]
    refresh_after_ms: u64,
}

#[derive(Deserialize)]
struct PointAnswer {
    protocol: String,
    host: String,
    port: u16,
    #[serde(default)]
    server_name: Option<String>,
    #[serde(default)]
    node: Option<String>,
}

#[derive(Deserialize)]
struct BackoffAnswer {
    base_ms: u64,
    max_ms: u64,
    factor: f64,
    jitter: f64,
}

#[derive(Deserialize, Default)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
}

/// Checks an answer and turns its times into ours: only differences between control's own times
/// count, since a device's clock may be anything.
fn read_answer(body: &[u8], now: Instant) -> Result<Advice, Refusal> {
    let answer: AccessAnswer =
        serde_json::from_slice(body).map_err(|error| later(unusable(&error.to_string())))?;
    if answer.token.is_empty() || answer.token.len() > TOKEN_BYTES_MAX {
        return Err(later(unusable("the token's length")));
    }
    let known = |point: PointAnswer| {
        let PointAnswer { protocol, host, port, server_name, node } = point;
        let point = AccessPoint::new(protocol.parse().ok()?, &host, port);
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (server_name, node) = (given(server_name), given(node));
        (!point.host.is_empty()).then_some(AccessPoint { server_name, node, ..point })
    };
    let points: Vec<_> =
        answer.access_points.into_iter().filter_map(known).take(ACCESS_POINTS_MAX).collect();
    if points.is_empty() {
        return Err(later(unusable("no access point this client can dial")));
    }
    let ms = Duration::from_millis;
    let year = ms(365 * 24 * 3600 * 1000);
    let ours = |at_ms: u64| {
        let ahead = ms(at_ms.saturating_sub(answer.issued_at_ms)).min(year);
        (at_ms != 0 && answer.issued_at_ms != 0).then(|| now + ahead)
    };
    let defaults = Settings::default();
    let window = ms(answer.reconnect_window_ms);
    let backoff = answer.backoff.map_or(Settings { window, ..defaults }, |it| Settings {
        base: ms(it.base_ms),
        max: ms(it.max_ms),
        factor: it.factor,
        jitter: it.jitter,
        window,
    });
    Ok(Advice {
        token: Token {
            refresh_at: ours(answer.refresh_at_ms),
            expires_at: ours(answer.expires_at_ms),
            text: answer.token,
        },
        points,
        backoff,
        start_after: ms(answer.start_after_ms).min(Duration::from_mins(10)),
        stale_at: (answer.refresh_after_ms != 0)
            .then(|| now + ms(answer.refresh_after_ms).min(year)),
    })
}

fn read_problem(status: u16, headers: &HeaderMap, body: &[u8]) -> Refusal {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let code = ErrorCode::ALL.iter().copied().find(|code| code.name() == problem.code);
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let message = if problem.detail.is_empty() { problem.title } else { problem.detail };
    Refusal {
        reason: Reason::Refused { status, code, message: hawser_proto::frame::cut(&message) },
        retry: retry(status, code),
        retry_after: Duration::from_secs(seconds.unwrap_or(0)),
    }
}

/// What a refused access call asks of the device.
fn retry(status: u16, code: Option<ErrorCode>) -> Retry {
    use ErrorCode as E;
    match code {
        Some(E::ProofExpired | E::ProofReplayed) => Retry::NewToken,
        Some(
            E::Overloaded
            | E::DeadlineExceeded
            | E::Unavailable
            | E::Internal
            | E::QuotaExceeded
            | E::Conflict
            | E::NoAccessPoint
            | E::TooManyRequests,
        ) => Retry::Later,
        // Below 400 it is a proxy's answer, not control's.
        None if matches!(status, ..400 | 408 | 425 | 429 | 500..) => Retry::Later,
        Some(_) | None => Retry::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_in_our_own_time() {
        let now = Instant::now();
        let body = serde_json::json!({
            "token": "t", "issued_at_ms": 10_000, "refresh_at_ms": 40_000, "expires_at_ms": 70_000,
            "access_points": [
                {"protocol": "carrier-pigeon", "host": "h", "port": 1, "weight": 1},
                {"protocol": "tls", "host": "h", "port": 2, "server_name": "n", "weight": 1},
                {"protocol": "tcp", "host": "h", "port": 3, "server_name": ""},
            ],
            "heartbeat_ms": 1, "idle_timeout_ms": 2,
            "backoff": {"base_ms": 100, "max_ms": 1000, "factor": 3.0, "jitter": 0.2},
            "reconnect_window_ms": 15_000, "start_after_ms": 5, "policy_version": 1,
            "refresh_after_ms": 60_000, "of_a_later_release": true,
        });
        let advice = read_answer(body.to_string().as_bytes(), now).unwrap();
        assert_eq!(advice.token.refresh_at, Some(now + Duration::from_secs(30)));
        assert_eq!(advice.token.expires_at, Some(now + Duration::from_mins(1)));
        let points: Vec<String> = advice.points.iter().map(ToString::to_string).collect();
        assert_eq!(points, ["tls://h:2?name=n", "tcp://h:3"]);
        assert_eq!(advice.backoff.window, Duration::from_secs(15));
        assert_eq!(advice.start_after, Duration::from_millis(5));
    }

    #[test]
    fn an_answer_that_cannot_be_used_is_tried_again_later() {
        let long = "t".repeat(TOKEN_BYTES_MAX + 1);
        for body in [
            String::new(),
            "{}".into(),
            "[]".into(),
            r#"{"token": "t", "access_points": []}"#.into(),
            r#"{"token": "", "access_points": [{"protocol":"tcp","host":"h","port":1}]}"#.into(),
            r#"{"token": "t", "access_points": [{"protocol":"tcp","host":"","port":1}]}"#.into(),
            format!(
                r#"{{"token":"{long}","access_points":[{{"protocol":"tcp","host":"h","port":1}}]}}"#
            ),
        ] {
            let refusal = read_answer(body.as_bytes(), Instant::now()).unwrap_err();
            assert_eq!(refusal.retry, Retry::Later, "{body}");
        }
    }

    #[test]
    fn a_problem_says_whether_to_come_back() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "7".parse().unwrap());
        let body = br#"{"code": "no_access_point", "title": "none", "detail": "all full"}"#;
        let refusal = read_problem(503, &headers, body);
        assert_eq!((refusal.retry, refusal.retry_after), (Retry::Later, Duration::from_secs(7)));
        for (status, code, expected) in [
            (401, "proof_invalid", Retry::Never),
            (401, "proof_expired", Retry::NewToken),
            (403, "device_key_mismatch", Retry::Never),
            (429, "overloaded", Retry::Later),
            (502, "", Retry::Later),
            (404, "", Retry::Never),
            (302, "", Retry::Later),
        ] {
            let body = format!(r#"{{"code": "{code}"}}"#);
            let refusal = read_problem(status, &HeaderMap::new(), body.as_bytes());
            assert_eq!(refusal.retry, expected, "{status} {code}");
        }
    }

    #[test]
    fn control_is_named_by_its_address() {
        for (address, host, port, path) in [
            ("http://127.0.0.1:8080", "127.0.0.1", 8080, "/v1/access"),
            ("https://control.example/", "control.example", 443, "/v1/access"),
            ("https://h:1/hawser/", "h", 1, "/hawser/v1/access"),
            ("http://[::1]:5", "::1", 5, "/v1/access"),
        ] {
            let control = Control::new(address, Proof::open()).unwrap();
            assert_eq!((&*control.host, control.port, &*control.path), (host, port, path));
        }
        for bad in ["", "h:1", "ftp://h", "http://", "/v1", "http://h?x=1"] {
            assert!(Control::new(bad, Proof::open()).is_err(), "{bad}");
        }
    }
}
