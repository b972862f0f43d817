//! All metrics of the router.

use crate::reach::Call;
use hawser_proto::params::GapReason;
use hawser_proto::rpc::node::ask;
use hawser_proto::rpc::push::Outcome;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// From a tenth of a millisecond to the call time-out and a bit.
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];

/// The router's metrics; each field's help text says when it moves.
pub(crate) struct Metrics {
    pub(crate) binds: Binds,
    pub(crate) bind_seconds: Histogram,
    pub(crate) superseded: IntCounter,
    pub(crate) unbinds: IntCounter,
    pub(crate) unbinds_stale: IntCounter,
    pub(crate) routes_healed: IntCounter,
    pub(crate) heres: IntCounter,
    pub(crate) gones: IntCounter,
    pub(crate) leases_renewed: IntCounter,
    pub(crate) leases_failed: IntCounter,
    pub(crate) lives: Lives,
    pub(crate) complete: IntGauge,
    pub(crate) route_asks: RouteAsks,
    pub(crate) group_news: GroupNews,
    pub(crate) lost_sessions: IntCounter,
    pub(crate) lost_ends: IntCounter,
    pub(crate) group_reports_stale: IntCounter,
    pub(crate) reports_stale: IntCounter,
    pub(crate) queue_full: IntCounter,
    pub(crate) routes: IntGauge,
    pub(crate) nodes: IntGauge,
    pub(crate) groups: IntGauge,
    pub(crate) pending: IntGauge,
    pub(crate) releases_waiting: IntGauge,
    pub(crate) releases_dropped: IntCounter,
    pub(crate) epochs_raised: IntCounter,
    pub(crate) terms_changed: IntCounter,
    pub(crate) cursors_refused: IntCounter,
    pub(crate) wakes: IntCounter,
    pub(crate) wakes_lost: IntCounter,
    pub(crate) asks: Asks,
    pub(crate) inbox_lost: Lost,
    pub(crate) catalogue_revision: IntGauge,
    pub(crate) unicast_seconds: Histogram,
    pub(crate) batch_seconds: Histogram,
    pub(crate) multicast_seconds: Histogram,
    pub(crate) refusals: IntCounterVec,
    pub(crate) multicast: Fanout,
    pub(crate) broadcast: Fanout,
    pub(crate) volatile_outcomes: Outcomes,
    pub(crate) stored_outcomes: Outcomes,
    pub(crate) compression: Compression,
    pub(crate) events: ConnectionEvents,
}

/// Nodes that live, by what is known of them here.
pub(crate) struct Lives {
    pub(crate) complete: IntGauge,
    pub(crate) telling: IntGauge,
    pub(crate) unheard: IntGauge,
}

/// Questions to the store about devices that have no route here, by what came of them.
pub(crate) struct RouteAsks {
    pub(crate) offline: IntCounter,
    pub(crate) elsewhere: IntCounter,
    pub(crate) unsure: IntCounter,
    pub(crate) failed: IntCounter,
}

/// What other routers changed about groups.
pub(crate) struct GroupNews {
    pub(crate) applied: IntCounter,
    pub(crate) reloads: IntCounter,
    pub(crate) read_through: IntCounter,
}

/// Outcomes of the targets of one class.
pub(crate) struct Outcomes(Vec<IntCounter>);

impl Outcomes {
    pub(crate) fn count(&self, outcome: Outcome, targets: u64) {
        if let Some(counter) = self.0.get(outcome as usize) {
            counter.inc_by(targets);
        }
    }
}

/// Bodies that were to be compressed.
#[derive(Clone)]
pub(crate) struct Compression {
    compressed: IntCounter,
    not_worth_it: IntCounter,
    bytes_before: IntCounter,
    bytes_after: IntCounter,
}

