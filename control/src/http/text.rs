//! The forms of texts in bodies that are not ids: origins, endpoints, short labels.

use crate::refusal::Refusal;
use axum::http::Uri;
use std::time::Duration;

const ORIGINS_MAX: usize = 32;
const ENDPOINTS_MAX: usize = 16;
const URL_BYTES_MAX: usize = 256;
const SECONDS_MAX: u64 = 30 * 86_400;
/// How long an old secret lives on after a rotation, when nothing else is asked for.
const OVERLAP_DEFAULT: Duration = Duration::from_hours(24);

/// Checks a list of origins: `*`, or `scheme://host[:port]` as browsers send it.
pub(super) fn origins(list: Vec<String>) -> Result<Vec<String>, Refusal> {
    if list.len() > ORIGINS_MAX {
        return Err(Refusal::invalid("more than 32 allowed_origins"));
    }
    if list.iter().all(|origin| origin == "*" || is_base(origin, &["http", "https"])) {
        return Ok(list);
    }
    Err(Refusal::invalid("an allowed origin is neither * nor http(s)://host[:port]"))
}

/// Checks a list of gRPC endpoints: `http://host:port`.
pub(super) fn endpoints(list: Vec<String>) -> Result<Vec<String>, Refusal> {
    if list.len() > ENDPOINTS_MAX {
        return Err(Refusal::invalid("more than 16 endpoints"));
    }
    let has_port = |text: &str| text.parse::<Uri>().is_ok_and(|uri| uri.port_u16().is_some());
    if list.iter().all(|endpoint| is_base(endpoint, &["http"]) && has_port(endpoint)) {
        return Ok(list);
    }
    Err(Refusal::invalid("an endpoint is not of the form http://host:port"))
}

/// A scheme and an authority without user, and nothing else.
fn is_base(text: &str, schemes: &[&str]) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
    let port_is_fine = match authority.as_str().rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse::<u16>().is_ok_and(|port| port != 0),
        _ => true,
    };
    text.len() <= URL_BYTES_MAX
        && schemes.contains(&scheme)
        && !authority.host().is_empty()
        && !authority.as_str().contains('@')
        && port_is_fine
        && text == format!("{scheme}://{authority}")
}

/// Checks a label that a device gives of itself.
pub(super) fn label(field: &str, text: Option<&str>) -> Result<(), Refusal> {
    let fine = |text: &str| (1..=64).contains(&text.len()) && !text.chars().any(char::is_control);
    if text.is_none_or(fine) {
        return Ok(());
    }
    Err(Refusal::invalid(format!("{field} is not a text of 1 to 64 bytes")))
}

/// Checks an overlap; none is the default of a day.
pub(super) fn overlap(seconds: Option<u64>) -> Result<Duration, Refusal> {
    match seconds {
        None => Ok(OVERLAP_DEFAULT),
        Some(seconds) if seconds <= SECONDS_MAX => Ok(Duration::from_secs(seconds)),
        Some(_) => Err(Refusal::invalid("overlap_s is more than 2592000")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_the_form_browsers_send() {
        for good in ["*", "https://a.example", "http://localhost:8080", "http://[::1]:80"] {
            assert!(origins(vec![good.into()]).is_ok(), "{good}");
        }
        for bad in
            ["", "a.example", "https://a.example/", "https://u@a", "ftp://a", "https://a:0", "null"]
        {
            assert!(origins(vec![bad.into()]).is_err(), "{bad}");
        }
        assert!(origins(vec!["*".into(); 33]).is_err());
    }

    #[test]
    fn endpoints_are_plain_http_with_a_port() {
        for good in ["http://127.0.0.1:9000", "http://svc.ns.svc:80", "http://[::1]:9000"] {
            assert!(endpoints(vec![good.into()]).is_ok(), "{good}");
        }
        for bad in ["http://a", "https://a:1", "http://a:1/x", "http://a:99999", "a:1", "http://:1"]
        {
            assert!(endpoints(vec![bad.into()]).is_err(), "{bad}");
        }
    }
}
