//! Durable state behind a small trait. An engine keeps bytes under ordered keys and commits a batch in
//! one step; what the bytes mean is decided in `records.rs`, and one writer thread (`writer.rs`) makes
//! every change. Reads of single records come from here too.

pub(crate) mod embedded;
mod handle;
pub(crate) mod records;
pub(crate) mod text;
mod writer;

pub(crate) use handle::{Store, StoreSettings};
pub(crate) use writer::{Actor, Bound};

use hawser_proto::code::ErrorCode;

use crate::refusal::Refusal;

/// What a key begins with: one table a kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Table {
    /// Format, counters and the canary of the master key.
    Meta = 1,
    App = 2,
    Business = 3,
    SigningKey = 4,
    Revocation = 5,
    /// App name → last business number.
    Number = 6,
    /// App serial and device → device key.
    Binding = 7,
    /// Sequence number → what was changed.
    Audit = 8,
    TicketKey = 9,
    /// Node name → the order to drain it.
    Drain = 10,
}

/// One step of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Put(Table, Vec<u8>, Vec<u8>),
    Remove(Table, Vec<u8>),
}

/// Why the engine could not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// Files, memory or an earlier failure; the source says which.
    #[error("the storage engine failed")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A record is not of the form this version writes.
    #[error("a stored record cannot be read")]
    Record(#[from] serde_json::Error),
}

/// A key and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// An ordered map of bytes. All calls block: they are made on the writer thread or on a blocking
/// thread, never on a runtime worker.
pub(crate) trait Engine: Send + Sync + 'static {
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// Up to `limit` records whose keys begin with `prefix`, in the order of their keys, or backwards.
    /// `after`: only those beyond this key, in that direction.
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        backwards: bool,
        limit: usize,
    ) -> Result<Vec<Pair>, EngineError>;

    /// All of the batch or nothing of it. On return it survives a power cut.
    fn commit(&self, batch: &[Write]) -> Result<(), EngineError>;
}

/// Why a store call gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// The writer's queue or the readers' places are full; nothing was done.
    #[error("the store has too much to do")]
    Full,
    /// No answer in time. A change may or may not have been made.
    #[error("the store did not answer in time")]
    Late,
    /// The engine failed; see the log. A change was not made in memory.
    #[error("the store cannot be used")]
    Failed,
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Full => ErrorCode::Overloaded,
            StoreError::Late => ErrorCode::DeadlineExceeded,
            StoreError::Failed => ErrorCode::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}
