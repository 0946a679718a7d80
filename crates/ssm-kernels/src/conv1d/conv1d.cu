// The causal depthwise convolution of a packed batch with bias and SiLU. Bytes are the bound: x is read about once.
//
// Defines: ACT_BF16; K: the width; SILU; VEC: channels of a thread, 4, 2 or 1; TILE: tokens of a thread; SUMS: whether
// the backward adds up gradients of weight and bias.
//
// A thread walks TILE tokens of VEC channels with the last K - 1 inputs in registers, and has the next group of tokens
// on their way while it computes. `sequence_of` tells where another sequence begins: its first inputs come from the initial
// state. Most tiles lie in one sequence, as their ends tell. Grids depend on T and D alone.

#define PAST (K > 1 ? K - 1 : 1)
#define THREADS 64

// Tokens on their way: the forward has the registers for more of them.
#define FORWARD_GROUP (TILE >= 32 ? 8 : 4)
#define BACKWARD_GROUP 4

struct alignas(sizeof(act) * VEC) Acts {
    act at[VEC];
};

// What is read and written of floats at once.
#define FLOATS (VEC < 4 ? VEC : 4)
struct alignas(4 * FLOATS) Floats {
    float at[FLOATS];
};

// Input j before token `first` of its sequence, from its row of the initial states.
DEVICE float initial_at(const float *init, const u32 *row_of, u32 sequence, int channels, int d, int i) {
    if (!init) return 0.0f;
    return init[((long long)row_of[sequence] * channels + d) * (K - 1) + i];
}

