// A matrix times the vectors of a few sequences, with a norm in front of it and a convolution behind it, for decoding.
//
// Bound. The matrix is read once; everything else is small. With few bytes per launch what counts is latency: the loads
// of the matrix are on their way before the vectors are there, and the norm is made again by every block, since a launch
// of its own would cost more.
//
// Idea. The vectors lie in shared memory as activations, as the parallel form rounds them. SPLIT warps share ROWS rows of
// the matrix, each a part of the columns, held in registers a step ahead; their sums meet in shared memory in a fixed
// order, and each sum is finished by a lane of its own, which has fetched what it needs for that. Registers are few enough
// for another launch beside it.
//
// Defines: ACT_BF16; SEQS: sequences, 1 to 4; COLS: columns of the matrix; VEC: elements per access; SPLIT, ROWS; NORM:
// whether the vectors are the RMS norm of x + residual; WIDTH: of the convolution.

#define THREADS 256
#define WARPS (THREADS / 32)
#define GROUPS (WARPS / SPLIT)
#define STEP (32 * SPLIT * VEC)
#define PACKS ((COLS + STEP - 1) / STEP)
#define PER ((COLS + THREADS - 1) / THREADS)
#define SUMS (ROWS * SEQS)
#define NOWHERE 0xffffffffu

#if SEQS == 1 && ROWS * PACKS <= 6
#define BOUND __launch_bounds__(THREADS, 3)
#else
#define BOUND __launch_bounds__(THREADS, 2)
#endif

typedef Pack<act, VEC> Acts;

extern "C" __global__ void BOUND project(
    act *__restrict__ y, float *__restrict__ best, u32 *__restrict__ best_at, const act *__restrict__ weight,
    const float *__restrict__ bias, const act *__restrict__ x, int x_stride, const u32 *__restrict__ ids,
    const float *__restrict__ residual, float *__restrict__ sum, const float *__restrict__ norm_weight, float eps,
    float *__restrict__ conv_state, const float *__restrict__ conv_weight, const float *__restrict__ conv_bias,
    int d_inner, int rows) {
    __shared__ Acts vectors[SEQS][(COLS + VEC - 1) / VEC];
    __shared__ float shared[32];
    __shared__ float partial[WARPS][SUMS];
    __shared__ u32 places[WARPS][SUMS];

    int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, group = warp / SPLIT, part = warp % SPLIT;
    int stride = gridDim.x * GROUPS * ROWS;
    Conv conv = {conv_state, conv_weight, conv_bias, d_inner};
    Acts w[ROWS][PACKS], next[ROWS][PACKS];
    auto load = [&](Acts (&w)[ROWS][PACKS], int first) {
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
    load(w, first);
#if NORM
    float norm[PER];
#pragma unroll
    for (int i = 0; i < PER; i++) norm[i] = i * THREADS + thread < COLS ? norm_weight[i * THREADS + thread] : 0.0f;
#endif
    // Of the sum that this lane finishes.
    int r_own = lane / SEQS, s_own = lane % SEQS;
    bool finishes = part == 0 && lane < SUMS;
    Past past = {};
    auto fetch_past = [&](int first) {
        int row = first + group * ROWS + r_own;
        if (finishes && row < d_inner) past = past_of(conv, s_own, row);
    };
    fetch_past(first);
    after_previous();

#pragma unroll
    for (int s = 0; s < SEQS; s++) {
        act *vector = &vectors[s][0].at[0];
        const act *from = x + (ids ? (long long)ids[s] * COLS : (long long)s * x_stride);
#if NORM
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
            if (c < COLS) put(vector + c, values[i] * scale * norm[i]);
        }
#else
        for (int c = thread; c < COLS; c += THREADS) vector[c] = from[c];
#endif
    }
    __syncthreads();

    float most = NEGATIVE_INFINITY;
    u32 where = NOWHERE;
    for (; first < rows; first += stride) {
        if (first + stride < rows) load(next, first + stride);
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
        float own = 0.0f;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int s = 0; s < SEQS; s++) {
                float total = warp_sum(sums[r][s]);
                if (lane == r * SEQS + s) own = total;
            }
        }
#if SPLIT > 1
        __syncthreads();
        if (lane < SUMS) partial[warp][lane] = own;
        __syncthreads();
        if (finishes) {
            own = 0.0f;
            for (int i = 0; i < SPLIT; i++) own += partial[group * SPLIT + i][lane];
        }
#endif
        int row = first + group * ROWS + r_own;
        if (finishes && row < rows) {
            if (bias) own += bias[row];
            own = as_act(own);
            if (row < d_inner) own = convolved(past, own);
            if (y) put(y + (long long)s_own * rows + row, own);
            // Rows rise, so the first of equals stays; as rounded, like the parallel form's.
            if (own > most || where == NOWHERE && own == most) {
                most = own;
                where = row;
            }
        }
        if (first + stride < rows) fetch_past(first + stride);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int p = 0; p < PACKS; p++) w[r][p] = next[r][p];
        }
    }
    if (!best) return;
    __syncthreads();
    if (lane < SUMS) {
        partial[warp][lane] = most;
        places[warp][lane] = where;
    }
    __syncthreads();
    if (thread >= SEQS) return;
    float value = NEGATIVE_INFINITY;
    u32 place = NOWHERE;
    for (int i = 0; i < WARPS; i++) {
        for (int j = thread; j < SUMS; j += SEQS) {
            float v = partial[i][j];
            u32 at = places[i][j];
            if (v > value || v == value && at < place) {
                value = v;
                place = at;
            }
        }
    }
    best[(long long)thread * gridDim.x + blockIdx.x] = value;
    best_at[(long long)thread * gridDim.x + blockIdx.x] = place;
}
