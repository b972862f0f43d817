//! The wire from outside: golden vectors, the page, properties, and what the fuzz targets call.
//!
//! `UPDATE_VECTORS=1 cargo test -p hawser-proto --test it` rewrites the vectors, the examples in
//! WIRE.md and the corpus from [`cases`]. A changed vector is a changed protocol: say so.

#![allow(clippy::unwrap_used)]

mod annotate;
mod bad_cases;
mod cases;
mod compressed;
mod corpus;
#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a library of its own for the fuzz targets")]
mod fuzz;
mod page;
mod properties;
mod tokens;
mod vectors;

use std::path::PathBuf;

/// The folder of the crate.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a committed file with what it should hold, or writes it when told to.
fn check_file(path: &str, expected: &[u8]) {
    let file = root().join(path);
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read(&file).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert!(
        found == expected,
        "{path} is not what the source says; if the wire was meant to change, rewrite it with \
         UPDATE_VECTORS=1.\nfound:\n{}\nexpected:\n{}",
        String::from_utf8_lossy(&found),
        String::from_utf8_lossy(expected),
    );
}
