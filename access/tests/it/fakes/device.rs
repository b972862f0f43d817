//! A device that reads and writes the wire by hand, so that it can also do what no device should.

use crate::PATIENCE;
use bytes::{Buf, BufMut, BytesMut};
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::codec::{self, Flags, RawFrame, Terms};
use hawser_proto::compressed::expand;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::id::Position;
use hawser_proto::limits::FRAME_BYTES_MAX;
use hawser_proto::params;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Stream,
    WebSocket,
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What comes from the node.
#[derive(Clone, Debug, PartialEq)]
pub enum Got {
    Frame(NodeFrame),
    WebSocketPong(Vec<u8>),
    WebSocketClose(u16),
    /// FIN, reset, or QUIC's close.
    End,
}

/// The nonce of a PING that only wants to know that all before it was handled.
const SETTLE: u64 = 0x005e_771e;

pub struct Device {
    pub stream: Box<dyn Stream>,
    form: Form,
    buffer: BytesMut,
    pub quic: Option<(quinn::Endpoint, quinn::Connection)>,
    pub instance: [u8; 16],
    pub attempt: u64,
    /// It understands compressed bodies: LOGIN_OK said so.
    zstd: bool,
    /// How many came compressed.
    pub compressed: usize,
}

impl Device {
    pub fn new(stream: impl Stream + 'static, form: Form) -> Self {
        let (buffer, quic) = (BytesMut::new(), None);
        let instance = rand::random();
        let stream = Box::new(stream);
        Self { stream, form, buffer, quic, instance, attempt: 1, zstd: false, compressed: 0 }
    }

    // === Out ===

