//! How memory is taken from the system and given back.

use rustix::thread::disable_transparent_huge_pages;
use tracing::debug;

/// Milliseconds until freed memory goes back to the system.
const PURGE_DELAY_MS: std::ffi::c_long = 1000;

/// For the whole process, before its threads are started.
pub(crate) fn prepare() {
    keep_freed();
    // To clear 2 MiB at the first touch takes milliseconds, and every thread has a few of them to touch when the first load comes.
    // Without them a fifth less is resident and nothing is slower.
    if let Err(error) = disable_transparent_huge_pages(true) {
        debug!(%error, "huge pages could not be turned off");
    }
}

/// Has the allocator keep freed pages for a second instead of 10 ms: buffers of batches and frames come again by then, and to give their
/// pages back and fault them in anew costs a tenth of the processor under load. `MIMALLOC_PURGE_DELAY` overrides it; without effect where
/// another allocator is in force.
fn keep_freed() {
    // SAFETY: sets one number in the allocator's table of options, by its own function, before threads are started.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_option_set_default(OPTION_PURGE_DELAY, PURGE_DELAY_MS);
    }
}

/// `mi_option_purge_delay` of the allocator's header, which the crate does not name.
const OPTION_PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
