//! What a command prints: JSON for scripts, or aligned text without colours for people.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// Where and how results are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// JSON instead of text.
    pub(crate) json: bool,
}

impl Output {
    /// One thing: its fields below each other, names and keys first.
    pub(crate) fn thing(self, thing: &Value) {
        if self.json {
            return print_json(thing);
        }
        let mut table = plain();
        let mut fields: Vec<_> = thing.as_object().into_iter().flatten().collect();
        fields.sort_by_key(|(name, _)| {
            LEADING.iter().position(|leading| leading == name).unwrap_or(LEADING.len())
        });
        for (name, value) in fields {
            table.add_row([title(name), cell(name, value)]);
        }
        print_table(&table);
    }

    /// Many things: a row each, with the named fields as columns.
    pub(crate) fn list(self, things: &[Value], columns: &[&str]) {
        if self.json {
            return print_json(&Value::Array(things.to_vec()));
        }
        if things.is_empty() {
            println!("none");
            return;
        }
        let mut table = plain();
        table.set_header(columns.iter().map(|name| title(name).to_uppercase()));
        for thing in things {
            table.add_row(columns.iter().map(|name| cell(name, &thing[*name])));
        }
        print_table(&table);
    }

    /// Something was done and there is nothing more to tell.
    pub(crate) fn done(self, sentence: &str) {
        if self.json {
            print_json(&serde_json::json!({"done": sentence}));
        } else {
            println!("{sentence}");
        }
    }

    /// A word for people that a script does not want.
    pub(crate) fn note(self, sentence: &str) {
        if !self.json {
            println!("{sentence}");
        }
    }
}

/// Fields that come first, in this order.
const LEADING: &[&str] = &[
    "app",
    "business",
    "group",
    "device",
    "number",
    "enabled",
    "state",
    "outcome",
    "position",
    "durability",
    "entries",
    "bytes",
    "tail",
    "floor",
    "key_id",
    "key",
    "owner_key_id",
    "owner_key",
    "secret_id",
    "client_secret",
];

/// A field's name for people. Points in time lose their unit, since they are shown as such.
fn title(name: &str) -> String {
    let name =
        if is_time(name) { name.trim_end_matches("_ms").trim_end_matches("_at") } else { name };
    name.replace('_', " ")
}

/// Whether the field holds milliseconds since 1970, not a span.
fn is_time(name: &str) -> bool {
    name.ends_with("_at_ms")
        || [
            "created_ms",
            "since_ms",
            "active_from_ms",
            "oldest_ms",
            "not_before_ms",
            "not_after_ms",
        ]
        .contains(&name)
}

fn cell(name: &str, value: &Value) -> String {
    match value.as_u64() {
        Some(0) if is_time(name) => "-".to_owned(),
        Some(ms) if is_time(name) => utc(ms),
        _ => text(value),
    }
}

/// `2026-11-21 23:59:07 UTC`.
fn utc(ms: u64) -> String {
    let (seconds, days) = (ms / 1_000 % 86_400, ms / 86_400_000);
    // Civil date from days since 1970, after Howard Hinnant's `civil_from_days`: years begin in March,
    // so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn print_table(table: &Table) {
    for line in table.lines() {
        println!("{}", line.trim_end().trim_start_matches(' '));
    }
}

fn print_json(value: &Value) {
    // A `Value` that was built here or parsed can always be written.
    println!("{value:#}");
}

/// A value in a cell.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let pairs = fields.iter().map(|(name, value)| format!("{name}={}", text(value)));
            pairs.collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_shown_as_such() {
        for (ms, wanted) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_795_305_599_999, "2026-11-21 23:59:59 UTC"),
            (4_102_444_800_000, "2100-01-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(ms), wanted);
        }
        assert_eq!(
            (title("created_at_ms"), title("heartbeat_ms")),
            ("created".into(), "heartbeat ms".into())
        );
        assert_eq!(cell("expires_at_ms", &json!(0)), "-");
        assert_eq!(cell("heartbeat_ms", &json!(25_000)), "25000");
    }

    #[test]
    fn values_read_well_in_a_cell() {
        for (value, wanted) in [
            (json!(null), "-"),
            (json!(""), "-"),
            (json!("a b"), "a b"),
            (json!([]), "-"),
            (json!(["a", 2]), "a, 2"),
            (json!({"hmac": true, "open": false}), "hmac=true open=false"),
            (json!(7.5), "7.5"),
        ] {
            assert_eq!(text(&value), wanted);
        }
    }
}