impl Compression {
    fn new(make: &Make<'_>) -> Result<Self, prometheus::Error> {
        let bodies = make.counters(
            "hawser_router_bodies_to_compress_total",
            "Grows with each body that was to be compressed, once however many targets it has, by what came of it: \
             compressed, or not worth it.",
            &["outcome"],
        )?;
        let bytes = make.counters(
            "hawser_router_compressed_bytes_total",
            "Grows with the bytes of each body that was compressed, before and after.",
            &["when"],
        )?;
        Ok(Self {
            compressed: bodies.with_label_values(&["compressed"]),
            not_worth_it: bodies.with_label_values(&["not_worth_it"]),
            bytes_before: bytes.with_label_values(&["before"]),
            bytes_after: bytes.with_label_values(&["after"]),
        })
    }

    /// `after`: its length once it was compressed, if that paid.
    pub(crate) fn count(&self, before: usize, after: Option<usize>) {
        let Some(after) = after else { return self.not_worth_it.inc() };
        self.compressed.inc();
        self.bytes_before.inc_by(before as u64);
        self.bytes_after.inc_by(after as u64);
    }
}

/// Connection events on their way to businesses.
pub(crate) struct ConnectionEvents {
    pub(crate) heard: IntCounter,
    pub(crate) failed: IntCounter,
    pub(crate) dropped: IntCounter,
    pub(crate) waiting: IntGauge,
    pub(crate) oldest_seconds: IntGauge,
}

/// Questions of nodes.
pub(crate) struct Asks {
    pull: IntCounter,
    ack: IntCounter,
    sweep: IntCounter,
    history: IntCounter,
    /// Too many at once; also counted as what they are.
    pub(crate) refused: IntCounter,
}

impl Asks {
    pub(crate) fn of(&self, what: &ask::What) -> &IntCounter {
        match what {
            ask::What::Pull(_) => &self.pull,
            ask::What::Ack(_) => &self.ack,
            ask::What::Sweep(_) => &self.sweep,
            ask::What::History(_) => &self.history,
        }
    }
}

/// Entries of inboxes that were told as gone.
pub(crate) struct Lost {
    overflow: IntCounter,
    expired: IntCounter,
    purged: IntCounter,
    unknown: IntCounter,
}

impl Lost {
    pub(crate) fn of(&self, reason: GapReason) -> &IntCounter {
        match reason {
            GapReason::Overflow => &self.overflow,
            GapReason::Expired => &self.expired,
            GapReason::Purged => &self.purged,
            GapReason::Unspecified | GapReason::TooLarge => &self.unknown,
        }
    }
}

/// How the store does.
pub(crate) struct StoreMetrics {
    seconds: Vec<Histogram>,
    failures: Vec<IntCounter>,
    pub(crate) reachable: IntGauge,
    pub(crate) changes: IntCounter,
}

impl StoreMetrics {
    /// Makes them and puts them into the registry.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Make(registry);
        let seconds = make.histograms(
            "hawser_router_store_seconds",
            "Observes each call of the store from its start to its answer or its time-out.",
            &["call"],
        )?;
        let failures = make.counters(
            "hawser_router_store_failures_total",
            "Grows when the store did not do what it was asked, or was not asked because it is down.",
            &["call"],
        )?;
        let calls = || Call::ALL.iter().map(|call| call.name());
        Ok(Self {
            seconds: calls().map(|call| seconds.with_label_values(&[call])).collect(),
            failures: calls().map(|call| failures.with_label_values(&[call])).collect(),
            reachable: make.gauge(
                "hawser_router_store_reachable",
                "1 while the store answers; 0 once it has answered nothing for 5 s.",
            )?,
            changes: make.counter(
                "hawser_router_store_changes_total",
                "Grows when the store may have lost something: another incarnation, or other servers; nodes \
                 are told to ask for everything.",
            )?,
        })
    }

    pub(crate) fn seconds(&self, call: Call) -> &Histogram {
        &self.seconds[call as usize]
    }

    pub(crate) fn failed(&self, call: Call) {
        self.failures[call as usize].inc();
    }
}

/// Logins and announcements by what became of them.
pub(crate) struct Binds {
    pub(crate) ok: IntCounter,
    pub(crate) stale: IntCounter,
    pub(crate) superseded: IntCounter,
    pub(crate) unavailable: IntCounter,
    pub(crate) malformed: IntCounter,
}

