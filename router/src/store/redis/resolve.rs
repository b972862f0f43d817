//! Who the primaries are: as configured, as Sentinel says, as the nodes of the cluster say.

use super::map::{Map, Range, SLOTS, read_slots};
use super::place::Place;
use super::server::{ConnectError, Way, within};
use redis::aio::MultiplexedConnection;
use tracing::{debug, warn};

/// Why a look found nothing to write to.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error("{address}: {source}")]
    Server { address: String, source: ConnectError },
    #[error("no sentinel knows the primary")]
    Sentinels,
    #[error("no node of the cluster tells the slots")]
    Cluster,
    #[error("some slots have no primary")]
    Gaps,
}

/// Finds out, and remembers whom it asked.
pub(super) struct Resolver {
    place: Place,
    way: Way,
    /// The sentinel that answered last.
    sentinel: Option<(String, MultiplexedConnection)>,
    /// Nodes of the cluster are asked in turn.
    asked: usize,
}

impl Resolver {
    pub(super) fn new(place: Place, way: Way) -> Self {
        Self { place, way, sentinel: None, asked: 0 }
    }

    /// Who has which slots. `hint`: who may know better than those known.
    pub(super) async fn resolve(
        &mut self,
        before: &Map,
        hint: Option<String>,
    ) -> Result<Vec<Range>, LookError> {
        let all = |address: String| vec![(0, (SLOTS - 1) as u16, address)];
        match &self.place {
            Place::Single(address) => Ok(all(address.clone())),
            Place::Sentinel { .. } => self.ask_sentinels().await.map(all),
            Place::Cluster(seeds) => {
                let seeds = seeds.clone();
                self.ask_cluster(before, &seeds, hint).await
            }
        }
    }

    async fn ask_sentinels(&mut self) -> Result<String, LookError> {
        let Place::Sentinel { sentinels, master, way } = self.place.clone() else {
            return Err(LookError::Sentinels);
        };
        let mut asked = redis::cmd("SENTINEL");
        asked.arg("GET-MASTER-ADDR-BY-NAME").arg(&master);
        let last = self.sentinel.take();
        let known = last.as_ref().map(|(at, _)| at.clone());
        let others = sentinels.iter().filter(|at| Some(*at) != known.as_ref());
        for (address, connection) in last
            .into_iter()
            .map(|(at, link)| (at, Some(link)))
            .chain(others.map(|at| (at.clone(), None)))
        {
            let answered = within(way.timeout, async {
                let mut connection = match connection {
                    Some(connection) => connection,
                    None => way.connect(&address).await?,
                };
                let answer: Option<(String, u16)> = asked.query_async(&mut connection).await?;
                Ok((answer, connection))
            });
            match answered.await {
                Ok((Some((host, port)), connection)) => {
                    self.sentinel = Some((address, connection));
                    return Ok(format!("{host}:{port}"));
                }
                Ok((None, _)) => {
                    warn!(sentinel = address, master, "this sentinel knows no such primary");
                }
                Err(failure) => debug!(sentinel = address, %failure, "no answer"),
            }
        }
        Err(LookError::Sentinels)
    }

    async fn ask_cluster(
        &mut self,
        before: &Map,
        seeds: &[String],
        hint: Option<String>,
    ) -> Result<Vec<Range>, LookError> {
        let mut known: Vec<String> = before.servers.keys().cloned().collect();
        known.sort_unstable();
        self.asked = self.asked.wrapping_add(1);
        if !known.is_empty() {
            let turn = self.asked % known.len();
            known.rotate_left(turn);
        }
        for address in hint.iter().chain(&known).chain(seeds) {
            let asked = within(self.way.timeout, async {
                let slots = redis::cmd("CLUSTER").arg("SLOTS").to_owned();
                if let Some(server) = before.server_at(address) {
                    return Ok(server.send(&slots, false).await?);
                }
                let mut connection = self.way.connect(address).await?;
                Ok(slots.query_async(&mut connection).await?)
            });
            match asked.await {
                Ok(answer) => {
                    let ranges = read_slots(&answer, address);
                    if !ranges.is_empty() {
                        return Ok(ranges);
                    }
                }
                Err(failure) => debug!(node = address, %failure, "does not tell the slots"),
            }
        }
        Err(LookError::Cluster)
    }
}
