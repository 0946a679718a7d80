// What a test can make fail, by environment variables: see README.md.
#pragma once

// A launch begins: from the first on after the file CUDA_EMULATOR_LOST_ONCE exists, the device is lost.
void fault_launch();
// Whether every call fails.
bool device_is_lost();
// Whether others have taken the rest of the memory: the file CUDA_EMULATOR_FULL_ONCE exists.
bool memory_is_full();
// Major or minor number of the compute capability: 9.0, or CUDA_EMULATOR_CAPABILITY.
int fault_capability(bool minor);
