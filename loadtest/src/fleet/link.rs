//! One device's link while it is set up: dialled over any transport, logged in, joined.

use super::Credential;
use crate::roots;
use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use hawser_proto::codec;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::limits::FRAME_BYTES_MAX;
use hawser_proto::params::{Join, Login, LoginOk};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const STEP_TIMEOUT: Duration = Duration::from_secs(10);
const SERVER_NAME: &str = "localhost";
/// The key is any 16 bytes; nobody here checks what becomes of it.
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
/// Devices that are measured say nothing for minutes.
const QUIC_IDLE: Duration = Duration::from_hours(1);
const READ_BYTES: usize = 1024;
const UPGRADE_BYTES_MAX: usize = 4096;

/// A transport of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Ws,
    Tls,
    Quic,
}

impl Protocol {
    /// As access points and people call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Ws => "ws",
            Self::Tls => "tls",
            Self::Quic => "quic",
        }
    }

    /// Devices that come at once. Those of QUIC all come to one socket of the node's, and from one of ours:
    /// more greetings at a time than its buffer takes are lost, and said again much later.
    pub(crate) fn at_once(self) -> usize {
        if self == Self::Quic { 16 } else { 64 }
    }
}

/// What it takes to dial.
pub(crate) struct Dialer {
    secure: Option<(TlsConnector, quinn::Endpoint)>,
}

impl Dialer {
    /// TLS and QUIC only with a certificate to trust. No session of TLS is resumed.
    pub(crate) fn new(trust: Option<&Path>) -> anyhow::Result<Arc<Self>> {
        let secure = trust.map(secure).transpose()?;
        Ok(Arc::new(Self { secure }))
    }

    /// A link on which nothing was said yet.
    pub(crate) async fn dial(
        &self,
        protocol: Protocol,
        address: SocketAddr,
    ) -> anyhow::Result<Link> {
        let dialled = tokio::time::timeout(STEP_TIMEOUT, self.try_dial(protocol, address)).await;
        dialled.context("no link in time")?
    }

    async fn try_dial(&self, protocol: Protocol, address: SocketAddr) -> anyhow::Result<Link> {
        let secure = || self.secure.as_ref().context("no certificate to trust");
        match protocol {
            Protocol::Tcp => Ok(Link::new(Pipe::Plain(connect(address).await?))),
            Protocol::Ws => {
                let mut link = Link::new(Pipe::Plain(connect(address).await?));
                link.upgrade().await?;
                Ok(link)
            }
            Protocol::Tls => {
                let stream = connect(address).await?;
                let name = ServerName::try_from(SERVER_NAME)?;
                let stream = secure()?.0.connect(name, stream).await?;
                Ok(Link::new(Pipe::Secure(Box::new(stream))))
            }
            Protocol::Quic => {
                let connection = secure()?.1.connect(address, SERVER_NAME)?.await?;
                let (send, receive) = connection.open_bi().await?;
                Ok(Link::new(Pipe::Quic { send, receive, connection }))
            }
        }
    }
}

fn secure(trust: &Path) -> anyhow::Result<(TlsConnector, quinn::Endpoint)> {
    let mut config = roots::client(roots::of_devices(Some(trust))?, &[b"hawser/1"])?;
    config.resumption = rustls::client::Resumption::disabled();
    let quic = QuicClientConfig::try_from(config.clone())?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into())?;
    let mut config = quinn::ClientConfig::new(Arc::new(quic));
    let mut transport = quinn::TransportConfig::default();
    transport.max_idle_timeout(Some(QUIC_IDLE.try_into()?));
    config.transport_config(Arc::new(transport));
    endpoint.set_default_client_config(config);
    Ok((connector, endpoint))
}

