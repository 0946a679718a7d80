// A matrix times the vectors of a few sequences, with what makes the vectors in front of it, for decoding.
//
// Bound. The matrix is read once; everything else is small. With few bytes per launch what counts is latency: every load
// of the matrix is on its way before the vectors are made, and what makes them (a norm, a convolution) is done again by
// every block, since a launch of its own would cost more.
//
// Idea. The vectors lie in shared memory as activations, as the parallel form rounds them. SPLIT warps share ROWS rows of
// the matrix, each a part of the columns, held in registers a step ahead; their sums meet in shared memory in a fixed
// order.
//
// Defines: ACT_BF16; SEQS: sequences, 1 to 4; COLS: columns of the matrix; VEC: elements per access; SPLIT, ROWS; INPUT:
// 0 vectors as they are, 1 the RMS norm of x + residual, 2 silu of the convolution of states and x; WIDTH: of the
// convolution.

#define THREADS 256
#define GROUPS (THREADS / 32 / SPLIT)
#define STEP (32 * SPLIT * VEC)
#define PACKS ((COLS + STEP - 1) / STEP)
#define PER ((COLS + THREADS - 1) / THREADS)

typedef Pack<act, VEC> Acts;

extern "C" __global__ void __launch_bounds__(THREADS) project(
    act *__restrict__ y, float *__restrict__ best, u32 *__restrict__ best_at, const act *__restrict__ weight,
    const float *__restrict__ bias, const act *__restrict__ x, int x_stride, const u32 *__restrict__ ids,
    const float *__restrict__ residual, float *__restrict__ sum, const float *__restrict__ norm_weight, float eps,
    const float *__restrict__ conv_state, const float *__restrict__ conv_weight, const float *__restrict__ conv_bias,
    int rows) {
    __shared__ Acts vectors[SEQS][(COLS + VEC - 1) / VEC];
    __shared__ float shared[32];
    __shared__ float partial[THREADS / 32][ROWS][SEQS];
    __shared__ u32 places[THREADS / 32][SEQS];

    int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, group = warp / SPLIT, part = warp % SPLIT;
    int stride = gridDim.x * GROUPS * ROWS;
    Acts w[ROWS][PACKS];
    auto load = [&](int first) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int row = min(first + group * ROWS + r, rows - 1); // the last stands in for those past the end
#pragma unroll
            for (int p = 0; p < PACKS; p++) {
                int at = ((p * SPLIT + part) * 32 + lane) * VEC;
                if (at < COLS) w[r][p] = *(const Acts *)(weight + (long long)row * COLS + at);
            }
        }
    };
    int first = blockIdx.x * GROUPS * ROWS;
    if (first < rows) load(first);

#pragma unroll
    for (int s = 0; s < SEQS; s++) {
        act *vector = &vectors[s][0].at[0];
        const act *from = x + (ids ? (long long)ids[s] * COLS : (long long)s * x_stride);
#if INPUT == 1
        float values[PER], squares = 0.0f;
#pragma unroll
        for (int i = 0; i < PER; i++) {
            int c = i * THREADS + thread;
            values[i] = 0.0f;
            if (c < COLS) {
                values[i] = to_f32(from[c]) + (residual ? residual[s * COLS + c] : 0.0f);
                if (sum && blockIdx.x == 0) sum[s * COLS + c] = values[i];
            }
            squares += values[i] * values[i];
        }
        float scale = 1.0f / sqrtf(block_sum(squares, shared) / (float)COLS + eps);
#pragma unroll
        for (int i = 0; i < PER; i++) {
            int c = i * THREADS + thread;
            if (c < COLS) put(vector + c, values[i] * scale * norm_weight[c]);
        }
#elif INPUT == 2
        for (int c = thread; c < COLS; c += THREADS) {
            const float *past = conv_state + ((long long)s * COLS + c) * (WIDTH - 1), *taps = conv_weight + c * WIDTH;
            float total = conv_bias ? conv_bias[c] : 0.0f;
#pragma unroll
            for (int j = 0; j < WIDTH - 1; j++) total += taps[j] * past[j];
            total += taps[WIDTH - 1] * to_f32(from[c]);
            put(vector + c, total * sigmoid(total));
        }
#else
        for (int c = thread; c < COLS; c += THREADS) vector[c] = from[c];
#endif
    }
    __syncthreads();

    float most[SEQS];
    u32 where[SEQS];
#pragma unroll
    for (int s = 0; s < SEQS; s++) {
        most[s] = NEGATIVE_INFINITY;
        where[s] = 0xffffffffu;
    }
    for (; first < rows; first += stride) {
        float sums[ROWS][SEQS] = {};
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int at = ((p * SPLIT + part) * 32 + lane) * VEC;
            if (at >= COLS) continue;
#pragma unroll
            for (int s = 0; s < SEQS; s++) {
                Acts v = vectors[s][at / VEC];
#pragma unroll
                for (int i = 0; i < VEC; i++) {
                    float factor = to_f32(v.at[i]);
#pragma unroll
                    for (int r = 0; r < ROWS; r++) sums[r][s] += to_f32(w[r][p].at[i]) * factor;
                }
            }
        }
        if (first + stride < rows) load(first + stride);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int s = 0; s < SEQS; s++) sums[r][s] = warp_sum(sums[r][s]);
        }
#if SPLIT > 1
        __syncthreads();
        if (lane == 0) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
#pragma unroll
                for (int s = 0; s < SEQS; s++) partial[warp][r][s] = sums[r][s];
            }
        }
        __syncthreads();
        if (part == 0) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
#pragma unroll
                for (int s = 0; s < SEQS; s++) {
                    sums[r][s] = 0.0f;
                    for (int i = 0; i < SPLIT; i++) sums[r][s] += partial[group * SPLIT + i][r][s];
                }
            }
        }
#endif
        if (lane != 0 || part != 0) continue;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int row = first + group * ROWS + r;
            if (row >= rows) continue;
#pragma unroll
            for (int s = 0; s < SEQS; s++) {
                act rounded;
                put(&rounded, sums[r][s] + (bias ? bias[row] : 0.0f));
                if (y) y[(long long)s * rows + row] = rounded;
                // Rows rise, so the first of equals stays; as rounded, like the parallel form's.
                if (to_f32(rounded) > most[s] || where[s] == 0xffffffffu && to_f32(rounded) == most[s]) {
                    most[s] = to_f32(rounded);
                    where[s] = row;
                }
            }
        }
    }
    if (!best) return;
    __syncthreads();
    if (lane == 0) {
#pragma unroll
        for (int s = 0; s < SEQS; s++) {
            partial[warp][0][s] = part == 0 ? most[s] : NEGATIVE_INFINITY;
            places[warp][s] = part == 0 ? where[s] : 0xffffffffu;
        }
    }
    __syncthreads();
    if (thread >= SEQS) return;
    float value = NEGATIVE_INFINITY;
    u32 place = 0xffffffffu;
    for (int i = 0; i < THREADS / 32; i++) {
        float v = partial[i][0][thread];
        u32 at = places[i][thread];
        if (v > value || v == value && at < place) {
            value = v;
            place = at;
        }
    }
    best[(long long)thread * gridDim.x + blockIdx.x] = value;
    best_at[(long long)thread * gridDim.x + blockIdx.x] = place;
}
