//! The scripts: one per operation, each one atomic step.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use std::fmt::Write;
use std::sync::LazyLock;

/// One script.
#[derive(Debug)]
pub(super) struct Script {
    /// For logs.
    pub(super) name: &'static str,
    /// What is sent when the server does not know it.
    pub(super) body: &'static str,
    /// What is sent when it does.
    pub(super) sha: String,
    /// Whether it may run again when nobody knows if it ran.
    pub(super) is_repeatable: bool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) announce: Script,
    pub(super) release: Script,
    pub(super) append: Script,
    pub(super) fetch: Script,
    pub(super) ack: Script,
    pub(super) describe: Script,
    pub(super) purge: Script,
    pub(super) history: Script,
    pub(super) begin_history: Script,
    pub(super) put_groups: Script,
    pub(super) change_groups: Script,
    pub(super) list_groups: Script,
    pub(super) fence: Script,
}

macro_rules! body {
    ($flags:literal, $($file:literal),+) => {
        concat!("#!lua", $flags, "\n", $(include_str!($file)),+)
    };
}

fn script(name: &'static str, body: &'static str, is_repeatable: bool) -> Script {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, body.as_bytes());
    let sha = digest.as_ref().iter().fold(String::with_capacity(40), |mut sha, byte| {
        let _ = write!(sha, "{byte:02x}");
        sha
    });
    Script { name, body, sha, is_repeatable }
}

/// What frees memory, and what devices need in order to come and free it, goes on when memory is used up;
/// what only fills it does not.
pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    claim: script(
        "claim",
        body!(" flags=allow-oom", "inbox.lua", "session.lua", "claim.lua"),
        true,
    ),
    announce: script(
        "announce",
        body!(" flags=allow-oom", "inbox.lua", "session.lua", "announce.lua"),
        true,
    ),
    // Again, it would say that the session was not this one's.
    release: script(
        "release",
        body!(" flags=allow-oom", "inbox.lua", "session.lua", "release.lua"),
        false,
    ),
    append: script("append", body!("", "inbox.lua", "append.lua"), true),
    fetch: script(
        "fetch",
        body!(" flags=no-writes", "inbox.lua", "session.lua", "read.lua", "fetch.lua"),
        true,
    ),
    ack: script("ack", body!(" flags=allow-oom", "inbox.lua", "session.lua", "ack.lua"), true),
    describe: script("describe", body!(" flags=no-writes", "inbox.lua", "describe.lua"), true),
    // Again, it would say that nothing was there.
    purge: script("purge", body!(" flags=allow-oom", "inbox.lua", "purge.lua"), false),
    history: script(
        "history",
        body!(" flags=no-writes", "inbox.lua", "read.lua", "history.lua"),
        true,
    ),
    begin_history: script("begin_history", body!("", "inbox.lua", "begin_history.lua"), true),
    put_groups: script("put_groups", body!("", "change_groups.lua"), true),
    change_groups: script("change_groups", body!(" flags=allow-oom", "change_groups.lua"), true),
    list_groups: script("list_groups", body!(" flags=no-writes", "list_groups.lua"), true),
    fence: script("fence", body!("", "fence.lua"), true),
});

impl Scripts {
    /// All, to be made known to a server.
    pub(super) fn all(&self) -> [&Script; 14] {
        [
            &self.claim,
            &self.announce,
            &self.release,
            &self.append,
            &self.fetch,
            &self.ack,
            &self.describe,
            &self.purge,
            &self.history,
            &self.begin_history,
            &self.put_groups,
            &self.change_groups,
            &self.list_groups,
            &self.fence,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::rules;
    use hawser_proto::limits::CURSOR_AHEAD_MAX;

    #[test]
    fn the_scripts_say_the_same_figures_as_the_rules() {
        let hours = |span: std::time::Duration| span.as_secs() / 3_600;
        let body = SCRIPTS.claim.body;
        for figure in [
            format!(
                "META_KEEP, LOOK_INTERVAL = {} * 24 * HOUR, {}",
                hours(rules::META_KEEP) / 24,
                rules::LOOK_INTERVAL.as_millis()
            ),
            format!(
                "ROUTE_KEEP, ROUTE_OWNED_KEEP = {} * HOUR, {} * 24 * HOUR",
                hours(rules::ROUTE_KEEP),
                hours(rules::ROUTE_OWNED_KEEP) / 24
            ),
            format!(
                "TOUCH_INTERVAL, AHEAD, SEQ_MAX = HOUR, {}, {}",
                CURSOR_AHEAD_MAX.as_millis(),
                (1u64 << 53) - 1
            ),
        ] {
            assert!(body.contains(&figure), "{figure}");
        }
        assert_eq!(rules::TOUCH_INTERVAL.as_secs(), 3_600);
    }
}
