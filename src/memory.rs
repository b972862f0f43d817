//! What is freed goes back to the machine, also when nothing happens any more.
//!
//! Pages are small ones: what is left of a crowd that has gone is spread thinly, and a huge page is
//! given back as a whole or not at all.
//!
//! The allocator hands freed memory back a moment later, with the next large piece that is freed. A process that
//! was full and is idle now frees no more of those, and would go on holding what it had at its peak.

use hawser_chassis::shutdown::Tasks;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

const INTERVAL: Duration = Duration::from_secs(5);
/// More than the allocator takes from pages that it shares between pieces. It is never touched, so it costs
/// addresses and no memory.
const PIECE: usize = 4 << 20;

/// Has the kernel give this process small pages only, also where it gives everybody huge ones. A process that
/// was full of devices and is empty again holds a third less.
pub(crate) fn small_pages() {
    // An error means a kernel without huge pages.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Frees a large piece every five seconds, which takes microseconds, until told to stop.
pub(crate) fn give_back(tasks: &Tasks) {
    let stop = tasks.stop_signal();
    tasks.spawn("memory", async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => drop(std::hint::black_box(Vec::<u8>::with_capacity(PIECE))),
            }
        }
    });
}
