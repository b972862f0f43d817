//! One device on the bare wire, for what must be seen frame by frame: who wins of two logins, what comes
//! late, what is written to whom.

use crate::control::{Control, token};
use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use hawser_loadtest::stamp;
use hawser_proto::codec;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::limits::FRAME_BYTES_MAX;
use hawser_proto::params::{Ack, Close, InboxPosition, Login, LoginOk, Ping, Request};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Who logs in as what.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) app: String,
    pub(crate) device: String,
    pub(crate) token: String,
}

impl Credential {
    /// A token from control's public API.
    pub(crate) async fn get(control: &str, app: &str, device: &str) -> anyhow::Result<Self> {
        let answer = Control::new(control, None)?.access(app, device, None).await?;
        let (app, device) = (app.to_owned(), device.to_owned());
        Ok(Self { app, device, token: token(&answer)?.to_owned() })
    }
}

/// What frames travel on: a socket, or TLS on one.
pub(crate) trait Io: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin> Io for T {}

/// A link, logged in or not.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Box<dyn Io>,
    buffer: BytesMut,
    /// Of the first business of the login.
    pub(crate) business: u32,
}

/// What came of a login.
#[derive(Debug)]
pub(crate) enum Answer {
    In(Box<LoginOk>),
    Refused(Close),
}

impl Answer {
    /// It is in, or that is an error.
    pub(crate) fn welcome(self) -> anyhow::Result<LoginOk> {
        match self {
            Self::In(ok) => Ok(*ok),
            Self::Refused(close) => bail!("login refused: {} {}", close.code, close.reason),
        }
    }
}

impl Wire {
    /// Dials.
    pub(crate) async fn dial(address: SocketAddr) -> anyhow::Result<Self> {
        let dialled = tokio::time::timeout(STEP_TIMEOUT, TcpStream::connect(address)).await;
        let stream = dialled.context("the dial was not answered")??;
        stream.set_nodelay(true)?;
        Ok(Self::over(Box::new(stream)))
    }

    /// Dials a host; `tls`: over TLS, as whom the certificate has to name it.
    pub(crate) async fn dial_host(
        (host, port): (&str, u16),
        tls: Option<(String, ClientConfig)>,
    ) -> anyhow::Result<Self> {
        let dialled = tokio::time::timeout(STEP_TIMEOUT, async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            anyhow::Ok(match tls {
                Some((name, config)) => {
                    let connector = TlsConnector::from(Arc::new(config));
                    let name = ServerName::try_from(name)?;
                    Self::over(Box::new(connector.connect(name, stream).await?))
                }
                None => Self::over(Box::new(stream)),
            })
        });
        let link = dialled.await.context("the dial was not answered")?;
        link.with_context(|| format!("cannot reach {host}:{port}"))
    }

    /// Over a link that stands.
    fn over(stream: Box<dyn Io>) -> Self {
        Self { stream, buffer: BytesMut::new(), business: 0 }
    }

    /// Dials and logs in, as this try of this installation.
    pub(crate) async fn log_in(
        address: SocketAddr,
        credential: &Credential,
        business: &str,
        (instance, attempt): ([u8; 16], u64),
    ) -> anyhow::Result<(Self, LoginOk)> {
        let mut wire = Self::dial(address).await?;
        let ok = wire.try_login(credential, business, (instance, attempt)).await?.welcome()?;
        Ok((wire, ok))
    }

    /// Says LOGIN, without waiting for its answer.
    pub(crate) async fn say_login(
        &mut self,
        credential: &Credential,
        business: &str,
        (instance, attempt): ([u8; 16], u64),
    ) -> anyhow::Result<()> {
        self.say(&DeviceFrame::Login(Login {
            app: credential.app.clone(),
            device: credential.device.clone(),
            token: credential.token.clone(),
            instance: Bytes::copy_from_slice(&instance),
            attempt,
            businesses: vec![business.to_owned()],
            abilities: ability::INBOX,
            ..Login::default()
        }))
        .await
    }

    /// Says LOGIN and hears the answer.
    pub(crate) async fn try_login(
        &mut self,
        credential: &Credential,
        business: &str,
        tries: ([u8; 16], u64),
    ) -> anyhow::Result<Answer> {
        self.say_login(credential, business, tries).await?;
        self.login_answer().await
    }

    /// Hears the answer to a LOGIN.
    pub(crate) async fn login_answer(&mut self) -> anyhow::Result<Answer> {
        match self.hear_within(STEP_TIMEOUT).await? {
            NodeFrame::LoginOk(ok) => {
                self.business = ok.businesses.first().map_or(0, |it| it.number);
                Ok(Answer::In(Box::new(ok)))
            }
            NodeFrame::Close(close) => Ok(Answer::Refused(close)),
            other => bail!("unexpected answer to a login: {other:?}"),
        }
    }

    pub(crate) async fn say(&mut self, frame: &DeviceFrame) -> anyhow::Result<()> {
        self.stream.write_all(&frame.encode()).await?;
        // TLS may keep it otherwise.
        Ok(self.stream.flush().await?)
    }

    pub(crate) async fn ping(&mut self) -> anyhow::Result<()> {
        self.say(&DeviceFrame::Ping(Ping { nonce: 1 })).await
    }

    /// Asks the business for a stamped echo.
    pub(crate) async fn request(&mut self, id: u64, device: &str) -> anyhow::Result<()> {
        let request = Request {
            request_id: id,
            business: self.business,
            method: "echo".to_owned(),
            deadline_ms: 10_000,
            ..Request::default()
        };
        self.say(&DeviceFrame::Request(request, stamp::body(device, 64))).await
    }

    /// Acknowledges up to here.
    pub(crate) async fn ack(&mut self, term: u64, seq: u64) -> anyhow::Result<()> {
        let upto = InboxPosition { business: self.business, term, seq };
        self.say(&DeviceFrame::Ack(Ack { inboxes: vec![upto] })).await
    }

    /// The next frame. Cancel-safe.
    pub(crate) async fn hear(&mut self) -> anyhow::Result<NodeFrame> {
        loop {
            if let Some(raw) = codec::decode(&mut self.buffer, FRAME_BYTES_MAX)? {
                return Ok(NodeFrame::parse(raw)?);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the link was cut");
            }
        }
    }

    pub(crate) async fn hear_within(&mut self, patience: Duration) -> anyhow::Result<NodeFrame> {
        tokio::time::timeout(patience, self.hear()).await.context("no answer in time")?
    }
}
