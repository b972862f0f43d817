use super::*;

#[test]
fn a_secret_dials_plain_addresses_and_stays_hidden() {
    let peers = Peers::secret(&Secret::new("open sesame")).expect("a header value");
    assert!(!format!("{peers:?}").contains("sesame"));
    peers.check_address("http://127.0.0.1:1").expect("an address");
    peers.check_address("http://[::1]:1").expect("an address");
    for wrong in ["127.0.0.1:1", "http://", "http://host", "http://a b:1", ""] {
        assert!(matches!(peers.check_address(wrong), Err(PeersError::Address { .. })), "{wrong}");
    }
    let tls = peers.check_address("https://127.0.0.1:1");
    assert!(matches!(tls, Err(PeersError::Scheme { expected: "http", .. })));
    assert!(matches!(Peers::secret(&Secret::new("new\nline")), Err(PeersError::Secret)));
}

#[test]
fn a_guard_asks_for_the_secret_and_says_who_calls() {
    let peers = Peers::secret(&Secret::new("open sesame")).expect("a header value");
    let mut guard = peers.guard(&[Role::Access]);
    assert_eq!(
        guard.call(Request::new(())).map(drop).map_err(|it| it.code()),
        Err(tonic::Code::Unauthenticated)
    );
    let Form::Secret { shown, .. } = &peers.0 else { unreachable!("made so above") };
    let shown = Show(Some(shown.clone())).call(Request::new(())).expect("shown");
    let let_through = guard.call(shown).expect("let through");
    assert!(Caller::of(&let_through).is(Role::Access));
    assert!(!Caller::of(&Request::new(())).is(Role::Access));
}
