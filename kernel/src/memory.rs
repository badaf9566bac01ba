//! The C library's heaps: how many there are, and giving back what is free in them.
//!
//! Always true here: what is in use is not touched, and another C library than GNU's is left as it
//! is.

/// Has the process keep at most `most` heaps, for the threads that ask for memory from now on. Unless
/// told otherwise there are eight for each processor, and each keeps what its threads ever needed at
/// once: with many threads that work in turns this is many times what is in use.
pub fn limit_heaps(most: usize) {
    let most = libc::c_int::try_from(most).unwrap_or(libc::c_int::MAX);
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "a function of the C library that nobody wraps")]
        // SAFETY: takes two numbers, and any thread may call it at any time.
        let _unknown = unsafe { libc::mallopt(libc::M_ARENA_MAX, most) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _there_is_one = most;
}

/// Gives free pages of all heaps back to the system. Takes milliseconds for tens of MiB, in which
/// threads that share a heap may wait for each other.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "a function of the C library that nobody wraps")]
        // SAFETY: takes a number, and any thread may call it at any time.
        let _given = unsafe { libc::malloc_trim(0) };
    }
}
