//! What survives a restart: what is remembered of each device's logins, and the groups.
//!
//! The trait is narrow on purpose. Reads come from the path of a login, writes from one thread
//! ([`crate::writer`]). The engine in the process is in [`embedded`].

pub(crate) mod embedded;
#[cfg(test)]
pub(crate) mod memory;

use crate::key::Key;

/// A stored key: the bytes of a [`Key`].
pub(crate) type KeyBytes = Box<[u8]>;

/// What outlives a session: enough to raise the next epoch and to refuse an old login that comes late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// The last epoch given out.
    pub(crate) epoch: u64,
    /// The instance that logged in last, and its attempt.
    pub(crate) instance: [u8; 16],
    /// See `instance`.
    pub(crate) attempt: u64,
    /// When this was written, milliseconds since 1970; it is kept for 24 h from then.
    pub(crate) at_ms: u64,
}

/// A group as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupMeta {
    /// Number of the business that owns it.
    pub(crate) owner: u32,
    /// When it was created, milliseconds since 1970.
    pub(crate) created_ms: u64,
}

/// One change to a group.
#[derive(Clone, Debug)]
pub(crate) enum GroupChange {
    Put(Key, GroupMeta),
    Delete(Key, GroupMeta),
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The engine failed.
    #[error("the store failed")]
    Engine(#[from] fjall::Error),
    /// A value that this version did not write.
    #[error("a stored value cannot be read")]
    Value,
}

/// The engine behind routes and groups. Calls may block on a disk.
pub(crate) trait Store: Send + Sync + 'static {
    /// What is remembered of a device.
    fn load(&self, key: &Key) -> Result<Option<Memory>, StoreError>;

    /// Remembers all of these, in one step. Not synced: a claim is not worth a flush of the disk.
    fn remember(&self, writes: &[(KeyBytes, Memory)]) -> Result<(), StoreError>;

    /// Makes these changes in one step and syncs them to disk.
    fn change_groups(&self, changes: &[GroupChange]) -> Result<(), StoreError>;

    /// All groups, for the start.
    fn groups(&self) -> Result<Vec<(KeyBytes, GroupMeta)>, StoreError>;

    /// Group ids of one business, in order, after `after`; at most `max`.
    fn groups_of(
        &self,
        app: &str,
        owner: u32,
        after: &str,
        max: usize,
    ) -> Result<Vec<String>, StoreError>;

    /// Forgets devices last written before `before_ms`. Looks at no more than `max` from `from` on and
    /// says where to go on; `None`: it came to the end.
    fn forget(
        &self,
        from: &[u8],
        before_ms: u64,
        max: usize,
    ) -> Result<Option<KeyBytes>, StoreError>;

    /// Syncs everything to disk.
    fn sync(&self) -> Result<(), StoreError>;
}
