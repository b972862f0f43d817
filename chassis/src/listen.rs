//! Listening sockets with the options every service wants.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Connections the kernel queues before accept; a reconnect storm overflows less.
const BACKLOG: i32 = 4096;

/// Binds a TCP listener. Port 0 picks a free one. Must be called inside a tokio runtime.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
