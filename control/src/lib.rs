//! Before the connection: catalogue, tokens, access points.
