//! Secrets that services show each other: never printed, compared in constant time.

use std::fmt;
use std::sync::Arc;

/// A shared secret. `Debug` does not show it.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps the text.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that sends or stores it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in time that depends only on the lengths.
    pub fn matches(&self, other: &str) -> bool {
        let (a, b) = (self.0.as_bytes(), other.as_bytes());
        let differing = a.iter().zip(b).fold(0u8, |seen, (x, y)| seen | (x ^ y));
        a.len() == b.len() && std::hint::black_box(differing) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The token of an `authorization: Bearer ..` header value; the scheme in any case.
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_matches_only_itself_and_hides() {
        let secret = Secret::new("open sesame");
        assert!(secret.matches("open sesame"));
        for other in ["", "open sesam", "open sesame!", "Open sesame"] {
            assert!(!secret.matches(other), "{other}");
        }
        assert!(!format!("{secret:?}").contains("sesame"));
    }

    #[test]
    fn bearer_takes_one_scheme() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer abc"), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("Bearer "), None);
        assert_eq!(bearer("abc"), None);
    }
}
