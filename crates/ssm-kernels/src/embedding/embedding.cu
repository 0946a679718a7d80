// Rows of a table by their numbers, and gradients back into it.
//
// Defines: Y_TYPE and W_TYPE: 0 f32, 1 bf16, 2 f16. For `gather_rows` they are the types of output and table; for the
// kernels that add or place rows, of what is written and of what is read.
//
// Rows that go to one place are added in their order, without atomics: `order_by_key` sorts the rows' numbers, stably,
// by where they go, and `add_segments` adds what lies together. Grids depend on sizes alone, never on the numbers.

typedef Storage<Y_TYPE>::type Y;
typedef Storage<W_TYPE>::type W;

// Elements per pack: 16 bytes of the wider type.
#define V (Y_TYPE && W_TYPE ? 8 : 4)

// The number of a row that is not there.
#define NONE 0xffffffffu

DEVICE int bits_of(u32 x) {
#ifdef __CUDA_ARCH__
    return __popc(x);
#else
    return __builtin_popcount(x);
#endif
}

DEVICE void move_row(Y *to, const W *from, int width, bool packs, int shift) {
    if (packs) {
        FOR_LANES(i, width / V, shift) {
            Pack<W, V> read = ((const Pack<W, V> *)from)[i];
            Pack<Y, V> written;
            for (int v = 0; v < V; v++) put(&written.at[v], to_f32(read.at[v]));
            ((Pack<Y, V> *)to)[i] = written;
        }
    } else {
        FOR_LANES(i, width, shift) put(to + i, to_f32(from[i]));
    }
}

// y[r, :] = weight[ids[r], :]: zeros where there is no row, NaN where the number passes the table.
extern "C" __global__ void __launch_bounds__(256) gather_rows(Y *__restrict__ y, const W *__restrict__ weight,
                                                              const u32 *__restrict__ ids, long long rows, u32 table,
                                                              int width, int shift) {
    bool packs = aligned(y) && aligned(weight) && width % V == 0;
    FOR_ROWS(row, rows, shift) {
        u32 id = ids[row];
        Y *to = y + row * width;
        if (id < table) {
            move_row(to, weight + (long long)id * width, width, packs, shift);
        } else {
            float filling = id == NONE ? 0.0f : __uint_as_float(0x7fffffffu);
            FOR_LANES(i, width, shift) put(to + i, filling);
        }
    }
}

// y[ids[r], :] = x[r, :] for distinct ids; rows that y has not got are skipped.
extern "C" __global__ void __launch_bounds__(256) place_rows(Y *__restrict__ y, const W *__restrict__ x,
                                                             const u32 *__restrict__ ids, long long rows, u32 table,
                                                             int width, int shift) {
    bool packs = aligned(y) && aligned(x) && width % V == 0;
    FOR_ROWS(row, rows, shift) {
        u32 id = ids[row];
        if (id < table) move_row(y + (long long)id * width, x + row * width, width, packs, shift);
    }
}

// The lanes of the warp whose digit is this lane's, among those that have one.
DEVICE u32 peers_of(u32 digit, bool has) {
    u32 peers = __ballot_sync(0xffffffffu, has);
    for (int bit = 0; bit < 8; bit++) {
        u32 set = __ballot_sync(0xffffffffu, (digit >> bit) & 1u);
        peers &= (digit >> bit) & 1u ? set : ~set;
    }
    return peers;
}

// The sum over the threads before this one, of 1024. `shared` has 33 numbers; the last becomes the sum over all.
DEVICE u32 sum_before(u32 x, u32 *shared) {
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    u32 sum = x;
    for (int step = 1; step < 32; step *= 2) {
        u32 other = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) sum += other;
    }
    __syncthreads();
    if (lane == 31) shared[warp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 total = 0;
        for (int w = 0; w < 32; w++) {
            u32 of_warp = shared[w];
            shared[w] = total;
            total += of_warp;
        }
        shared[32] = total;
    }
    __syncthreads();
    return shared[warp] + sum - x;
}

