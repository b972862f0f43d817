//! Everything around the node under test.

pub mod business;
pub mod control;
pub mod device;
pub mod dial;
pub mod router;
pub mod store;
pub mod tokens;

use hawser_chassis::secret::Secret;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// What the node shows to control and routers.
pub fn secret() -> Secret {
    Secret::new("a secret of the cluster")
}

/// A listener on a free port, and its address as gRPC wants it.
async fn listen() -> (TcpListener, SocketAddr, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address, format!("http://{address}"))
}
