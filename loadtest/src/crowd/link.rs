//! One link of a crowd's device: TCP, or TLS over it, without a task and without a buffer of its own
//! while nothing is half done.

use anyhow::Context;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// A link that is being dialled or is up.
pub(super) struct Link {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// Bytes of a frame that is not whole yet.
    pub(super) partial: Vec<u8>,
    /// Bytes that the kernel did not take.
    unwritten: Vec<u8>,
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
    /// Begins to dial.
    pub(super) fn dial(
        to: SocketAddr,
        from: Option<IpAddr>,
        tls: Option<&Arc<ClientConfig>>,
        registry: &Registry,
        token: Token,
    ) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            // EINPROGRESS: on its way.
            Err(error) if error.raw_os_error() == Some(115) => {}
            Err(error) => return Err(error),
        }
        let mut stream = TcpStream::from_std(socket.into());
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let tls = match tls {
            None => None,
            Some(config) => {
                let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
                let made = ClientConnection::new(config.clone(), name);
                Some(Box::new(made.map_err(std::io::Error::other)?))
            }
        };
        Ok(Self { stream, tls, partial: Vec::new(), unwritten: Vec::new() })
    }

    /// Whether the dial has come through. `Err`: it failed.
    pub(super) fn is_through(&self) -> std::io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes, or keeps what the kernel does not take.
    pub(super) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
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

/// TLS 1.3 that trusts this certificate alone.
pub(super) fn tls(trust: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let pem = std::fs::read(trust).with_context(|| format!("cannot read {}", trust.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"hawser/1".to_vec()];
    // Each login is a device of its own: no session of another is its to resume.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
