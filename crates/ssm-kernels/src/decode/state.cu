// One token of every sequence through convolution and scan, states updated where they lie.
//
// Bound. Bytes: the states [S, D, N] are read and written once, in f32; with few sequences latency.
//
// Idea. Four lanes share a channel, some of its states each, of EACH sequences: what all sequences have in common is read
// once for them. LOW_RANK: the kernel makes delta from its low-rank form itself, which saves a launch where that is little
// work. What the launch in front of it does not write, the states among it, is on its way before all else, and the rest
// together.
//
// Defines: ACT_BF16, SOFTPLUS; N; LOW_RANK; WIDTH: of the convolution; VEC: states per access, 4 or 1; MAPS: elements of B
// and C per access, 1 to VEC; RANKS: elements of dt's row per access; MOST_RANK: a rank that is not below dt's; EACH.

#define LANES 4
#define THREADS 128
#define HELD ((N + LANES * VEC - 1) / (LANES * VEC))
#define FACTORS ((MOST_RANK + LANES * RANKS - 1) / (LANES * RANKS))

typedef Pack<float, VEC> Floats;
typedef Pack<act, RANKS> Acts;
typedef Pack<act, MAPS> Maps;

// A lane's elements of B or C.
struct alignas(sizeof(act) * MAPS) Few {
    act at[VEC];
};

// u [S, D] and the convolution's states one token on.
extern "C" __global__ void __launch_bounds__(THREADS) conv_step(
    act *u, const act *x, int x_stride, float *state,
    const float *weight, const float *bias, int sequences, int d_inner) {
    long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    bool there = i < (long long)sequences * d_inner;
    int s = there ? i / d_inner : 0, d = there ? i - (long long)s * d_inner : 0;
    Past past = past_of(Conv{state, weight, bias, d_inner}, s, d);
    after_previous();
    if (there) put(u + i, convolved(past, to_f32(x[(long long)s * x_stride + d])));
}

// out [S, D] and the scan's states one token on. dt is delta [S, D], or with LOW_RANK what the weight [D, rank] makes it of.
// Grid: blocks of channels; blocks of EACH sequences.
extern "C" __global__ void __launch_bounds__(THREADS) scan_step(
    act *out, float *state, const act *u, int u_stride,
    const act *z, int z_stride, const act *dt, int dt_stride,
    const act *dt_weight, int rank, const float *delta_bias, const float *a,
    const act *b, int b_stride, const act *c, int c_stride,
    const float *d_skip, const float *state_offset, const float *output_offset,
    int sequences, int d_inner) {
    int d = blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES, lane = threadIdx.x % LANES, first = blockIdx.y * EACH;
    bool there = d < d_inner;
    if (!there) d = 0; // reads along, writes nothing
    let_next_begin();
    // Nothing in front of this launch writes these: the states are those of the step before.
    Floats h[EACH][HELD] = {}, decay[HELD] = {}, added[HELD] = {};
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        int n = (j * LANES + lane) * VEC;
        if (n >= N) continue;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            long long s = min(first + e, sequences - 1);
            h[e][j] = *(const Floats *)(state + (s * d_inner + d) * N + n);
        }
        decay[j] = *(const Floats *)(a + (long long)d * N + n);
        if (state_offset) added[j] = *(const Floats *)(state_offset + (long long)d * N + n);
    }
#if LOW_RANK
    Acts factors[FACTORS] = {};
#pragma unroll
    for (int j = 0; j < FACTORS; j++) {
        int r = (j * LANES + lane) * RANKS;
        if (r < rank) factors[j] = *(const Acts *)(dt_weight + (long long)d * rank + r);
    }
#endif
    float bias = delta_bias ? delta_bias[d] : 0.0f, skip = d_skip ? d_skip[d] : 0.0f;
    float shift = output_offset ? output_offset[d] : 0.0f;
    await_previous();

    float input[EACH], gate[EACH], delta[EACH];
    Few in[EACH][HELD] = {}, read[EACH][HELD] = {};
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        long long s = min(first + e, sequences - 1);
        input[e] = to_f32(u[s * u_stride + d]);
        gate[e] = to_f32(z[s * z_stride + d]);
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            int n = (j * LANES + lane) * VEC;
            if (n >= N) continue;
#pragma unroll
            for (int k = 0; k < VEC; k += MAPS) {
                *(Maps *)(in[e][j].at + k) = *(const Maps *)(b + s * b_stride + n + k);
                *(Maps *)(read[e][j].at + k) = *(const Maps *)(c + s * c_stride + n + k);
            }
        }
#if LOW_RANK
        delta[e] = 0.0f;
#pragma unroll
        for (int j = 0; j < FACTORS; j++) {
            int r = (j * LANES + lane) * RANKS;
            if (r >= rank) continue;
            Acts v = *(const Acts *)(dt + s * dt_stride + r);
#pragma unroll
            for (int k = 0; k < RANKS; k++) delta[e] += to_f32(factors[j].at[k]) * to_f32(v.at[k]);
        }
        delta[e] += __shfl_xor_sync(0xffffffffu, delta[e], 1);
        delta[e] += __shfl_xor_sync(0xffffffffu, delta[e], 2);
        delta[e] = as_act(delta[e]);
#else
        delta[e] = to_f32(dt[s * dt_stride + d]);
#endif
    }
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        long long s = first + e;
        bool writes = there && s < sequences;
        float step, slope, y = 0.0f;
        step_of(delta[e] + bias, &step, &slope);
#pragma unroll
        for (int j = 0; j < HELD; j++) {
            int n = (j * LANES + lane) * VEC;
            if (n >= N) continue;
            Floats &own = h[e][j];
#pragma unroll
            for (int k = 0; k < VEC; k++) {
                own.at[k] = ex2(step * decay[j].at[k] * LOG2E) * own.at[k] + step * input[e] * to_f32(in[e][j].at[k]);
                y += (own.at[k] + added[j].at[k]) * to_f32(read[e][j].at[k]);
            }
            if (writes) *(Floats *)(state + (s * d_inner + d) * N + n) = own;
        }
        y += __shfl_xor_sync(0xffffffffu, y, 1);
        y += __shfl_xor_sync(0xffffffffu, y, 2);
        if (!writes || lane != 0) continue;
        y += shift + skip * input[e];
        put(out + s * d_inner + d, y * gate[e] * fast_sigmoid(gate[e]));
    }
}
