//! The device side of hawser: one connection, many businesses.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use hawser_sdk::Client;
//!
//! let client = Client::builder("http://127.0.0.1:8080", "demo", "device-1").business("chat").build()?;
//! let chat = client.business("chat");
//! let mut pushes = chat.pushes();
//! client.connect().await?;
//!
//! let answer = chat.request("echo", "hello").await?;
//! assert_eq!(answer.body, "hello");
//! while let Some(push) = pushes.next_push().await {
//!     println!("{} bytes", push.body.len());
//! }
//! # Ok(()) }
//! ```
//!
//! A [`Client`] asks control for a token and access points, dials them in the order it was given,
//! logs in, and from then on comes back by itself: with jitter, with back-off, and as the close code
//! says. An access node that goes away (an upgrade, say) is left without a gap: the client logs in elsewhere
//! first, and [`State::Online`] is told once more. Each [`Business`] sends requests, hears pushes and joins groups over the one connection;
//! groups are joined again after a reconnect. Every queue has a bound, and its answer to being full
//! stands beside it: [`RequestError::QueueFull`], [`Push::missed`].
//!
//! # Stored pushes
//!
//! What a business stores for this device comes effectively once, across links, crashes and restarts:
//! give the client a place to keep its cursors, and do the work inside the loop.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use hawser_sdk::{Client, FileCursors};
//!
//! let client = Client::builder("http://127.0.0.1:8080", "demo", "device-1")
//!     .cursors(FileCursors::new("/var/lib/my-app"))
//!     .build()?;
//! let mut pushes = client.business("chat").pushes();
//! client.connect().await?;
//! while let Some(push) = pushes.next_push().await {
//!     work(&push).await?; // left here or killed here, it comes again
//! } // asking for the next says that this one is handled
//! # Ok(()) }
//! # async fn work(_: &hawser_sdk::Push) -> std::io::Result<()> { Ok(()) }
//! ```
//!
//! A push that was handled moves the cursor; the cursor is kept after 16 pushes or 200 ms, and only
//! what is kept is acknowledged ([`Pushes`] says when exactly one counts as handled). A process that
//! dies in between is given the rest again, at most 64 per business, flagged [`Push::redelivered`].
//! What will never come is told, not skipped: [`Incoming::Gap`], [`Incoming::TermChanged`], and
//! [`Incoming::GroupReset`] for groups with a history, whose members recover by themselves what they
//! missed while they were away.
//!
//! Inside, [`Client`] is a handle, `driver.rs` the one task that owns the link, and `session.rs` a
//! pure machine that decides. The wire is `proto/WIRE.md`.

mod access;
mod advice;
mod backoff;
mod builder;
mod business;
mod client;
mod cursors;
mod driver;
mod incoming;
mod link;
mod listener;
mod proof;
mod request;
mod session;
mod shelf;
mod state;
mod storage;

pub use access::ControlAddressError;
pub use advice::{AccessPoint, AccessPointError, Protocol};
pub use backoff::Settings as Backoff;
pub use builder::{BuildError, Builder};
pub use business::{Business, GroupError};
pub use client::{Client, ConnectError};
pub use cursors::{CursorStorage, Cursors, FileCursors, MemoryCursors, merge_cursors};
pub use hawser_proto::code::{CloseCode, ErrorCode, Retry};
pub use hawser_proto::id::Position;
pub use incoming::{Gap, GapReason, GroupReset, Incoming, Left, LeftReason, Push, TermChanged};
pub use link::{Dialer, TrustError};
pub use listener::{Listener, Pushes};
pub use proof::{DeviceKey, IdentitySource, Proof, ProofError};
pub use request::{DEADLINE_DEFAULT, Request, RequestError, Response};
pub use state::{Reason, State};
pub use storage::{FileStorage, Installation, MemoryStorage, Storage};

/// The pure machine behind a client, for simulations that bring their own link, clock and storage.
/// No part of the published interface.
#[doc(hidden)]
pub mod cores {
    pub use crate::advice::{Advice, Token};
    pub use crate::link::Heard;
    pub use crate::session::calls::Ask;
    pub use crate::session::inbox::Inboxes;
    pub use crate::session::{Action, Event, Refusal, Session, Setup};
}
