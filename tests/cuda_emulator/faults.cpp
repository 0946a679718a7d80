// Faults on demand. Those of the device come once a file is there, such as a checkpoint, so that a test need not race.
#include "faults.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <unistd.h>

namespace {

std::atomic<bool> lost{false};

const char *setting(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : nullptr;
}

bool exists(const char *variable) {
    const char *path = setting(variable);
    return path && access(path, F_OK) == 0;
}

}  // namespace

void fault_launch() {
    if (!lost && exists("CUDA_EMULATOR_LOST_ONCE")) lost = true;
}

bool device_is_lost() { return lost; }

bool memory_is_full() { return exists("CUDA_EMULATOR_FULL_ONCE"); }

int fault_capability(bool minor) {
    int numbers[2] = {9, 0};
    if (const char *text = setting("CUDA_EMULATOR_CAPABILITY")) sscanf(text, "%d.%d", &numbers[0], &numbers[1]);
    return numbers[minor];
}
