// Asynchronous copies to shared memory.

// BYTES (4, 8 or 16) on their way to shared memory, or zeros.
template <int BYTES> DEVICE void copy_async(void *to, const void *from, bool there) {
#ifdef __CUDA_ARCH__
    u32 at = (u32)__cvta_generic_to_shared(to);
    if (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(there ? 16 : 0) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
            ::"r"(at), "l"(from), "n"(BYTES), "r"(there ? BYTES : 0) : "memory");
    }
#else
    typedef Pack<float, BYTES / 4> Bytes;
    Bytes none = {};
    *(Bytes *)to = there ? *(const Bytes *)from : none;
#endif
}

// What was asked for since the last end of a group is one; all but the latest PENDING groups are there.
DEVICE void end_group() {
#ifdef __CUDA_ARCH__
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int PENDING> DEVICE void await_groups() {
#ifdef __CUDA_ARCH__
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

