// What cuBLASLt needs of the driver: the lock, streams, and what is known of memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>

// One lock for everything; kernels run under it.
std::recursive_mutex &device_lock();

// Runs `work` at its turn in a stream: now, or at every replay of the graph being captured. Returns a CUresult.
int device_submit(void *stream, const char *what, std::function<void()> work);

// Whether so many bytes from an address on lie in one allocation; says so on stderr if not.
bool device_range(uint64_t address, size_t bytes, const char *what);
