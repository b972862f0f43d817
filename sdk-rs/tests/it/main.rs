//! The client against a node and a control that these tests play themselves, over real sockets.
#![allow(clippy::unwrap_used, reason = "a peer that cannot go on fails its test")]
#![allow(clippy::disallowed_methods, reason = "the peers of a test end with its runtime")]

mod access;
mod compressed;
mod control;
mod inbox;
mod kill;
mod moves;
mod node;
mod session;
mod transports;
