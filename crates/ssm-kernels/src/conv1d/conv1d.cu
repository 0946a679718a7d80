// The causal depthwise convolution of a packed batch with bias and SiLU.
//
// Bound. Bytes: x is read and y written once, 4 bytes of bf16 per token and channel; in the backward x and dy are read and dx
// is written, 6 bytes. The 18 and 34 instructions per token and channel take about half and two thirds of that time.
//
// Defines: ACT_BF16; K: the width; SILU; VEC: channels of a thread, 4, 2 or 1; SUMS: whether the backward adds up gradients of
// weight and bias.
//
// A warp has 32 VEC channels of TILE tokens, and the warps of a block have tiles one after another. A thread asks for all its
// rows at once, the K - 1 before its tile (and in the backward behind it) among them, so that memory is waited for once.
// `sequence_of` tells where another sequence begins, whose window begins with its initial state. Most tiles lie in one
// sequence, and are walked without looking for that, or for anything else that is rare. Grids depend on T and D alone.

#define PAST (K > 1 ? K - 1 : 1)
#define TILE 8
#define TILES (SUMS ? 8 : 4) // of a block
#define THREADS (32 * TILES)
// Blocks that a multiprocessor has registers for; where a thread's rows take more, as many as there are.
#define BACKWARD_BLOCKS (ACT_BF16 && !SUMS && K <= 4 ? 5 : 1)

// Rows of x that outputs, and gradients, of a tile depend on.
#define FORWARD_ROWS (TILE + K - 1)
#define BACKWARD_ROWS (TILE + 2 * (K - 1))

typedef Pack<act, VEC> Acts;

// Where a thread is.
struct Place {
    int d;      // its first channel
    int own;    // the same; behind the last channels, these
    int first;  // the first token of its warp's tile
    u32 starts; // bit i: a sequence begins at token first - (K - 1) + i
};

// What a sequence begins with.
struct Beginning {
    const float *init;
    const u32 *row_of, *sequence_of;
    int channels;
};

// The place in rows first - (K - 1) .. of the tile. Whole warps come here.
template <int ROWS> DEVICE Place place_of(const u32 *sequence_of, int tokens, int channels) {
    static_assert(ROWS <= 32, "a lane looks at a row");
    int lane = threadIdx.x % 32;
    Place place;
    place.d = (blockIdx.x * 32 + lane) * VEC;
    place.own = min(place.d, channels - VEC);
    place.first = (blockIdx.y * TILES + threadIdx.x / 32) * TILE;
    int t = place.first - (K - 1) + lane;
    bool there = lane < ROWS && t >= 0 && t < tokens;
    place.starts = __ballot_sync(0xffffffffu, there && (t == 0 || sequence_of[t] != sequence_of[t - 1]));
    return place;
}

// Whether all rows and the block's channels are there, and of one sequence: one that begins with the first of them is one, too.
template <int ROWS> DEVICE bool is_plain(const Place &place, int tokens, int channels) {
    return place.starts < 2 && place.first - (K - 1) + ROWS <= tokens && (int)(blockIdx.x + 1) * 32 * VEC <= channels;
}

// Rows t .. t + ROWS of what is `stride` apart; others instead of those that do not exist, which nobody uses.
template <int ROWS> DEVICE void load_rows(Acts in[ROWS], const act *from, long long stride, int t, int tokens) {
#pragma unroll
    for (int i = 0; i < ROWS; i++) in[i] = *(const Acts *)(from + min(max(t + i, 0), tokens - 1) * stride);
}

DEVICE void load_weights(float w[K][VEC], float b[VEC], const float *weight, const float *bias, int d) {
    const float *from = weight + (long long)d * K;
    float own[VEC * K];
    if (VEC * K % 4 == 0 && aligned(from)) {
#pragma unroll
        for (int i = 0; i + 3 < VEC * K; i += 4) {
            Pack<float, 4> pack = *(const Pack<float, 4> *)(from + i);
#pragma unroll
            for (int j = 0; j < 4; j++) own[i + j] = pack.at[j];
        }
    } else {
#pragma unroll
        for (int i = 0; i < VEC * K; i++) own[i] = from[i];
    }
#pragma unroll
    for (int v = 0; v < VEC; v++) {
#pragma unroll
        for (int j = 0; j < K; j++) w[j][v] = own[v * K + j];
        b[v] = bias ? bias[d + v] : 0.0f;
    }
}

