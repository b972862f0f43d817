//! The tail of the engine's journal after a crash, and a fresh copy of it after a failed write.
//!
//! The engine cuts a tail that ends early by itself, and refuses to open when one ends in garbage that
//! looks like a batch with a wrong checksum. Both are the same to us: what was synced lies before it.
//!
//! A batch is a start (tag 1, items, number), items (tag 2, type, compression, keyspace, lengths of key,
//! value and stored value, key, stored value) or clears (tag 4, keyspace), and an end (tag 3, XXH3 of the
//! items, a magic word). Behind the last one a fresh file holds zeros.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tracing::{error, warn};
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: [u8; 4] = [b'F', b'J', b'L', 3];
const READ_BYTES: usize = 256 * 1024;

/// Cuts the newest journal behind its last whole batch, unless only zeros follow. What is cut off is kept
/// beside it, once, for whoever wants to look.
pub(super) fn cut_torn_tail(folder: &Path) -> io::Result<()> {
    let Some(journal) = newest(folder)? else { return Ok(()) };
    remove_stale_copies(folder);
    let whole = whole_bytes(&journal)?;
    let torn = bytes_behind(&journal, whole)?;
    if torn == 0 {
        return Ok(());
    }
    let is_batch_behind = finds_batch_behind(&journal, whole)?;
    if is_batch_behind {
        // Pages of an unsynced tail reach the disk in any order; but so does a rotten disk look.
        error!(?journal, whole, torn, "whole batches lie behind the torn place of the journal");
    } else {
        warn!(?journal, whole, torn, "the journal's torn tail is cut off");
    }
    if let Err(source) = keep_torn(&journal, whole) {
        warn!(%source, "what is cut off could not be kept");
    }
    let file = OpenOptions::new().write(true).open(&journal)?;
    file.set_len(whole)?;
    file.sync_all()
}

/// A copy of a journal's whole batches, on disk for certain. After a failed sync the pages of the old file
/// may be gone from memory without having reached the disk, and a later sync would not say so; nothing may
/// be built on it.
pub(super) struct Copy {
    journal: PathBuf,
    copy: PathBuf,
}

impl Copy {
    /// Copies of the newest journal and of the one before it: the engine may have begun another one
    /// between the failed write and this.
    pub(super) fn make(folder: &Path) -> io::Result<Vec<Self>> {
        let mut copies = Vec::new();
        for journal in all(folder)?.into_iter().rev().take(2) {
            let copy = journal.with_extension("copy");
            let whole = whole_bytes(&journal)?;
            let one = Self { journal, copy };
            if let Err(source) = one.write(whole) {
                remove_stale_copies(folder);
                return Err(source);
            }
            copies.push(one);
        }
        Ok(copies)
    }

    fn write(&self, whole: u64) -> io::Result<()> {
        let mut from = File::open(&self.journal)?.take(whole);
        let mut to = File::create(&self.copy)?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()
    }

