//! Compiles the .proto files: messages always, stubs for the features that are on.
//!
//! Writes to `OUT_DIR`: one file per package; `wire/`, server stubs whose large messages are those of `src/wire.rs`; and
//! `mindos.binpb`, the descriptors for reflection.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use prost_types::FileDescriptorSet;

/// Areas of the API, each with one version.
const AREAS: [&str; 16] = [
    "access", "agent", "blob", "budget", "cluster", "delivery", "effect", "event", "fleet", "identity", "journal",
    "ledger", "replay", "route", "run", "task",
];

/// Messages that the server reads or writes without decoding the CloudEvents within, and what stands for them.
const WIRE: [(&str, &str); 3] = [
    (".mindos.agent.v1.ConnectResponse", "crate::wire::ConnectResponseWire"),
    (".mindos.event.v1.PublishRequest", "crate::wire::PublishRequestWire"),
    (".mindos.event.v1.PublishStreamRequest", "crate::wire::PublishStreamRequestWire"),
];

fn main() -> Result<(), Box<dyn Error>> {
    for folder in ["build.rs", "mindos", "io", "google", "externalscaler"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let server = env::var_os("CARGO_FEATURE_SERVER").is_some();
    let client = env::var_os("CARGO_FEATURE_CLIENT").is_some();

    let mut files =
        vec![PathBuf::from("google/rpc/error_details.proto"), PathBuf::from("externalscaler/externalscaler.proto")];
    for area in AREAS {
        files.extend(protos_in(&Path::new("mindos").join(area).join("v1"))?);
    }
    let descriptors = protox::compile(files, ["."])?;
    fs::write(out.join("mindos.binpb"), without_comments(descriptors.clone()).encode_to_vec())?;

    tonic_prost_build::configure()
        .build_client(client)
        .build_server(server)
        // The channel is the caller's: its helper would also collide with the RPC `Connect`.
        .build_transport(false)
        .bytes(".")
        .btree_map(".")
        .disable_comments([".io.cloudevents", ".google"])
        .compile_fds(descriptors.clone())?;

    if server {
        let wire = out.join("wire");
        fs::create_dir_all(&wire)?;
        let mut stubs = tonic_prost_build::configure()
            .build_client(false)
            .build_server(true)
            .build_transport(false)
            .codec_path("crate::wire::StreamCodec")
            .out_dir(&wire);
        for (message, mirror) in WIRE {
            stubs = stubs.extern_path(message, mirror);
        }
        for area in AREAS {
            stubs = stubs.extern_path(format!(".mindos.{area}.v1"), format!("crate::{area}::v1"));
        }
        stubs
            .extern_path(".google.rpc", "crate::rpc")
            .extern_path(".io.cloudevents.v1", "crate::cloudevents::v1")
            .compile_fds(only_services(descriptors, &["AgentService", "EventService"]))?;
    }
    Ok(())
}

fn protos_in(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Comments and positions are for the code generator; reflection does without.
fn without_comments(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    descriptors
}

fn only_services(mut descriptors: FileDescriptorSet, names: &[&str]) -> FileDescriptorSet {
    for file in &mut descriptors.file {
        file.service.retain(|service| names.contains(&service.name()));
    }
    descriptors
}
