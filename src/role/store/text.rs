//! A store as one text, in the form of an address.

use super::{Server, Store};
use std::str::FromStr;

/// Every form there is.
pub(super) const FORMS: &str = "embedded, redis://host:port/db, redis-sentinel://host:port,host:port/master \
     or redis-cluster://host:port,host:port";

/// What came before and after the addresses of a text.
struct Parts<'a> {
    server: Server,
    /// Behind the first slash.
    path: Vec<&'a str>,
}

/// Reads `[user:password@]host:port[,host:port..][/path]`. Mistakes never repeat the text, which may
/// hold a password.
fn parts(text: &str) -> Result<Parts<'_>, String> {
    if text.contains(['?', '#']) {
        return Err("a store has no options behind ? or #".to_owned());
    }
    let (authority, path) = match text.split_once('/') {
        Some((authority, path)) => (authority, path.trim_end_matches('/').split('/').collect()),
        None => (text, Vec::new()),
    };
    let path = if path == [""] { Vec::new() } else { path };
    let (user, addresses) = match authority.rsplit_once('@') {
        Some((user, addresses)) => (Some(user), addresses),
        None => (None, authority),
    };
    let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
        None => (None, None),
        Some((name, password)) => (some(name)?, some(password)?),
    };
    let addresses = addresses.split(',').map(|at| address(at).map(str::to_owned));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    Ok(Parts { server: Server { addresses, username, password, database: 0 }, path })
}

/// A percent-encoded part, if there is anything in it.
fn some(text: &str) -> Result<Option<String>, String> {
    let wrong = || "user or password is not percent-encoded as in an address".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next()), digit(rest.next()));
        let (Some(high), Some(low)) = (high, low) else { return Err(wrong()) };
        bytes.push((high * 16 + low) as u8);
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    Ok((!text.is_empty()).then_some(text))
}

/// Checks `host:port`.
fn address(text: &str) -> Result<&str, String> {
    let wrong = || "an address is not of the form host:port".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let is_v6 = host.starts_with('[') && host.ends_with(']');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let host_is_fine = if is_v6 {
        host[1..host.len() - 1].parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        !host.is_empty() && host.chars().all(plain)
    };
    match port.parse::<u16>() {
        Ok(1..) if host_is_fine => Ok(text),
        _ => Err(wrong()),
    }
}

fn database(text: Option<&&str>) -> Result<u32, String> {
    text.map_or(Ok(0), |text| {
        text.parse().map_err(|_| "the database behind the / is not a number".to_owned())
    })
}

impl FromStr for Store {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        let unknown = || format!("a store is {FORMS}");
        let (scheme, rest) = text.split_once("://").ok_or_else(unknown)?;
        if scheme.starts_with("rediss") {
            return Err("rediss:// is not supported yet: no TLS between router and Redis".into());
        }
        if !["redis", "redis-sentinel", "redis-cluster"].contains(&scheme) {
            return Err(unknown());
        }
        let Parts { mut server, path } = parts(rest)?;
        match (scheme, &path[..]) {
            ("redis", [] | [_]) if server.addresses.len() == 1 => {
                server.database = database(path.first())?;
                Ok(Self::Redis(server))
            }
            ("redis", [] | [_]) => Err("redis:// has one address; for several there are \
                redis-sentinel:// and redis-cluster://"
                .into()),
            ("redis-sentinel", [master] | [master, _]) if !master.is_empty() => {
                server.database = database(path.get(1))?;
                Ok(Self::Sentinel { master: (*master).to_owned(), server })
            }
            ("redis-sentinel", _) => Err("redis-sentinel:// names the master behind the \
                addresses: redis-sentinel://host:port,host:port/master"
                .into()),
            ("redis-cluster", []) => Ok(Self::Cluster(server)),
            ("redis-cluster", _) => Err("a Redis Cluster has no numbered databases".into()),
            _ => Err(unknown()),
        }
    }
}
