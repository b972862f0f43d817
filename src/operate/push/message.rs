//! What is pushed: a body with metadata, from the command line, a file or standard input.

use crate::failure::{Failure, Outcome};
use bytes::Bytes;
use clap::Args;
use hawser_proto::rpc::push as rpc;
use serde::Deserialize;
use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What is pushed.
#[derive(Debug, Args)]
pub(crate) struct MessageArgs {
    /// The body, as text
    #[arg(conflicts_with = "body_file")]
    text: Option<String>,
    /// Take the body from a file, or from standard input with -
    #[arg(long, value_name = "FILE")]
    body_file: Option<PathBuf>,
    /// Metadata beside the body; repeat for more
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Send it compressed to devices that understand it, where that pays: for text and JSON
    #[arg(long)]
    pub(super) compress: bool,
    /// Your id for this push; made up when left out. What is stored is stored once for each id: say it
    /// again when you do not know how the first call ended
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    pub(super) push_id: String,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("not of the form KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl MessageArgs {
    /// The message and the caller's id for it.
    pub(super) fn read(self) -> Outcome<(rpc::Message, Bytes)> {
        let body = match (self.text, self.body_file) {
            (Some(text), _) => Bytes::from(text),
            (None, Some(path)) => read_bytes(&path)?.into(),
            (None, None) => return Err(Failure::usage("what to push? give a text or --body-file")),
        };
        let metadata = self.metadata.into_iter().collect();
        let compress = self.compress;
        let message = rpc::Message { body, metadata, compress, ..Default::default() };
        Ok((message, Bytes::from(self.push_id)))
    }
}

fn read_bytes(path: &Path) -> Outcome<Vec<u8>> {
    let read = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|failure| Failure::usage(format!("cannot read {}: {failure}", path.display())))
}

/// A line of a targets file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetLine {
    device: String,
    body: String,
    #[serde(default)]
    metadata: HashMap<String, String>,
    #[serde(default)]
    push_id: String,
}

/// Targets with a message each, from a file with a JSON object a line.
pub(super) fn read_targets(path: &Path, compress: bool) -> Outcome<Vec<rpc::Target>> {
    let text = String::from_utf8(read_bytes(path)?)
        .map_err(|_| Failure::usage(format!("{} is not UTF-8", path.display())))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let targets = lines.map(|(at, line)| {
        let line: TargetLine = serde_json::from_str(line).map_err(|failure| {
            Failure::usage(format!("{}, line {}: {failure}", path.display(), at + 1))
        })?;
        let body = Bytes::from(line.body);
        let metadata = line.metadata;
        let message = rpc::Message { body, metadata, compress, ..Default::default() };
        let push_id = Bytes::from(line.push_id);
        Ok(rpc::Target { device: line.device, message: Some(message), push_id })
    });
    targets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_line_by_line_and_mistakes_are_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("targets.jsonl");
        let good = "{\"device\": \"a\", \"body\": \"x\"}\n\n{\"device\": \"b\", \"body\": \"y\", \"metadata\": {\"k\": \"v\"}, \"push_id\": \"7\"}\n";
        std::fs::write(&path, good).expect("written");
        let targets = read_targets(&path, true).expect("read");
        assert!(targets.iter().all(|target| target.message.as_ref().is_some_and(|it| it.compress)));
        let devices: Vec<_> = targets.iter().map(|target| target.device.as_str()).collect();
        assert_eq!(devices, ["a", "b"]);
        assert_eq!((&targets[0].push_id[..], &targets[1].push_id[..]), (&b""[..], &b"7"[..]));
        std::fs::write(&path, "{\"device\": \"a\"}\n").expect("written");
        let failure = read_targets(&path, false).expect_err("no body");
        assert!(failure.to_string().contains("line 1: missing field `body`"), "{failure}");
    }
}
