// A matrix times the vectors of a few sequences, with a norm in front of it and a convolution behind it, for decoding.
//
// Bound. The matrix is read once; everything else is small. With few bytes per launch what counts is latency: the loads
// of the matrix are on their way before the vectors are there, and the norm is made again by every block, since a launch
// of its own would cost more.
//
// Idea. The vectors lie in shared memory as activations, as the parallel form rounds them. SPLIT warps share ROWS rows of
// the matrix, each a part of the columns; their sums meet in shared memory in a fixed order, and each sum is finished by a
// lane of its own, which has fetched what it needs for that. The matrix comes through shared memory, SLOTS steps ahead, of
// which a lane reads what it has copied itself: so much is on its way before the vectors are there, and registers are few
// enough for the launches before and behind beside it.
//
// Defines: ACT_BF16; SEQS: sequences, 1 to 4; COLS: columns of the matrix; VEC: elements per access; SPLIT, ROWS, SLOTS; NORM:
// whether the vectors are the RMS norm of x + residual; WIDTH: of the convolution; EARLY: whether the next launch may begin
// before this one waits.

#define THREADS 256
#define WARPS (THREADS / 32)
#define GROUPS (WARPS / SPLIT)
#define STEP (32 * SPLIT * VEC)
#define PACKS ((COLS + STEP - 1) / STEP)
#define PER ((COLS + THREADS - 1) / THREADS)
#define SUMS (ROWS * SEQS)
#define NOWHERE 0xffffffffu

typedef Pack<act, VEC> Acts;

DEVICE void copy_one(Acts *to, const Acts *from) {
    if constexpr (sizeof(Acts) == 16) {
        copy_async<16>(to, from, true);
    } else {
        *to = *from;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, SEQS == 1 ? 4 : 2) project(
    act *y, float *best, u32 *best_at, const act *weight, const float *bias, const act *x, int x_stride, const u32 *ids,
    const float *residual, float *sum, const float *norm_weight, float eps, float *conv_state, const float *conv_weight,
    const float *conv_bias, int d_inner, int rows) {
    __shared__ Acts vectors[SEQS][(COLS + VEC - 1) / VEC];
    __shared__ float shared[32];
    __shared__ float partial[WARPS][SUMS];
    __shared__ u32 places[WARPS][SUMS];

    int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, group = warp / SPLIT, part = warp % SPLIT;
    int stride = gridDim.x * GROUPS * ROWS;
    Conv conv = {conv_state, conv_weight, conv_bias, d_inner};
    // What a lane has of a step is its own from the copy to the product: nobody else has to wait for it.
    extern __shared__ Pack<float, 4> memory[];
    Acts *slots = (Acts *)memory + thread; // [SLOTS][ROWS][PACKS][THREADS]
    auto fetch = [&](int slot, int first) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int row = first + group * ROWS + r;
#pragma unroll
            for (int p = 0; p < PACKS; p++) {
                int at = ((p * SPLIT + part) * 32 + lane) * VEC;
                if (at >= COLS || row >= rows) continue;
                const act *from = weight + (long long)row * COLS + at;
                copy_one(slots + ((slot * ROWS + r) * PACKS + p) * THREADS, (const Acts *)from);
            }
        }
        end_group();
    };
    int first = blockIdx.x * GROUPS * ROWS;
#if EARLY
    let_next_begin();
#endif
#pragma unroll
    for (int slot = 0; slot < SLOTS; slot++) fetch(slot, first + slot * stride);
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
    await_previous();
#if !EARLY
    let_next_begin();
#endif

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
    for (int slot = 0; first < rows; first += stride, slot = slot + 1 < SLOTS ? slot + 1 : 0) {
        await_groups<SLOTS - 1>();
        float sums[ROWS][SEQS] = {};
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int at = ((p * SPLIT + part) * 32 + lane) * VEC;
            if (at >= COLS) continue;
            Acts w[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; r++) w[r] = slots[((slot * ROWS + r) * PACKS + p) * THREADS];
#pragma unroll
            for (int s = 0; s < SEQS; s++) {
                Acts v = vectors[s][at / VEC];
#pragma unroll
                for (int i = 0; i < VEC; i++) {
                    float factor = to_f32(v.at[i]);
#pragma unroll
                    for (int r = 0; r < ROWS; r++) sums[r][s] += to_f32(w[r].at[i]) * factor;
                }
            }
        }
        fetch(slot, first + SLOTS * stride);
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
