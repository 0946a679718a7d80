// The largest of each row, and its place: first of parts of the row, then of the parts. The first of equals; NaN never
// wins.
//
// Define: ACT_BF16; WIDTH, of no effect.

#define THREADS 256
#define NOWHERE 0xffffffffu

struct Best {
    float value;
    u32 at;
};

DEVICE Best better(Best a, Best b) { return b.value > a.value || b.value == a.value && b.at < a.at ? b : a; }

// The best of a block, in thread 0.
DEVICE Best best_of_block(Best own) {
    __shared__ Best all[THREADS / 32];
    for (int mask = 16; mask > 0; mask >>= 1) {
        Best other = {__shfl_xor_sync(0xffffffffu, own.value, mask), __shfl_xor_sync(0xffffffffu, own.at, mask)};
        own = better(own, other);
    }
    if (threadIdx.x % 32 == 0) all[threadIdx.x / 32] = own;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < THREADS / 32; i++) own = better(own, all[i]);
    }
    return own;
}

// Block (p, r): of columns p * part .. of row r.
extern "C" __global__ void __launch_bounds__(THREADS) best_of_parts(
    float *best, u32 *best_at, const act *x, int columns, int part) {
    after_previous();
    Best own = {NEGATIVE_INFINITY, NOWHERE};
    const act *row = x + (long long)blockIdx.y * columns;
    int first = blockIdx.x * part, last = min(columns, first + part);
    for (int j = first + threadIdx.x; j < last; j += THREADS) own = better(own, Best{to_f32(row[j]), (u32)j});
    own = best_of_block(own);
    if (threadIdx.x == 0) {
        best[(long long)blockIdx.y * gridDim.x + blockIdx.x] = own.value;
        best_at[(long long)blockIdx.y * gridDim.x + blockIdx.x] = own.at;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) choose(
    u32 *chosen, const float *best, const u32 *best_at, int parts) {
    after_previous();
    Best own = {NEGATIVE_INFINITY, NOWHERE};
    for (int i = threadIdx.x; i < parts; i += THREADS) {
        long long at = (long long)blockIdx.x * parts + i;
        own = better(own, Best{best[at], best_at[at]});
    }
    own = best_of_block(own);
    // Where all is NaN, the first.
    if (threadIdx.x == 0) chosen[blockIdx.x] = own.at == NOWHERE ? 0 : own.at;
}
