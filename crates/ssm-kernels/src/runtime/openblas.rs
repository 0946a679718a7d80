//! OpenBLAS, where the program links it: one thread, so that its sums do not depend on how many there are.

/// Keeps OpenBLAS to the thread that calls it, for the whole program and from now on. Returns whether it is there.
///
/// OpenBLAS otherwise splits its sums over a pool of its own, which neither knows ours nor gives the same bits for
/// every number of threads. Nothing is linked for this: the function is looked up by name in the running program.
pub fn openblas_on_one_thread() -> bool {
    #[cfg(unix)]
    {
        // SAFETY: the name is a C string; looking it up has no other precondition.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"openblas_set_num_threads".as_ptr()) };
        if found.is_null() {
            return false;
        }
        // SAFETY: the library that exports this name declares it `void openblas_set_num_threads(int)`, callable at any
        // time and from any thread.
        unsafe {
            let set: extern "C" fn(libc::c_int) = std::mem::transmute(found);
            set(1);
        }
        true
    }
    #[cfg(not(unix))]
    false
}
