//! What every hawser service stands on: configuration files, telemetry, the admin port, listeners,
//! TLS material and shutdown. No product noun lives here.

pub mod admin;
pub mod config;
pub mod grpc;
pub mod listen;
pub mod secret;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
