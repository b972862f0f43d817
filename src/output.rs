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
    /// One thing: its fields below each other, in the order of `columns`, then the rest.
    pub(crate) fn thing(self, thing: &Value) {
        if self.json {
            return print_json(thing);
        }
        let mut table = plain();
        for (name, value) in thing.as_object().into_iter().flatten() {
            table.add_row([name.replace('_', " "), text(value)]);
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
        table.set_header(columns.iter().map(|name| name.replace('_', " ").to_uppercase()));
        for thing in things {
            table.add_row(columns.iter().map(|name| text(&thing[*name])));
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
