"""Links: WIRE.md, "Transports". Each takes and gives the bytes of frames: a stream in pieces, a WebSocket
in whole messages. The sockets never block for longer than a call allows."""

import asyncio
import queue
import select
import socket
import ssl
import threading
import time

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic import events as quic_events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

ALPN = "hawser/1"
DIAL_SECONDS = 10.0


class LinkEnded(Exception):
    """The link is over. `code` is the number the transport itself carried: of the WebSocket Close or of
    the QUIC application error; None where there is no such number. `clean`: it ended as the transport
    ends, and was not cut."""

    def __init__(self, code: int | None = None, clean: bool = True):
        super().__init__(f"code {code}, {'clean' if clean else 'cut'}")
        self.code = code
        self.clean = clean


class Bytes:
    """A TCP connection, with TLS on it or not. Reading and writing from two threads is safe."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.lock = threading.Lock()
        sock.setblocking(False)

    def send(self, data: bytes, timeout: float = DIAL_SECONDS) -> None:
        view, end = memoryview(data), time.monotonic() + timeout
        while view:
            try:
                with self.lock:
                    sent = self.sock.send(view)
                view = view[sent:]
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self._wait(write=True, seconds=end - time.monotonic())
            except OSError as failure:
                raise LinkEnded(clean=False) from failure

    def recv(self, timeout: float) -> bytes | None:
        """Bytes; None when there were none in time."""
        end = time.monotonic() + timeout
        while True:
            try:
                with self.lock:
                    data = self.sock.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                left = end - time.monotonic()
                if left <= 0 or not self._wait(write=False, seconds=left):
                    return None
                continue
            except ssl.SSLEOFError as failure:
                raise LinkEnded(clean=False) from failure
            except (OSError, ValueError) as failure:
                raise LinkEnded(clean=False) from failure
            if not data:
                raise LinkEnded()
            return data

    def _wait(self, write: bool, seconds: float) -> bool:
        try:
            wanted = [self.sock] if self.sock.fileno() >= 0 else []
            if not wanted:
                raise LinkEnded(clean=False)
            reading, writing, _ = select.select([] if write else wanted, wanted if write else [], [], max(0.0, seconds))
        except (OSError, ValueError) as failure:
            raise LinkEnded(clean=False) from failure
        if write and not writing:
            raise LinkEnded(clean=False)
        return bool(reading or writing)

    def close(self) -> None:
        try:
            self.sock.close()
        except OSError:
            pass


def dial_tcp(host: str, port: int) -> Bytes:
    sock = socket.create_connection((host, port), timeout=DIAL_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Bytes(sock)


def tls_context(ca: str, alpn: str | None) -> ssl.SSLContext:
    """TLS 1.3 only, with the certificate checked."""
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context


def dial_tls(host: str, port: int, server_name: str, ca: str, alpn: str | None = ALPN) -> Bytes:
    sock = socket.create_connection((host, port), timeout=DIAL_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return Bytes(tls_context(ca, alpn).wrap_socket(sock, server_hostname=server_name))
    except (OSError, ssl.SSLError):
        sock.close()
        raise


class WebSocket:
    """A WebSocket on a TCP or TLS connection; the rules are the library's, the sockets are ours, so that
    a test can also put bytes of its own on the line (`raw`)."""

    def __init__(self, raw: Bytes, url: str, origin: str | None = None, subprotocols=("hawser.1",)):
        self.raw = raw
        # Longer than any frame: what a node sends is judged by the frame reader.
        self.protocol = ClientProtocol(parse_uri(url), origin=origin, subprotocols=list(subprotocols) or None, max_size=4 << 20)
        self.lock = threading.Lock()
        self.parts: list[bytes] = []
        self.control: list = []
        """Pings, pongs and closes that came."""
        request = self.protocol.connect()
        self.protocol.send_request(request)
        self._flush()
        end = time.monotonic() + DIAL_SECONDS
        while self.protocol.state is State.CONNECTING:
            data = raw.recv(max(0.0, end - time.monotonic()))
            if data is None or self.protocol.handshake_exc is not None:
                raise ConnectionError(f"no WebSocket: {self.protocol.handshake_exc}")
            self.protocol.receive_data(data)
        if self.protocol.state is not State.OPEN:
            raise ConnectionError(f"no WebSocket: {self.protocol.handshake_exc}")
        self.waiting = [event for event in self.protocol.events_received() if hasattr(event, "opcode")]

    @property
    def subprotocol(self) -> str | None:
        return self.protocol.subprotocol

    def send(self, data: bytes) -> None:
        with self.lock:
            if self.protocol.state is not State.OPEN:
                raise LinkEnded(clean=False)
            self.protocol.send_binary(data)
            self._flush()

    def recv(self, timeout: float) -> bytes | None:
        """One whole binary message; None when there was none in time."""
        end = time.monotonic() + timeout
        while True:
            while self.waiting:
                event = self.waiting.pop(0)
                assert event.opcode is not Opcode.TEXT, "a node sends no text"
                if event.opcode not in (Opcode.BINARY, Opcode.CONT):
                    self.control.append(event)
                else:
                    self.parts.append(bytes(event.data))
                    if event.fin:
                        message, self.parts = b"".join(self.parts), []
                        return message
            if self.protocol.close_expected() and self.protocol.close_rcvd is not None:
                raise LinkEnded(self.protocol.close_rcvd.code)
            try:
                data = self.raw.recv(max(0.0, end - time.monotonic()))
            except LinkEnded as ended:
                got = self.protocol.close_rcvd
                raise LinkEnded(got.code if got else None, ended.clean) from ended
            if data is None:
                return None
            with self.lock:
                self.protocol.receive_data(data)
                self.waiting += [event for event in self.protocol.events_received() if hasattr(event, "opcode")]
                try:
                    self._flush()
                except LinkEnded:
                    pass

    def ping(self, data: bytes) -> None:
        with self.lock:
            self.protocol.send_ping(data)
            self._flush()

    def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.raw.send(data)

    def close(self) -> None:
        self.raw.close()


class _Loop:
    """One event loop in a thread of its own, for QUIC."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="quic", daemon=True).start()

    def run(self, coroutine, timeout: float = DIAL_SECONDS):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)


