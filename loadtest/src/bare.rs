//! The anchor of every figure: a single-threaded epoll server that does one `write(2)` per delivery,
//! with a three-byte header. It knows no login, no group and no tenant.
//!
//! The first connection is the publisher: whatever it sends in frames (three bytes of header: length
//! and a kind; then the payload) goes to every other connection.

use anyhow::Context;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::io::{self, Read, Write};

/// Length (big endian) and kind.
pub(crate) const HEADER_BYTES: usize = 3;
const LISTENER: Token = Token(usize::MAX);

/// Serves until the publisher hangs up. Prints the address first.
pub(crate) fn run() -> anyhow::Result<()> {
    let limit =
        rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the descriptor limit")?;
    let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
    println!("{} {limit}", listener.local_addr()?);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(4096);
    let mut connections: Vec<TcpStream> = Vec::new();
    let mut pending = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut connections)?;
                continue;
            }
            if event.token() != Token(0) {
                continue;
            }
            loop {
                match connections[0].read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(read) => pending.extend_from_slice(&buffer[..read]),
                    Err(again) if again.kind() == io::ErrorKind::WouldBlock => break,
                    Err(failed) => return Err(failed.into()),
                }
            }
            fan_out(&mut pending, &mut connections)?;
        }
    }
}

fn accept(listener: &TcpListener, poll: &Poll, connections: &mut Vec<TcpStream>) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nodelay(true)?;
                let token = Token(connections.len());
                poll.registry().register(&mut stream, token, Interest::READABLE)?;
                connections.push(stream);
            }
            Err(again) if again.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(failed) => return Err(failed),
        }
    }
}

fn fan_out(pending: &mut Vec<u8>, connections: &mut [TcpStream]) -> io::Result<()> {
    while let Some(&[high, low, _]) = pending.first_chunk::<HEADER_BYTES>() {
        let whole = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
        if pending.len() < whole {
            break;
        }
        for member in &mut connections[1..] {
            // The members read at once; a full socket would be a fault of the measurement.
            let written = member.write(&pending[..whole])?;
            if written < whole {
                return Err(io::Error::other("a member did not keep up with the bare loop"));
            }
        }
        pending.drain(..whole);
    }
    Ok(())
}
