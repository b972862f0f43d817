//! The published codes: why a connection was closed, and why something was refused.
//!
//! One table each, the same on every transport and in every API. Source: WIRE.md, "Close codes" and
//! "Errors"; a test there compares the pages with these tables.

use std::fmt;

/// What a device does after its connection was closed. These five are all there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Come back at once, with the first delay jittered.
    Now,
    /// Come back after the told delay, or after the device's own back-off.
    Later,
    /// Come back at another access point; this one later.
    Elsewhere,
    /// Get a new token from control first.
    NewToken,
    /// Do not come back by yourself: another try would end the same way.
    Never,
}

impl Retry {
    /// The word used in documents and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::Later => "later",
            Self::Elsewhere => "elsewhere",
            Self::NewToken => "new token",
            Self::Never => "never",
        }
    }
}

macro_rules! close_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a connection was closed. The number is also the WebSocket close code and the QUIC
        /// application error code; its hundreds say what the device does next, see [`CloseCode::retry`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum CloseCode {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl CloseCode {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The published name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+).trim_ascii(),)+ }
            }

            /// The code with this number, if there is one.
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

close_codes! {
    /// The device said goodbye.
    Goodbye = 4000, "goodbye";
    /// Nothing was heard for the idle time-out.
    IdleTimeout = 4001, "idle_timeout";

    /// The node refuses new connections just now.
    Overloaded = 4100, "overloaded";
    /// Something failed on the server's side.
    Internal = 4101, "internal";
    /// The link took no bytes for the write time-out, or its business disconnects slow devices.
    SlowDevice = 4102, "slow_device";
    /// The handshake, the upgrade or the login was not done in time.
    LoginTimeout = 4103, "login_timeout";
    /// No router could be asked in time.
    RouterUnavailable = 4104, "router_unavailable";
    /// A business asked for this session to end.
    Disconnected = 4105, "disconnected";
    /// Too many failed logins from this address.
    RateLimited = 4106, "rate_limited";

    /// The node is going away.
    Draining = 4200, "draining";
    /// The node is full.
    NodeFull = 4201, "node_full";

    /// The token's time is over.
    TokenExpired = 4300, "token_expired";
    /// The token is malformed, its signature is wrong, or its algorithm is not EdDSA.
    TokenInvalid = 4301, "token_invalid";
    /// The token was revoked.
    TokenRevoked = 4302, "token_revoked";
    /// The token names a signing key this node does not know.
    TokenUnknownKey = 4303, "token_unknown_key";
    /// The token was made for another audience.
    TokenWrongAudience = 4304, "token_wrong_audience";
    /// The token speaks for another app or device than the login does.
    TokenMismatch = 4305, "token_mismatch";

    /// The first two bytes of a frame are not the magic.
    BadMagic = 4400, "bad_magic";
    /// The frame's version is not served here.
    UnsupportedVersion = 4401, "unsupported_version";
    /// The parameters of a frame cannot be read, or break a rule of their kind.
    BadFrame = 4402, "bad_frame";
    /// A length is above the limit in force.
    FrameTooLarge = 4403, "frame_too_large";
    /// The frame's kind is not known, and not one that may be ignored.
    UnknownKind = 4404, "unknown_kind";
    /// The kind is known, but not one that a device sends in this state.
    UnexpectedFrame = 4405, "unexpected_frame";
    /// Something else came before LOGIN.
    LoginRequired = 4406, "login_required";
    /// A second LOGIN on one connection.
    LoginTwice = 4407, "login_twice";
    /// A newer login of the same device took over.
    Superseded = 4408, "superseded";
    /// This login is older than one already seen of the same installation.
    StaleLogin = 4409, "stale_login";
    /// The app does not exist or is switched off.
    AppUnavailable = 4410, "app_unavailable";
    /// A required flag of a frame is not known here.
    UnsupportedFeature = 4411, "unsupported_feature";
    /// The WebSocket message was text, unmasked, or broke RFC 6455 otherwise.
    BadWebSocket = 4412, "bad_websocket";
    /// A business ended this session for good.
    Ejected = 4413, "ejected";
    /// More requests, joins or pings at once than the connection may have.
    Flooding = 4414, "flooding";
}

impl CloseCode {
    /// The published number.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// What the device does next; the hundreds of the number say it.
    pub fn retry(self) -> Retry {
        retry_of(self.number())
    }
}

/// What a device does after a close with this number, also when it does not know the code itself.
/// Numbers outside 4000 to 4499 (a plain TCP end, a WebSocket 1006) mean [`Retry::Now`].
pub fn retry_of(number: u16) -> Retry {
    match number {
        4100..=4199 => Retry::Later,
        4200..=4299 => Retry::Elsewhere,
        4300..=4399 => Retry::NewToken,
        4400..=4499 => Retry::Never,
        _ => Retry::Now,
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, http $http:literal, grpc $grpc:literal;)+) => {
        /// Why something was refused: the status of RESPONSE, JOINED, LEFT and REFRESHED, the `code` of
        /// an HTTP problem, the `hawser-code` of a gRPC error.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl ErrorCode {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The published name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+).trim_ascii(),)+ }
            }

            /// HTTP status that carries it.
            pub fn http_status(self) -> u16 {
                match self { $(Self::$variant => $http,)+ }
            }

            /// gRPC status number that carries it.
            pub fn grpc_status(self) -> i32 {
                match self { $(Self::$variant => $grpc,)+ }
            }

            /// The code with this number; `None` for 0, which is no error, and for unknown ones.
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

