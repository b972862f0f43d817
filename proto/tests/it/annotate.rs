//! Prints bytes of the wire as spaced hex with a comment per field. Names come from wire.proto, so
//! that the comments cannot drift from the definitions.

use hawser_proto::frame::Kind;
use std::collections::HashMap;
use std::fmt::Write as _;

const DEFINITIONS: &str = include_str!("../../rpc/wire.proto");

struct Field {
    name: String,
    /// Type as the definition spells it; "map" for metadata.
    type_name: String,
}

/// Message name to field number to field.
struct Schema(HashMap<String, HashMap<u64, Field>>);

impl Schema {
    fn read() -> Self {
        let mut messages: HashMap<String, HashMap<u64, Field>> = HashMap::new();
        let mut current = None;
        for line in DEFINITIONS.lines() {
            let code = line.split("//").next().unwrap().trim();
            if let Some(name) = code.strip_prefix("message ") {
                current = Some(name.trim_end_matches('{').trim().to_owned());
            } else if code == "}" {
                current = None;
            } else if let (Some(message), Some((left, number))) = (&current, code.split_once('='))
                && !code.starts_with("reserved")
            {
                let number = number.trim().trim_end_matches(';').parse().unwrap();
                let (type_name, name) = left.trim().rsplit_once(' ').unwrap();
                let type_name = type_name.trim_start_matches("repeated ").trim();
                let type_name = if type_name.starts_with("map<") { "map" } else { type_name };
                let field = Field { name: name.to_owned(), type_name: type_name.to_owned() };
                messages.entry(message.clone()).or_default().insert(number, field);
            }
        }
        let text = |name: &str| Field { name: name.to_owned(), type_name: "string".to_owned() };
        let entry = HashMap::from([(1, text("key")), (2, text("value"))]);
        messages.insert("map".to_owned(), entry);
        Self(messages)
    }
}

/// The message that the parameters of a kind are.
fn message_of(kind: u8) -> &'static str {
    match Kind::from_byte(kind) {
        Some(Kind::Login) => "Login",
        Some(Kind::Ping | Kind::Pong) => "Ping",
        Some(Kind::Refresh) => "Refresh",
        Some(Kind::Bye | Kind::Close) => "Close",
        Some(Kind::Request) => "Request",
        Some(Kind::Join) => "Join",
        Some(Kind::Leave) => "Leave",
        Some(Kind::Ack) => "Ack",
        Some(Kind::Resync) => "Resync",
        Some(Kind::Recover) => "Recover",
        Some(Kind::LoginOk) => "LoginOk",
        Some(Kind::Refreshed) => "Refreshed",
        Some(Kind::Response) => "Response",
        Some(Kind::Joined) => "Joined",
        Some(Kind::Left) => "Left",
        Some(Kind::Push) => "Push",
        Some(Kind::GroupPush) => "GroupPush",
        Some(Kind::Gap) => "Gap",
        Some(Kind::GoAway) => "GoAway",
        Some(Kind::Missed) => "Missed",
        Some(Kind::GroupReset) => "GroupReset",
        None => "",
    }
}

/// All of `bytes`, as far as it looks like frames; the rest without names.
pub(crate) fn annotate(bytes: &[u8]) -> String {
    let mut out = Lines { text: String::new(), schema: Schema::read() };
    let mut rest = bytes;
    while !rest.is_empty() {
        rest = out.frame(rest);
    }
    out.text
}

struct Lines {
    text: String,
    schema: Schema,
}

impl Lines {
    /// Hex in rows of 16, the comment on the first.
    fn line(&mut self, bytes: &[u8], depth: usize, comment: &str) {
        for (at, row) in bytes.chunks(16).enumerate() {
            let hex: Vec<String> = row.iter().map(|b| format!("{b:02x}")).collect();
            let hex = format!("{}{}", "  ".repeat(depth), hex.join(" "));
            if at == 0 {
                writeln!(self.text, "{hex:<51} # {comment}").unwrap();
            } else {
                writeln!(self.text, "{hex}").unwrap();
            }
        }
    }

    fn frame<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Some((header, rest)) = bytes.split_at_checked(12) else {
            self.line(bytes, 0, "the beginning of a header");
            return &[];
        };
        let kind = header[3];
        let name = Kind::from_byte(kind).map_or("not a known kind", Kind::name);
        let params_len = u16::from_be_bytes([header[6], header[7]]);
        let body_len = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        let magic = if header.starts_with(b"hw") { "magic \"hw\"" } else { "not the magic" };
        self.line(&header[..2], 0, magic);
        self.line(&header[2..3], 0, &format!("version {}", header[2]));
        self.line(&header[3..4], 0, &format!("kind {name}"));
        self.line(&header[4..6], 0, "flags");
        self.line(&header[6..8], 0, &format!("parameters: {params_len} bytes"));
        self.line(&header[8..12], 0, &format!("body: {body_len} bytes"));

        let (params, rest) = rest.split_at(rest.len().min(params_len.into()));
        if !self.message(params, message_of(kind), 1) {
            self.line(params, 1, "parameters");
        }
        let (body, rest) = rest.split_at(rest.len().min(body_len as usize));
        self.line(body, 0, &format!("body {}", shown(body)));
        rest
    }

    /// A line per field. False, and nothing written: the bytes are not a message.
    fn message(&mut self, mut bytes: &[u8], message: &str, depth: usize) -> bool {
        let before = self.text.len();
        while !bytes.is_empty() {
            let Some(length) = self.field(bytes, message, depth) else {
                self.text.truncate(before);
                return false;
            };
            bytes = &bytes[length..];
        }
        true
    }

    /// One field; how long it is.
    fn field(&mut self, bytes: &[u8], message: &str, depth: usize) -> Option<usize> {
        let (key, key_len) = varint(bytes)?;
        let (number, wire) = (key >> 3, key & 7);
        let known = self.schema.0.get(message).and_then(|fields| fields.get(&number));
        let (name, type_name) = match known {
            Some(field) => (field.name.clone(), field.type_name.clone()),
            None => ("(not known)".to_owned(), String::new()),
        };
        let (value, value_len) = varint(&bytes[key_len..])?;
        let begin = key_len + value_len;
        match wire {
            0 => {
                self.line(&bytes[..begin], depth, &format!("{number} {name} = {value}"));
                Some(begin)
            }
            2 => {
                let content = bytes[begin..].get(..usize::try_from(value).ok()?)?;
                let whole = begin + content.len();
                if self.schema.0.contains_key(&type_name) {
                    let comment = format!("{number} {name}, {value} bytes:");
                    self.line(&bytes[..begin], depth, &comment);
                    self.message(content, &type_name, depth + 1).then_some(whole)
                } else {
                    let shown = if type_name == "bytes" {
                        format!("{value} bytes")
                    } else {
                        shown(content)
                    };
                    self.line(&bytes[..whole], depth, &format!("{number} {name} = {shown}"));
                    Some(whole)
                }
            }
            _ => None,
        }
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (at, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() > 40 => format!("a text of {} bytes", text.len()),
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("{} bytes, not UTF-8", bytes.len()),
    }
}
