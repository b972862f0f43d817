//! What all calls of one control share.

use crate::config::Config;
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::pace::Pace;
use crate::proof::nonce::Nonces;
use crate::rate::Rates;
use crate::routers::Routers;
use crate::seal::Sealer;
use crate::store::Store;
use hawser_chassis::shutdown::Tasks;
use parking_lot::Mutex;

/// One of these per control; everything holds it by `Arc`.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) sealer: Sealer,
    pub(crate) nodes: Mutex<Nodes>,
    pub(crate) routers: Mutex<Routers>,
    pub(crate) pace: Mutex<Pace>,
    pub(crate) nonces: Mutex<Nonces>,
    pub(crate) rates: Mutex<Rates>,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: Tasks,
}