    /// Puts the copy in place of the journal, unless that has been emptied into tables meanwhile. Nobody
    /// may have it open.
    pub(super) fn put_in_place(self) -> io::Result<()> {
        if !self.journal.try_exists()? {
            return fs::remove_file(&self.copy);
        }
        fs::rename(&self.copy, &self.journal)?;
        match self.journal.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// What an attempt left that did not come to its end.
fn remove_stale_copies(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let copies = entries.filter(|entry| entry.path().extension().is_some_and(|is| is == "copy"));
    for copy in copies {
        drop(fs::remove_file(copy.path()));
    }
}

/// The journal with the highest number: the others were synced when they were sealed.
pub(super) fn newest(folder: &Path) -> io::Result<Option<PathBuf>> {
    Ok(all(folder)?.pop())
}

/// All journals, the oldest first.
fn all(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut journals = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl")
            && let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
            && let Ok(number) = stem.parse::<u64>()
        {
            journals.push((number, path));
        }
    }
    journals.sort_unstable();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

/// Bytes up to and with the last batch that is whole, and all before it are.
pub(super) fn whole_bytes(journal: &Path) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(READ_BYTES, File::open(journal)?);
    let mut whole = 0;
    loop {
        match batch(&mut reader) {
            Ok(Some(bytes)) => whole += bytes,
            Ok(None) => return Ok(whole),
            Err(source) if source.kind() == io::ErrorKind::UnexpectedEof => return Ok(whole),
            Err(source) => return Err(source),
        }
    }
}

/// Reads one batch: its bytes, or `None` for what is not a whole one.
fn batch(reader: &mut impl Read) -> io::Result<Option<u64>> {
    let mut start = [0; 1 + 4 + 8];
    reader.read_exact(&mut start)?;
    let [START, a, b, c, d, ..] = start else { return Ok(None) };
    let items = u32::from_le_bytes([a, b, c, d]);
    let mut bytes = start.len() as u64;
    let mut digest = Xxh3::default();
    for _ in 0..items {
        let Some(item) = item(reader, &mut digest)? else { return Ok(None) };
        bytes += item;
    }
    let mut end = [0; 1 + 8 + MAGIC.len()];
    reader.read_exact(&mut end)?;
    let is_whole = end[0] == END && end[1..9] == digest.digest().to_le_bytes() && end[9..] == MAGIC;
    Ok(is_whole.then_some(bytes + end.len() as u64))
}

fn item(reader: &mut impl Read, digest: &mut Xxh3) -> io::Result<Option<u64>> {
    let mut head = [0; 1 + 1 + 1 + 8 + 2 + 4 + 4];
    let (tag, rest) = head.split_at_mut(1);
    reader.read_exact(tag)?;
    match tag[0] {
        CLEAR => {
            reader.read_exact(&mut rest[..8])?;
            digest.update(&head[..9]);
            return Ok(Some(9));
        }
        ITEM => reader.read_exact(rest)?,
        _ => return Ok(None),
    }
    digest.update(&head);
    let key = u16::from_le_bytes([head[11], head[12]]);
    let stored = u32::from_le_bytes([head[17], head[18], head[19], head[20]]);
    let len = u64::from(key) + u64::from(stored);
    let mut left = len;
    let mut buffer = [0; 4096];
    while left > 0 {
        let some = &mut buffer[..left.min(4096) as usize];
        reader.read_exact(some)?;
        digest.update(some);
        left -= some.len() as u64;
    }
    Ok(Some(head.len() as u64 + len))
}

/// Bytes behind `from` up to the last one that is not zero.
fn bytes_behind(journal: &Path, from: u64) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(READ_BYTES, File::open(journal)?);
    reader.seek(SeekFrom::Start(from))?;
    let (mut at, mut last) = (0, 0);
    let mut buffer = [0; 4096];
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok(last);
        }
        if let Some(index) = buffer[..read].iter().rposition(|&byte| byte != 0) {
            last = at + index as u64 + 1;
        }
        at += read as u64;
    }
}

/// Whether a whole batch begins somewhere in the next bytes: a look, not a proof.
fn finds_batch_behind(journal: &Path, whole: u64) -> io::Result<bool> {
    const LOOK_BYTES: u64 = 64 * 1024;
    let mut file = File::open(journal)?;
    file.seek(SeekFrom::Start(whole + 1))?;
    let mut bytes = Vec::new();
    file.take(LOOK_BYTES).read_to_end(&mut bytes)?;
    let begins = bytes.windows(5).enumerate().filter(|(_, some)| {
        let items = u32::from_le_bytes([some[1], some[2], some[3], some[4]]);
        some[0] == START && (1..10_000).contains(&items)
    });
    let found = begins.map(|(at, _)| batch(&mut &bytes[at..]));
    Ok(found.into_iter().any(|found| matches!(found, Ok(Some(_)))))
}

fn keep_torn(journal: &Path, whole: u64) -> io::Result<()> {
    let mut from = File::open(journal)?;
    from.seek(SeekFrom::Start(whole))?;
    let torn = bytes_behind(journal, whole)?;
    let mut to = BufWriter::new(File::create(journal.with_file_name("torn"))?);
    io::copy(&mut from.take(torn), &mut to)?;
    to.flush()
}
