// One token of every sequence through convolution and scan, states updated where they lie.
//
// Bound. Bytes: the states [S, D, N] are read and written once, in f32; with few sequences latency.
//
// Idea. Four lanes share a channel of a sequence, some of its states each. LOW_RANK: the kernel makes delta from its
// low-rank form itself, which saves a launch where that is little work. What the launch in front of it does not write, the
// states among it, is on its way before all else, and the rest together.
//
// Defines: ACT_BF16, SOFTPLUS; N; LOW_RANK; WIDTH: of the convolution; VEC: states per access, 4 or 1; RANKS: elements of
// dt's row per access; MOST_RANK: a rank that is not below dt's.

#define LANES 4
#define THREADS 128
#define HELD ((N + LANES * VEC - 1) / (LANES * VEC))
#define FACTORS ((MOST_RANK + LANES * RANKS - 1) / (LANES * RANKS))

typedef Pack<float, VEC> Floats;
typedef Pack<act, RANKS> Acts;

// u [S, D] and the convolution's states one token on.
extern "C" __global__ void __launch_bounds__(THREADS) conv_step(
    act *__restrict__ u, const act *__restrict__ x, int x_stride, float *__restrict__ state,
    const float *__restrict__ weight, const float *__restrict__ bias, int sequences, int d_inner) {
    after_previous();
    long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (long long)sequences * d_inner) return;
    int s = i / d_inner, d = i - (long long)s * d_inner;
    put(u + i, convolved(past_of(Conv{state, weight, bias, d_inner}, s, d), to_f32(x[(long long)s * x_stride + d])));
}

// out [S, D] and the scan's states one token on. dt is delta [S, D], or with LOW_RANK what the weight [D, rank] makes it of.
extern "C" __global__ void __launch_bounds__(THREADS) scan_step(
    act *__restrict__ out, float *__restrict__ state, const act *__restrict__ u, int u_stride,
    const act *__restrict__ z, int z_stride, const act *__restrict__ dt, int dt_stride,
    const act *__restrict__ dt_weight, int rank, const float *__restrict__ delta_bias, const float *__restrict__ a,
    const act *__restrict__ b, int b_stride, const act *__restrict__ c, int c_stride,
    const float *__restrict__ d_skip, const float *__restrict__ state_offset, const float *__restrict__ output_offset,
    int sequences, int d_inner) {
    long long i = (long long)blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    int lane = threadIdx.x % LANES;
    bool there = i < (long long)sequences * d_inner;
    if (!there) i = 0; // reads along, writes nothing
    int s = i / d_inner, d = i - (long long)s * d_inner;
    // Nothing in front of this launch writes these: the states are those of the step before.
    Floats h[HELD] = {}, decay[HELD] = {}, added[HELD] = {};
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        int n = (j * LANES + lane) * VEC;
        if (n >= N) continue;
        h[j] = *(const Floats *)(state + i * N + n);
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
    after_previous();

    float input = to_f32(u[(long long)s * u_stride + d]), gate = to_f32(z[(long long)s * z_stride + d]), delta;
    float in[HELD][VEC], read[HELD][VEC];
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        int n = (j * LANES + lane) * VEC;
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            in[j][k] = n < N ? to_f32(b[(long long)s * b_stride + n + k]) : 0.0f;
            read[j][k] = n < N ? to_f32(c[(long long)s * c_stride + n + k]) : 0.0f;
        }
    }
#if LOW_RANK
    delta = 0.0f;
#pragma unroll
    for (int j = 0; j < FACTORS; j++) {
        int r = (j * LANES + lane) * RANKS;
        if (r >= rank) continue;
        Acts v = *(const Acts *)(dt + (long long)s * dt_stride + r);
#pragma unroll
        for (int k = 0; k < RANKS; k++) delta += to_f32(factors[j].at[k]) * to_f32(v.at[k]);
    }
    delta += __shfl_xor_sync(0xffffffffu, delta, 1);
    delta += __shfl_xor_sync(0xffffffffu, delta, 2);
    delta = as_act(delta);
#else
    delta = to_f32(dt[(long long)s * dt_stride + d]);
#endif
    float step, slope, y = 0.0f;
    step_of(delta + bias, &step, &slope);
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        int n = (j * LANES + lane) * VEC;
        if (n >= N) continue;
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            h[j].at[k] = ex2(step * decay[j].at[k] * LOG2E) * h[j].at[k] + step * input * in[j][k];
            y += (h[j].at[k] + added[j].at[k]) * read[j][k];
        }
        if (there) *(Floats *)(state + i * N + n) = h[j];
    }
    y += __shfl_xor_sync(0xffffffffu, y, 1);
    y += __shfl_xor_sync(0xffffffffu, y, 2);
    if (!there || lane != 0) return;
    y += shift + skip * input;
    put(out + i, y * gate * fast_sigmoid(gate));
}
