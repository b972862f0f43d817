//! Payloads that say whom they are for, in a way that cannot be true for anyone else by chance.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Who a payload is for, or who a device is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    pub app: &'static str,
    pub device: String,
    pub epoch: u64,
}

/// What a device makes of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Mine,
    /// For this device, but for another of its sessions.
    OtherSession,
    OtherDevice,
}

fn hash(key: u64, app: &str, device: &str, epoch: u64) -> u64 {
    // Lengths first: `a` + `bc` must not look like `ab` + `c`.
    let mut text = Vec::with_capacity(64);
    for part in [app, device] {
        text.extend((part.len() as u64).to_be_bytes());
        text.extend(part.as_bytes());
    }
    text.extend(epoch.to_be_bytes());
    xxh3_64_with_seed(&text, key)
}

pub fn seal(key: u64, app: &str, device: &str, epoch: u64) -> Vec<u8> {
    [epoch.to_be_bytes(), hash(key, app, device, epoch).to_be_bytes()].concat()
}

impl Who {
    pub fn check(&self, key: u64, payload: &[u8]) -> Verdict {
        let (epoch, sealed) = payload.split_at(8);
        let epoch = u64::from_be_bytes(epoch.try_into().unwrap());
        let sealed = u64::from_be_bytes(sealed.try_into().unwrap());
        if sealed != hash(key, self.app, &self.device, epoch) {
            Verdict::OtherDevice
        } else if epoch != self.epoch {
            Verdict::OtherSession
        } else {
            Verdict::Mine
        }
    }
}

/// A small generator of choices (splitmix64), so that a seed says what a run chose.
#[derive(Clone, Debug)]
pub struct Choices(pub u64);

impl Choices {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

#[test]
fn a_payload_fits_nobody_but_its_target() {
    let payload = seal(7, "demo", "a", 5);
    let who = |app, device: &str, epoch| Who { app, device: device.into(), epoch };
    assert_eq!(who("demo", "a", 5).check(7, &payload), Verdict::Mine);
    assert_eq!(who("demo", "a", 6).check(7, &payload), Verdict::OtherSession);
    for other in [who("other", "a", 5), who("demo", "b", 5), who("demoa", "", 5)] {
        assert_eq!(other.check(7, &payload), Verdict::OtherDevice, "{other:?}");
    }
    assert_eq!(who("demo", "a", 5).check(8, &payload), Verdict::OtherDevice, "the key counts");
}
