//! Control from outside: the real HTTP and gRPC on free ports, and a store in a temporary folder.
//! Every HTTP answer is held against the OpenAPI document that the server itself serves.
#![allow(clippy::unwrap_used)]

mod access;
mod bad_input;
mod certificates;
mod cluster;
mod document;
mod harness;
mod life;
mod restart;
mod schema;
mod signing;
mod sweep;
mod tenancy;
mod tickets;
mod watch;
