//! A volatile push as it leaves for nodes: one frame for all of them, and for those of releases before compressed
//! bodies a plain one, made when the first such node wants it.

use bytes::Bytes;
use hawser_proto::compressed::{is_compressed, plain_frame};
use std::sync::OnceLock;

/// An encoded frame.
#[derive(Debug)]
pub(crate) struct Encoded {
    frame: Bytes,
    plain: OnceLock<Bytes>,
}

impl Encoded {
    pub(crate) fn new(frame: Bytes) -> Self {
        Self { frame, plain: OnceLock::new() }
    }

    /// The bytes for a node, shared with all others of its kind.
    pub(crate) fn for_node(&self, takes_compressed: bool) -> Bytes {
        if takes_compressed || !is_compressed(&self.frame) {
            return self.frame.clone();
        }
        // Compressed by this process, so it becomes plain again; were it not so, nothing would be written.
        self.plain.get_or_init(|| plain_frame(&self.frame).unwrap_or_default()).clone()
    }
}
