//! What `hawser-loadtest` shares with tests and benches: the judge of histories, and what measuring takes.

pub mod bare_store;
pub mod costs;
pub mod delays;
pub mod judge;
pub mod outcome;
pub mod page;
pub mod process;
pub mod redis;
pub mod report;
pub mod size;
pub mod stamp;