// Input i of a sequence's initial state.
DEVICE float initial_at(const float *init, const u32 *row_of, u32 sequence, int channels, int d, int i) {
    if (!init) return 0.0f;
    return init[((long long)row_of[sequence] * channels + d) * (K - 1) + i];
}

// The inputs before token t, with which its sequence begins, oldest first.
DEVICE void begin(float past[PAST][VEC], const Beginning &from, int d, int t) {
    u32 sequence = from.sequence_of[t];
#pragma unroll
    for (int j = 0; j < K - 1; j++) {
#pragma unroll
        for (int v = 0; v < VEC; v++) past[j][v] = initial_at(from.init, from.row_of, sequence, from.channels, d + v, j);
    }
}

// bias + weight . (past, now)
DEVICE float convolved(const float past[PAST][VEC], const float *now, const float w[K][VEC], const float *b, int v) {
    float total = b[v];
#pragma unroll
    for (int j = 0; j < K - 1; j++) total += w[j][v] * past[j][v];
    return total + w[K - 1][v] * now[v];
}

// 1 / (1 + e^-x) by the fast division, which is 0 where the denominator is very large.
DEVICE float gate(float x) {
#ifdef __CUDA_ARCH__
    return __fdividef(1.0f, 1.0f + ex2(-x * LOG2E));
#else
    return sigmoid(x);
#endif
}

DEVICE void shift(float past[PAST][VEC], const float *now) {
#pragma unroll
    for (int v = 0; v < VEC; v++) {
#pragma unroll
        for (int j = 0; j + 1 < K - 1; j++) past[j][v] = past[j + 1][v];
        if (K > 1) past[PAST - 1][v] = now[v];
    }
}

template <bool PLAIN> DEVICE void walk_forward(
    const Place &place, act *y, const Acts in[FORWARD_ROWS], const float w[K][VEC], const float *b, const Beginning &from,
    int tokens) {
    float past[PAST][VEC] = {};
#pragma unroll
    for (int i = 0; i < FORWARD_ROWS; i++) {
        int t = place.first - (K - 1) + i;
        if (!PLAIN && place.starts >> i & 1) begin(past, from, place.own, t);
        float now[VEC];
#pragma unroll
        for (int v = 0; v < VEC; v++) now[v] = to_f32(in[i].at[v]);
        if (i >= K - 1 && (PLAIN || t < tokens)) {
            Acts out;
#pragma unroll
            for (int v = 0; v < VEC; v++) {
                float total = convolved(past, now, w, b, v);
#if SILU
                total *= gate(total);
#endif
                put(&out.at[v], total);
            }
            if (PLAIN || place.d < from.channels) *(Acts *)(y + (long long)t * from.channels + place.d) = out;
        }
        shift(past, now);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) conv1d_forward(act *__restrict__ y, const act *__restrict__ x, long long x_stride, const float *__restrict__ weight, const float *__restrict__ bias, const float *__restrict__ init, const u32 *__restrict__ row_of, const u32 *__restrict__ sequence_of, int tokens, int channels) {
    Place place = place_of<FORWARD_ROWS>(sequence_of, tokens, channels);
    if (place.first >= tokens) return;
    Acts in[FORWARD_ROWS];
    float w[K][VEC], b[VEC];
    load_rows<FORWARD_ROWS>(in, x + place.own, x_stride, place.first - (K - 1), tokens);
    load_weights(w, b, weight, bias, place.own);
    Beginning from = {init, row_of, sequence_of, channels};
    if (is_plain<FORWARD_ROWS>(place, tokens, channels)) walk_forward<true>(place, y, in, w, b, from, tokens);
    else walk_forward<false>(place, y, in, w, b, from, tokens);
}

// The last K - 1 inputs of every sequence, what came before its tokens included; of an empty one the initial state.
extern "C" __global__ void conv1d_final_state(float *__restrict__ state, const act *__restrict__ x, long long x_stride, const float *__restrict__ init, const u32 *__restrict__ row_of, const u32 *__restrict__ offsets, int sequences, int channels) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (long long)sequences * channels) return;
    int s = at / channels, d = at % channels;
    int start = offsets[s], length = (int)offsets[s + 1] - start;
    for (int i = 0; i < K - 1; i++) {
        int t = length + i - (K - 1); // in the sequence
        state[at * (K - 1) + i] = t >= 0 ? to_f32(x[(start + t) * x_stride + d])
                                         : initial_at(init, row_of, s, channels, d, i + length);
    }
}

