//! The plane by itself, driven as the server drives it.

mod batches;
mod quiet;
mod reasons;
mod support;
