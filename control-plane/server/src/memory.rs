//! How the allocator treats freed memory.

/// Milliseconds until freed memory goes back to the system.
const PURGE_DELAY_MS: std::ffi::c_long = 1000;

/// Has the allocator keep freed pages for a second instead of 10 ms: buffers of batches and frames come again by then, and to give their
/// pages back and fault them in anew costs a tenth of the processor under load. `MIMALLOC_PURGE_DELAY` overrides it; without effect where
/// another allocator is in force.
pub(crate) fn keep_freed() {
    // SAFETY: sets one number in the allocator's table of options, by its own function, before threads are started.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_option_set_default(OPTION_PURGE_DELAY, PURGE_DELAY_MS);
    }
}

/// `mi_option_purge_delay` of the allocator's header, which the crate does not name.
const OPTION_PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
