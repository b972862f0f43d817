//! What `hawser-loadtest` shares with tests at every level: the judge of histories.

pub mod judge;
