//! Chores of the hawser workspace.
fn main() {}
