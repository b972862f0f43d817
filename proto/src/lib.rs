//! The common ground of hawser: ids, the wire, tokens, codes, limits and gRPC definitions.
//!
//! Nothing here opens a socket, reads a clock or spawns a task: bytes, and times where they matter,
//! come in as arguments. The normative prose of the wire is `proto/WIRE.md`.
#![warn(clippy::unwrap_used)]

#[cfg(feature = "rpc")]
pub mod catalogue;
pub mod code;
pub mod codec;
pub mod compressed;
pub mod frame;
pub mod id;
pub mod limits;
#[cfg(feature = "rpc")]
pub mod rpc;
#[cfg(feature = "token")]
pub mod ticket;
#[cfg(feature = "token")]
pub mod token;

/// The common parameters of each frame, as protobuf messages. Generated from `rpc/wire.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod params {
    include!(concat!(env!("OUT_DIR"), "/hawser.wire.v1.rs"));
}
