//! What a certificate says of itself: which roles, and how long. The one part of X.509 that is read here by
//! hand is its validity (RFC 5280, 4.1.2.5); who to trust is decided by the TLS library alone.

use super::{Role, Roles};
use rustls::server::ParsedCertificate;
use rustls_pki_types::CertificateDer;

/// Some of what a certificate says. Nothing of it was checked against a CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Roles it names.
    pub roles: Vec<Role>,
    /// Good from here, in seconds since 1970.
    pub not_before: u64,
    /// Good until here, in seconds since 1970.
    pub not_after: u64,
}

/// Reads a certificate. `None`: not one, or of a time that hawser does not know.
pub fn look_at(certificate: &CertificateDer<'_>) -> Option<Shown> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let (not_before, not_after) = validity(certificate)?;
    let roles = named(&parsed);
    let roles = Role::ALL.into_iter().filter(|role| roles.holds(*role)).collect();
    Some(Shown { roles, not_before, not_after })
}

/// The roles that a certificate names.
pub(super) fn named(certificate: &ParsedCertificate<'_>) -> Roles {
    let names =
        |role: &Role| rustls::client::verify_server_name(certificate, &role.server_name()).is_ok();
    Role::ALL.into_iter().filter(names).collect()
}

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

fn validity(certificate: &[u8]) -> Option<(u64, u64)> {
    let (whole, _) = expect(SEQUENCE, certificate)?;
    let (body, _) = expect(SEQUENCE, whole)?;
    let body = expect(VERSION, body).map_or(body, |(_, rest)| rest);
    let (_, body) = expect(INTEGER, body)?;
    let (_, body) = expect(SEQUENCE, body)?;
    let (_issuer, body) = expect(SEQUENCE, body)?;
    let (times, _) = expect(SEQUENCE, body)?;
    let (tag, not_before, times) = element(times)?;
    let not_before = seconds(tag, not_before)?;
    let (tag, not_after, _) = element(times)?;
    Some((not_before, seconds(tag, not_after)?))
}

fn expect(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == tag).then_some((content, rest))
}

/// Tag, content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, short], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = if short < 0x80 {
        (usize::from(short), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        (digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`, in seconds since 1970.
fn seconds(tag: u8, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: u64 = text[..2].parse().ok()?;
            (if year < 50 { 2_000 + year } else { 1_900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let two = |at: usize| rest[at..at + 2].parse::<u64>().ok();
    let (month, day) = (two(0)?, two(2)?);
    let (hour, minute, second) = (two(4)?, two(6)?, two(8)?);
    if year < 1_970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970 after Howard Hinnant's `days_from_civil`: years begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_time_are_read() {
        for (tag, text, wanted) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "261122053742Z", Some(1_795_325_862)),
            (GENERALIZED_TIME, "20000229000000Z", Some(951_782_400)),
            (GENERALIZED_TIME, "21000101000000Z", Some(4_102_444_800)),
            (UTC_TIME, "261122053742", None),
            (UTC_TIME, "2611220537Z", None),
            (UTC_TIME, "2611é2053742Z", None),
            (GENERALIZED_TIME, "20001329000000Z", None),
            (SEQUENCE, "261122053742Z", None),
        ] {
            assert_eq!(seconds(tag, text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn a_cut_certificate_is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let life = std::time::Duration::from_hours(24);
        let issued = super::super::issue::issue(folder.path(), life).expect("issued");
        let (_, path, _) = &issued.leaves[1];
        let chain = crate::tls::read_chain(path).expect("read");
        let shown = look_at(&chain[0]).expect("a certificate");
        assert_eq!(shown.roles, [Role::Router]);
        assert_eq!(shown.not_after - shown.not_before, 25 * 3_600);
        for length in 0..chain[0].len() {
            assert_eq!(look_at(&CertificateDer::from(&chain[0][..length])), None, "{length}");
        }
    }
}
