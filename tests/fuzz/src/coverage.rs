//! One target under libFuzzer, chosen by the variable `FUZZ_TARGET`.
#![no_main]

use std::sync::LazyLock;

use mindos_fuzz::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("FUZZ_TARGET names no target: `{name}`"))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| (TARGET.run)(input));
