//! What every hawser service stands on: configuration files, telemetry, the admin port, listeners,
//! TLS material, shutdown, and how services know each other. No product noun lives here but the names of
//! the services.

pub mod admin;
pub mod callback;
pub mod config;
pub mod grpc;
pub mod listen;
pub mod peers;
pub mod private;
pub mod secret;
pub mod shutdown;
pub mod snapshot;
pub mod telemetry;
pub mod tls;
