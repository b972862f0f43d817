//! How a device shows who it is: with a resume ticket, or with its token. Pure: catalogue and time come in
//! as arguments.

use super::{Refusal, Unproven};
use bytes::Bytes;
use hawser_proto::catalogue::Catalogue;
use hawser_proto::code::CloseCode;
use hawser_proto::id::{AppId, DeviceId};
use hawser_proto::params::Login;
use hawser_proto::ticket::{self, TicketError, TicketKey};
use hawser_proto::token::{self, Identity};

/// A proof that holds.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) identity: Identity,
    /// It was a ticket, and no signature had to be checked.
    pub(super) is_ticket: bool,
}

/// Checks the ticket, if there is one, else the token. A ticket that does not hold is no harm where the
/// token does: it may have been made from an older one, by a node that has gone.
pub(super) fn prove(
    catalogue: &Catalogue,
    app: &AppId,
    device: &DeviceId,
    login: &Login,
    now_ms: u64,
) -> Result<Proven, Unproven> {
    let speaks_for = |identity: Identity| -> Result<Identity, Refusal> {
        if identity.app != *app || identity.device != *device {
            Err((CloseCode::TokenMismatch, CloseCode::TokenMismatch.meaning()))
        } else if catalogue.is_revoked(app, device, identity.issued_at_ms) {
            Err((CloseCode::TokenRevoked, CloseCode::TokenRevoked.meaning()))
        } else {
            Ok(identity)
        }
    };
    if !login.resume_ticket.is_empty() {
        let proven = match open(catalogue, &login.resume_ticket, now_ms) {
            Ok(identity) => speaks_for(identity).map_err(Unproven::from),
            Err(error) => {
                let code = error.close_code();
                // Tickets grow old while devices sleep, thousands behind one address: no fault of theirs.
                let is_fault = matches!(error, TicketError::Invalid | TicketError::NotYet);
                Err(Unproven { refusal: (code, code.meaning()), is_fault })
            }
        };
        match proven {
            Ok(identity) => return Ok(Proven { identity, is_ticket: true }),
            Err(unproven) if login.token.is_empty() => return Err(unproven),
            Err(_) => {}
        }
    }
    let identity = token::verify(&login.token, now_ms, |kid| catalogue.verifying_key(kid, now_ms))
        .map_err(|error| (error.close_code(), error.close_code().meaning()))?;
    Ok(Proven { identity: speaks_for(identity)?, is_ticket: false })
}

fn open(catalogue: &Catalogue, bytes: &[u8], now_ms: u64) -> Result<Identity, TicketError> {
    ticket::open(bytes, now_ms, |kid| {
        let key = catalogue.ticket_key_of(kid, now_ms)?;
        TicketKey::new(key.kid, &key.key)
    })
}

/// A ticket for the next login, if control has given a key to make it with.
pub(crate) fn ticket(catalogue: &Catalogue, identity: &Identity, now_ms: u64) -> Option<Bytes> {
    let key = catalogue.ticket_key(now_ms)?;
    ticket::make(&TicketKey::new(key.kid, &key.key)?, identity, now_ms)
}