// The inputs K - 1 .. 1 before token t, oldest first.
DEVICE void load_past(float past[PAST][VEC], const act *x, long long x_stride, const float *init, const u32 *row_of, const u32 *offsets, u32 sequence, int channels, int d, int t) {
    int in = t - (int)offsets[sequence]; // tokens of this sequence before t
#pragma unroll
    for (int j = 0; j < K - 1; j++) {
        int back = K - 1 - j;
#pragma unroll
        for (int v = 0; v < VEC; v++) {
            past[j][v] = back <= in ? to_f32(x[(t - back) * x_stride + d + v])
                                    : initial_at(init, row_of, sequence, channels, d + v, j + in);
        }
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

// The block's weights and biases go through shared memory: a thread's own lie too far from its neighbour's.
DEVICE void load_weights(float w[K][VEC], float *b, const float *weight, const float *bias, int channels) {
    __shared__ Floats shared[K + 1][THREADS * VEC / FLOATS];
    int start = blockIdx.x * THREADS * VEC, count = min(THREADS * VEC, channels - start);
    for (int i = threadIdx.x; i < count * K; i += THREADS) ((float *)shared[i % K])[i / K] = weight[(long long)start * K + i];
    for (int i = threadIdx.x; i < count; i += THREADS) ((float *)shared[K])[i] = bias ? bias[start + i] : 0.0f;
    __syncthreads();
#pragma unroll
    for (int v = 0; v < VEC; v++) {
        int pack = threadIdx.x * (VEC / FLOATS) + v / FLOATS;
#pragma unroll
        for (int j = 0; j < K; j++) w[j][v] = shared[j][pack].at[v % FLOATS];
        b[v] = shared[K][pack].at[v % FLOATS];
    }
}

DEVICE void shift(float past[PAST][VEC], const float *now) {
#pragma unroll
    for (int v = 0; v < VEC; v++) {
#pragma unroll
        for (int j = 0; j + 1 < K - 1; j++) past[j][v] = past[j + 1][v];
        if (K > 1) past[PAST - 1][v] = now[v];
    }
}

// Rows t .. t + GROUP of what is `stride` apart; the last row before `end` instead of those past it, which nobody uses.
template <int GROUP> DEVICE void load_group(Acts in[GROUP], const act *from, long long stride, int t, int end) {
#pragma unroll
    for (int g = 0; g < GROUP; g++) in[g] = *(const Acts *)(from + min(t + g, end - 1) * stride);
}

extern "C" __global__ void __launch_bounds__(THREADS) conv1d_forward(act *__restrict__ y, const act *__restrict__ x, long long x_stride, const float *__restrict__ weight, const float *__restrict__ bias, const float *__restrict__ init, const u32 *__restrict__ row_of, const u32 *__restrict__ offsets, const u32 *__restrict__ sequence_of, int tokens, int channels) {
    int d = (blockIdx.x * THREADS + threadIdx.x) * VEC;
    int first = blockIdx.y * TILE, last = min(tokens, first + TILE);
    float w[K][VEC], b[VEC], past[PAST][VEC];
    // Inputs are on their way before the block waits for its weights. The last channels stand in for those behind them.
    Acts in[FORWARD_GROUP], next[FORWARD_GROUP];
    load_group<FORWARD_GROUP>(next, x + min(d, channels - VEC), x_stride, first, last);
    u32 sequence = sequence_of[first];
    bool one = sequence_of[last - 1] == sequence;
    load_weights(w, b, weight, bias, channels);
    if (d >= channels) return;
    load_past(past, x, x_stride, init, row_of, offsets, sequence, channels, d, first);
    for (int start = first; start < last; start += FORWARD_GROUP) {
#pragma unroll
        for (int g = 0; g < FORWARD_GROUP; g++) in[g] = next[g];
        load_group<FORWARD_GROUP>(next, x + d, x_stride, start + FORWARD_GROUP, last);
#pragma unroll
        for (int g = 0; g < FORWARD_GROUP; g++) {
            int t = start + g;
            if (t < last) {
                if (!one && sequence_of[t] != sequence) {
                    sequence = sequence_of[t];
                    load_past(past, x, x_stride, init, row_of, offsets, sequence, channels, d, t);
                }
                float now[VEC];
                Acts out;
#pragma unroll
                for (int v = 0; v < VEC; v++) {
                    now[v] = to_f32(in[g].at[v]);
                    float total = convolved(past, now, w, b, v);
#if SILU
                    total *= gate(total);
#endif
                    put(&out.at[v], total);
                }
                *(Acts *)(y + (long long)t * channels + d) = out;
                shift(past, now);
            }
        }
    }
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

// dx[t] = sum over m < K of weight[K - 1 - m] d_sum[t + m] within the sequence, and what reaches x by the final state, where
// d_sum is the gradient of the sum before SiLU. The sums of a tile for weight and bias go to partial[tile, K + 1, d].
extern "C" __global__ void __launch_bounds__(THREADS) conv1d_backward(act *__restrict__ dx, long long dx_stride, float *__restrict__ partial, const act *__restrict__ dy, const float *__restrict__ d_final, const act *__restrict__ x, long long x_stride, const float *__restrict__ weight, const float *__restrict__ bias, const float *__restrict__ init, const u32 *__restrict__ row_of, const u32 *__restrict__ offsets, const u32 *__restrict__ sequence_of, int tokens, int channels) {
    int d = (blockIdx.x * THREADS + threadIdx.x) * VEC;
    int first = blockIdx.y * TILE, last = min(tokens, first + TILE);
    float w[K][VEC], b[VEC], past[PAST][VEC], sums[K + 1][VEC];
    float ahead[K][VEC]; // the gradients so far of x at t - (K - 1) .. t
    // Past the tile's end, the next K - 1 tokens still reach into it.
    int reach = min(tokens, last + K - 1), own = min(d, channels - VEC);
    Acts in[BACKWARD_GROUP], next[BACKWARD_GROUP], d_in[BACKWARD_GROUP], d_next[BACKWARD_GROUP];
    load_group<BACKWARD_GROUP>(next, x + own, x_stride, first, reach);
    load_group<BACKWARD_GROUP>(d_next, dy + own, channels, first, reach);
    u32 sequence = sequence_of[first];
    bool one = sequence_of[reach - 1] == sequence;
    load_weights(w, b, weight, bias, channels);
    if (d >= channels) return;
#pragma unroll
    for (int v = 0; v < VEC; v++) {
#pragma unroll
        for (int j = 0; j <= K; j++) sums[j][v] = 0.0f;
#pragma unroll
        for (int j = 0; j < K; j++) ahead[j][v] = 0.0f;
    }
    load_past(past, x, x_stride, init, row_of, offsets, sequence, channels, d, first);
    for (int start = first; start < last + K - 1; start += BACKWARD_GROUP) {
#pragma unroll
        for (int g = 0; g < BACKWARD_GROUP; g++) {
            in[g] = next[g];
            d_in[g] = d_next[g];
        }
        load_group<BACKWARD_GROUP>(next, x + d, x_stride, start + BACKWARD_GROUP, reach);
        load_group<BACKWARD_GROUP>(d_next, dy + d, channels, start + BACKWARD_GROUP, reach);
#pragma unroll
        for (int g = 0; g < BACKWARD_GROUP; g++) {
            int t = start + g;
            if (t < reach) {
                // A window's inputs before its sequence are not x. In a tile of one sequence they lie before the tile, too.
                int within = K - 1;
                if (!one) {
                    if (sequence_of[t] != sequence) {
                        sequence = sequence_of[t];
                        load_past(past, x, x_stride, init, row_of, offsets, sequence, channels, d, t);
                    }
                    within = t - (int)offsets[sequence];
                }
                float now[VEC];
#pragma unroll
                for (int v = 0; v < VEC; v++) {
                    now[v] = to_f32(in[g].at[v]);
                    float d_sum = to_f32(d_in[g].at[v]);
#if SILU
                    float total = convolved(past, now, w, b, v), s = gate(total);
                    d_sum *= s * (1.0f + total * (1.0f - s));
#endif
#pragma unroll
                    for (int j = 0; j < K; j++) {
                        // Input j of the window is x at t - (K - 1 - j).
                        if (K - 1 - j <= within) ahead[j][v] += w[j][v] * d_sum;
                    }
#if SUMS
                    if (t < last) {
#pragma unroll
                        for (int j = 0; j < K; j++) sums[j][v] += d_sum * (j < K - 1 ? past[j < K - 1 ? j : 0][v] : now[v]);
                        sums[K][v] += d_sum;
                    }
#endif
                }
                shift(past, now);
            }
            int done = t - (K - 1);
            if (done >= first && done < last && dx) {
                if (d_final && K > 1) {
                    u32 s = sequence_of[done];
                    int i = done - (int)offsets[s + 1] + K - 1;
                    if (i >= 0) {
#pragma unroll
                        for (int v = 0; v < VEC; v++) ahead[0][v] += d_final[((long long)s * channels + d + v) * (K - 1) + i];
                    }
                }
                Acts out;
#pragma unroll
                for (int v = 0; v < VEC; v++) put(&out.at[v], ahead[0][v]);
                *(Acts *)(dx + done * dx_stride + d) = out;
            }
#pragma unroll
            for (int v = 0; v < VEC; v++) {
#pragma unroll
                for (int j = 0; j + 1 < K; j++) ahead[j][v] = ahead[j + 1][v];
                ahead[K - 1][v] = 0.0f;
            }
        }
    }
#if SUMS
#pragma unroll
    for (int j = 0; j <= K; j++) {
#pragma unroll
        for (int v = 0; v < VEC; v += FLOATS) {
            Floats out;
#pragma unroll
            for (int i = 0; i < FLOATS; i++) out.at[i] = sums[j][v + i];
            *(Floats *)(partial + ((long long)blockIdx.y * (K + 1) + j) * channels + d + v) = out;
        }
    }
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
