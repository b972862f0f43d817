//! The anchor of every figure: a single-threaded epoll server that does one `write(2)` per delivery,
//! with a three-byte header. It knows no login, no group and no tenant.
//!
//! The first connection is the publisher: it sends frames (three bytes of header: length and kind; then the
//! payload). One of kind [`MULTICAST`] goes to every other connection, one of kind [`UNICAST`] to the one
//! whose number stands in the payload. What any other connection sends goes back to it: one read, one write.
//! With TLS that echo is all there is.

pub(crate) mod quic;

use crate::faults::certificate;
use anyhow::Context;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Length (big endian) and kind.
pub(crate) const HEADER_BYTES: usize = 3;
/// To every connection but the publisher's.
pub(crate) const MULTICAST: u8 = 1;
/// To the connection whose number, four bytes of big endian, stands at [`NUMBER_AT`] of the payload: 0 for
/// the first after the publisher.
pub(crate) const UNICAST: u8 = 2;
/// Behind the time that the payload left.
pub(crate) const NUMBER_AT: usize = 8;

/// Beside the certificate.
const KEY: &str = "door.key.pem";
const LISTENER: Token = Token(usize::MAX);
/// As many as servers have that are dialled by thousands at once.
const BACKLOG: i32 = 4096;

/// Which bare loop.
#[derive(clap::Args)]
pub(crate) struct Bare {
    /// Folder of the certificate: the echo is over TLS 1.3, or QUIC.
    #[arg(long)]
    certificate: Option<PathBuf>,
    /// Over QUIC.
    #[arg(long, requires = "certificate")]
    quic: bool,
}

struct Connection {
    stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    secure: Option<Arc<ServerConfig>>,
    connections: Vec<Connection>,
    /// The members by the number that they are called by. The look-up of the bare loop.
    numbers: HashMap<u32, usize>,
    pending: Vec<u8>,
    buffer: Vec<u8>,
}

/// Serves until the publisher hangs up, or for ever where there is none. Prints the address first.
pub(crate) fn run(wanted: &Bare) -> anyhow::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the descriptor limit")?;
    if let (Some(folder), true) = (&wanted.certificate, wanted.quic) {
        return quic::run(folder);
    }
    let secure = wanted.certificate.as_deref().map(secure).transpose()?;
    let mut server = Server::bind(secure)?;
    println!("{}", server.listener.local_addr()?);
    server.serve()
}

/// What a server with the certificate in this folder shows. Nothing is resumed: each handshake is whole.
pub(crate) fn secure(folder: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::from_pem_file(certificate::authority(folder))?;
    let key = PrivateKeyDer::from_pem_file(folder.join(KEY))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)?;
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"hawser/1".to_vec()];
    Ok(Arc::new(config))
}

