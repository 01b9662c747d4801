//! Fuzz targets: every decoder that meets the outside, with inputs of real life to start from.
//!
//! ```text
//!   seeds --mutate--> input --run--> decoder         `fuzz`: seeded, in any build, short in CI
//!     ^                                |             `fuzz-coverage`: the same targets under libFuzzer
//!     +---------- coverage ------------+
//! ```
//! Invariant: a target panics only where the decoder breaks a claim: it panics itself, takes what it should refuse, or
//! reads its own output differently.

pub mod mutate;
pub mod request;
mod targets;

use std::path::PathBuf;

pub use targets::{TARGETS, Target};

/// The project's folder, for the inputs of real life that stand in it.
#[must_use]
pub fn project() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Inputs of a target that are kept in the tree: what cannot be written down in its source, and what was found.
///
/// # Panics
/// When one cannot be read.
#[must_use]
pub fn corpus(target: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(project().join("tests/fuzz/corpus").join(target)) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("the folder can be listed").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("an input can be read")).collect()
}

/// Real webhook payloads with the GitHub event each is of, in order of their names.
///
/// # Panics
/// When the folder cannot be read.
#[must_use]
pub fn payloads() -> Vec<(String, Vec<u8>)> {
    let folder = project().join("tests/data/github-webhooks");
    let mut payloads = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the project holds its payloads") {
        let path = entry.expect("the folder can be listed").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.ends_with(".json") {
            let event = name.split('.').next().unwrap_or_default().to_owned();
            payloads.push((event, std::fs::read(&path).expect("a payload can be read")));
        }
    }
    payloads.sort();
    payloads
}
