// A matrix times the vectors of many sequences, bf16, with the convolution behind it, for decoding.
//
// Bound. The matrix is read once, from memory; every block reads its columns of the vectors from the second cache. With so
// little to do the time is latency: of the start, of the loads, of the sum over what warps have found.
//
// Idea. The first RING chunks of the matrix are on their way, in registers, before the vectors are there. These come by
// asynchronous copies into shared memory, up to SLOTS chunks of columns at once. A warp has 16 TALL rows and UNIT packs of 32
// columns in every chunk; a sum over columns does not care for their order, so a lane takes eight neighbours at once as its
// pairs of two products. The sums of SPLIT warps meet in shared memory in a fixed order.
//
// Grid: blocks of rows; blocks of 8 TILES sequences.
//
// Defines: COLS: columns, a multiple of 8; TILES; TALL; SPLIT; UNIT; RING; SLOTS; WIDTH: of the convolution.

#define ROWS (16 * TALL)
#define THREADS (32 * SPLIT)
#define CHUNK (32 * SPLIT * UNIT)
#define CHUNKS ((COLS + CHUNK - 1) / CHUNK)
#define STRIDE (CHUNK + 32) // the accesses of eight lanes lie in different banks
#define SEQS (8 * TILES)
#define SUM_STRIDE (ROWS + 4)
#define RESULTS ((ROWS * SEQS + THREADS - 1) / THREADS)
#define AT_FIRST (SLOTS == CHUNKS ? SLOTS : SLOTS - 1) // chunks asked for before the first is used
#define PASS (8 * THREADS / CHUNK)                     // sequences that all threads copy at once

extern "C" __global__ void __launch_bounds__(THREADS) project_many(
    act *y, const act *weight, const float *bias, const act *x,
    int x_stride, float *conv_state, const float *conv_weight, const float *conv_bias,
    int d_inner, int rows, int sequences) {
    extern __shared__ float shared[]; // the vectors [SLOTS][SEQS][STRIDE], then sums [SPLIT][SEQS][SUM_STRIDE]
    act *vectors = (act *)shared;

    int thread = threadIdx.x, lane = thread & 31, split = thread >> 5;
    int g = lane / 4, q = lane % 4, first_row = blockIdx.x * ROWS, first_seq = blockIdx.y * SEQS;

    // Where a lane's columns of a chunk begin; rows past the end read the last one.
    int own_column = split * UNIT * 32 + 8 * q;
    const act *from[TALL][2];
#pragma unroll
    for (int t = 0; t < TALL; t++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = min(first_row + t * 16 + half * 8 + g, rows - 1);
            from[t][half] = weight + (long long)row * COLS + own_column;
        }
    }
    Eight w[RING][UNIT][TALL][2];
    auto load = [&](Eight (&w)[UNIT][TALL][2], int chunk) {
#pragma unroll
        for (int unit = 0; unit < UNIT; unit++) {
            int at = chunk * CHUNK + unit * 32;
#pragma unroll
            for (int t = 0; t < TALL; t++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    Eight none = {};
                    w[unit][t][half] = at < COLS - own_column ? *(const Eight *)(from[t][half] + at) : none;
                }
            }
        }
    };
#pragma unroll
    for (int i = 0; i < RING; i++) load(w[i], i);
    // The results that a thread finishes are of one row.
    int own = thread % ROWS, row = first_row + own;
    bool convolves = row < d_inner;
    Conv conv = {conv_state, conv_weight, conv_bias, d_inner};
    Past past = {};
    if (convolves) past = taps_of(conv, row);
    float row_bias = bias && row < rows ? bias[row] : 0.0f;
    after_previous();

    // A thread copies the same columns of every PASSth sequence.
    int copied_seq = thread / (CHUNK / 8), copied_column = thread % (CHUNK / 8) * 8;
    auto copy = [&](int chunk, int slot) {
        int column = chunk * CHUNK + copied_column;
        act *to = vectors + (slot * SEQS + copied_seq) * STRIDE + copied_column;
#pragma unroll
        for (int i = 0; i < SEQS; i += PASS) {
            if (PASS > SEQS && copied_seq >= SEQS) break;
            int s = first_seq + copied_seq + i;
            bool there = s < sequences && column < COLS;
            copy_async<16>(to + i * STRIDE, x + (there ? (long long)s * x_stride + column : 0), there);
        }
        end_group();
    };
#pragma unroll
    for (int i = 0; i < AT_FIRST; i++) copy(i, i);

    float sums[TALL][TILES][4] = {};
    int slot = 0, free = AT_FIRST % SLOTS;
#pragma unroll 1
    for (int first = 0; first < CHUNKS; first += RING) {
#pragma unroll
        for (int r = 0; r < RING; r++) {
            int chunk = first + r;
            if (chunk >= CHUNKS) break;
            await_groups<AT_FIRST - 1>();
            __syncthreads(); // the chunk is there for all, and the one before it is used up
            if (SLOTS < CHUNKS && chunk + AT_FIRST < CHUNKS) copy(chunk + AT_FIRST, free);
            else end_group();
            const act *in = vectors + (slot * SEQS + g) * STRIDE + own_column;
            slot = slot + 1 == SLOTS ? 0 : slot + 1;
            free = free + 1 == SLOTS ? 0 : free + 1;
#pragma unroll
            for (int unit = 0; unit < UNIT; unit++) {
                Eight b[TILES];
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) b[tile] = *(const Eight *)(in + tile * 8 * STRIDE + unit * 32);
                // One half of the columns of all products, then the other: none waits for the one in front of it.
#pragma unroll
                for (int half = 0; half < 2; half++) {
#pragma unroll
                    for (int tile = 0; tile < TILES; tile++) {
                        const u32 *right = b[tile].pair + 2 * half;
#pragma unroll
                        for (int t = 0; t < TALL; t++) {
                            const u32 *upper = w[r][unit][t][0].pair + 2 * half, *lower = w[r][unit][t][1].pair + 2 * half;
                            multiply_16(sums[t][tile], upper[0], lower[0], upper[1], lower[1], right[0], right[1]);
                        }
                    }
                }
            }
            load(w[r], chunk + RING);
        }
    }

    float inputs[RESULTS][WIDTH];
#pragma unroll
    for (int i = 0; i < RESULTS; i++) {
        int s = first_seq + (i * THREADS + thread) / ROWS;
#pragma unroll
        for (int j = 0; j < WIDTH - 1; j++) {
            inputs[i][j] = convolves && s < sequences ? state_of(conv, s, row)[j] : 0.0f;
        }
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < TALL; t++) {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int s = tile * 8 + 2 * q + i % 2, r = t * 16 + i / 2 * 8 + g;
                shared[(split * SEQS + s) * SUM_STRIDE + r] = sums[t][tile][i];
            }
        }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < RESULTS; i++) {
        int at = (i * THREADS + thread) / ROWS, s = first_seq + at;
        if (at >= SEQS || s >= sequences || row >= rows) continue;
        float total = row_bias;
#pragma unroll
        for (int k = 0; k < SPLIT; k++) total += shared[(k * SEQS + at) * SUM_STRIDE + own];
        put(y + (long long)s * rows + row, result_of(total, conv, past, inputs[i], s, row));
    }
}