class Quic:
    """A QUIC connection with its one bidirectional stream."""

    _loop: _Loop | None = None

    def __init__(self, host: str, port: int, server_name: str, ca: str, alpn: str = ALPN):
        if Quic._loop is None:
            Quic._loop = _Loop()
        self.events: queue.Queue = queue.Queue()
        self.ended: LinkEnded | None = None
        config = QuicConfiguration(is_client=True, alpn_protocols=[alpn], server_name=server_name)
        config.load_verify_locations(ca)
        Quic._loop.run(self._connect(host, port, config))

    async def _connect(self, host: str, port: int, config: QuicConfiguration) -> None:
        events = self.events

        class Protocol(QuicConnectionProtocol):
            told = False

            def quic_event_received(self, event):
                events.put(event)

            def datagram_received(self, data, address):
                super().datagram_received(data, address)
                # The library tells of the end only after its draining period.
                close = self._quic._close_event
                if close is not None and not self.told:
                    self.told = True
                    events.put(close)

        loop = asyncio.get_running_loop()
        connection = QuicConnection(configuration=config)
        self.transport, self.protocol = await loop.create_datagram_endpoint(
            lambda: Protocol(connection), remote_addr=(host, port))
        self.protocol.connect((host, port))
        await asyncio.wait_for(self.protocol.wait_connected(), DIAL_SECONDS)
        self.stream = connection.get_next_available_stream_id()

    def send(self, data: bytes) -> None:
        if self.ended is not None:
            raise LinkEnded(clean=False)
        Quic._loop.run(self._send(data))

    async def _send(self, data: bytes, end: bool = False) -> None:
        self.protocol._quic.send_stream_data(self.stream, data, end)
        self.protocol.transmit()

    def _finish(self) -> None:
        try:
            Quic._loop.run(self._send(b"", end=True))
        except Exception:
            pass

    def recv(self, timeout: float) -> bytes | None:
        end = time.monotonic() + timeout
        while True:
            if self.ended is not None:
                raise self.ended
            try:
                event = self.events.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return None
            if isinstance(event, quic_events.StreamDataReceived) and event.stream_id == self.stream:
                if event.end_stream:
                    # The node has said its last; so have we.
                    self._finish()
                if event.data:
                    return event.data
            if isinstance(event, quic_events.ConnectionTerminated):
                # The end of the stream alone is not the end: the code comes with CONNECTION_CLOSE.
                self.ended = LinkEnded(event.error_code, clean=event.frame_type is None)

    def close(self) -> None:
        async def close():
            self.protocol.close()
            self.transport.close()

        try:
            Quic._loop.run(close(), 2)
        except Exception:
            pass