error_codes! {
    /// A field is missing, malformed or out of its range.
    InvalidArgument = 1, "invalid_argument", http 400, grpc 3;
    /// No key, or one that is not known.
    Unauthenticated = 2, "unauthenticated", http 401, grpc 16;
    /// The key or token does not reach this.
    PermissionDenied = 3, "permission_denied", http 403, grpc 7;
    /// There is no such thing.
    NotFound = 4, "not_found", http 404, grpc 5;
    /// The name is taken.
    AlreadyExists = 5, "already_exists", http 409, grpc 6;
    /// A bounded queue is full; try again later.
    Overloaded = 6, "overloaded", http 429, grpc 8;
    /// No answer in time.
    DeadlineExceeded = 7, "deadline_exceeded", http 504, grpc 4;
    /// The part that would answer cannot be reached.
    Unavailable = 8, "unavailable", http 503, grpc 14;
    /// A body, message or list is above its limit.
    TooLarge = 9, "too_large", http 413, grpc 3;
    /// The app has no such business, or this connection does not serve it.
    UnknownBusiness = 10, "unknown_business", http 404, grpc 5;
    /// The app has no such group.
    GroupNotFound = 11, "group_not_found", http 404, grpc 5;
    /// The connection is not in the group.
    NotMember = 12, "not_member", http 409, grpc 9;
    /// The connection is in as many groups as it may be.
    TooManyGroups = 13, "too_many_groups", http 429, grpc 8;
    /// The connection has as many requests in flight as it may have.
    TooManyRequests = 14, "too_many_requests", http 429, grpc 8;
    /// The business answered with an error of its own.
    BusinessFailed = 15, "business_failed", http 502, grpc 2;
    /// Something failed on the server's side.
    Internal = 16, "internal", http 500, grpc 13;
    /// The ability is not served here yet.
    Unsupported = 17, "unsupported", http 501, grpc 12;
    /// The device has no session.
    DeviceOffline = 18, "device_offline", http 409, grpc 9;
    /// The app or business is switched off.
    Disabled = 19, "disabled", http 403, grpc 7;
    /// The device's proof of identity does not hold.
    ProofInvalid = 20, "proof_invalid", http 401, grpc 16;
    /// The time in the proof is too far from the server's.
    ProofExpired = 21, "proof_expired", http 401, grpc 16;
    /// The nonce in the proof was seen before.
    ProofReplayed = 22, "proof_replayed", http 401, grpc 16;
    /// The device is bound to another device key.
    DeviceKeyMismatch = 23, "device_key_mismatch", http 403, grpc 7;
    /// The device's tokens were revoked.
    Revoked = 24, "revoked", http 403, grpc 7;
    /// The quota of the app or business is used up.
    QuotaExceeded = 25, "quota_exceeded", http 429, grpc 8;
    /// The thing changed meanwhile; read it again.
    Conflict = 26, "conflict", http 409, grpc 10;
    /// No access point is free just now.
    NoAccessPoint = 27, "no_access_point", http 503, grpc 14;
    /// The HTTP method is not served at this path.
    MethodNotAllowed = 28, "method_not_allowed", http 405, grpc 12;
    /// The push id was used for another content within the last 10 minutes.
    PushIdReused = 29, "push_id_reused", http 409, grpc 6;
    /// This router does not serve this function; another router of its tier does.
    NotServedHere = 30, "not_served_here", http 421, grpc 9;
}

impl ErrorCode {
    /// The published number; on the wire 0 stands for no error.
    pub fn number(self) -> u32 {
        u32::from(self as u16)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_names_are_unique_and_read_back() {
        let mut names = HashSet::new();
        for &code in CloseCode::ALL {
            assert!(names.insert(code.name()), "{code} twice");
            assert_eq!(CloseCode::from_number(code.number().into()), Some(code));
            assert!((4000..4500).contains(&code.number()));
        }
        names.clear();
        for &code in ErrorCode::ALL {
            assert!(names.insert(code.name()), "{code} twice");
            assert_eq!(ErrorCode::from_number(code.number()), Some(code));
        }
        assert_eq!(ErrorCode::from_number(0), None);
    }

    #[test]
    fn an_unknown_code_still_tells_what_to_do() {
        assert_eq!(retry_of(4399), Retry::NewToken);
        assert_eq!(retry_of(1006), Retry::Now);
    }

    /// A row a code: WIRE.md must print exactly these tables.
    #[test]
    fn wire_md_prints_the_tables_of_this_file() {
        let page = include_str!("../WIRE.md");
        let close = CloseCode::ALL.iter().map(|c| {
            format!("| {} | `{}` | {} | {} |", c.number(), c.name(), c.retry().name(), c.meaning())
        });
        let errors = ErrorCode::ALL.iter().map(|c| {
            let (http, grpc) = (c.http_status(), c.grpc_status());
            format!("| {} | `{}` | {http} | {grpc} | {} |", c.number(), c.name(), c.meaning())
        });
        let missing: Vec<String> = close.chain(errors).filter(|row| !page.contains(row)).collect();
        assert!(missing.is_empty(), "rows missing in WIRE.md:\n{}", missing.join("\n"));
    }
}
