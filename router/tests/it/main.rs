//! One router on real sockets, with a control and access nodes written for the test.
#![allow(clippy::disallowed_methods, reason = "tests own their tasks through the runtime")]
#![allow(missing_docs, unreachable_pub)]

mod broadcasts;
mod groups;
mod kit;
mod leases;
mod operations;
mod presence;
mod pushes;
mod refusals;
mod restarts;
mod sessions;
mod streams;
