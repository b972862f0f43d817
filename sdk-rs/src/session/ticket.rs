//! The resume ticket: what a login may show in place of the token, so that a node need not check a
//! signature.
//!
//! It lives in memory and with the session, and on no disk: a few minutes later it is worth nothing,
//! and a start of the program is no part of a storm. So it cannot reach another device, installation or
//! app, and is forgotten when the client closes.

use bytes::Bytes;
use hawser_proto::limits::{RESUME_TICKET_BYTES_MAX, RESUME_TICKET_LIFE};
use std::fmt;
use std::time::Instant;

#[derive(Default)]
pub(super) struct Ticket {
    /// And when it is no longer shown.
    held: Option<(Bytes, Instant)>,
    /// The LOGIN under way shows it.
    is_shown: bool,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("is_held", &self.held.is_some()).finish_non_exhaustive()
    }
}

impl Ticket {
    /// The ticket of a LOGIN_OK or a REFRESHED; empty: none. Each word replaces the one before.
    pub(super) fn given(&mut self, text: Bytes, now: Instant) {
        let is_one = !text.is_empty() && text.len() <= RESUME_TICKET_BYTES_MAX;
        self.held = is_one.then_some((text, now + RESUME_TICKET_LIFE));
        self.is_shown = false;
    }

    /// For a LOGIN: the ticket, or nothing, and then the token it is.
    pub(super) fn show(&mut self, now: Instant) -> Bytes {
        self.held.take_if(|(_, until)| *until <= now);
        self.is_shown = self.held.is_some();
        self.held.as_ref().map(|(text, _)| text.clone()).unwrap_or_default()
    }

    /// A LOGIN was refused with *new token*. True: because of the ticket, and the token may well do.
    pub(super) fn is_to_blame(&mut self) -> bool {
        self.held = None;
        std::mem::take(&mut self.is_shown)
    }

    /// The token it came from is gone.
    pub(super) fn forget(&mut self) {
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_is_shown_while_it_is_good_and_blamed_once() {
        let now = Instant::now();
        let mut ticket = Ticket::default();
        assert!(ticket.show(now).is_empty() && !ticket.is_to_blame());
        ticket.given(Bytes::from_static(b"t"), now);
        assert_eq!(ticket.show(now), "t");
        let last = now + RESUME_TICKET_LIFE.saturating_sub(Duration::from_millis(1));
        assert_eq!(ticket.show(last), "t", "again");
        assert!(ticket.is_to_blame() && !ticket.is_to_blame());
        assert!(ticket.show(now).is_empty());

        ticket.given(Bytes::from_static(b"t"), now);
        assert!(ticket.show(now + RESUME_TICKET_LIFE).is_empty(), "too old");
        assert!(!ticket.is_to_blame(), "the token was shown");

        ticket.given(Bytes::from_static(b"t"), now);
        ticket.given(Bytes::new(), now);
        assert!(ticket.show(now).is_empty(), "a node without tickets");
        ticket.given(vec![0; RESUME_TICKET_BYTES_MAX + 1].into(), now);
        assert!(ticket.show(now).is_empty(), "too long for a LOGIN");
    }

    #[test]
    fn it_never_shows_in_a_log() {
        let mut ticket = Ticket::default();
        ticket.given(Bytes::from_static(b"sesame"), Instant::now());
        assert!(!format!("{ticket:?}").contains("sesame"));
    }
}
