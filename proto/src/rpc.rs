//! The gRPC services, generated from `rpc/*.proto`: what backends call and implement, and what the
//! parts of hawser say to each other.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

/// `hawser.business.v1`: implemented by a business.
pub mod business {
    include!(concat!(env!("OUT_DIR"), "/hawser.business.v1.rs"));
}
/// `hawser.push.v1`: called by a business's backend.
pub mod push {
    include!(concat!(env!("OUT_DIR"), "/hawser.push.v1.rs"));
}
/// `hawser.control.v1`: internal, catalogue and node reports.
pub mod control {
    include!(concat!(env!("OUT_DIR"), "/hawser.control.v1.rs"));
}
/// `hawser.node.v1`: internal, between access nodes and routers.
pub mod node {
    include!(concat!(env!("OUT_DIR"), "/hawser.node.v1.rs"));
}

/// Descriptor set of all services, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