/// Members that a group push or broadcast met.
pub(crate) struct Fanout {
    pub(crate) written: IntCounter,
    pub(crate) queued: IntCounter,
    pub(crate) dropped: IntCounter,
    pub(crate) nodes_unknown: IntCounter,
}

impl Metrics {
    /// Makes them and puts them into the registry.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Make(registry);
        let binds = make.counters(
            "hawser_router_binds_total",
            "Grows with each login or announcement of a session, by what became of it.",
            &["outcome"],
        )?;
        let outcomes = make.counters(
            "hawser_router_pushes_total",
            "Grows with each target of a unicast or batch, by class and outcome.",
            &["class", "outcome"],
        )?;
        let fanout = make.counters(
            "hawser_router_fanout_total",
            "Grows with the members that access nodes counted for a multicast or broadcast, by what \
             became of the push, and with nodes that gave no word.",
            &["call", "outcome"],
        )?;
        let seconds = make.histograms(
            "hawser_router_push_seconds",
            "Observes each push call from its arrival to its answer.",
            &["call"],
        )?;
        let leases = make.counters(
            "hawser_router_lease_renewals_total",
            "Grows when the lease of a node that is heard here is renewed in the store, or could not be.",
            &["outcome"],
        )?;
        let lives = make.gauges(
            "hawser_router_node_lives",
            "Nodes that live: those that have told of all their sessions, those that may tell of more, and \
             those that are not heard here. Refreshed every second.",
            &["state"],
        )?;
        let route_asks = make.counters(
            "hawser_router_route_lookups_total",
            "Grows when the store is asked about a device without a route here, by the answer: offline, on a \
             node that lives, on one that may, or none.",
            &["outcome"],
        )?;
        let group_news = make.counters(
            "hawser_router_group_news_total",
            "Grows with each group of which other routers' changes are taken over, with each time that all \
             groups are read again, and with each group that was read because it was not known.",
            &["kind"],
        )?;
        let fanout_of = |call| Fanout {
            written: fanout.with_label_values(&[call, "written"]),
            queued: fanout.with_label_values(&[call, "queued"]),
            dropped: fanout.with_label_values(&[call, "dropped"]),
            nodes_unknown: fanout.with_label_values(&[call, "node_unknown"]),
        };
        let outcomes = |class: &str| {
            let of = |outcome| outcomes.with_label_values(&[class, outcome_name(outcome)]);
            Outcomes((0..=Outcome::Unknown as i32).map(of).collect())
        };
        let told = make.counters(
            "hawser_router_connection_events_total",
            "Grows with each event that a business was told of, by what became of it: heard, failed (it comes \
             again), or dropped, when the business has not asked for events for a day.",
            &["outcome"],
        )?;
        let events = ConnectionEvents {
            heard: told.with_label_values(&["heard"]),
            failed: told.with_label_values(&["failed"]),
            dropped: told.with_label_values(&["dropped"]),
            waiting: make.gauge(
                "hawser_router_connection_events_waiting",
                "Devices of which a business has to hear something, in the shards of this router, refreshed \
                 every second.",
            )?,
            oldest_seconds: make.gauge(
                "hawser_router_connection_events_oldest_seconds",
                "How long the oldest of them has waited.",
            )?,
        };
        let compression = Compression::new(&make)?;
        let asks = make.counters(
            "hawser_router_node_asks_total",
            "Grows with each question of a node about inboxes and histories, and with those refused \
             because too many were open.",
            &["what"],
        )?;
        let lost = make.counters(
            "hawser_router_inbox_lost_total",
            "Grows with the entries of inboxes that an access node was told will not come, by reason; those \
             told twice count twice.",
            &["reason"],
        )?;
        let lost = |reason| lost.with_label_values(&[reason]);
        let ask = |what| asks.with_label_values(&[what]);
        Ok(Self {
            binds: Binds {
                ok: binds.with_label_values(&["ok"]),
                stale: binds.with_label_values(&["stale_attempt"]),
                superseded: binds.with_label_values(&["superseded"]),
                unavailable: binds.with_label_values(&["unavailable"]),
                malformed: binds.with_label_values(&["malformed"]),
            },
            bind_seconds: make.histogram(
                "hawser_router_bind_seconds",
                "Observes how long a login or announcement took to decide.",
            )?,
            superseded: make.counter(
                "hawser_router_sessions_superseded_total",
                "Grows when a connection is told that a newer login took over.",
            )?,
            unbinds: make.counter(
                "hawser_router_unbinds_total",
                "Grows when a session ended and its route was removed.",
            )?,
            unbinds_stale: make.counter(
                "hawser_router_unbinds_stale_total",
                "Grows when a removal did not match the route, which stayed.",
            )?,
            routes_healed: make.counter(
                "hawser_router_routes_healed_total",
                "Grows when a route is removed because its node says that it has no such session.",
            )?,
            heres: make.counter(
                "hawser_router_here_total",
                "Grows when a node tells of a session that another router bound.",
            )?,
            gones: make.counter(
                "hawser_router_gone_total",
                "Grows when a node tells that such a session has ended, and its route was removed.",
            )?,
            leases_renewed: leases.with_label_values(&["renewed"]),
            leases_failed: leases.with_label_values(&["failed"]),
            lives: Lives {
                complete: lives.with_label_values(&["complete"]),
                telling: lives.with_label_values(&["telling"]),
                unheard: lives.with_label_values(&["unheard"]),
            },
            complete: make.gauge(
                "hawser_router_routes_complete",
                "1 while every node that lives has told this router of all its sessions; else the store is \
                 asked about devices that have no route here. Refreshed every second.",
            )?,
            route_asks: RouteAsks {
                offline: route_asks.with_label_values(&["offline"]),
                elsewhere: route_asks.with_label_values(&["elsewhere"]),
                unsure: route_asks.with_label_values(&["unsure"]),
                failed: route_asks.with_label_values(&["failed"]),
            },
            group_news: GroupNews {
                applied: group_news.with_label_values(&["applied"]),
                reloads: group_news.with_label_values(&["reload"]),
                read_through: group_news.with_label_values(&["read_through"]),
            },
            lost_sessions: make.counter(
                "hawser_router_lost_sessions_total",
                "Grows when this router ends a session in the store because its node has died.",
            )?,
            lost_ends: make.counter(
                "hawser_router_lost_ends_total",
                "Grows when this router ends a session in the store that its node, which lives, has no more: \
                 word of its end was lost.",
            )?,
            group_reports_stale: make.counter(
                "hawser_router_group_reports_stale_total",
                "Grows when a node's word on a group came after a later one and was refused.",
            )?,
            reports_stale: make.counter(
                "hawser_router_delivery_reports_stale_total",
                "Grows when a node reports a delivery that nobody waits for any more.",
            )?,
            queue_full: make.counter(
                "hawser_router_node_queue_full_total",
                "Grows with each target whose push found the queue to its access node full.",
            )?,
            routes: make.gauge(
                "hawser_router_routes",
                "Sessions whose node holds a live lease, refreshed every second.",
            )?,
            nodes: make.gauge("hawser_router_nodes", "Access nodes that hold a live lease.")?,
            groups: make.gauge("hawser_router_groups", "Groups that exist.")?,
            pending: make.gauge(
                "hawser_router_deliveries_pending",
                "Deliveries sent to access nodes and not yet reported.",
            )?,
            releases_waiting: make.gauge(
                "hawser_router_releases_waiting",
                "Ends of sessions that the store did not take yet, refreshed every second.",
            )?,
            releases_dropped: make.counter(
                "hawser_router_releases_dropped_total",
                "Grows when the store could not be told of the end of a session: no room for it, or the router ended first.",
            )?,
            epochs_raised: make.counter(
                "hawser_router_epochs_raised_total",
                "Grows when a session comes back that was taken for over while its node was not heard.",
            )?,
            terms_changed: make.counter(
                "hawser_router_terms_changed_total",
                "Grows when a device brings a cursor above everything in its inbox: the store went back.",
            )?,
            cursors_refused: make.counter(
                "hawser_router_cursors_refused_total",
                "Grows when a device brings a cursor that cannot be believed.",
            )?,
            wakes: make.counter(
                "hawser_router_wakes_total",
                "Grows when the node that holds a device is told of a push that was stored for it.",
            )?,
            wakes_lost: make.counter(
                "hawser_router_wakes_lost_total",
                "Grows when there was no room for that; the node is told to ask for everything.",
            )?,
            asks: Asks {
                pull: ask("pull"),
                ack: ask("ack"),
                sweep: ask("sweep"),
                history: ask("history"),
                refused: ask("refused"),
            },
            inbox_lost: Lost {
                overflow: lost("overflow"),
                expired: lost("expired"),
                purged: lost("purged"),
                unknown: lost("unknown"),
            },
            catalogue_revision: make.gauge(
                "hawser_router_catalogue_revision",
                "Revision of the catalogue in use; 0 before the first.",
            )?,
            unicast_seconds: seconds.with_label_values(&["unicast"]),
            batch_seconds: seconds.with_label_values(&["batch"]),
            multicast_seconds: seconds.with_label_values(&["multicast"]),
            refusals: make.counters(
                "hawser_router_refusals_total",
                "Grows when a call of the push API is refused, by published code.",
                &["code"],
            )?,
            multicast: fanout_of("multicast"),
            broadcast: fanout_of("broadcast"),
            volatile_outcomes: outcomes("volatile"),
            stored_outcomes: outcomes("stored"),
            compression,
            events,
        })
    }
}

