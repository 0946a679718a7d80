// The norm of x + residual of every sequence, for decoding: as [`norm`] makes it, in the chain of a step's launches.
//
// Bound. A few kilobytes a block: latency. A thread has its elements of a row at once. Where the product in front left sums of
// parts of its columns, they are added up here.
//
// Defines: ACT_BF16; COLS: columns; PARTS: 0, or of how many x is to be summed; VEC: elements per access; THREADS; WIDTH: of
// the convolution, which is not here.

#define PER ((COLS + THREADS * VEC - 1) / (THREADS * VEC))

typedef Pack<float, VEC> Floats;
typedef Pack<act, VEC> Acts;

// y [S, COLS], and sum = x + residual. A block is a sequence. x is [S, COLS]; with ids a table of such rows; or with PARTS
// the bias and the sum of parts [PARTS, S, COLS].
extern "C" __global__ void __launch_bounds__(THREADS) norm_step(
    act *y, float *sum, const act *x, const u32 *ids,
    const float *parts, const float *bias, const float *residual,
    const float *weight, float eps) {
    __shared__ float shared[32];
    int s = blockIdx.x, thread = threadIdx.x;
    Floats scales[PER] = {}, values[PER] = {};
#pragma unroll
    for (int i = 0; i < PER; i++) {
        int c = (i * THREADS + thread) * VEC;
        if (c >= COLS) continue;
        scales[i] = *(const Floats *)(weight + c);
#if PARTS
        if (bias) values[i] = *(const Floats *)(bias + c);
#endif
    }
    after_previous();

#if PARTS
    Floats part[PER][PARTS];
#pragma unroll
    for (int i = 0; i < PER; i++) {
        int c = (i * THREADS + thread) * VEC;
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
            if (c < COLS) part[i][p] = *(const Floats *)(parts + ((long long)p * gridDim.x + s) * COLS + c);
        }
    }
#else
    const act *from = x + (long long)(ids ? ids[s] : s) * COLS;
#endif
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        int c = (i * THREADS + thread) * VEC;
        if (c >= COLS) continue;
#if !PARTS
        Acts in = *(const Acts *)(from + c);
#endif
        Floats added = {};
        if (residual) added = *(const Floats *)(residual + (long long)s * COLS + c);
#pragma unroll
        for (int k = 0; k < VEC; k++) {
#if PARTS
#pragma unroll
            for (int p = 0; p < PARTS; p++) values[i].at[k] += part[i][p].at[k];
            values[i].at[k] = as_act(values[i].at[k]) + added.at[k];
#else
            values[i].at[k] = to_f32(in.at[k]) + added.at[k];
#endif
            squares += values[i].at[k] * values[i].at[k];
        }
    }
    float scale = 1.0f / sqrtf(block_sum(squares, shared) / (float)COLS + eps);
#pragma unroll
    for (int i = 0; i < PER; i++) {
        int c = (i * THREADS + thread) * VEC;
        if (c >= COLS) continue;
        Acts normed;
#pragma unroll
        for (int k = 0; k < VEC; k++) put(&normed.at[k], values[i].at[k] * scale * scales[i].at[k]);
        *(Acts *)(y + (long long)s * COLS + c) = normed;
        if (sum) *(Floats *)(sum + (long long)s * COLS + c) = values[i];
    }
}
