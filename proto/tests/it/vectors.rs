//! The golden vectors: one file a case, equal to what the table builds, and read as the table says.

use crate::annotate::annotate;
use crate::{bad_cases, cases, check_file, root};
use bytes::{Bytes, BytesMut};
use hawser_proto::code::CloseCode;
use hawser_proto::codec::{self, Flags, FrameError, Terms};
use hawser_proto::compressed::expand;
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use std::collections::BTreeSet;

/// Who sent the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Device,
    Node,
}

/// A frame of either side.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Frame {
    Device(DeviceFrame),
    Node(NodeFrame),
}

impl Frame {
    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Self::Device(frame) => frame.encode(),
            Self::Node(frame) => frame.encode(),
        }
    }

    /// The kind byte of an encoded frame tells more than a second table of names would.
    fn name(&self) -> String {
        let kind = self.encode()[3];
        hawser_proto::frame::Kind::from_byte(kind)
            .map_or_else(|| "skipped".to_owned(), |kind| kind.name().to_owned())
    }
}

/// What a reader makes of the bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expect {
    Frames(Vec<Frame>),
    More,
    Close(CloseCode),
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// File name without `.hex`.
    pub(crate) name: &'static str,
    /// A sentence.
    pub(crate) title: &'static str,
    pub(crate) from: From,
    /// One WebSocket message; else a piece of a stream.
    pub(crate) message: bool,
    pub(crate) limit: usize,
    /// The reader has the ability ZSTD in force.
    pub(crate) zstd: bool,
    pub(crate) bytes: Bytes,
    pub(crate) expect: Expect,
    /// The bytes are exactly what our encoder writes for the expected frames.
    pub(crate) canonical: bool,
}

impl Case {
    fn text(&self) -> String {
        let from = match self.from {
            From::Device => "device",
            From::Node => "node",
        };
        let expect = match &self.expect {
            Expect::Frames(frames) => frames.iter().map(Frame::name).collect::<Vec<_>>().join(", "),
            Expect::More => "more".to_owned(),
            Expect::Close(code) => format!("close {} {code}", code.number()),
        };
        format!(
            "# {}\n# from: {from}\n# as: {}\n# limit: {}\n{}# expect: {expect}\n\n{}",
            self.title,
            if self.message { "message" } else { "stream" },
            self.limit,
            if self.zstd { "# abilities: ZSTD\n" } else { "" },
            annotate(&self.bytes),
        )
    }

    fn terms(&self) -> Terms {
        let known = if self.zstd { Flags::COMPRESSED } else { Flags::NONE };
        Terms { frame_bytes_max: self.limit, known }
    }
}

pub(crate) fn all() -> Vec<Case> {
    cases::good().into_iter().chain(bad_cases::bad()).collect()
}

/// The bytes of a vector file.
pub(crate) fn bytes_of(text: &str) -> Bytes {
    let hex: String = text
        .lines()
        .map(|line| line.split('#').next().unwrap())
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect();
    hex::decode(hex).unwrap().into()
}

fn parse(case: &Case, raw: codec::RawFrame) -> Result<Frame, FrameError> {
    let raw = if case.zstd { expand(raw, case.limit)? } else { raw };
    match case.from {
        From::Device => DeviceFrame::parse(raw).map(Frame::Device),
        From::Node => NodeFrame::parse(raw).map(Frame::Node),
    }
}

fn read_stream(case: &Case, bytes: &[u8]) -> Result<Expect, FrameError> {
    let mut buffer = BytesMut::from(bytes);
    let mut frames = Vec::new();
    while let Some(raw) = codec::decode(&mut buffer, case.terms())? {
        frames.push(parse(case, raw)?);
    }
    if buffer.is_empty() && !frames.is_empty() {
        Ok(Expect::Frames(frames))
    } else {
        assert!(codec::missing(&buffer, case.terms())? > 0);
        Ok(Expect::More)
    }
}

fn read(case: &Case, bytes: &Bytes) -> Expect {
    let read = if case.message {
        codec::decode_message(bytes.clone(), case.terms())
            .and_then(|raw| parse(case, raw))
            .map(|frame| Expect::Frames(vec![frame]))
    } else {
        read_stream(case, bytes)
    };
    read.unwrap_or_else(|error| Expect::Close(error.close_code()))
}

/// Compares every file with the table, or writes it when told to.
#[test]
pub(crate) fn every_vector_is_what_the_table_builds() {
    for case in all() {
        check_file(&format!("tests/vectors/{}.hex", case.name), case.text().as_bytes());
    }
}

#[test]
fn every_vector_is_read_as_it_says() {
    for case in all() {
        let path = root().join(format!("tests/vectors/{}.hex", case.name));
        let bytes = bytes_of(&std::fs::read_to_string(path).unwrap());
        assert_eq!(read(&case, &bytes), case.expect, "{}", case.name);
    }
}

#[test]
fn encoding_gives_the_vector() {
    for case in all() {
        if let (true, Expect::Frames(frames)) = (case.canonical, &case.expect) {
            let encoded: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
            let path = root().join(format!("tests/vectors/{}.hex", case.name));
            let bytes = bytes_of(&std::fs::read_to_string(path).unwrap());
            assert_eq!(hex::encode(&encoded), hex::encode(&bytes), "{}", case.name);
        }
    }
}

#[test]
fn no_vector_is_left_over_and_no_kind_is_left_out() {
    let cases = all();
    let names: BTreeSet<String> = cases.iter().map(|case| format!("{}.hex", case.name)).collect();
    assert_eq!(names.len(), cases.len(), "a name is used twice");
    let files: BTreeSet<String> = std::fs::read_dir(root().join("tests/vectors"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hex"))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(files, names);

    let seen: BTreeSet<u8> = cases
        .iter()
        .filter_map(|case| match &case.expect {
            Expect::Frames(frames) => Some(frames.iter().map(|frame| frame.encode()[3])),
            _ => None,
        })
        .flatten()
        .collect();
    for &kind in hawser_proto::frame::Kind::ALL {
        assert!(seen.contains(&(kind as u8)), "no vector for {}", kind.name());
    }
    for code in (4400..4500).filter_map(CloseCode::from_number) {
        // What a frame alone can be closed for; the others depend on the state.
        let of_frames = [
            CloseCode::BadMagic,
            CloseCode::UnsupportedVersion,
            CloseCode::BadFrame,
            CloseCode::FrameTooLarge,
            CloseCode::UnknownKind,
            CloseCode::UnexpectedFrame,
            CloseCode::UnsupportedFeature,
        ];
        let shown = cases.iter().any(|case| case.expect == Expect::Close(code));
        assert_eq!(shown, of_frames.contains(&code), "{code}");
    }
}
