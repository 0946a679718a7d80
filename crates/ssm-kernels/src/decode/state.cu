// One token of every sequence through convolution and scan, states updated where they lie.
//
// Bound. Bytes: the states [S, D, N] are read and written once, in f32; with few sequences latency.
//
// Idea. Four lanes share a channel of a sequence, some of its states each. FUSED: the kernel makes u from the states of
// the convolution and Δ from its low-rank form itself, which saves two launches where there are few sequences. A channel
// belongs to one warp, so states can be shifted in place once all four lanes have read them.
//
// Defines: ACT_BF16, SOFTPLUS; N; FUSED; WIDTH: of the convolution; VEC: states per access, 4 or 1; RANKS: elements of
// dt's row per access.

#define LANES 4
#define THREADS 128

typedef Pack<float, VEC> Floats;
typedef Pack<act, RANKS> Acts;

// As an activation would keep it.
DEVICE float as_act(float x) {
    act rounded;
    put(&rounded, x);
    return to_f32(rounded);
}

// silu(bias + weight . (past, now)) of one channel.
DEVICE float convolved(float (&past)[WIDTH], const float *state, float now, const float *weight, const float *bias, int d) {
    float total = bias ? bias[d] : 0.0f;
#pragma unroll
    for (int j = 0; j < WIDTH - 1; j++) past[j] = state[j];
    past[WIDTH - 1] = now;
#pragma unroll
    for (int j = 0; j < WIDTH; j++) total += weight[d * WIDTH + j] * past[j];
    return total * sigmoid(total);
}

// u [S, D] and the convolution's states one token on.
extern "C" __global__ void __launch_bounds__(THREADS) conv_step(
    act *__restrict__ u, float *__restrict__ state, const act *__restrict__ x, int x_stride,
    const float *__restrict__ weight, const float *__restrict__ bias, int sequences, int d_inner) {
    long long i = (long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (long long)sequences * d_inner) return;
    int s = i / d_inner, d = i - (long long)s * d_inner;
    float past[WIDTH];
    float *own = state + i * (WIDTH - 1);
    put(u + i, convolved(past, own, to_f32(x[(long long)s * x_stride + d]), weight, bias, d));
#pragma unroll
    for (int j = 0; j < WIDTH - 1; j++) own[j] = past[j + 1];
}

// out [S, D] and the scan's states one token on. Without FUSED x is u and dt is delta [S, D].
extern "C" __global__ void __launch_bounds__(THREADS) scan_step(
    act *__restrict__ out, float *__restrict__ state, float *__restrict__ conv_state, const act *__restrict__ x,
    int x_stride, const act *__restrict__ z, int z_stride, const act *__restrict__ dt, int dt_stride,
    const act *__restrict__ dt_weight, int rank, const float *__restrict__ delta_bias, const float *__restrict__ a,
    const act *__restrict__ b, int b_stride, const act *__restrict__ c, int c_stride,
    const float *__restrict__ d_skip, const float *__restrict__ conv_weight, const float *__restrict__ conv_bias,
    const float *__restrict__ state_offset, const float *__restrict__ output_offset, int sequences, int d_inner) {
    long long i = (long long)blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    int lane = threadIdx.x % LANES;
    bool there = i < (long long)sequences * d_inner;
    if (!there) i = 0; // reads along, writes nothing
    int s = i / d_inner, d = i - (long long)s * d_inner;
    float u = to_f32(x[(long long)s * x_stride + d]), delta;
#if FUSED
    float past[WIDTH];
    float *own = conv_state + i * (WIDTH - 1);
    u = as_act(convolved(past, own, u, conv_weight, conv_bias, d));
    __syncwarp();
    if (there && lane == 0) {
#pragma unroll
        for (int j = 0; j < WIDTH - 1; j++) own[j] = past[j + 1];
    }
    delta = 0.0f;
    for (int r = lane * RANKS; r < rank; r += LANES * RANKS) {
        Acts w = *(const Acts *)(dt_weight + (long long)d * rank + r), v = *(const Acts *)(dt + (long long)s * dt_stride + r);
#pragma unroll
        for (int k = 0; k < RANKS; k++) delta += to_f32(w.at[k]) * to_f32(v.at[k]);
    }
    delta += __shfl_xor_sync(0xffffffffu, delta, 1);
    delta += __shfl_xor_sync(0xffffffffu, delta, 2);
#else
    delta = to_f32(dt[(long long)s * dt_stride + d]);
#endif
    float step, slope, y = 0.0f;
    step_of(delta + (delta_bias ? delta_bias[d] : 0.0f), &step, &slope);
    float input = step * u;
#pragma unroll
    for (int n = lane * VEC; n < N; n += LANES * VEC) {
        Floats h = *(const Floats *)(state + i * N + n), decay = *(const Floats *)(a + (long long)d * N + n), added = {};
        if (state_offset) added = *(const Floats *)(state_offset + (long long)d * N + n);
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            float in = to_f32(b[(long long)s * b_stride + n + k]), read = to_f32(c[(long long)s * c_stride + n + k]);
            h.at[k] = ex2(step * decay.at[k] * LOG2E) * h.at[k] + input * in;
            y += (h.at[k] + added.at[k]) * read;
        }
        if (there) *(Floats *)(state + i * N + n) = h;
    }
    y += __shfl_xor_sync(0xffffffffu, y, 1);
    y += __shfl_xor_sync(0xffffffffu, y, 2);
    if (!there || lane != 0) return;
    if (output_offset) y += output_offset[d];
    if (d_skip) y += d_skip[d] * u;
    float gate = to_f32(z[(long long)s * z_stride + d]);
    put(out + i, y * gate * fast_sigmoid(gate));
}
