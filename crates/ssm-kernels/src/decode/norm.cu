// The norm of x + residual of every sequence, for decoding: as [`norm`] makes it, in the chain of a step's launches.
//
// Bound. A few kilobytes a block: latency. A thread has its elements of a row at once. Where the product in front left sums of
// parts of its columns, they are added up here.
//
// Defines: ACT_BF16; COLS: columns; PARTS: 0, or of how many x is to be summed; WIDTH: of the convolution, which is not here.

#define THREADS 256
#define PER ((COLS + THREADS - 1) / THREADS)

// y [S, COLS], and sum = x + residual. A block is a sequence. x is [S, COLS]; with ids a table of such rows; or with PARTS
// the bias and the sum of parts [PARTS, S, COLS].
extern "C" __global__ void __launch_bounds__(THREADS) norm_step(
    act *__restrict__ y, float *__restrict__ sum, const act *__restrict__ x, const u32 *__restrict__ ids,
    const float *__restrict__ parts, const float *__restrict__ bias, const float *__restrict__ residual, const float *__restrict__ weight, float eps) {
    __shared__ float shared[32];
    int s = blockIdx.x, thread = threadIdx.x;
    float scales[PER], values[PER], squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PER; i++) scales[i] = i * THREADS + thread < COLS ? weight[i * THREADS + thread] : 0.0f;
    after_previous();

#if !PARTS
    const act *from = x + (long long)(ids ? ids[s] : s) * COLS;
#endif
#pragma unroll
    for (int i = 0; i < PER; i++) {
        int c = i * THREADS + thread;
        values[i] = 0.0f;
        if (c >= COLS) continue;
#if PARTS
        float total = bias ? bias[c] : 0.0f;
#pragma unroll
        for (int p = 0; p < PARTS; p++) total += parts[((long long)p * gridDim.x + s) * COLS + c];
        values[i] = as_act(total);
#else
        values[i] = to_f32(from[c]);
#endif
        if (residual) values[i] += residual[(long long)s * COLS + c];
    }
#pragma unroll
    for (int i = 0; i < PER; i++) squares += values[i] * values[i];
    float scale = 1.0f / sqrtf(block_sum(squares, shared) / (float)COLS + eps);
#pragma unroll
    for (int i = 0; i < PER; i++) {
        int c = i * THREADS + thread;
        if (c >= COLS) continue;
        put(y + (long long)s * COLS + c, values[i] * scale * scales[i]);
        if (sum) sum[(long long)s * COLS + c] = values[i];
    }
}
