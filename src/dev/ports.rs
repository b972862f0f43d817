//! The sockets of `hawser dev`: bound here, before anything starts, so that a port in use is told at
//! once and by its flag.

use crate::bind;
use crate::failure::{Failure, Outcome};
use clap::{Args, ValueEnum};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use tokio::net::TcpListener;

/// Where `hawser dev` listens.
#[derive(Debug, Args)]
#[command(next_help_heading = "Ports")]
pub(super) struct Ports {
    /// Address to listen on; anything but loopback opens a development system to the network
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    listen: IpAddr,
    /// `random`: free ports everywhere, as tests want it; they are printed and in dev.json
    #[arg(long = "ports", value_enum, default_value_t = Choice::Fixed, value_name = "HOW")]
    choice: Choice,
    /// Control's HTTP API
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    control_port: u16,
    /// The demo page
    #[arg(long, default_value_t = 8081, value_name = "PORT")]
    page_port: u16,
    /// The push API (gRPC)
    #[arg(long, default_value_t = 9090, value_name = "PORT")]
    push_port: u16,
    /// /healthz, /readyz and /metrics
    #[arg(long, default_value_t = 9100, value_name = "PORT")]
    admin_port: u16,
    /// Devices over TCP
    #[arg(long, default_value_t = 7100, value_name = "PORT")]
    tcp_port: u16,
    /// Devices over TLS
    #[arg(long, default_value_t = 7101, value_name = "PORT")]
    tls_port: u16,
    /// Devices over QUIC (UDP)
    #[arg(long, default_value_t = 7101, value_name = "PORT")]
    quic_port: u16,
    /// Devices over WebSocket
    #[arg(long, default_value_t = 7102, value_name = "PORT")]
    ws_port: u16,
    /// Devices over secure WebSocket
    #[arg(long, default_value_t = 7103, value_name = "PORT")]
    wss_port: u16,
}

/// How ports are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// Those below
    Fixed,
    /// Whatever is free
    Random,
}

/// All sockets of a development system.
pub(super) struct Sockets {
    pub(super) control: TcpListener,
    pub(super) control_internal: TcpListener,
    pub(super) router_internal: TcpListener,
    pub(super) business: TcpListener,
    pub(super) page: TcpListener,
    pub(super) push: TcpListener,
    pub(super) admin: TcpListener,
    pub(super) tcp: TcpListener,
    pub(super) tls: TcpListener,
    pub(super) ws: TcpListener,
    pub(super) wss: TcpListener,
    pub(super) quic: UdpSocket,
}

impl Ports {
    /// Binds everything.
    pub(super) fn bind(&self) -> Outcome<Sockets> {
        let tcp = |port, what, flag: &str| bind::tcp(self.at(port), what, flag);
        // The services meet, and the demo business is called, on loopback whatever --listen says.
        let inner = || {
            bind::tcp(([127, 0, 0, 1], 0).into(), "an inner port", "nothing: free ports ran out")
        };
        Ok(Sockets {
            control: tcp(self.control_port, "control's HTTP API", "--control-port")?,
            control_internal: inner()?,
            router_internal: inner()?,
            business: inner()?,
            page: tcp(self.page_port, "the demo page", "--page-port")?,
            push: tcp(self.push_port, "the push API", "--push-port")?,
            admin: tcp(self.admin_port, "the admin port", "--admin-port")?,
            tcp: tcp(self.tcp_port, "devices over TCP", "--tcp-port")?,
            tls: tcp(self.tls_port, "devices over TLS", "--tls-port")?,
            ws: tcp(self.ws_port, "devices over WebSocket", "--ws-port")?,
            wss: tcp(self.wss_port, "devices over secure WebSocket", "--wss-port")?,
            quic: bind::udp(self.at(self.quic_port), "devices over QUIC", "--quic-port")?,
        })
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.listen, if self.choice == Choice::Random { 0 } else { port })
    }
}

/// Where things listen, for people, scripts and the page.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Addresses {
    pub(super) control: String,
    pub(super) push: String,
    pub(super) page: String,
    pub(super) admin: String,
    pub(super) tcp: SocketAddr,
    pub(super) tls: SocketAddr,
    pub(super) quic: SocketAddr,
    pub(super) ws: String,
    pub(super) wss: String,
    /// CA that signed the development certificate.
    pub(super) ca: String,
}

impl Addresses {
    /// Of bound sockets.
    pub(super) fn of(sockets: &Sockets, ca: String) -> Outcome<Self> {
        let url = |scheme: &str, listener: &TcpListener| {
            Ok::<_, Failure>(format!("{scheme}://{}", dialable(bind::address(listener)?)))
        };
        let quic = sockets.quic.local_addr().map_err(Failure::unreachable)?;
        Ok(Self {
            control: url("http", &sockets.control)?,
            push: url("http", &sockets.push)?,
            page: url("http", &sockets.page)?,
            admin: url("http", &sockets.admin)?,
            tcp: dialable(bind::address(&sockets.tcp)?),
            tls: dialable(bind::address(&sockets.tls)?),
            quic: dialable(quic),
            ws: url("ws", &sockets.ws)?,
            wss: url("wss", &sockets.wss)?,
            ca,
        })
    }
}

/// The loopback address for one that means every interface.
fn dialable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            (std::net::Ipv6Addr::LOCALHOST, v6.port()).into()
        }
        other => other,
    }
}
