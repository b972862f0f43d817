//! The binary from outside: what it says of itself, and `hawser dev` as a real process with the
//! operator's commands and a device against it.

mod cli;
mod cluster;
mod dev;
mod process;
mod services;
mod stored;
mod tls;