/// A connected socket.
pub(super) async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = tokio::time::timeout(STEP_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What a link is made of.
pub(crate) enum Pipe {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
    Quic { send: quinn::SendStream, receive: quinn::RecvStream, connection: quinn::Connection },
}

/// One link.
pub(crate) struct Link {
    pub(super) pipe: Pipe,
    /// Read, and not yet a whole frame.
    pub(super) buffer: BytesMut,
    is_web: bool,
}

impl Link {
    pub(super) fn new(pipe: Pipe) -> Self {
        Self { pipe, buffer: BytesMut::new(), is_web: false }
    }

    /// Says LOGIN, with the ticket where there is one, and hears LOGIN_OK.
    pub(crate) async fn log_in(
        &mut self,
        credential: &Credential,
        business: &str,
    ) -> anyhow::Result<LoginOk> {
        let token =
            if credential.ticket.is_empty() { credential.token.clone() } else { String::new() };
        let login = DeviceFrame::Login(Login {
            app: credential.app.clone(),
            device: credential.device.clone(),
            token,
            resume_ticket: credential.ticket.clone(),
            instance: Bytes::copy_from_slice(&credential.instance),
            attempt: credential.attempt,
            businesses: vec![business.to_owned()],
            abilities: ability::RESUME,
            ..Default::default()
        });
        self.say(&login.encode()).await?;
        match self.hear().await? {
            NodeFrame::LoginOk(ok) => Ok(ok),
            NodeFrame::Close(close) => bail!("login refused: {} {}", close.code, close.reason),
            other => bail!("unexpected answer to a login: {other:?}"),
        }
    }

    /// Joins a group.
    pub(crate) async fn join(&mut self, group: &str) -> anyhow::Result<()> {
        let join = Join { request_id: 1, group: group.to_owned(), ..Join::default() };
        self.say(&DeviceFrame::Join(join).encode()).await?;
        match self.hear().await? {
            NodeFrame::Joined(joined) if joined.status == 0 => Ok(()),
            other => bail!("not joined: {other:?}"),
        }
    }

    /// Says a frame.
    pub(crate) async fn say(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        if self.is_web {
            return self.write(&web_message(frame)).await;
        }
        self.write(frame).await
    }

    /// The next frame.
    pub(crate) async fn hear(&mut self) -> anyhow::Result<NodeFrame> {
        tokio::time::timeout(STEP_TIMEOUT, async {
            loop {
                if let Some(frame) = self.take()? {
                    return Ok(frame);
                }
                self.read().await?;
            }
        })
        .await
        .context("no answer in time")?
    }

    /// Says something to a bare loop, and hears as many bytes.
    pub(crate) async fn exchange(&mut self, word: &[u8]) -> anyhow::Result<()> {
        self.write(word).await?;
        while self.buffer.len() < word.len() {
            tokio::time::timeout(STEP_TIMEOUT, self.read())
                .await
                .context("no answer in time")??;
        }
        ensure!(self.buffer[..] == *word, "an echo of something else");
        self.buffer.clear();
        Ok(())
    }

    fn take(&mut self) -> anyhow::Result<Option<NodeFrame>> {
        if self.is_web {
            let Some((header, payload)) = web_header(&self.buffer) else { return Ok(None) };
            if self.buffer.len() < header + payload {
                return Ok(None);
            }
            self.buffer.advance(header);
        }
        let raw = codec::decode(&mut self.buffer, FRAME_BYTES_MAX)?;
        Ok(raw.map(NodeFrame::parse).transpose()?)
    }

    async fn upgrade(&mut self) -> anyhow::Result<()> {
        self.write(UPGRADE.as_bytes()).await?;
        let end = b"\r\n\r\n";
        loop {
            self.read().await?;
            if let Some(at) = self.buffer.windows(end.len()).position(|bytes| bytes == end) {
                ensure!(self.buffer.starts_with(b"HTTP/1.1 101"), "no upgrade to WebSocket");
                self.buffer.advance(at + end.len());
                self.is_web = true;
                return Ok(());
            }
            ensure!(self.buffer.len() < UPGRADE_BYTES_MAX, "an answer without an end");
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match &mut self.pipe {
            Pipe::Plain(stream) => stream.write_all(bytes).await?,
            Pipe::Secure(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await?;
            }
            Pipe::Quic { send, .. } => send.write_all(bytes).await?,
        }
        Ok(())
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        self.buffer.reserve(READ_BYTES);
        let read = match &mut self.pipe {
            Pipe::Plain(stream) => stream.read_buf(&mut self.buffer).await?,
            Pipe::Secure(stream) => stream.read_buf(&mut self.buffer).await?,
            Pipe::Quic { receive, .. } => receive.read_buf(&mut self.buffer).await?,
        };
        ensure!(read > 0, "the link was cut");
        Ok(())
    }
}

/// A frame as a device's binary message. Its mask is four zeros, which change nothing.
fn web_message(frame: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(8 + frame.len());
    message.put_u8(0x82);
    if let Ok(short @ ..126) = u8::try_from(frame.len()) {
        message.put_u8(0x80 | short);
    } else {
        message.put_u8(0xfe);
        message.put_u16(u16::try_from(frame.len()).unwrap_or(u16::MAX));
    }
    message.put_u32(0);
    message.put_slice(frame);
    message.freeze()
}

/// Bytes of the header and of the payload of a node's message, once they are known.
pub(super) fn web_header(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes {
        [_, 126, high, low, ..] => Some((4, usize::from(u16::from_be_bytes([*high, *low])))),
        [_, 127, rest @ ..] => {
            let length = u64::from_be_bytes(*rest.first_chunk()?);
            Some((10, usize::try_from(length).ok()?))
        }
        [_, 126, ..] => None,
        [_, short, ..] => Some((2, usize::from(short & 0x7f))),
        _ => None,
    }
}
