//! One link of a crowd's device: TCP, TLS over it, WebSocket over either, or the pair that leads to QUIC;
//! without a task and without a buffer of its own while nothing is half done.

use super::passes::Point;
use super::plan::Protocol;
use super::quic::Quic;
use super::websocket::{self, Websocket};
use crate::roots;
use bytes::BytesMut;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// A link that is being dialled or is up.
pub(super) struct Link {
    stream: Stream,
    tls: Option<Box<ClientConnection>>,
    websocket: Option<Box<Websocket>>,
    /// Bytes of a frame, or of a WebSocket message, that is not whole yet.
    partial: Vec<u8>,
    /// Bytes that the kernel did not take.
    unwritten: Vec<u8>,
}

enum Stream {
    Tcp(TcpStream),
    /// The loop's end of what a QUIC connection carries.
    Pair(UnixStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Pair(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Pair(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// How the links of a crowd are made.
pub(super) struct Dialer {
    protocol: Protocol,
    tls: Option<Arc<ClientConfig>>,
    quic: Option<Quic>,
    registry: Registry,
}

impl Dialer {
    /// `trust`: the certificate that is trusted; none: those of this machine.
    pub(super) fn new(
        protocol: Protocol,
        trust: Option<&Path>,
        source: Option<IpAddr>,
        registry: Registry,
    ) -> anyhow::Result<Self> {
        let alpn: &[u8] = if protocol.is_websocket() { b"http/1.1" } else { b"hawser/1" };
        let needs = protocol.is_tls() || protocol == Protocol::Quic;
        let tls = needs.then(|| tls(trust, alpn)).transpose()?;
        let quic = match (&tls, protocol) {
            (Some(tls), Protocol::Quic) => Some(Quic::start(tls.clone(), source)?),
            _ => None,
        };
        Ok(Self { protocol, tls, quic, registry })
    }

    /// Begins to dial.
    pub(super) fn dial(
        &self,
        to: &Point,
        from: Option<IpAddr>,
        token: Token,
    ) -> std::io::Result<Link> {
        let interests = Interest::READABLE | Interest::WRITABLE;
        let stream = if let Some(quic) = &self.quic {
            let mut pair = UnixStream::from_std(quic.dial(to.at, to.name.clone())?);
            self.registry.register(&mut pair, token, interests)?;
            Stream::Pair(pair)
        } else {
            let mut stream = connect(to.at, from)?;
            self.registry.register(&mut stream, token, interests)?;
            Stream::Tcp(stream)
        };
        let tls = match &self.tls {
            Some(config) if self.quic.is_none() => {
                let name = ServerName::try_from(to.name.to_string());
                let name = name.map_err(std::io::Error::other)?;
                let made = ClientConnection::new(config.clone(), name);
                Some(Box::new(made.map_err(std::io::Error::other)?))
            }
            _ => None,
        };
        let mut link =
            Link { stream, tls, websocket: None, partial: Vec::new(), unwritten: Vec::new() };
        if self.protocol.is_websocket() {
            // It leaves with the first look at the link, when that is through.
            let upgrade = websocket::upgrade(to.at);
            match &mut link.tls {
                Some(tls) => tls.writer().write_all(upgrade.as_bytes())?,
                None => link.unwritten.extend_from_slice(upgrade.as_bytes()),
            }
            link.websocket = Some(Box::default());
        }
        Ok(link)
    }
}

fn connect(to: SocketAddr, from: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    match socket.connect(&to.into()) {
        // On its way.
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        other => other?,
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// What reading came to.
pub(super) enum Taken {
    /// So many bytes are in the buffer, and there may be more.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The link has ended.
    End,
}

impl Link {
    /// Whether the dial has come through. `Err`: it failed.
    pub(super) fn is_through(&self) -> std::io::Result<bool> {
        // A pair is through at once: what is written waits in it.
        let Stream::Tcp(stream) = &self.stream else { return Ok(true) };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a frame, or keeps what the kernel does not take.
    pub(super) fn write(&mut self, frame: &[u8]) -> std::io::Result<()> {
        match &mut self.websocket {
            Some(websocket) => {
                let message = websocket.wrap(frame);
                self.write_bytes(&message)
            }
            None => self.write_bytes(frame),
        }
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(bytes)?;
            return self.flush();
        }
        if self.unwritten.is_empty() {
            let written = match self.stream.write(bytes) {
                Ok(written) => written,
                Err(full) if full.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            if written < bytes.len() {
                self.unwritten.extend_from_slice(&bytes[written..]);
            }
            return Ok(());
        }
        self.unwritten.extend_from_slice(bytes);
        self.flush()
    }

    /// Writes what waits, as far as the kernel takes it.
    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        let result = match &mut self.tls {
            Some(tls) => loop {
                if !tls.wants_write() {
                    break Ok(());
                }
                match tls.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(error) => break Err(error),
                }
            },
            None => loop {
                if self.unwritten.is_empty() {
                    self.unwritten = Vec::new();
                    break Ok(());
                }
                match self.stream.write(&self.unwritten) {
                    Ok(written) => drop(self.unwritten.drain(..written)),
                    Err(error) => break Err(error),
                }
            },
        };
        match result {
            Err(full) if full.kind() == ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    /// What was read just now as the bytes of frames, after those that were kept. An error: it has ended.
    pub(super) fn frames(&mut self, bytes: &[u8]) -> std::io::Result<BytesMut> {
        let mut raw = BytesMut::from(self.partial.as_slice());
        raw.extend_from_slice(bytes);
        self.partial = Vec::new();
        let Some(websocket) = &mut self.websocket else { return Ok(raw) };
        let mut frames = BytesMut::from(websocket.rest.as_slice());
        websocket.rest = Vec::new();
        let mut answers = Vec::new();
        let unwrapped = websocket.unwrap(&mut raw, &mut frames, &mut answers);
        if !raw.is_empty() {
            self.partial = raw.to_vec();
        }
        if !answers.is_empty() {
            self.write_bytes(&answers)?;
        }
        match unwrapped {
            // A CLOSE of ours may stand before that of the transport.
            Err(end) if frames.is_empty() => Err(end),
            _ => Ok(frames),
        }
    }

    /// Keeps what is not a whole frame yet.
    pub(super) fn keep(&mut self, frames: &BytesMut) {
        if frames.is_empty() {
            return;
        }
        match &mut self.websocket {
            Some(websocket) => websocket.rest = frames.to_vec(),
            None => self.partial = frames.to_vec(),
        }
    }

    /// Reads into the buffer.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Taken {
        let Some(tls) = &mut self.tls else {
            return taken(self.stream.read(buffer));
        };
        // What is decrypted comes first, then what the kernel has.
        match tls.reader().read(buffer) {
            Ok(read @ 1..) => return Taken::Bytes(read),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // A goodbye, or nonsense.
            Ok(_) | Err(_) => return Taken::End,
        }
        match tls.read_tls(&mut self.stream) {
            Ok(0) => return Taken::End,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Taken::Nothing,
            Err(_) => return Taken::End,
        }
        if tls.process_new_packets().is_err() {
            return Taken::End;
        }
        if self.flush().is_err() {
            return Taken::End;
        }
        // An empty read asks the caller to come again.
        Taken::Bytes(0)
    }
}

fn taken(read: std::io::Result<usize>) -> Taken {
    match read {
        Ok(0) => Taken::End,
        Ok(read) => Taken::Bytes(read),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Taken::Nothing,
        Err(error) if error.kind() == ErrorKind::Interrupted => Taken::Bytes(0),
        Err(_) => Taken::End,
    }
}

/// TLS 1.3 that trusts this certificate alone, or those of this machine.
fn tls(trust: Option<&Path>, alpn: &[u8]) -> anyhow::Result<Arc<ClientConfig>> {
    let mut config = roots::client(roots::of_devices(trust)?, &[alpn])?;
    // Each login is a device of its own: no session of another is its to resume.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
