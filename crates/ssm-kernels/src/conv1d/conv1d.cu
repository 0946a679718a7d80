// The causal depthwise convolution of a packed batch with bias and SiLU. Bytes are the bound: x is read about once.
//
// Defines: ACT_BF16; K: the width; SILU; VEC: channels of a thread, 2 or 1; TILE: tokens of a thread.
//
// A thread walks TILE tokens of VEC channels with the last K - 1 inputs in registers. `sequence_of` tells where another
// sequence begins: its first inputs come from the initial state. Grids depend on T and D alone.

#define PAST (K > 1 ? K - 1 : 1)

struct alignas(sizeof(act) * VEC) Acts {
    act at[VEC];
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

DEVICE void load_weights(float w[K][VEC], float *b, const float *weight, const float *bias, int d) {
#pragma unroll
    for (int v = 0; v < VEC; v++) {
        b[v] = bias ? bias[d + v] : 0.0f;
#pragma unroll
        for (int j = 0; j < K; j++) w[j][v] = weight[(long long)(d + v) * K + j];
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

extern "C" __global__ void conv1d_forward(act *__restrict__ y, const act *__restrict__ x, long long x_stride, const float *__restrict__ weight, const float *__restrict__ bias, const float *__restrict__ init, const u32 *__restrict__ row_of, const u32 *__restrict__ offsets, const u32 *__restrict__ sequence_of, int tokens, int channels) {
    int d = (blockIdx.x * blockDim.x + threadIdx.x) * VEC;
    int first = blockIdx.y * TILE, last = min(tokens, first + TILE);
    if (d >= channels) return;
    float w[K][VEC], b[VEC], past[PAST][VEC];
    load_weights(w, b, weight, bias, d);
    u32 sequence = sequence_of[first];
    load_past(past, x, x_stride, init, row_of, offsets, sequence, channels, d, first);
#pragma unroll 4
    for (int t = first; t < last; t++) {
        if (sequence_of[t] != sequence) {
            sequence = sequence_of[t];
            load_past(past, x, x_stride, init, row_of, offsets, sequence, channels, d, t);
        }
        Acts in = *(const Acts *)(x + t * x_stride + d), out;
        float now[VEC];
#pragma unroll
        for (int v = 0; v < VEC; v++) now[v] = to_f32(in.at[v]);
#pragma unroll
        for (int v = 0; v < VEC; v++) {
            float total = convolved(past, now, w, b, v);
#if SILU
            total *= sigmoid(total);
#endif
            put(&out.at[v], total);
        }
        *(Acts *)(y + (long long)t * channels + d) = out;
        shift(past, now);
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

// The gradient of the sum before SiLU at token t, whose inputs are given.
DEVICE float d_before(const act *dy, const float past[PAST][VEC], const float *now, const float w[K][VEC], const float *b, int channels, int t, int d, int v) {
    float d_sum = to_f32(dy[(long long)t * channels + d + v]);
#if SILU
    float total = convolved(past, now, w, b, v), s = sigmoid(total);
    d_sum *= s * (1.0f + total * (1.0f - s));
#endif
    return d_sum;
}

// dx[t] = sum over m < K of weight[K - 1 - m] d_sum[t + m] within the sequence, and what reaches x by the final state. The
// sums of a tile for weight and bias go to partial[tile, d, K + 1].
extern "C" __global__ void conv1d_backward(act *__restrict__ dx, long long dx_stride, float *__restrict__ partial, const act *__restrict__ dy, const float *__restrict__ d_final, const act *__restrict__ x, long long x_stride, const float *__restrict__ weight, const float *__restrict__ bias, const float *__restrict__ init, const u32 *__restrict__ row_of, const u32 *__restrict__ offsets, const u32 *__restrict__ sequence_of, int tokens, int channels) {
    int d = (blockIdx.x * blockDim.x + threadIdx.x) * VEC;
    int first = blockIdx.y * TILE, last = min(tokens, first + TILE);
    if (d >= channels) return;
    float w[K][VEC], b[VEC], past[PAST][VEC], dw[K][VEC], db[VEC];
    float ahead[K][VEC]; // the gradients so far of x at t - (K - 1) .. t
    load_weights(w, b, weight, bias, d);
#pragma unroll
    for (int v = 0; v < VEC; v++) {
        db[v] = 0.0f;
#pragma unroll
        for (int j = 0; j < K; j++) dw[j][v] = ahead[j][v] = 0.0f;
    }
    u32 sequence = sequence_of[first];
    load_past(past, x, x_stride, init, row_of, offsets, sequence, channels, d, first);
    // Past the tile's end, the next K - 1 tokens still reach into it.
    int reach = min(tokens, last + K - 1);
    for (int t = first; t < reach + K - 1; t++) {
        bool live = t < reach;
        if (live && sequence_of[t] != sequence) {
            sequence = sequence_of[t];
            load_past(past, x, x_stride, init, row_of, offsets, sequence, channels, d, t);
        }
        float now[VEC];
        int in = live ? t - (int)offsets[sequence] : 0;
#pragma unroll
        for (int v = 0; v < VEC; v++) {
            now[v] = 0.0f;
            if (live) {
                now[v] = to_f32(x[t * x_stride + d + v]);
                float d_sum = d_before(dy, past, now, w, b, channels, t, d, v);
#pragma unroll
                for (int j = 0; j < K; j++) {
                    // Input j of the window is x at t - (K - 1 - j): of this sequence, or of the initial state.
                    if (K - 1 - j <= in) ahead[j][v] += w[j][v] * d_sum;
                    if (t < last) dw[j][v] += d_sum * (j < K - 1 ? past[j < K - 1 ? j : 0][v] : now[v]);
                }
                if (t < last) db[v] += d_sum;
            }
        }
        if (live) shift(past, now);
        int done = t - (K - 1);
        if (done >= first && done < last && dx) {
            Acts out;
#pragma unroll
            for (int v = 0; v < VEC; v++) {
                float total = ahead[0][v];
                if (d_final && K > 1) {
                    u32 s = sequence_of[done];
                    int i = done - (int)offsets[s + 1] + K - 1;
                    if (i >= 0) total += d_final[((long long)s * channels + d + v) * (K - 1) + i];
                }
                put(&out.at[v], total);
            }
            *(Acts *)(dx + done * dx_stride + d) = out;
        }
#pragma unroll
        for (int v = 0; v < VEC; v++) {
#pragma unroll
            for (int j = 0; j + 1 < K; j++) ahead[j][v] = ahead[j + 1][v];
            ahead[K - 1][v] = 0.0f;
        }
    }
    if (partial) {
#pragma unroll
        for (int v = 0; v < VEC; v++) {
            float *to = partial + ((long long)blockIdx.y * channels + d + v) * (K + 1);
#pragma unroll
            for (int j = 0; j < K; j++) to[j] = dw[j][v];
            to[K] = db[v];
        }
    }
}

// dweight [D, K] and dbias [D] from the tiles' sums, in order.
extern "C" __global__ void conv1d_add_tiles(float *__restrict__ dweight, float *__restrict__ dbias, const float *__restrict__ partial, int tiles, int channels) {
    long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x, width = (long long)channels * (K + 1);
    if (at >= width) return;
    float total = 0.0f;
    for (int tile = 0; tile < tiles; tile++) total += partial[tile * width + at];
    int d = at / (K + 1), j = at % (K + 1);
    if (j < K && dweight) dweight[(long long)d * K + j] = total;
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
