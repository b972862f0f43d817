//! Nonces of proofs that were accepted, remembered until the proof would be too old anyway. In memory
//! and bounded: when full, new proofs are refused, never an old nonce forgotten. A restart of control
//! forgets them.

use aws_lc_rs::digest::{Context, SHA256};
use hawser_proto::id::{AppId, DeviceId};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Why a nonce is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NonceError {
    /// Seen before.
    Replayed,
    /// No room, in the app's share or altogether.
    Full,
}

/// Sixteen bytes of SHA-256 stand for app, device and nonce.
type Fingerprint = [u8; 16];

/// All remembered nonces.
#[derive(Debug)]
pub(crate) struct Nonces {
    seen: HashSet<Fingerprint>,
    /// By the second in which they may be forgotten.
    by_end: BTreeMap<u64, Vec<(Fingerprint, AppId)>>,
    per_app: HashMap<AppId, usize>,
    max: usize,
}

impl Nonces {
    /// Room for `max` in all; one app may take half of it.
    pub(crate) fn new(max: usize) -> Self {
        Self { seen: HashSet::new(), by_end: BTreeMap::new(), per_app: HashMap::new(), max }
    }

    /// Takes a nonce that must not be seen again until `until_ms`. Call it once the proof was found
    /// good, so that strangers cannot fill the memory.
    pub(crate) fn take(
        &mut self,
        app: &AppId,
        device: &DeviceId,
        nonce: &str,
        until_ms: u64,
        now_ms: u64,
    ) -> Result<(), NonceError> {
        self.forget(now_ms);
        let fingerprint = fingerprint(app, device, nonce);
        if self.seen.contains(&fingerprint) {
            return Err(NonceError::Replayed);
        }
        let of_app = self.per_app.get(app).copied().unwrap_or(0);
        if self.seen.len() >= self.max || of_app >= self.max.div_ceil(2) {
            return Err(NonceError::Full);
        }
        self.seen.insert(fingerprint);
        self.per_app.insert(app.clone(), of_app + 1);
        let second = until_ms / 1000 + 1;
        self.by_end.entry(second).or_default().push((fingerprint, app.clone()));
        Ok(())
    }

    fn forget(&mut self, now_ms: u64) {
        while let Some(first) = self.by_end.first_entry() {
            if *first.key() * 1000 > now_ms {
                return;
            }
            for (fingerprint, app) in first.remove() {
                self.seen.remove(&fingerprint);
                if let Some(count) = self.per_app.get_mut(&app) {
                    *count -= 1;
                    if *count == 0 {
                        self.per_app.remove(&app);
                    }
                }
            }
        }
    }
}

fn fingerprint(app: &AppId, device: &DeviceId, nonce: &str) -> Fingerprint {
    let mut context = Context::new(&SHA256);
    for part in [app.as_str(), device.as_str(), nonce] {
        context.update(&(part.len() as u32).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut out = [0; 16];
    out.copy_from_slice(&context.finish().as_ref()[..16]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppId {
        AppId::new(name).unwrap()
    }

    fn device(name: &str) -> DeviceId {
        DeviceId::new(name).unwrap()
    }

    #[test]
    fn a_nonce_is_taken_once_until_its_time_is_over() {
        let mut nonces = Nonces::new(100);
        let (app, d) = (app("a"), device("d"));
        assert_eq!(nonces.take(&app, &d, "n", 10_000, 0), Ok(()));
        assert_eq!(nonces.take(&app, &d, "n", 10_000, 10_000), Err(NonceError::Replayed));
        assert_eq!(nonces.take(&app, &device("e"), "n", 10_000, 10_000), Ok(()));
        assert_eq!(nonces.take(&app, &d, "n", 20_000, 11_000), Ok(()));
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let mut nonces = Nonces::new(100);
        assert_eq!(nonces.take(&app("a"), &device("bc"), "d", 1_000, 0), Ok(()));
        assert_eq!(nonces.take(&app("a"), &device("b"), "cd", 1_000, 0), Ok(()));
    }

    #[test]
    fn when_full_it_refuses_and_one_app_takes_half_at_most() {
        let mut nonces = Nonces::new(4);
        let d = device("d");
        for (name, nonce, expected) in [
            ("a", "1", Ok(())),
            ("a", "2", Ok(())),
            ("a", "3", Err(NonceError::Full)),
            ("a", "1", Err(NonceError::Replayed)),
            ("b", "1", Ok(())),
            ("c", "1", Ok(())),
            ("d", "1", Err(NonceError::Full)),
        ] {
            assert_eq!(nonces.take(&app(name), &d, nonce, 9_000, 0), expected, "{name} {nonce}");
        }
        assert_eq!(nonces.take(&app("a"), &d, "3", 99_000, 10_000), Ok(()));
        assert_eq!((nonces.seen.len(), nonces.per_app.len(), nonces.by_end.len()), (1, 1, 1));
    }
}
