//! WIRE.md holds the very files it shows, and the limits that are in force.

use crate::{check_file, root};
use hawser_proto::limits as l;
use std::fmt::Write as _;
use std::time::Duration;

fn page() -> String {
    std::fs::read_to_string(root().join("WIRE.md")).unwrap()
}

/// The page with every block after a `<!-- file: … -->` filled from its file, and the files shown.
fn filled(page: &str) -> (String, Vec<String>) {
    let mut out = String::new();
    let mut files = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        out += line;
        out.push('\n');
        let Some(file) = line.strip_prefix("<!-- file: ").and_then(|l| l.strip_suffix(" -->"))
        else {
            continue;
        };
        let fence = lines.next().filter(|l| l.starts_with("```")).expect("a block follows");
        let content = std::fs::read_to_string(root().join(file)).unwrap();
        writeln!(out, "{fence}\n{content}```").unwrap();
        assert!(lines.by_ref().any(|l| l == "```"), "the block of {file} ends");
        files.push(file.to_owned());
    }
    (out, files)
}

#[test]
fn the_page_shows_the_files_it_names() {
    // When files are rewritten, the page comes after them.
    crate::vectors::every_vector_is_what_the_table_builds();
    crate::tokens::the_example_token_is_what_the_page_says_and_holds();
    crate::tokens::the_example_proof_is_what_the_page_says_and_holds();
    let (expected, files) = filled(&page());
    check_file("WIRE.md", expected.as_bytes());
    assert!(files.len() >= 15, "the markers were not found");
    for needed in ["rpc/wire.proto", "tests/vectors/token.txt", "tests/vectors/login_small.hex"] {
        assert!(files.iter().any(|file| file == needed), "{needed} is not shown");
    }
}

/// A limit as the page writes it.
trait Shown {
    fn shown(&self) -> String;
}
impl Shown for usize {
    fn shown(&self) -> String {
        self.to_string()
    }
}
impl Shown for u32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}
impl Shown for u64 {
    fn shown(&self) -> String {
        self.to_string()
    }
}
impl Shown for Duration {
    fn shown(&self) -> String {
        if self.subsec_nanos() == 0 {
            format!("{} s", self.as_secs())
        } else {
            format!("{} ms", self.as_millis())
        }
    }
}

macro_rules! limits {
    ($($name:ident)+) => { vec![$((stringify!($name), Shown::shown(&l::$name)),)+] };
}

/// Name and value of every limit.
fn values() -> Vec<(&'static str, String)> {
    limits! {
        HEADER_BYTES PARAMS_BYTES_MAX LOGIN_FRAME_BYTES_MAX FRAME_BYTES_MAX_DEFAULT FRAME_BYTES_MAX
        COMPRESS_BYTES_MIN COMPRESSED_WINDOW_BYTES_MAX METHOD_BYTES_MAX METADATA_ENTRIES_MAX METADATA_BYTES_MAX TRACEPARENT_BYTES_MAX
        GROUP_ECHO_BYTES_MAX PUSH_ID_BYTES_MAX REASON_BYTES_MAX BUSINESSES_PER_CONNECTION_MAX
        GROUPS_PER_CONNECTION_MAX REQUESTS_IN_FLIGHT_MAX OUTBOX_BYTES_MAX ATTRIBUTES_BYTES_MAX
        INBOX_WINDOW_ENTRIES INBOX_WINDOW_BYTES INBOX_PULL_ENTRIES ACK_ENTRIES ACK_DELAY NODE_ASKS_MAX
        INBOX_ENTRIES_DEFAULT INBOX_ENTRIES_MAX INBOX_BYTES_DEFAULT INBOX_BYTES_MAX INBOX_TTL_MAX
        DEDUP_WINDOW CURSOR_AHEAD_MAX WAIT_ACK_MAX SWEEP_WITHIN HISTORY_ENTRIES_DEFAULT
        HISTORY_ENTRIES_MAX HISTORY_AGE_DEFAULT COLLAPSE_KEY_BYTES_MAX
        TARGETS_PER_CALL_MAX PUSH_CALL_BYTES_MAX HTTP_BODY_BYTES_MAX HANDSHAKE_TIMEOUT
        UPGRADE_TIMEOUT FIRST_FRAME_TIMEOUT LOGIN_TIMEOUT HEARTBEAT IDLE_TIMEOUT WRITE_TIMEOUT
        NODE_LEASE STORE_CALL_TIMEOUT NODE_CALL_TIMEOUT CLOCK_LEEWAY
        RESUME_TICKET_BYTES_MAX RESUME_TICKET_LIFE ALTERNATIVES_MAX DRAIN_PER_SECOND_DEFAULT
        GO_AWAY_DEADLINE
    }
}

/// A row a constant of limits.rs, in its order and with its docs.
#[test]
fn the_page_prints_every_limit() {
    let values = values();
    let mut expected = String::new();
    let mut docs = Vec::new();
    for line in include_str!("../../src/limits.rs").lines() {
        if let Some(doc) = line.strip_prefix("/// ") {
            docs.push(doc);
        } else if let Some(rest) = line.strip_prefix("pub const ") {
            let name = rest.split(':').next().unwrap();
            let value = values.iter().find(|(n, _)| *n == name);
            let (_, value) = value.unwrap_or_else(|| panic!("{name} is not in this test's list"));
            let doc = docs.join(" ");
            writeln!(expected, "| `{}` | {value} | {doc} |", name.to_lowercase()).unwrap();
            docs.clear();
        }
    }
    let page = page();
    let table = page.split("| limit | value | of |\n|---|---|---|\n").nth(1).unwrap();
    let found = table.split("\n\n").next().unwrap();
    assert_eq!(format!("{found}\n"), expected, "the table of limits in WIRE.md");
}
