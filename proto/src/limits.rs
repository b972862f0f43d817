//! Limits of the wire and of the public API, in one place, with their reasons.
//!
//! Source: WIRE.md, "Limits". What a service may be configured to change is said there.

use std::time::Duration;

/// Frame header, in bytes.
pub const HEADER_BYTES: usize = 12;
/// Common parameters of one frame: 4 KiB of metadata, and room for what later releases name in them.
pub const PARAMS_BYTES_MAX: usize = 32 * 1024;
/// Any frame before login succeeded, header included. A token is below 1 KiB; strangers get no more.
pub const LOGIN_FRAME_BYTES_MAX: usize = 4 * 1024;
/// A frame after login, header included, unless the app allows more.
pub const FRAME_BYTES_MAX_DEFAULT: usize = 64 * 1024;
/// The most an app may allow for one frame.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// A shorter body is not compressed: hardly anything would come off.
pub const COMPRESS_BYTES_MIN: usize = 256;
/// Window of a compressed body, in bytes: what a device keeps beside it that makes it plain piece by piece. The
/// plain body itself is bounded by the frame limit.
pub const COMPRESSED_WINDOW_BYTES_MAX: usize = 128 * 1024;
/// A request method, in bytes.
pub const METHOD_BYTES_MAX: usize = 128;
/// Metadata of one message: entries.
pub const METADATA_ENTRIES_MAX: usize = 32;
/// Metadata of one message: bytes of all keys and values.
pub const METADATA_BYTES_MAX: usize = 4 * 1024;
/// W3C trace context of one message, in bytes (version 00 has 55).
pub const TRACEPARENT_BYTES_MAX: usize = 128;
/// A group as a device names it, in bytes. More than an id may have, since a malformed one is answered
/// with its echo; bounded, so that the answer always fits.
pub const GROUP_ECHO_BYTES_MAX: usize = 1024;
/// Caller's push id, in bytes.
pub const PUSH_ID_BYTES_MAX: usize = 128;
/// Close reasons and error messages, in bytes; longer ones are cut.
pub const REASON_BYTES_MAX: usize = 256;
/// Businesses one connection may name at login.
pub const BUSINESSES_PER_CONNECTION_MAX: usize = 32;
/// Groups one connection may be in.
pub const GROUPS_PER_CONNECTION_MAX: usize = 100;
/// Requests one connection may have in flight.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 64;
/// Bytes that may wait in one connection's outbox. One larger frame is taken when it is empty.
pub const OUTBOX_BYTES_MAX: usize = 256 * 1024;
/// Attributes one business may keep in one session: bytes of all keys and values.
pub const ATTRIBUTES_BYTES_MAX: usize = 4 * 1024;
/// Entries of one device's inbox of one business that the device has not acknowledged and the node has
/// written. Also the most that may come twice after a crash of the app.
pub const INBOX_WINDOW_ENTRIES: usize = 64;
/// The same in bytes of frames; one larger frame is sent when nothing is unacknowledged.
pub const INBOX_WINDOW_BYTES: usize = 256 * 1024;
/// Entries a node asks for at once.
pub const INBOX_PULL_ENTRIES: usize = 32;
/// A device acknowledges at the latest after this many handled pushes.
pub const ACK_ENTRIES: usize = 16;
/// And at the latest after this long.
pub const ACK_DELAY: Duration = Duration::from_millis(200);
/// Questions one node may have asked a router and not been answered; the router refuses more at once.
pub const NODE_ASKS_MAX: usize = 512;
/// Entries of one inbox, unless its business says otherwise.
pub const INBOX_ENTRIES_DEFAULT: u32 = 1_000;
/// Entries of one inbox: the most a business may say.
pub const INBOX_ENTRIES_MAX: u32 = 10_000;
/// Bytes of one inbox, unless its business says otherwise.
pub const INBOX_BYTES_DEFAULT: u64 = 4 * 1024 * 1024;
/// Bytes of one inbox: the most a business may say.
pub const INBOX_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long a stored push waits for its device at most.
pub const INBOX_TTL_MAX: Duration = Duration::from_hours(7 * 24);
/// The push id of a stored push is remembered this long, by the store alone.
pub const DEDUP_WINDOW: Duration = Duration::from_mins(10);
/// A cursor above everything in its inbox is refused when its term lies further ahead of the clock.
pub const CURSOR_AHEAD_MAX: Duration = Duration::from_mins(5);
/// A call may wait this long for the device to have handled a stored push.
pub const WAIT_ACK_MAX: Duration = Duration::from_secs(15);
/// Every connected device is asked for what waits in its inboxes within this time after a wake-up may
/// have been lost.
pub const SWEEP_WITHIN: Duration = Duration::from_secs(25);
/// Entries of a group's history, unless it was created with another number.
pub const HISTORY_ENTRIES_DEFAULT: u32 = 1_000;
/// Entries of a group's history: the most it may be created with.
pub const HISTORY_ENTRIES_MAX: u32 = 10_000;
/// Age of a group's history, unless it was created with another.
pub const HISTORY_AGE_DEFAULT: Duration = Duration::from_mins(5);
/// Collapse key of a stored push, in bytes.
pub const COLLAPSE_KEY_BYTES_MAX: usize = 128;
/// Targets of one batch or presence call.
pub const TARGETS_PER_CALL_MAX: usize = 1_000;
/// One gRPC or HTTP push call.
pub const PUSH_CALL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// One HTTP request to control.
pub const HTTP_BODY_BYTES_MAX: usize = 64 * 1024;

/// TLS or QUIC handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// WebSocket upgrade.
pub const UPGRADE_TIMEOUT: Duration = Duration::from_secs(5);
/// From the link being ready to the whole LOGIN frame. Trickled bytes do not extend it.
pub const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(3);
/// From accept to LOGIN_OK, everything included.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A device that has been silent for this long sends PING.
pub const HEARTBEAT: Duration = Duration::from_secs(25);
/// An access node that has heard nothing for this long closes.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(35);
/// A link that takes no byte for this long while some are waiting is closed.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A node's lease at the routers; renewed every third of it.
pub const NODE_LEASE: Duration = Duration::from_secs(10);
/// One call of the store.
pub const STORE_CALL_TIMEOUT: Duration = Duration::from_millis(500);
/// One call between router and access node.
pub const NODE_CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Difference of clocks that token times forgive.
pub const CLOCK_LEEWAY: Duration = Duration::from_mins(1);
/// A resume ticket, in bytes: what a token says in protobuf, and its code.
pub const RESUME_TICKET_BYTES_MAX: usize = 1024;
/// How long a resume ticket is good at most; it never outlives its token, and a new one comes with each
/// login and each refresh. As long as a token usually lives: devices that lose their node in a storm have
/// been connected for hours, and their ticket has to be good just then.
pub const RESUME_TICKET_LIFE: Duration = Duration::from_hours(1);
/// Access points named to a device that has to leave, at most: two nodes over all five protocols.
pub const ALTERNATIVES_MAX: usize = 10;
/// Sessions a draining node tells to go a second, unless it is told otherwise.
pub const DRAIN_PER_SECOND_DEFAULT: u32 = 500;
/// After GO_AWAY the device has this long to be elsewhere; then the connection is closed.
pub const GO_AWAY_DEADLINE: Duration = Duration::from_secs(30);