// order [n] = 0..n sorted, stably, by key, `passes` digits of eight bits; keys from `limit` on count as `limit`, the
// last. starts [n + 2] = the number of segments of equal keys below the limit, then where each starts in `order`,
// then where the last ends. One block; each warp has a range of its own, so that ranks follow from ballots. `spare`
// is [n].
extern "C" __global__ void __launch_bounds__(1024) order_by_key(u32 *order, u32 *spare, u32 *starts, const u32 *keys,
                                                                u32 limit, int passes, int n) {
    __shared__ u32 counts[32 * 256]; // [warp, digit]
    __shared__ u32 shared[33];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    int per_warp = (n + 1023) / 1024 * 32, from = warp * per_warp, to = from + per_warp < n ? from + per_warp : n;
    u32 below = (1u << lane) - 1u;
    for (int pass = 0; pass < passes; pass++) {
        u32 *sorted = (passes - 1 - pass) & 1 ? spare : order;
        const u32 *unsorted = (passes - 1 - pass) & 1 ? order : spare;
        for (int i = threadIdx.x; i < 256 * 32; i += 1024) counts[i] = 0;
        __syncthreads();
        // Round 0 counts the digits, round 1 places the rows where the counts before them say.
        for (int round = 0; round < 2; round++) {
            for (int base = from; base < to; base += 32) {
                int i = base + lane;
                bool has = i < to;
                u32 row = 0, digit = 0;
                if (has) {
                    row = pass == 0 ? (u32)i : unsorted[i];
                    u32 key = keys[row] < limit ? keys[row] : limit;
                    digit = (key >> (8 * pass)) & 255u;
                }
                u32 peers = peers_of(digit, has);
                u32 *count = counts + warp * 256 + digit;
                if (round == 1 && has) sorted[*count + bits_of(peers & below)] = row;
                __syncwarp();
                if (has && (peers & below) == 0) *count += bits_of(peers);
                __syncwarp();
            }
            __syncthreads();
            if (round == 0) {
                // Counts become the sums over the counts before them, of smaller digits or of warps before: eight per
                // thread.
                u32 *mine = counts + (threadIdx.x & 3) * 8 * 256 + (threadIdx.x >> 2), sum = 0;
                for (int i = 0; i < 8; i++) sum += mine[i * 256];
                u32 before = sum_before(sum, shared);
                for (int i = 0; i < 8; i++) {
                    u32 count = mine[i * 256];
                    mine[i * 256] = before;
                    before += count;
                }
                __syncthreads();
            }
        }
    }
    u32 segments = 0;
    for (int round = 0; round < 2; round++) {
        // Each warp counts the starts in its range, then writes them behind those of the warps before it.
        u32 found = 0, valid = 0;
        for (int base = from; base < to; base += 32) {
            int i = base + lane;
            u32 key = i < to ? keys[order[i]] : limit;
            bool counted = key < limit;
            bool start = counted && (i == 0 || keys[order[i - 1]] != key);
            u32 starting = __ballot_sync(0xffffffffu, start);
            if (round == 1 && start) starts[1 + segments + found + bits_of(starting & below)] = (u32)i;
            found += bits_of(starting);
            valid += bits_of(__ballot_sync(0xffffffffu, counted));
        }
        u32 of_lane = lane == 0 ? found : 0u;
        u32 before = sum_before(of_lane, shared);
        if (round == 0) segments = __shfl_sync(0xffffffffu, before, 0);
        u32 all = shared[32];
        sum_before(lane == 0 ? valid : 0u, shared);
        if (round == 1 && threadIdx.x == 0) {
            starts[0] = all;
            starts[1 + all] = shared[32];
        }
    }
}

// y[id, :] += the rows of x whose number is id, in their order: first of every fourth, then of the four. A block has
// 256 columns and takes one id after the other.
extern "C" __global__ void __launch_bounds__(256) add_segments(Y *__restrict__ y, const W *__restrict__ x,
                                                               const u32 *__restrict__ ids,
                                                               const u32 *__restrict__ order,
                                                               const u32 *__restrict__ starts, int width) {
    __shared__ float sums[1024];
    int lane = threadIdx.x & 63, fourth = threadIdx.x >> 6, column = blockIdx.y * 256 + lane;
    u32 segments = starts[0];
    for (u32 s = blockIdx.x; s < segments; s += gridDim.x) {
        u32 start = starts[1 + s], end = starts[2 + s];
        float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
        for (u32 k = start + fourth; k < end; k += 4) {
            const W *row = x + (long long)order[k] * width;
            for (int j = 0; j < 4; j++) {
                if (column + 64 * j < width) sum[j] += to_f32(row[column + 64 * j]);
            }
        }
        bool shared = end - start > 1;
        if (shared) {
            for (int j = 0; j < 4; j++) sums[fourth * 256 + 64 * j + lane] = sum[j];
            __syncthreads();
        }
        if (fourth == 0) {
            Y *to = y + (long long)ids[order[start]] * width;
            for (int j = 0; j < 4; j++) {
                if (shared) {
                    for (int i = 1; i < 4; i++) sum[j] += sums[i * 256 + 64 * j + lane];
                }
                int c = column + 64 * j;
                if (c < width) put(to + c, to_f32(to[c]) + sum[j]);
            }
        }
        if (shared) __syncthreads();
    }
}