// What the backward writes and what comes to it beside x and dy.
struct Gradients {
    act *dx;
    long long dx_stride;
    const float *d_final;
    const u32 *offsets;
};

template <bool PLAIN> DEVICE void walk_backward(
    const Place &place, const Gradients &gradients, float sums[K + 1][VEC], const Acts in[BACKWARD_ROWS],
    const Acts d_in[FORWARD_ROWS], const float w[K][VEC], const float *b, const Beginning &from, int tokens) {
    float past[PAST][VEC] = {};
    float d_sum[FORWARD_ROWS][VEC]; // the gradient of the sum before SiLU, of the tile and of the K - 1 tokens behind it
#pragma unroll
    for (int i = 0; i < BACKWARD_ROWS; i++) {
        int t = place.first - (K - 1) + i;
        if (!PLAIN && place.starts >> i & 1) begin(past, from, place.own, t);
        float now[VEC];
#pragma unroll
        for (int v = 0; v < VEC; v++) now[v] = to_f32(in[i].at[v]);
        if (i >= K - 1) {
            const int row = i < K - 1 ? 0 : i - (K - 1);
#pragma unroll
            for (int v = 0; v < VEC; v++) {
                float d = to_f32(d_in[row].at[v]);
#if SILU
                float total = convolved(past, now, w, b, v), s = gate(total);
                d *= s * (1.0f + total * (1.0f - s));
#endif
                if (!PLAIN && t >= tokens) d = 0.0f;
                d_sum[row][v] = d;
#if SUMS
                if (row < TILE) {
#pragma unroll
                    for (int j = 0; j < K; j++) sums[j][v] += d * (j < K - 1 ? past[j < K - 1 ? j : 0][v] : now[v]);
                    sums[K][v] += d;
                }
#endif
            }
        }
        shift(past, now);

        // The last that token `done` reaches is there.
        int done = t - (K - 1);
        if (i >= 2 * (K - 1) && (PLAIN || gradients.dx && place.d < from.channels && done < tokens)) {
            const int row = i < 2 * (K - 1) ? 0 : i - 2 * (K - 1);
            float total[VEC] = {};
            u32 behind = place.starts >> (row + K); // sequences that begin at done + 1, done + 2, ..
#pragma unroll
            for (int m = 0; m < K; m++) {
                if (!PLAIN && behind & ((1u << m) - 1)) continue;
#pragma unroll
                for (int v = 0; v < VEC; v++) total[v] += w[K - 1 - m][v] * d_sum[row + m][v];
            }
            if (!PLAIN && K > 1 && gradients.d_final) {
                u32 s = from.sequence_of[done];
                int j = done - (int)gradients.offsets[s + 1] + K - 1;
                if (j >= 0) {
                    long long at = (long long)s * from.channels + place.d;
#pragma unroll
                    for (int v = 0; v < VEC; v++) total[v] += gradients.d_final[(at + v) * (K - 1) + j];
                }
            }
            Acts out;
#pragma unroll
            for (int v = 0; v < VEC; v++) put(&out.at[v], total[v]);
            *(Acts *)(gradients.dx + done * gradients.dx_stride + place.d) = out;
        }
    }
}

// partial[block of tokens, K + 1, d]: the sums of the block's tiles, added in order.
DEVICE void add_warps(float *partial, float sums[K + 1][VEC], int d, int channels) {
    __shared__ float shared[TILES][K + 1][32][VEC];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int j = 0; j <= K; j++) {
#pragma unroll
        for (int v = 0; v < VEC; v++) shared[warp][j][lane][v] = sums[j][v];
    }
    __syncthreads();
    if (d >= channels) return;
    for (int j = warp; j <= K; j += TILES) {
        Pack<float, VEC> out;
#pragma unroll
        for (int v = 0; v < VEC; v++) {
            out.at[v] = 0.0f;
            for (int i = 0; i < TILES; i++) out.at[v] += shared[i][j][lane][v];
        }
        *(Pack<float, VEC> *)(partial + ((long long)blockIdx.y * (K + 1) + j) * channels + d) = out;
    }
}

