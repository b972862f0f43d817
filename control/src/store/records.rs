//! How the catalogue's entities stand in the store: their keys, and JSON as the value. Parts of a key
//! are length-prefixed where they are opaque, so that no two names can meet.

use super::{Engine, EngineError, Table, Write};
use crate::catalogue::{
    App, Business, Catalogue, Change, DrainOrder, Revocation, SigningKey, TicketKey, Whom,
};
use crate::seal::{Sealed, Sealer};
use hawser_proto::id::{AppId, BusinessId, DeviceId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::error;

/// The form of the records below. Raised when an older version could no longer read them.
const FORMAT: u32 = 1;
const COUNTERS: &[u8] = b"counters";
const HEADER: &[u8] = b"header";
const CANARY_PURPOSE: &str = "canary";

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    /// Opens with the right master key alone.
    canary: Sealed,
}

/// Why a data folder cannot be taken into use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the data was written by a newer version (format {0})")]
    Newer(u32),
    #[error("the master key is not the one the data was sealed with")]
    MasterKey,
}

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuditEntry {
    pub(crate) at_ms: u64,
    /// `admin`, `owner <key id>`, or `control` itself.
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) app: Option<String>,
    pub(crate) target: Option<String>,
}

/// A device key, as it was bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Binding {
    #[serde(with = "hex::serde")]
    pub(crate) device_key: [u8; 32],
    pub(crate) bound_at_ms: u64,
}

pub(crate) fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, EngineError> {
    Ok(serde_json::to_vec(value)?)
}

/// Reads the whole catalogue, and makes the header of a new store. Blocks.
pub(crate) fn load(engine: &dyn Engine, sealer: &Sealer) -> Result<Catalogue, LoadError> {
    if let Some(value) = engine.read(Table::Meta, HEADER)? {
        let header: Header = serde_json::from_slice(&value).map_err(EngineError::from)?;
        if header.format > FORMAT {
            return Err(LoadError::Newer(header.format));
        }
        sealer.open(CANARY_PURPOSE, &header.canary).map_err(|_| LoadError::MasterKey)?;
    } else {
        let canary = sealer.seal(CANARY_PURPOSE, b"hawser").map_err(|_| LoadError::MasterKey)?;
        let header = json(&Header { format: FORMAT, canary })?;
        engine.commit(&[Write::Put(Table::Meta, HEADER.to_vec(), header)])?;
    }
    let mut catalogue = Catalogue::default();
    each(engine, Table::App, |_, app: App| catalogue.apply(Change::PutApp(Box::new(app))))?;
    each(engine, Table::Business, |_, business: Business| {
        catalogue.apply(Change::PutBusiness(Box::new(business)));
    })?;
    each(engine, Table::SigningKey, |_, key: SigningKey| {
        catalogue.apply(Change::PutSigningKey(Box::new(key)));
    })?;
    each(engine, Table::Revocation, |_, revocation: Revocation| {
        catalogue.apply(Change::PutRevocation(revocation));
    })?;
    let mut tickets = Vec::new();
    each(engine, Table::TicketKey, |_, key: TicketKey| tickets.push(key))?;
    for key in tickets {
        let kid = key.kid;
        match key.open(sealer) {
            Ok(key) => catalogue.apply(Change::PutTicketKey(Box::new(key))),
            // Devices whose ticket was made with it show their token.
            Err(failure) => error!(kid, %failure, "a ticket key is damaged and left out"),
        }
    }
    each(engine, Table::Drain, |_, order: DrainOrder| catalogue.apply(Change::PutDrain(order)))?;
    each(engine, Table::Number, |key, number: u32| {
        if let Some(app) = std::str::from_utf8(key).ok().and_then(|text| AppId::new(text).ok()) {
            catalogue.apply(Change::LastNumber(app, number));
        }
    })?;
    if let Some(value) = engine.read(Table::Meta, COUNTERS)? {
        catalogue.counters = serde_json::from_slice(&value).map_err(EngineError::from)?;
    }
    Ok(catalogue)
}

