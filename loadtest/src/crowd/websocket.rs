//! The device's side of WebSocket over bytes alone (RFC 6455; WIRE.md, "Transports"): one binary message is
//! one frame. A few bytes a link, and none of them a buffer while nothing is half done.

use bytes::{Buf as _, BytesMut};
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;

/// Of the answer to the upgrade; longer is no answer of a node.
const ANSWER_BYTES_MAX: usize = 8 * 1_024;
/// The nonce need not differ: nothing is proven to a device by its hash here.
const KEY: &str = "aGF3c2VyLWxvYWR0ZXN0IQ==";

/// Of the byte that holds a length.
const MASKED: u8 = 0x80;

const CONTINUATION: u8 = 0x0;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// Where a link is with it.
#[derive(Debug, Default)]
pub(super) struct Websocket {
    is_open: bool,
    /// Messages that wait for the answer to the upgrade.
    held: Vec<u8>,
    /// Of a frame whose message is not whole.
    pub(super) rest: Vec<u8>,
}

/// The request that begins it.
pub(super) fn upgrade(to: SocketAddr) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: {to}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: hawser.1\r\n\r\n"
    )
}

/// A masked message of one fragment.
fn message(code: u8, payload: &[u8], into: &mut Vec<u8>) {
    into.push(0x80 | code);
    match payload.len() {
        length @ ..126 => into.push(MASKED + length as u8),
        length @ 126..=0xffff => {
            into.push(MASKED + 126);
            into.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            into.push(MASKED + 127);
            into.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask: [u8; 4] = rand::random();
    into.extend_from_slice(&mask);
    into.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

impl Websocket {
    /// A frame as bytes to write now; empty while the upgrade is under way, which it then waits for.
    pub(super) fn wrap(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(frame.len() + 14);
        message(BINARY, frame, if self.is_open { &mut bytes } else { &mut self.held });
        bytes
    }

    /// Moves what messages hold out of `raw`, and leaves there what is not whole. Answers that are due are
    /// put into `answers`. An error: the link has ended, or breaks the rules.
    pub(super) fn unwrap(
        &mut self,
        raw: &mut BytesMut,
        frames: &mut BytesMut,
        answers: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        if !self.is_open {
            let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") else {
                return if raw.len() > ANSWER_BYTES_MAX { Err(broken()) } else { Ok(()) };
            };
            if !raw.starts_with(b"HTTP/1.1 101 ") {
                return Err(broken());
            }
            raw.advance(end + 4);
            self.is_open = true;
            answers.append(&mut self.held);
            self.held = Vec::new();
        }
        while let Some((code, length, header)) = head(raw)? {
            if raw.len() - header < length {
                break;
            }
            raw.advance(header);
            let payload = raw.split_to(length);
            match code {
                BINARY | CONTINUATION => frames.extend_from_slice(&payload),
                PING => message(PONG, &payload, answers),
                PONG => {}
                CLOSE => return Err(Error::from(ErrorKind::ConnectionAborted)),
                _ => return Err(broken()),
            }
        }
        Ok(())
    }
}

/// Code, length of the payload, and length of the header, once that is whole.
fn head(raw: &[u8]) -> std::io::Result<Option<(u8, usize, usize)>> {
    let [first, second, ..] = *raw else { return Ok(None) };
    // A node masks nothing, and no extension was asked for.
    if second & 0x80 != 0 || first & 0x70 != 0 {
        return Err(broken());
    }
    let (length, header) = match second & 0x7f {
        126 => match raw[2..].first_chunk() {
            Some(bytes) => (usize::from(u16::from_be_bytes(*bytes)), 4),
            None => return Ok(None),
        },
        127 => match raw[2..].first_chunk() {
            Some(bytes) => (usize::try_from(u64::from_be_bytes(*bytes)).map_err(|_| broken())?, 10),
            None => return Ok(None),
        },
        length => (usize::from(length), 2),
    };
    Ok(Some((first & 0x0f, length, header)))
}

fn broken() -> Error {
    Error::from(ErrorKind::InvalidData)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    /// Feeds bytes one by one, as the worst network would.
    fn feed(link: &mut Websocket, bytes: &[u8]) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
        let (mut raw, mut frames, mut answers) = (BytesMut::new(), BytesMut::new(), Vec::new());
        for byte in bytes {
            raw.extend_from_slice(&[*byte]);
            link.unwrap(&mut raw, &mut frames, &mut answers)?;
        }
        assert!(raw.is_empty(), "everything was whole in the end");
        Ok((frames.to_vec(), answers))
    }

    fn open() -> Websocket {
        let mut link = Websocket::default();
        feed(&mut link, ANSWER).expect("a good answer");
        link
    }

    #[test]
    fn what_is_said_before_the_answer_waits_for_it() {
        let mut link = Websocket::default();
        assert!(link.wrap(b"login").is_empty());
        let (frames, answers) = feed(&mut link, ANSWER).expect("a good answer");
        assert!(frames.is_empty());
        assert_eq!(answers[..2], [0x82, 0x85]);
        let mask = &answers[2..6];
        let said: Vec<u8> =
            answers[6..].iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
        assert_eq!(said, b"login");
        assert_eq!(link.wrap(b"more").len(), 4 + 6);
    }

    #[test]
    fn messages_of_every_length_are_taken_byte_by_byte() {
        for (length, head) in [
            (5usize, vec![0x82, 5]),
            (300, vec![0x82, 126, 1, 44]),
            (70_000, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]),
        ] {
            let body = vec![7; length];
            let (frames, _) = feed(&mut open(), &[head, body.clone()].concat()).expect("a message");
            assert_eq!(frames, body);
        }
    }

    #[test]
    fn a_message_in_fragments_is_one_and_a_ping_between_them_is_answered() {
        let bytes = [&[0x02, 2, 1, 2][..], &[0x89, 1, 9], &[0x80, 1, 3]].concat();
        let (frames, answers) = feed(&mut open(), &bytes).expect("good");
        assert_eq!(frames, [1, 2, 3]);
        assert_eq!(answers[..2], [0x8a, 0x81]);
    }

    #[test]
    fn a_close_ends_the_link_and_so_does_nonsense() {
        let kind = |bytes: &[u8]| feed(&mut open(), bytes).expect_err("an end").kind();
        assert_eq!(kind(&[0x88, 0]), ErrorKind::ConnectionAborted);
        assert_eq!(
            kind(&[0x82, 0x81, 0, 0, 0, 0, 1]),
            ErrorKind::InvalidData,
            "a node masks nothing"
        );
        assert_eq!(kind(&[0xc2, 1]), ErrorKind::InvalidData, "no extension");
        assert_eq!(kind(&[0x83, 0]), ErrorKind::InvalidData, "no such code");
        let refused = feed(&mut Websocket::default(), b"HTTP/1.1 403 Forbidden\r\n\r\n");
        assert_eq!(refused.expect_err("refused").kind(), ErrorKind::InvalidData);
    }
}
