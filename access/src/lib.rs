//! Access nodes: they hold the connections.
//!
//! Two layers. The *connection layer* (`accept`, `link`) turns a dial over TCP, TLS, QUIC or WebSocket
//! into a [`link::Link`]: bytes in, bytes out. The *session layer* (`session`, `conn`, `lane`, `table`,
//! `groups`, `forward`) knows logins, groups, requests and pushes, and not which transport it runs on.
//! Nothing here talks to a store or reads a payload.

mod accept;
mod admission;
mod clock;
mod config;
mod conn;
mod control;
mod curse;
mod downlink;
mod drain;
mod fanout;
mod feed;
mod forward;
mod frame_out;
mod goodbye;
mod groups;
mod lane;
mod link;
mod login;
mod metrics;
mod node;
mod outbox;
mod reactor;
mod reader;
mod retry;
mod routers;
mod session;
mod sweep;
mod table;
mod wheel;

/// The pure machines, for the simulation.
#[doc(hidden)]
pub mod cores {
    /// What a frame, a verdict or an order means in each state of a session.
    pub mod session {
        pub use crate::reader::Malformed;
        pub use crate::session::{Action, Event, Session};
        pub use crate::table::Signal;
    }

    /// The stored pushes of one session.
    pub mod feed {
        pub use crate::feed::{
            Action, Claim, Ended, Entry, Feeds, PULLS_MAX, Place, Pulled, WAITERS_MAX, Waiter,
        };
    }
}

pub use config::{Config, Guards};
#[doc(hidden)]
pub use curse::{Curse, Part};
pub use link::Transport;
pub use node::{Listeners, Running, StartError, start};