fn each<T: DeserializeOwned>(
    engine: &dyn Engine,
    table: Table,
    mut take: impl FnMut(&[u8], T),
) -> Result<(), EngineError> {
    const CHUNK: usize = 1_000;
    let mut after: Option<Vec<u8>> = None;
    loop {
        let found = engine.scan(table, b"", after.as_deref(), false, CHUNK)?;
        for (key, value) in &found {
            take(key, serde_json::from_slice(value)?);
        }
        if found.len() < CHUNK {
            return Ok(());
        }
        after = found.into_iter().next_back().map(|(key, _)| key);
    }
}

/// The write that makes a change durable. The app of [`Change::RemoveApp`] takes its businesses with it.
pub(crate) fn writes(catalogue: &Catalogue, change: &Change) -> Result<Vec<Write>, EngineError> {
    Ok(match change {
        Change::PutApp(app) => {
            vec![Write::Put(Table::App, app.name.as_str().into(), json(app)?)]
        }
        Change::RemoveApp(name) => {
            let tenant = catalogue.tenant(name);
            let businesses = tenant.into_iter().flat_map(|tenant| tenant.businesses.keys());
            let remove = |business| Write::Remove(Table::Business, business_key(name, business));
            let app = Write::Remove(Table::App, name.as_str().into());
            businesses.map(remove).chain([app]).collect()
        }
        Change::PutBusiness(business) => {
            let key = business_key(&business.app, &business.name);
            vec![Write::Put(Table::Business, key, json(business)?)]
        }
        Change::RemoveBusiness(app, name) => {
            vec![Write::Remove(Table::Business, business_key(app, name))]
        }
        Change::LastNumber(app, number) => {
            vec![Write::Put(Table::Number, app.as_str().into(), json(number)?)]
        }
        Change::PutSigningKey(key) => {
            vec![Write::Put(Table::SigningKey, key.kid.as_str().into(), json(key)?)]
        }
        Change::RemoveSigningKey(kid) => {
            vec![Write::Remove(Table::SigningKey, kid.as_str().into())]
        }
        Change::PutRevocation(revocation) => {
            let key = whom_key(&revocation.whom);
            vec![Write::Put(Table::Revocation, key, json(revocation)?)]
        }
        Change::RemoveRevocation(whom) => vec![Write::Remove(Table::Revocation, whom_key(whom))],
        Change::PutTicketKey(key) => {
            vec![Write::Put(Table::TicketKey, key.kid.to_be_bytes().to_vec(), json(key)?)]
        }
        Change::RemoveTicketKey(kid) => {
            vec![Write::Remove(Table::TicketKey, kid.to_be_bytes().to_vec())]
        }
        Change::PutDrain(order) => {
            vec![Write::Put(Table::Drain, order.node.as_str().into(), json(order)?)]
        }
        Change::RemoveDrain(node) => vec![Write::Remove(Table::Drain, node.as_str().into())],
        Change::Unbind(serial, device) => {
            vec![Write::Remove(Table::Binding, binding_key(*serial, device))]
        }
    })
}

/// The write that keeps the counters.
pub(crate) fn counters(catalogue: &crate::catalogue::Counters) -> Result<Write, EngineError> {
    Ok(Write::Put(Table::Meta, COUNTERS.to_vec(), json(catalogue)?))
}

/// The write that adds to the audit log.
pub(crate) fn audit(sequence: u64, entry: &AuditEntry) -> Result<Write, EngineError> {
    Ok(Write::Put(Table::Audit, sequence.to_be_bytes().to_vec(), json(entry)?))
}

fn prefixed(name: &str) -> Vec<u8> {
    // Names and device ids are at most 128 bytes.
    let mut key = vec![name.len() as u8];
    key.extend_from_slice(name.as_bytes());
    key
}

fn business_key(app: &AppId, name: &BusinessId) -> Vec<u8> {
    let mut key = prefixed(app.as_str());
    key.extend_from_slice(name.as_str().as_bytes());
    key
}

fn whom_key(whom: &Whom) -> Vec<u8> {
    let mut key = prefixed(whom.app.as_str());
    key.extend(whom.device.iter().flat_map(|device| device.as_str().bytes()));
    key
}

/// Where a device's key is bound. The serial names the app's life: a later app of the same name does
/// not inherit bindings.
pub(crate) fn binding_key(serial: u64, device: &DeviceId) -> Vec<u8> {
    let mut key = serial.to_be_bytes().to_vec();
    key.extend_from_slice(device.as_str().as_bytes());
    key
}
