//! The cases, in the order in which they run: each stands on those before it.

mod combined;
mod groups;
mod logins;
mod pushes;
mod stored;

use super::place::Place;
use super::said::Found;
use futures_util::future::LocalBoxFuture;
use hawser_sdk::Protocol;

/// One thing that users count on.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// What is seen when it passes.
    pub(super) about: &'static str,
    pub(super) run: for<'a> fn(&'a Place) -> LocalBoxFuture<'a, anyhow::Result<Found>>,
}

/// All of them.
pub(super) const CASES: &[Case] = &[
    Case {
        name: "access",
        about: "control gives a device a token and access points",
        run: |place| Box::pin(logins::access(place)),
    },
    Case {
        name: "login-tcp",
        about: "a device logs in over TCP",
        run: |place| Box::pin(logins::login(place, Protocol::Tcp)),
    },
    Case {
        name: "login-tls",
        about: "a device logs in over TLS",
        run: |place| Box::pin(logins::login(place, Protocol::Tls)),
    },
    Case {
        name: "login-quic",
        about: "a device logs in over QUIC",
        run: |place| Box::pin(logins::login(place, Protocol::Quic)),
    },
    Case {
        name: "login-ws",
        about: "a device logs in over WebSocket",
        run: |place| Box::pin(logins::login(place, Protocol::Ws)),
    },
    Case {
        name: "login-wss",
        about: "a device logs in over secure WebSocket",
        run: |place| Box::pin(logins::login(place, Protocol::Wss)),
    },
    Case {
        name: "heartbeat",
        about: "a heartbeat is answered",
        run: |place| Box::pin(logins::heartbeat(place)),
    },
    Case {
        name: "forged-token",
        about: "a token that was changed, and one of another device, are refused",
        run: |place| Box::pin(logins::forged_token(place)),
    },
    Case {
        name: "supersede",
        about: "a second login of a device ends the first, which is told so",
        run: |place| Box::pin(logins::supersede(place)),
    },
    Case {
        name: "resume-ticket",
        about: "a device comes back with its ticket alone, without its token",
        run: |place| Box::pin(logins::resume_ticket(place)),
    },
    Case {
        name: "presence",
        about: "a business sees a device come and go",
        run: |place| Box::pin(logins::presence(place)),
    },
    Case {
        name: "request",
        about: "the business answers a device",
        run: |place| Box::pin(pushes::request(place)),
    },
    Case {
        name: "unicast",
        about: "a push reaches a device that is online",
        run: |place| Box::pin(pushes::online(place)),
    },
    Case {
        name: "unicast-offline",
        about: "a push to a device that is away is answered with offline",
        run: |place| Box::pin(pushes::offline(place)),
    },
    Case {
        name: "batch-unicast",
        about: "a batch reaches those online, and its outcomes and totals are right",
        run: |place| Box::pin(pushes::batch(place)),
    },
    Case {
        name: "group",
        about: "members hear a multicast, others do not; who leaves is gone",
        run: |place| Box::pin(groups::group(place)),
    },
    Case {
        name: "stored-offline",
        about: "pushes stored for a device that is away arrive in order, and are acknowledged",
        run: |place| Box::pin(stored::offline(place)),
    },
    Case {
        name: "push-id",
        about: "a repeated push is stored once; its id with another content is refused",
        run: |place| Box::pin(stored::push_id(place)),
    },
    Case {
        name: "move",
        about: "a device moves through all protocols and loses nothing that was stored",
        run: |place| Box::pin(stored::moves(place)),
    },
    Case {
        name: "combined",
        about: "all of it at once, for many devices over all protocols, which move meanwhile",
        run: |place| Box::pin(combined::all_at_once(place)),
    },
];