// dx[t] = sum over m < K of weight[K - 1 - m] d_sum[t + m] within the sequence, and what reaches x by the final state, where
// d_sum is the gradient of the sum before SiLU. The sums for weight and bias go to partial[block of tokens, K + 1, d].
extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS) conv1d_backward(act *__restrict__ dx, long long dx_stride, float *__restrict__ partial, const act *__restrict__ dy, const float *__restrict__ d_final, const act *__restrict__ x, long long x_stride, const float *__restrict__ weight, const float *__restrict__ bias, const float *__restrict__ init, const u32 *__restrict__ row_of, const u32 *__restrict__ offsets, const u32 *__restrict__ sequence_of, int tokens, int channels) {
    Place place = place_of<BACKWARD_ROWS>(sequence_of, tokens, channels);
    float sums[K + 1][VEC] = {};
    if (place.first < tokens) {
        Acts in[BACKWARD_ROWS], d_in[FORWARD_ROWS];
        float w[K][VEC], b[VEC];
        load_rows<BACKWARD_ROWS>(in, x + place.own, x_stride, place.first - (K - 1), tokens);
        load_rows<FORWARD_ROWS>(d_in, dy + place.own, channels, place.first, tokens);
        load_weights(w, b, weight, bias, place.own);
        Beginning from = {init, row_of, sequence_of, channels};
        Gradients gradients = {dx, dx_stride, d_final, offsets};
        bool plain = is_plain<BACKWARD_ROWS>(place, tokens, channels) && dx && !d_final;
        if (plain) walk_backward<true>(place, gradients, sums, in, d_in, w, b, from, tokens);
        else walk_backward<false>(place, gradients, sums, in, d_in, w, b, from, tokens);
    }
#if SUMS
    add_warps(partial, sums, place.d, channels);
#endif
}

// dweight [D, K] and dbias [D] from the tiles' sums: eight threads add every eighth tile, and one adds theirs, in order.
extern "C" __global__ void __launch_bounds__(256) conv1d_add_tiles(float *__restrict__ dweight, float *__restrict__ dbias, const float *__restrict__ partial, int tiles, int channels) {
    __shared__ float sums[8][32];
    int lane = threadIdx.x % 32, part = threadIdx.x / 32;
    long long at = (long long)blockIdx.x * 32 + lane, width = (long long)channels * (K + 1);
    float total = 0.0f;
    if (at < width) {
#pragma unroll 8
        for (int tile = part; tile < tiles; tile += 8) total += partial[tile * width + at];
    }
    sums[part][lane] = total;
    __syncthreads();
    if (part > 0 || at >= width) return;
    for (int i = 1; i < 8; i++) total += sums[i][lane];
    long long j = at / channels, d = at % channels;
    if (j < K && dweight) dweight[d * K + j] = total;
    if (j == K && dbias) dbias[d] = total;
}

// dinit [rows, D, K - 1]: what reaches each row of the initial states, over the sequences that start from it, in order.
extern "C" __global__ void conv1d_initial(float *__restrict__ dinit, const act *__restrict__ dy, const float *__restrict__ d_final, const act *__restrict__ x, long long x_stride, const float *__restrict__ weight, const float *__restrict__ bias, const float *__restrict__ init, const u32 *__restrict__ row_of, const u32 *__restrict__ offsets, int sequences, int channels, int rows) {
    int d = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (d >= channels) return;
    float total[PAST];
    for (int i = 0; i < K - 1; i++) total[i] = 0.0f;
    float b = bias ? bias[d] : 0.0f;
    for (int s = 0; s < sequences; s++) {
        if (row_of[s] != (u32)row) continue;
        int start = offsets[s], length = (int)offsets[s + 1] - start;
        // Token q's window begins at input q of the state.
        for (int q = 0; q < K - 1 && q < length; q++) {
            float window = b;
            for (int j = 0; j < K; j++) {
                int i = q + j;
                float input = i < K - 1 ? initial_at(init, row_of, s, channels, d, i)
                                        : to_f32(x[(start + i - (K - 1)) * x_stride + d]);
                window += weight[(long long)d * K + j] * input;
            }
            float d_sum = to_f32(dy[(long long)(start + q) * channels + d]);
#if SILU
            float g = sigmoid(window);
            d_sum *= g * (1.0f + window * (1.0f - g));
#endif
            for (int j = 0; q + j < K - 1; j++) total[q + j] += weight[(long long)d * K + j] * d_sum;
        }
        // Of a sequence shorter than the state, some of it is still there at the end.
        if (d_final) {
            for (int i = 0; i + length < K - 1; i++) total[i + length] += d_final[((long long)s * channels + d) * (K - 1) + i];
        }
    }
    for (int i = 0; i < K - 1; i++) dinit[((long long)row * channels + d) * (K - 1) + i] = total[i];
}
