//! Listening sockets, and a sentence that helps when one cannot be had.

use crate::failure::{Failure, Outcome};
use std::net::{SocketAddr, UdpSocket};
use tokio::net::TcpListener;

/// Binds a TCP listener. `what` it is for, and `remedy`: where another address can be chosen.
pub(crate) fn tcp(address: SocketAddr, what: &str, remedy: &str) -> Outcome<TcpListener> {
    hawser_chassis::listen::tcp(address).map_err(|failure| refused(address, what, remedy, &failure))
}

/// Binds a UDP socket.
pub(crate) fn udp(address: SocketAddr, what: &str, remedy: &str) -> Outcome<UdpSocket> {
    UdpSocket::bind(address).map_err(|failure| refused(address, what, remedy, &failure))
}

fn refused(address: SocketAddr, what: &str, remedy: &str, why: &std::io::Error) -> Failure {
    let why = match why.kind() {
        std::io::ErrorKind::AddrInUse => "the port is in use".to_owned(),
        std::io::ErrorKind::PermissionDenied => "this user may not use the port".to_owned(),
        _ => why.to_string(),
    };
    Failure::unreachable(format!("cannot listen on {address} for {what}: {why}; change {remedy}"))
}

/// The address a listener was given.
pub(crate) fn address(listener: &TcpListener) -> Outcome<SocketAddr> {
    listener
        .local_addr()
        .map_err(|failure| Failure::unreachable(format!("a listener has no address: {failure}")))
}
