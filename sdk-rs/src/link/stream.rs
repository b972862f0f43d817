//! Frames that follow each other on a stream of bytes. An idle link holds no buffer.

use super::{Heard, Pipe};
use bytes::{Buf, Bytes, BytesMut};
use hawser_proto::codec::{self, Terms};
use hawser_proto::compressed::expand;
use hawser_proto::limits::FRAME_BYTES_MAX_DEFAULT;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Read at once when nothing is known of what comes; on the stack.
const CHUNK: usize = 8 * 1024;
/// Frames gathered in one write.
const GATHERED: usize = 16;

pub(crate) struct StreamLink {
    pipe: Pipe,
    input: BytesMut,
    output: VecDeque<Bytes>,
    /// Bytes were written that the pipe may still hold.
    is_unflushed: bool,
    /// Nothing more can be written; what the node said last may still be read.
    is_write_dead: bool,
    terms: Terms,
}

impl StreamLink {
    pub(crate) fn new(pipe: Pipe) -> Self {
        Self {
            pipe,
            input: BytesMut::new(),
            output: VecDeque::new(),
            is_unflushed: false,
            is_write_dead: false,
            terms: FRAME_BYTES_MAX_DEFAULT.into(),
        }
    }

    pub(crate) fn send(&mut self, frame: Bytes) {
        if !self.is_write_dead {
            self.output.push_back(frame);
        }
    }

    pub(crate) fn limit(&mut self, terms: Terms) {
        self.terms = terms;
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        self.poll_write(cx);
        self.poll_read(cx)
    }

    /// Writes until all is written or the pipe takes no more, and is woken when it does.
    fn poll_write(&mut self, cx: &mut Context<'_>) {
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); GATHERED];
            let count = self.output.len().min(GATHERED);
            for (slice, frame) in slices.iter_mut().zip(&self.output) {
                *slice = IoSlice::new(frame);
            }
            match Pin::new(&mut self.pipe).poll_write_vectored(cx, &slices[..count]) {
                Poll::Ready(Ok(written)) if written > 0 => self.written(written),
                Poll::Ready(_) => return self.write_is_dead(),
                Poll::Pending => return,
            }
        }
        if self.is_unflushed {
            match Pin::new(&mut self.pipe).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.is_unflushed = false,
                Poll::Ready(Err(_)) => self.write_is_dead(),
                Poll::Pending => {}
            }
        }
    }

    fn written(&mut self, mut bytes: usize) {
        self.is_unflushed = true;
        while let Some(front) = self.output.front_mut() {
            if front.len() > bytes {
                front.advance(bytes);
                return;
            }
            bytes -= front.len();
            self.output.pop_front();
        }
    }

    fn write_is_dead(&mut self) {
        self.is_write_dead = true;
        self.is_unflushed = false;
        self.output.clear();
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        loop {
            match codec::decode(&mut self.input, self.terms) {
                Ok(Some(frame)) => {
                    let plain = expand(frame, self.terms.frame_bytes_max);
                    return Poll::Ready(plain.map_or_else(Heard::Broken, Heard::Frame));
                }
                Ok(None) => {}
                Err(bad) => return Poll::Ready(Heard::Broken(bad)),
            }
            let read = if self.input.is_empty() {
                self.input = BytesMut::new();
                let mut chunk = [0u8; CHUNK];
                let mut buf = ReadBuf::new(&mut chunk);
                let result = ready!(Pin::new(&mut self.pipe).poll_read(cx, &mut buf));
                self.input.extend_from_slice(buf.filled());
                result.map(|()| buf.filled().len())
            } else {
                match codec::missing(&self.input, self.terms) {
                    Ok(missing) => self.input.reserve(missing),
                    Err(bad) => return Poll::Ready(Heard::Broken(bad)),
                }
                ready!(tokio_util::io::poll_read_buf(Pin::new(&mut self.pipe), cx, &mut self.input))
            };
            match read {
                Ok(bytes) if bytes > 0 => {}
                Ok(_) | Err(_) => return Poll::Ready(Heard::Ended(self.pipe.close_code())),
            }
        }
    }
}
