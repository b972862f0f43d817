use super::*;
use proptest::prelude::*;

/// 2027-01-15 08:00 UTC.
const NOW_MS: u64 = 1_800_000_000_000;
const MINUTE_MS: u64 = 60_000;

fn key(kid: u32, fill: u8) -> TicketKey {
    TicketKey::new(kid, &[fill; 32]).expect("32 bytes")
}

fn identity() -> Identity {
    Identity {
        app: AppId::new("demo").unwrap(),
        device: DeviceId::new("d-1").unwrap(),
        businesses: vec![BusinessId::new("chat").unwrap()],
        issued_at_ms: NOW_MS - 30 * MINUTE_MS,
        expires_at_ms: NOW_MS + 30 * MINUTE_MS,
    }
}

fn ticket() -> Bytes {
    make(&key(7, 1), &identity(), NOW_MS).expect("the token has time left")
}

fn opened(ticket: &[u8], now_ms: u64) -> Result<Identity, TicketError> {
    open(ticket, now_ms, |kid| (kid == 7).then(|| key(7, 1)))
}

#[test]
fn a_ticket_says_what_its_token_said() {
    let ticket = ticket();
    assert!(ticket.len() < 150, "{} bytes", ticket.len());
    assert_eq!(opened(&ticket, NOW_MS), Ok(identity()));
    let all = Identity { businesses: Vec::new(), ..identity() };
    let open_to_all = make(&key(7, 1), &all, NOW_MS).unwrap();
    assert_eq!(opened(&open_to_all, NOW_MS), Ok(all));
}

#[test]
fn a_changed_byte_a_cut_or_another_key_is_refused() {
    let ticket = ticket();
    for at in 0..ticket.len() {
        let mut forged = ticket.to_vec();
        forged[at] ^= 1;
        let wanted = if at < KID_BYTES { TicketError::UnknownKey } else { TicketError::Invalid };
        assert_eq!(opened(&forged, NOW_MS), Err(wanted), "byte {at}");
        assert_eq!(opened(&ticket[at..], NOW_MS).ok(), (at == 0).then(identity), "from {at}");
        let cut = opened(&ticket[..at], NOW_MS);
        assert!(matches!(cut, Err(TicketError::Invalid)), "to {at}: {cut:?}");
    }
    let other = open(&ticket, NOW_MS, |_| Some(key(7, 2)));
    assert_eq!(other, Err(TicketError::Invalid), "the same number, another key");
    assert_eq!(open(&ticket, NOW_MS, |_| None), Err(TicketError::UnknownKey));
    let mut longer = ticket.to_vec();
    longer.push(0);
    assert_eq!(opened(&longer, NOW_MS), Err(TicketError::Invalid));
    longer.resize(RESUME_TICKET_BYTES_MAX + 1, 0);
    assert_eq!(opened(&longer, NOW_MS), Err(TicketError::Invalid));
    assert!(TicketKey::new(1, &[0; 31]).is_none(), "a short secret makes no key");
}

/// One made for another purpose with the same key says nothing here.
#[test]
fn a_code_over_the_bare_content_is_not_one() {
    let ticket = ticket();
    let content = &ticket[..ticket.len() - CODE_BYTES];
    let bare = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]), content);
    let forged = [content, bare.as_ref()].concat();
    assert_eq!(opened(&forged, NOW_MS), Err(TicketError::Invalid));
}

#[test]
fn a_ticket_is_good_for_its_time_and_never_longer_than_its_token() {
    let leeway_ms = CLOCK_LEEWAY.as_millis() as u64;
    let life_ms = RESUME_TICKET_LIFE.as_millis() as u64;
    let long = Identity { expires_at_ms: NOW_MS + 2 * life_ms, ..identity() };
    let ticket = make(&key(7, 1), &long, NOW_MS).unwrap();
    let end_ms = NOW_MS + life_ms + leeway_ms;
    assert!(opened(&ticket, end_ms - 1).is_ok());
    assert_eq!(opened(&ticket, end_ms), Err(TicketError::Expired));
    // A clock that is behind the maker's.
    assert!(opened(&ticket, NOW_MS - leeway_ms).is_ok());
    assert_eq!(opened(&ticket, NOW_MS - leeway_ms - 1), Err(TicketError::NotYet));

    let short = Identity { expires_at_ms: NOW_MS + MINUTE_MS, ..identity() };
    let ticket = make(&key(7, 1), &short, NOW_MS).unwrap();
    assert!(opened(&ticket, NOW_MS + MINUTE_MS + leeway_ms - 1).is_ok());
    assert_eq!(
        opened(&ticket, NOW_MS + MINUTE_MS + leeway_ms),
        Err(TicketError::Expired),
        "as its token"
    );
    for over in [NOW_MS, NOW_MS - 1, 0] {
        let over = Identity { expires_at_ms: over, ..identity() };
        assert_eq!(make(&key(7, 1), &over, NOW_MS), None);
    }
    let for_ever = Identity { expires_at_ms: u64::MAX, ..identity() };
    assert!(make(&key(7, 1), &for_ever, u64::MAX - 1).is_some(), "no overflow");
}

#[test]
fn what_would_be_too_large_is_not_made() {
    let businesses = (0..64).map(|n| BusinessId::new(&format!("business-number-{n}")).unwrap());
    let many = Identity { businesses: businesses.collect(), ..identity() };
    assert_eq!(make(&key(7, 1), &many, NOW_MS), None);
}

#[test]
fn a_key_does_not_show_itself() {
    assert_eq!(format!("{:?}", key(7, 1)), "TicketKey(7)");
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..1_100)) {
        prop_assert!(open(&bytes, NOW_MS, |kid| Some(key(kid, 1))).is_err());
    }

    /// Whoever has the key can write anything: still no panic, and no names that are none.
    #[test]
    fn arbitrary_claims_under_a_good_code_never_panic(claims in prop::collection::vec(any::<u8>(), 0..300), now_ms: u64) {
        let key = key(7, 1);
        let mut bytes = 7u32.to_be_bytes().to_vec();
        bytes.extend(claims);
        let code = key.code(&bytes);
        bytes.extend_from_slice(code.as_ref());
        let _ = opened(&bytes, now_ms);
    }

    #[test]
    fn every_cut_and_change_of_a_good_one_is_refused(at in 0usize..150, bit in 0u8..8, add in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut bytes = ticket().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        bytes.extend(add);
        prop_assert!(opened(&bytes, NOW_MS).is_err());
    }
}