/// Metrics of a store on Redis.
pub(crate) struct RedisMetrics {
    pub(crate) servers: IntGauge,
    pub(crate) connects: IntCounter,
    pub(crate) changes: IntCounter,
    pub(crate) misconfigured: IntGauge,
    pub(crate) failures: IntCounterVec,
    pub(crate) not_vouched: IntCounter,
}

impl RedisMetrics {
    /// Makes them and puts them into the registry.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Make(registry);
        Ok(Self {
            servers: make.gauge(
                "hawser_router_redis_primaries",
                "Primaries of the store that are connected, refreshed every second.",
            )?,
            connects: make.counter(
                "hawser_router_redis_connects_total",
                "Grows with each new connection to a primary of the store.",
            )?,
            changes: make.counter(
                "hawser_router_redis_changes_total",
                "Grows when the store may have lost something: a primary started, was promoted, or took \
                 slots over.",
            )?,
            misconfigured: make.gauge(
                "hawser_router_redis_misconfigured",
                "Primaries whose settings put stored pushes at risk; the log says which.",
            )?,
            failures: make.counters(
                "hawser_router_redis_failures_total",
                "Grows when a call of the store fails, by reason.",
                &["reason"],
            )?,
            not_vouched: make.counter(
                "hawser_router_redis_durability_missed_total",
                "Grows when a push was stored, but not as durably as was asked.",
            )?,
        })
    }
}

fn outcome_name(outcome: i32) -> &'static str {
    match Outcome::try_from(outcome) {
        Ok(Outcome::Written) => "written",
        Ok(Outcome::Stored) => "stored",
        Ok(Outcome::Acked) => "acked",
        Ok(Outcome::Offline) => "offline",
        Ok(Outcome::Stale) => "stale",
        Ok(Outcome::Expired) => "expired",
        Ok(Outcome::Overflow) => "overflow",
        Ok(Outcome::Denied) => "denied",
        Ok(Outcome::Unknown | Outcome::Unspecified) | Err(_) => "unknown",
    }
}

struct Make<'a>(&'a Registry);

impl Make<'_> {
    fn register<C: Collector + Clone + 'static>(
        &self,
        made: Result<C, prometheus::Error>,
    ) -> Result<C, prometheus::Error> {
        let made = made?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.register(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.register(IntGauge::new(name, help))
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.register(Histogram::with_opts(options))
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.register(HistogramVec::new(options, labels))
    }
}
