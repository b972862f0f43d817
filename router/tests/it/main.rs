//! One router on real sockets, with a control and access nodes written for the test.
#![allow(clippy::disallowed_methods, reason = "tests own their tasks through the runtime")]
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test binary")]
#![allow(clippy::items_after_statements, reason = "names used by the next lines alone")]
#![allow(clippy::unnecessary_wraps, reason = "protobuf wants an Option")]
#![allow(clippy::large_futures, reason = "two calls and their answers in one")]

mod broadcasts;
mod cluster;
mod cluster_groups;
mod compressed;
mod events;
mod functions;
mod groups;
mod histories;
mod inboxes;
mod kept;
mod kit;
mod leases;
mod lost_ends;
mod operations;
mod presence;
mod pushes;
mod refusals;
mod restarts;
mod sessions;
mod store_down;
mod stored;
mod streams;
