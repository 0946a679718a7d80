// Products of bf16 fragments on tensor cores, f32 sums; without PTX the same by shuffles.

#define ALL_LANES 0xffffffffu

// Eight neighbours of a row.
struct alignas(16) Eight {
    u32 pair[4];
};

// d [16, 8] += a [16, 8] b [8, 8]. Lane 4 g + q has the pairs a[g][2q..], a[g + 8][2q..] and b[2q..][g], and d[g][2q..],
// d[g + 8][2q..].
DEVICE void multiply_8(float (&d)[4], u32 a0, u32 a1, u32 b) {
#ifdef __CUDA_ARCH__
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(b));
#else
    int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    for (int k = 0; k < 4; k++) {
        u32 upper = __shfl_sync(ALL_LANES, a0, 4 * g + k), lower = __shfl_sync(ALL_LANES, a1, 4 * g + k);
        for (int n = 0; n < 2; n++) {
            u32 column = __shfl_sync(ALL_LANES, b, 4 * (2 * q + n) + k);
            d[n] += bf16_low(upper) * bf16_low(column) + bf16_high(upper) * bf16_high(column);
            d[2 + n] += bf16_low(lower) * bf16_low(column) + bf16_high(lower) * bf16_high(column);
        }
    }
#endif
}

// Likewise over sixteen, a lane's second pairs eight further on.
DEVICE void multiply_16(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#ifdef __CUDA_ARCH__
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    multiply_8(d, a0, a1, b0);
    multiply_8(d, a2, a3, b1);
#endif
}

