//! The device side of hawser: one connection, many businesses.
