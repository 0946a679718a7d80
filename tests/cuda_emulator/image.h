// What stands in front of a compiled module's bytes.
#pragma once
#include <cstdint>

#define IMAGE_MAGIC "EMUCUDA1"

struct ImageHeader {
    char magic[8];
    uint64_t length;     // of the shared object behind it
    uint64_t needs_fma;  // whether it uses AVX2 and FMA
};
