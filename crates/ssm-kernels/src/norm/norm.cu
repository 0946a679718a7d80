// Add and RMSNorm, forward and backward. Bytes are the bound: each array is read or written once.
//
// Defines: ACT_BF16; WARPS: warps per row; VEC: elements per access, 4 or 1; PER: accesses of a lane that hold its part of
// a row in registers.
//
// A row belongs to one warp, or for wide rows to one block of WARPS warps; a lane's elements stay in registers between
// the sum over the row and the result. The sum goes on as f32; what is kept of it for the backward is an activation.

struct Lane {
    int row, lane;
};

// Blocks hold whole rows: 4 of one warp each, or one of several warps.
#define ROWS_PER_BLOCK (WARPS == 1 ? 4 : 1)

// The widest rows would otherwise take more registers than a block of 1024 threads can have.
#if WARPS == 32
#define BOUND __launch_bounds__(1024)
#else
#define BOUND
#endif

DEVICE float row_sum(float x, float *shared) {
#if WARPS == 1
    return warp_sum(x);
#else
    return block_sum(x, shared);
#endif
}

struct alignas(4 * VEC) Floats {
    float at[VEC];
};
struct alignas(sizeof(act) * VEC) Acts {
    act at[VEC];
};

extern "C" __global__ void BOUND add_rms_norm(act *__restrict__ normed, float *__restrict__ sum, act *__restrict__ kept_sum, float *__restrict__ rstd, const act *__restrict__ x, const float *__restrict__ residual, const float *__restrict__ weight, float eps, int rows, int cols) {
    __shared__ float shared[32];
    int lane = threadIdx.x % (32 * WARPS), row = blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / (32 * WARPS);
    if (row >= rows) return; // whole warps, and with several of them whole blocks
    long long start = (long long)row * cols;
    float values[PER][VEC];
    float squares = 0.0f;
#pragma unroll
    for (int p = 0; p < PER; p++) {
        int at = (p * 32 * WARPS + lane) * VEC;
        if (at < cols) {
            Acts in = *(const Acts *)(x + start + at);
#pragma unroll
            for (int i = 0; i < VEC; i++) values[p][i] = to_f32(in.at[i]);
            if (residual) {
                Floats added = *(const Floats *)(residual + start + at);
#pragma unroll
                for (int i = 0; i < VEC; i++) values[p][i] += added.at[i];
            }
#pragma unroll
            for (int i = 0; i < VEC; i++) squares += values[p][i] * values[p][i];
        }
    }
    float scale = 1.0f / sqrtf(row_sum(squares, shared) / (float)cols + eps);
    if (lane == 0 && rstd) rstd[row] = scale;
#pragma unroll
    for (int p = 0; p < PER; p++) {
        int at = (p * 32 * WARPS + lane) * VEC;
        if (at < cols) {
            Floats w = *(const Floats *)(weight + at);
            Acts out;
            Floats kept;
#pragma unroll
            for (int i = 0; i < VEC; i++) {
                put(&out.at[i], values[p][i] * scale * w.at[i]);
                kept.at[i] = values[p][i];
            }
            *(Acts *)(normed + start + at) = out;
            if (sum) *(Floats *)(sum + start + at) = kept;
            if (kept_sum) {
                Acts rounded;
#pragma unroll
                for (int i = 0; i < VEC; i++) put(&rounded.at[i], values[p][i]);
                *(Acts *)(kept_sum + start + at) = rounded;
            }
        }
    }
}

// d_sum = rstd (g - sum rstd^2 mean(g sum)) + d_sum_in with g = d_normed weight, as f32 and as an activation.
extern "C" __global__ void BOUND rms_norm_backward(act *__restrict__ d_x, float *__restrict__ d_residual, const act *__restrict__ d_normed, const float *__restrict__ d_sum_in, const act *__restrict__ sum, const float *__restrict__ rstd, const float *__restrict__ weight, int rows, int cols) {
    __shared__ float shared[32];
    int lane = threadIdx.x % (32 * WARPS), row = blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / (32 * WARPS);
    if (row >= rows) return;
    long long start = (long long)row * cols;
    float g[PER][VEC], s[PER][VEC];
    Floats added[PER] = {}; // on its way before the row is summed
    float scale = rstd[row], dot = 0.0f;
#pragma unroll
    for (int p = 0; p < PER; p++) {
        int at = (p * 32 * WARPS + lane) * VEC;
        if (at < cols) {
            Acts in = *(const Acts *)(d_normed + start + at);
            Floats w = *(const Floats *)(weight + at);
            Acts kept = *(const Acts *)(sum + start + at);
            if (d_sum_in) added[p] = *(const Floats *)(d_sum_in + start + at);
#pragma unroll
            for (int i = 0; i < VEC; i++) {
                g[p][i] = to_f32(in.at[i]) * w.at[i];
                s[p][i] = to_f32(kept.at[i]);
                dot += g[p][i] * s[p][i];
            }
        }
    }
    float along = scale * scale * row_sum(dot, shared) / (float)cols;
#pragma unroll
    for (int p = 0; p < PER; p++) {
        int at = (p * 32 * WARPS + lane) * VEC;
        if (at < cols) {
            Floats result;
#pragma unroll
            for (int i = 0; i < VEC; i++) result.at[i] = scale * (g[p][i] - s[p][i] * along) + added[p].at[i];
            if (d_residual) *(Floats *)(d_residual + start + at) = result;
            if (d_x) {
                Acts out;
#pragma unroll
                for (int i = 0; i < VEC; i++) put(&out.at[i], result.at[i]);
                *(Acts *)(d_x + start + at) = out;
            }
        }
    }
}

// partial[chunk, j] = the chunk's rows' sum of d_normed[r, j] sum[r, j] rstd[r].
extern "C" __global__ void weight_partials(float *__restrict__ partial, const act *__restrict__ d_normed, const act *__restrict__ sum, const float *__restrict__ rstd, int rows, int cols, int chunk) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= cols) return;
    int first = blockIdx.y * chunk, last = min(rows, first + chunk);
    float total = 0.0f;
    for (int r = first; r < last; r++) {
        long long at = (long long)r * cols + j;
        total += to_f32(d_normed[at]) * to_f32(sum[at]) * rstd[r];
    }
    partial[(long long)blockIdx.y * cols + j] = total;
}
