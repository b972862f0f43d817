//! Which routers there are. An entry of the configuration is one address, `http(s)://host:port`, or a name
//! that stands for many, `dns:http(s)://name:port`: all its addresses, looked up again and again.

use super::tier::Router;
use super::{control_stream, deliver_stream};
use crate::node::Node;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;
use tracing::{error, info, warn};

const LOOK_UP_INTERVAL: Duration = Duration::from_secs(15);
/// While a name has no address yet, or cannot be looked up.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(1);
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// A router that vanished from the answer is let go after this long: a name server that forgets one for a
/// moment must not cost its streams.
const VANISHED_AFTER: Duration = Duration::from_mins(1);
/// Routers of one name; an answer with more is a mistake, or someone else's.
const ADDRESSES_MAX: usize = 64;

/// Starts the tasks that keep the streams up.
pub(crate) fn start(node: &Arc<Node>) {
    let numbers = Arc::new(AtomicU32::new(0));
    for entry in &node.config.routers {
        match Entry::parse(entry) {
            Some(Entry::Address(uri)) => {
                dial(node, &numbers, &uri);
            }
            Some(Entry::Name { scheme, name, port }) => {
                let following = follow(node.clone(), numbers.clone(), scheme, name, port);
                node.links.spawn("router names", following);
            }
            None => error!(entry, "not an address of routers; left out"),
        }
    }
}

/// Keeps two streams to a router until the node ends, or the returned token says so.
fn dial(node: &Arc<Node>, numbers: &AtomicU32, uri: &str) -> CancellationToken {
    let stop = node.links.stop_signal().child_token();
    let number = numbers.fetch_add(1, Ordering::Relaxed);
    let router = Arc::new(Router::new(number, uri, stop.clone()));
    node.links.spawn("router control stream", control_stream::keep(node.clone(), router.clone()));
    node.links.spawn("router deliver stream", deliver_stream::keep(node.clone(), router));
    stop
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Address(String),
    Name { scheme: String, name: String, port: u16 },
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        let Some(named) = text.strip_prefix("dns:") else {
            return Some(Self::Address(text.to_owned()));
        };
        let uri: Uri = named.parse().ok()?;
        let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?;
        let (scheme, name) = (scheme.to_owned(), uri.host()?.to_owned());
        Some(Self::Name { scheme, name, port: uri.port_u16()? })
    }
}

/// Dials all addresses of a name, and lets go of those that vanish from it.
async fn follow(node: Arc<Node>, numbers: Arc<AtomicU32>, scheme: String, name: String, port: u16) {
    let stop = node.links.stop_signal();
    let mut known = Known::default();
    let mut dialled: HashMap<SocketAddr, CancellationToken> = HashMap::new();
    loop {
        let found = look_up(&name, port).await;
        let pause = if found.is_empty() { LOOK_UP_AGAIN } else { LOOK_UP_INTERVAL };
        let change = known.found(&found, Instant::now());
        for address in change.come {
            info!(name, %address, "a router has come");
            dialled.insert(address, dial(&node, &numbers, &format!("{scheme}://{address}")));
        }
        for address in change.gone {
            info!(name, %address, "a router is not named any more");
            if let Some(stop) = dialled.remove(&address) {
                stop.cancel();
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The addresses of a name; none: it could not be looked up, which says nothing about the routers.
async fn look_up(name: &str, port: u16) -> BTreeSet<SocketAddr> {
    let asked = tokio::net::lookup_host((name, port));
    match tokio::time::timeout(LOOK_UP_TIMEOUT, asked).await {
        Ok(Ok(found)) => found.take(ADDRESSES_MAX).collect(),
        Ok(Err(error)) => {
            warn!(name, %error, "the name of the routers cannot be looked up");
            BTreeSet::new()
        }
        Err(_) => {
            warn!(name, "the name of the routers was not looked up in time");
            BTreeSet::new()
        }
    }
}

/// Addresses that are dialled, and when each was last in an answer.
#[derive(Default)]
struct Known(HashMap<SocketAddr, Instant>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Change {
    come: Vec<SocketAddr>,
    gone: Vec<SocketAddr>,
}

impl Known {
    fn found(&mut self, found: &BTreeSet<SocketAddr>, now: Instant) -> Change {
        let mut change = Change::default();
        if found.is_empty() {
            self.0.values_mut().for_each(|seen| *seen = now);
            return change;
        }
        for &address in found {
            if self.0.insert(address, now).is_none() {
                change.come.push(address);
            }
        }
        let vanished =
            |_: &SocketAddr, seen: &mut Instant| now.duration_since(*seen) >= VANISHED_AFTER;
        change.gone = self.0.extract_if(vanished).map(|(address, _)| address).collect();
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_an_address_or_a_name() {
        let address = "http://10.0.0.1:7700".to_owned();
        assert_eq!(Entry::parse(&address), Some(Entry::Address(address)));
        let (scheme, name) = ("https".to_owned(), "routers.example".to_owned());
        let named = Entry::parse("dns:https://routers.example:7700");
        assert_eq!(named, Some(Entry::Name { scheme, name, port: 7700 }));
        for bad in ["dns:", "dns:routers:7700", "dns:http://routers", "dns:ftp://routers:1"] {
            assert_eq!(Entry::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_router_is_let_go_when_it_was_not_named_for_long_and_others_were() {
        let address = |n: u8| SocketAddr::from(([10, 0, 0, n], 7700));
        let set = |all: &[u8]| all.iter().map(|&n| address(n)).collect::<BTreeSet<_>>();
        let (mut known, begun) = (Known::default(), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        let change = known.found(&set(&[1, 2]), begun);
        assert_eq!(change, Change { come: vec![address(1), address(2)], gone: vec![] });
        assert_eq!(known.found(&set(&[1]), after(45)), Change::default(), "not yet");
        assert_eq!(known.found(&set(&[]), after(90)), Change::default(), "no answer is no word");
        let change = known.found(&set(&[1, 3]), after(105));
        assert_eq!(change, Change { come: vec![address(3)], gone: vec![] });
        let change = known.found(&set(&[1, 3]), after(150));
        assert_eq!(change, Change { come: vec![], gone: vec![address(2)] });
        let change = known.found(&set(&[1, 2, 3]), after(165));
        assert_eq!(change, Change { come: vec![address(2)], gone: vec![] }, "and is dialled anew");
    }
}
