//! A frame per binary WebSocket message (RFC 6455), plain or on TLS.

use super::{Heard, Pipe};
use bytes::Bytes;
use futures_util::{Sink, Stream};
use hawser_proto::codec::{self, FrameError, Terms};
use hawser_proto::compressed::expand;
use hawser_proto::limits::{FRAME_BYTES_MAX, FRAME_BYTES_MAX_DEFAULT};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The sub-protocol that hawser's access nodes speak.
const SUB_PROTOCOL: &str = "hawser.1";
/// The library's default is 128 KiB a connection.
const READ_BUFFER: usize = 4 * 1024;

pub(crate) struct WebSocketLink {
    socket: WebSocketStream<Pipe>,
    output: VecDeque<Bytes>,
    is_write_dead: bool,
    terms: Terms,
}

/// Upgrades a pipe. `host` and `port` go into the request, as the name the device knows.
pub(crate) async fn upgrade(
    pipe: Pipe,
    scheme: &str,
    host: &str,
    port: u16,
) -> Result<WebSocketLink, Error> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let uri = format!("{scheme}://{host}:{port}/")
        .parse()
        .map_err(|_| Error::Url(tokio_tungstenite::tungstenite::error::UrlError::NoHostName))?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUB_PROTOCOL);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let upgrading = tokio_tungstenite::client_async_with_config(request, pipe, Some(config));
    let (socket, _response) = upgrading.await?;
    Ok(WebSocketLink {
        socket,
        output: VecDeque::new(),
        is_write_dead: false,
        terms: FRAME_BYTES_MAX_DEFAULT.into(),
    })
}

impl WebSocketLink {
    pub(crate) fn send(&mut self, frame: Bytes) {
        if !self.is_write_dead {
            self.output.push_back(frame);
        }
    }

    pub(crate) fn limit(&mut self, terms: Terms) {
        self.terms = terms;
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        loop {
            if !self.is_write_dead && self.poll_write(cx).is_err() {
                self.is_write_dead = true;
                self.output.clear();
            }
            let message = match Pin::new(&mut self.socket).poll_next(cx) {
                Poll::Ready(message) => message,
                Poll::Pending => return Poll::Pending,
            };
            return Poll::Ready(match message {
                Some(Ok(Message::Binary(bytes))) => {
                    let frame = codec::decode_message(bytes, self.terms);
                    frame
                        .and_then(|frame| expand(frame, self.terms.frame_bytes_max))
                        .map_or_else(Heard::Broken, Heard::Frame)
                }
                // The library answers a ping by itself; the pong leaves with the next flush.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(close))) => {
                    let code = close.map(|close| u16::from(close.code));
                    Heard::Ended(code.filter(|code| (4000..5000).contains(code)))
                }
                Some(
                    Ok(Message::Text(_) | Message::Frame(_))
                    | Err(Error::Capacity(_) | Error::Protocol(_) | Error::Utf8(_)),
                ) => Heard::Broken(FrameError::NotOneFrame),
                Some(Err(_)) | None => Heard::Ended(None),
            });
        }
    }

    /// Writes until all is written or the socket takes no more.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let mut socket = Pin::new(&mut self.socket);
        while !self.output.is_empty() {
            match socket.as_mut().poll_ready(cx)? {
                Poll::Ready(()) => {
                    if let Some(frame) = self.output.pop_front() {
                        socket.as_mut().start_send(Message::Binary(frame))?;
                    }
                }
                Poll::Pending => return Ok(()),
            }
        }
        match socket.poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }
}
