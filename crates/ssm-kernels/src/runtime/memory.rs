//! Freed memory: what the C library does with it.

/// Tells the C library to keep freed memory for the next allocation instead of handing it back to the system.
///
/// A training step allocates and frees the same megabytes every time. Handed back, each page is cleared by the system
/// and faulted in again: a tenth of a step (`train_bench` at the shape of mamba-130m). The peak does not grow, but memory once used
/// stays with the process. For programs, before they train; libraries leave the choice to their program. Where the C
/// library has no such setting, nothing happens.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt has no precondition; it only sets parameters of the allocator.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
