// Runs kernels: blocks one after another, the threads of a block as fibers of the calling thread.
#pragma once
#include <cstddef>
#include <cstdint>

#include "abi.h"

struct EngineOptions {
    bool check;                               // CUDA_EMULATOR_CHECK
    enum { FORWARD, REVERSE, RANDOM } order;  // CUDA_EMULATOR_ORDER
    uint64_t seed;
};
const EngineOptions &engine_options();

extern const EmuRuntime engine_runtime;

// Runs a whole grid. The caller holds the lock; a fault of the kernel ends the process with a message.
void engine_run(const EmuModule &module, const EmuKernel &kernel, EmuIndex grid, EmuIndex block, unsigned shared,
                void **params);

// Where an address lies, in words, for messages about faults. Defined by the driver.
void describe_address(uintptr_t address, char *to, size_t size);

void engine_install_signal_handlers();
