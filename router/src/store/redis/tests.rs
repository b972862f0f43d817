//! The store on real servers, started by the tests on free ports. Without `redis-server` they are skipped,
//! loudly; under `CI=true` they fail. `HAWSER_REDIS_ALL=1` runs what takes longer, too.
#![allow(clippy::disallowed_methods, reason = "tests own their tasks through the runtime")]

mod cluster;
mod contract;
mod durability;
mod failures;
mod house;
mod routers;
mod sentinel;
mod settings;