impl Server {
    fn bind(secure: Option<Arc<ServerConfig>>) -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        socket.set_nonblocking(true)?;
        socket.listen(BACKLOG)?;
        let mut listener = TcpListener::from_std(socket.into());
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let (connections, numbers) = (Vec::new(), HashMap::new());
        let (pending, buffer) = (Vec::new(), vec![0; 64 * 1024]);
        Ok(Self { poll, listener, secure, connections, numbers, pending, buffer })
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(4096);
        loop {
            self.poll.poll(&mut events, None)?;
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(0) if self.secure.is_none() => {
                        if !self.hear_publisher()? {
                            return Ok(());
                        }
                    }
                    Token(number) => self.echo(number),
                }
            }
        }
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    stream.set_nodelay(true)?;
                    let slot = self.connections.len();
                    self.poll.registry().register(&mut stream, Token(slot), Interest::READABLE)?;
                    let tls = self.secure.clone().map(ServerConnection::new).transpose()?;
                    self.connections.push(Connection { stream, tls: tls.map(Box::new) });
                    if slot > 0 {
                        self.numbers.insert(u32::try_from(slot - 1)?, slot);
                    }
                }
                Err(again) if again.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(failed) => return Err(failed.into()),
            }
        }
    }

    /// Takes what the publisher sent. False: it has hung up.
    fn hear_publisher(&mut self) -> anyhow::Result<bool> {
        loop {
            match self.connections[0].stream.read(&mut self.buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => self.pending.extend_from_slice(&self.buffer[..read]),
                Err(again) if again.kind() == io::ErrorKind::WouldBlock => break,
                Err(failed) => return Err(failed.into()),
            }
        }
        let mut done = 0;
        while let Some(&[high, low, kind]) = self.pending[done..].first_chunk::<HEADER_BYTES>() {
            let whole = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
            let Some(frame) = self.pending.get(done..done + whole) else { break };
            if kind == UNICAST {
                let number = frame.get(HEADER_BYTES + NUMBER_AT..).and_then(|it| it.first_chunk());
                let number = u32::from_be_bytes(*number.context("a frame without a number")?);
                let slot = *self.numbers.get(&number).context("nobody has this number")?;
                deliver(&mut self.connections[slot].stream, frame)?;
            } else {
                for member in &mut self.connections[1..] {
                    deliver(&mut member.stream, frame)?;
                }
            }
            done += whole;
        }
        self.pending.drain(..done);
        Ok(true)
    }

    /// A connection that fails has ended: whoever dialled it sees that.
    fn echo(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        let _ = match &mut connection.tls {
            None => echo(&mut connection.stream, &mut self.buffer),
            Some(tls) => echo_secure(&mut connection.stream, tls, &mut self.buffer),
        };
    }
}

/// The members read at once; a full socket would be a fault of the measurement.
fn deliver(member: &mut TcpStream, frame: &[u8]) -> io::Result<()> {
    if member.write(frame)? < frame.len() {
        return Err(io::Error::other("a member did not keep up with the bare loop"));
    }
    Ok(())
}

/// One read and one write: what was asked is short, and is asked once at a time.
fn echo(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    match stream.read(buffer)? {
        0 => Ok(()),
        read => stream.write_all(&buffer[..read]),
    }
}

fn echo_secure(
    stream: &mut TcpStream,
    tls: &mut ServerConnection,
    buffer: &mut [u8],
) -> io::Result<()> {
    loop {
        match tls.read_tls(stream) {
            Ok(0) => return Ok(()),
            Ok(_) => {
                tls.process_new_packets().map_err(io::Error::other)?;
            }
            Err(again) if again.kind() == io::ErrorKind::WouldBlock => break,
            Err(failed) => return Err(failed),
        }
    }
    match tls.reader().read(buffer) {
        Ok(read) => tls.writer().write_all(&buffer[..read])?,
        Err(nothing) if nothing.kind() == io::ErrorKind::WouldBlock => {}
        Err(failed) => return Err(failed),
    }
    while tls.wants_write() {
        tls.write_tls(stream)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn frame(kind: u8, number: u32) -> Vec<u8> {
        let mut frame = vec![0, 12, kind, 0, 0, 0, 0, 0, 0, 0, 0];
        frame.extend(number.to_be_bytes());
        frame
    }

    fn heard(link: &mut TcpStream, bytes: usize) -> Vec<u8> {
        let mut heard = vec![0; bytes];
        link.read_exact(&mut heard).unwrap();
        heard
    }

    #[test]
    fn the_bare_loop_delivers_to_all_or_to_the_one_that_is_named_and_echoes_the_rest() {
        let mut server = Server::bind(None).unwrap();
        let address = server.listener.local_addr().unwrap();
        let running = std::thread::spawn(move || server.serve());
        let mut links = [(); 3].map(|()| TcpStream::connect(address).unwrap());
        for link in &links {
            link.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        }
        let [publisher, first, second] = &mut links;
        publisher.write_all(&[frame(UNICAST, 1), frame(MULTICAST, 0)].concat()).unwrap();
        assert_eq!(heard(second, 15), frame(UNICAST, 1));
        assert_eq!(heard(second, 15), frame(MULTICAST, 0));
        assert_eq!(heard(first, 15), frame(MULTICAST, 0));
        first.write_all(b"again").unwrap();
        assert_eq!(heard(first, 5), b"again");
        drop(links);
        running.join().unwrap().unwrap();
    }
}