    /// Bytes as they are.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send_bytes(bytes).await.unwrap();
    }

    pub async fn try_send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The encoded frame in the form of this link.
    pub fn form(&self, frame: &[u8]) -> Vec<u8> {
        match self.form {
            Form::Stream => frame.to_vec(),
            Form::WebSocket => masked(0x82, frame),
        }
    }

    /// An encoded frame, good or bad.
    pub async fn send_raw(&mut self, frame: &[u8]) {
        self.send_bytes(&self.form(frame)).await;
    }

    pub async fn send(&mut self, frame: &DeviceFrame) {
        self.send_raw(&frame.encode()).await;
    }

    pub async fn request(&mut self, request_id: u64, business: u32, body: &[u8]) {
        let request = params::Request { request_id, business, ..Default::default() };
        self.send(&DeviceFrame::Request(request, body.to_vec().into())).await;
    }

    pub async fn join(&mut self, request_id: u64, group: &str) {
        self.send(&DeviceFrame::Join(params::Join {
            request_id,
            group: group.into(),
            ..Default::default()
        }))
        .await;
    }

    pub async fn leave(&mut self, request_id: u64, group: &str) {
        self.send(&DeviceFrame::Leave(params::Leave { request_id, group: group.into() })).await;
    }

    /// Acknowledges an inbox.
    pub async fn ack(&mut self, business: u32, upto: Position) {
        let at = params::InboxPosition { business, term: upto.term, seq: upto.seq };
        self.send(&DeviceFrame::Ack(params::Ack { inboxes: vec![at] })).await;
    }

    pub async fn resync(&mut self, business: u32, after: Position) {
        let at = params::InboxPosition { business, term: after.term, seq: after.seq };
        self.send(&DeviceFrame::Resync(params::Resync { after: Some(at) })).await;
    }

    /// The position and body of the next stored PUSH or GROUP_PUSH.
    pub async fn stored(&mut self) -> (Position, Vec<u8>) {
        match self.frame().await {
            NodeFrame::Push(it, body) => (Position::new(it.term, it.seq), body.to_vec()),
            NodeFrame::GroupPush(it, body) => (Position::new(it.term, it.seq), body.to_vec()),
            other => panic!("wanted a stored push, got {other:?}"),
        }
    }

    pub async fn ping(&mut self, nonce: u64) {
        self.send(&DeviceFrame::Ping(params::Ping { nonce })).await;
    }

    pub fn login_frame(&self, app: &str, device: &str, token: String) -> params::Login {
        params::Login {
            app: app.into(),
            device: device.into(),
            token,
            instance: self.instance.to_vec().into(),
            attempt: self.attempt,
            ..Default::default()
        }
    }

    // === In ===

    /// The next thing the node says, or its end.
    pub async fn got(&mut self) -> Got {
        tokio::time::timeout(PATIENCE, self.got_whenever()).await.expect("heard in time")
    }

    pub async fn got_whenever(&mut self) -> Got {
        loop {
            if let Some(got) = self.take() {
                return got;
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Got::End,
                Ok(_) => {}
            }
        }
    }

    fn take(&mut self) -> Option<Got> {
        let terms = self.terms();
        if self.form == Form::Stream {
            let raw = codec::decode(&mut self.buffer, terms).expect("the node's frame")?;
            return Some(Got::Frame(self.read(raw)));
        }
        let [first, second, rest @ ..] = &self.buffer[..] else { return None };
        assert_eq!(second & 0x80, 0, "a node does not mask");
        let (first, (len, len_bytes)) = (
            *first,
            match second {
                126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 2),
                127 => (u64::from_be_bytes(*rest.first_chunk()?), 8),
                short => (u64::from(*short), 0),
            },
        );
        if self.buffer.len() < 2 + len_bytes + len as usize {
            return None;
        }
        self.buffer.advance(2 + len_bytes);
        let mut payload = self.buffer.split_to(len as usize).freeze();
        Some(match first {
            0x82 => {
                let raw = codec::decode_message(payload, terms).expect("one frame");
                Got::Frame(self.read(raw))
            }
            0x88 => Got::WebSocketClose(payload.get_u16()),
            0x8a => Got::WebSocketPong(payload.to_vec()),
            other => panic!("an operation a node does not send: {other:#x}"),
        })
    }

    fn terms(&self) -> Terms {
        let known = if self.zstd { Flags::COMPRESSED } else { Flags::NONE };
        Terms { frame_bytes_max: FRAME_BYTES_MAX, known }
    }

    fn read(&mut self, raw: RawFrame) -> NodeFrame {
        self.compressed += usize::from(raw.flags.has(Flags::COMPRESSED));
        let plain = expand(raw, FRAME_BYTES_MAX).expect("a body that becomes plain");
        let frame = NodeFrame::parse(plain).expect("the node's frame");
        if let NodeFrame::LoginOk(ok) = &frame {
            self.zstd = ok.abilities & ability::ZSTD != 0;
        }
        frame
    }

    pub async fn frame(&mut self) -> NodeFrame {
        match self.got().await {
            Got::Frame(frame) => frame,
            other => panic!("wanted a frame, got {other:?}"),
        }
    }

    pub async fn login_ok(&mut self) -> params::LoginOk {
        match self.frame().await {
            NodeFrame::LoginOk(ok) => ok,
            other => panic!("wanted LOGIN_OK, got {other:?}"),
        }
    }

    pub async fn response(&mut self) -> (params::Response, bytes::Bytes) {
        match self.frame().await {
            NodeFrame::Response(response, body) => (response, body),
            other => panic!("wanted RESPONSE, got {other:?}"),
        }
    }

    pub async fn joined(&mut self) -> params::Joined {
        match self.frame().await {
            NodeFrame::Joined(joined) => joined,
            other => panic!("wanted JOINED, got {other:?}"),
        }
    }

    pub async fn left(&mut self) -> params::Left {
        match self.frame().await {
            NodeFrame::Left(left) => left,
            other => panic!("wanted LEFT, got {other:?}"),
        }
    }

    pub async fn refreshed(&mut self) -> params::Refreshed {
        match self.frame().await {
            NodeFrame::Refreshed(refreshed) => refreshed,
            other => panic!("wanted REFRESHED, got {other:?}"),
        }
    }

    /// The body of the next PUSH or GROUP_PUSH.
    pub async fn pushed(&mut self) -> Vec<u8> {
        match self.frame().await {
            NodeFrame::Push(_, body) | NodeFrame::GroupPush(_, body) => body.to_vec(),
            other => panic!("wanted a push, got {other:?}"),
        }
    }

    /// PING and its PONG: everything before it has been handled.
    pub async fn settle(&mut self) {
        self.ping(SETTLE).await;
        match self.frame().await {
            NodeFrame::Pong(pong) => assert_eq!(pong.nonce, SETTLE),
            other => panic!("wanted PONG, got {other:?}"),
        }
    }

    /// Joins a group and expects to be in it.
    pub async fn enter(&mut self, group: &str) {
        self.join(1, group).await;
        let joined = self.joined().await;
        assert_eq!((joined.request_id, joined.status, &joined.group[..]), (1, 0, group));
    }

    /// Joins a group and returns why not.
    pub async fn enter_refused(&mut self, group: &str) -> Option<ErrorCode> {
        self.join(1, group).await;
        ErrorCode::from_number(self.joined().await.status)
    }

    /// Reads on until CLOSE, and checks that the link ends as its transport should.
    pub async fn closed(&mut self) -> CloseCode {
        self.closed_with().await.0
    }

    /// As [`Device::closed`], with the reason, and the frames before it.
    pub async fn closed_with(&mut self) -> (CloseCode, String, Vec<NodeFrame>) {
        let mut before = Vec::new();
        let close = loop {
            match self.got().await {
                Got::Frame(NodeFrame::Close(close)) => break close,
                Got::Frame(frame) => before.push(frame),
                other => panic!("wanted CLOSE, got {other:?} after {before:?}"),
            }
        };
        if self.form == Form::WebSocket {
            assert_eq!(self.got().await, Got::WebSocketClose(close.code as u16));
        }
        assert_eq!(self.got().await, Got::End, "nothing follows CLOSE");
        if let Some((_, connection)) = &self.quic {
            let ended = tokio::time::timeout(PATIENCE, connection.closed()).await;
            match ended.expect("QUIC ends in time") {
                quinn::ConnectionError::ApplicationClosed(told) => {
                    assert_eq!(told.error_code.into_inner(), u64::from(close.code));
                }
                other => panic!("wanted the close code, got {other}"),
            }
        }
        let code = CloseCode::from_number(close.code).expect("a published code");
        (code, close.reason, before)
    }
}

/// One WebSocket frame as a device sends it: masked.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = Vec::with_capacity(payload.len() + 14);
    out.put_u8(first);
    match payload.len() {
        short @ 0..=125 => out.put_u8(0x80 | short as u8),
        medium @ 126..=0xffff => {
            out.put_u8(0xfe);
            out.put_u16(medium as u16);
        }
        long => {
            out.put_u8(0xff);
            out.put_u64(long as u64);
        }
    }
    out.put_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}
