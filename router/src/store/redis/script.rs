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
    pub(super) raise: Script,
    pub(super) release: Script,
    pub(super) append: Script,
    pub(super) fetch: Script,
    pub(super) ack: Script,
    pub(super) describe: Script,
    pub(super) purge: Script,
    pub(super) history: Script,
    pub(super) put_group: Script,
    pub(super) change_group: Script,
    pub(super) list_new_group: Script,
    pub(super) list_group: Script,
    pub(super) list_groups: Script,
    pub(super) tell_groups: Script,
    pub(super) group_news: Script,
    pub(super) register: Script,
    pub(super) unregister: Script,
    pub(super) know_boot: Script,
    pub(super) end_lost: Script,
    pub(super) end_gone: Script,
    pub(super) renew_node: Script,
    pub(super) leave_node: Script,
    pub(super) list_leases: Script,
    pub(super) hold_duty: Script,
    pub(super) look: Script,
    pub(super) heard: Script,
    pub(super) mark: Script,
    pub(super) unmark: Script,
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
    raise: script(
        "raise",
        body!(" flags=allow-oom", "inbox.lua", "session.lua", "raise.lua"),
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
    put_group: script("put_group", body!("", "inbox.lua", "change_group.lua"), true),
    change_group: script(
        "change_group",
        body!(" flags=allow-oom", "inbox.lua", "change_group.lua"),
        true,
    ),
    list_new_group: script("list_new_group", body!("", "list_group.lua"), true),
    list_group: script("list_group", body!(" flags=allow-oom", "list_group.lua"), true),
    tell_groups: script("tell_groups", body!(" flags=allow-oom", "tell_groups.lua"), true),
    group_news: script("group_news", body!(" flags=allow-oom", "group_news.lua"), true),
    register: script("register", body!(" flags=allow-oom", "register.lua"), true),
    unregister: script("unregister", body!(" flags=allow-oom", "unregister.lua"), true),
    know_boot: script("know_boot", body!(" flags=allow-oom", "know_boot.lua"), true),
    // Again, it would say that the session was not there.
    end_lost: script(
        "end_lost",
        body!(" flags=allow-oom", "inbox.lua", "session.lua", "end_lost.lua"),
        false,
    ),
    end_gone: script(
        "end_gone",
        body!(" flags=allow-oom", "inbox.lua", "session.lua", "end_gone.lua"),
        false,
    ),
    renew_node: script("renew_node", body!(" flags=allow-oom", "renew_node.lua"), true),
    leave_node: script("leave_node", body!(" flags=allow-oom", "leave_node.lua"), true),
    list_leases: script("list_leases", body!(" flags=allow-oom", "list_leases.lua"), true),
    hold_duty: script("hold_duty", body!(" flags=allow-oom", "hold_duty.lua"), true),
    list_groups: script("list_groups", body!(" flags=no-writes", "list_groups.lua"), true),
    look: script("look", body!(" flags=no-writes", "look.lua"), true),
    heard: script("heard", body!(" flags=allow-oom", "heard.lua"), true),
    mark: script("mark", body!(" flags=allow-oom", "mark.lua"), true),
    unmark: script("unmark", body!(" flags=allow-oom", "unmark.lua"), true),
    fence: script("fence", body!("", "fence.lua"), true),
});

impl Scripts {
    /// All, to be made known to a server.
    pub(super) fn all(&self) -> [&Script; 31] {
        [
            &self.claim,
            &self.announce,
            &self.raise,
            &self.release,
            &self.append,
            &self.fetch,
            &self.ack,
            &self.describe,
            &self.purge,
            &self.history,
            &self.put_group,
            &self.change_group,
            &self.list_new_group,
            &self.list_group,
            &self.list_groups,
            &self.tell_groups,
            &self.group_news,
            &self.register,
            &self.unregister,
            &self.know_boot,
            &self.end_lost,
            &self.end_gone,
            &self.renew_node,
            &self.leave_node,
            &self.list_leases,
            &self.hold_duty,
            &self.look,
            &self.heard,
            &self.mark,
            &self.unmark,
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
