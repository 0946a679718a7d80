// The sums, in a fixed order, of what the blocks of the scan's backward left. Bound by the bytes of the partial sums.
//
// Defines: ACT_BF16.

// Partial sums [blocks, T, maps, N] of the gradients of B, C and C' (maps of them); a null result is passed over.
extern "C" __global__ void __launch_bounds__(256) scan_sum_maps(
    act *__restrict__ db, act *__restrict__ dc, act *__restrict__ dc_previous, const float *__restrict__ partial,
    int blocks, int tokens, int maps, int states, int db_stride, int dc_stride, int dc_previous_stride) {
    long long width = (long long)tokens * maps * states, i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= width) return;
    int n = (int)(i % states), map = (int)(i / states % maps);
    long long t = i / states / maps;
    act *to = map == 0 ? db : map == 1 ? dc : dc_previous;
    if (!to) return;
    float sum = 0.0f;
#pragma unroll 8
    for (int block = 0; block < blocks; block++) sum += partial[block * width + i];
    put(to + t * (map == 0 ? db_stride : map == 1 ? dc_stride : dc_previous_stride) + n, sum);
}

// Row blockIdx.y of a table's gradient, [rows, width]: the sum of the partial rows that belong to it. With `row_of`,
// partial row p belongs to row_of[p / each]; without, all belong to the only row.
extern "C" __global__ void __launch_bounds__(256) scan_sum_table(
    float *__restrict__ table, const float *__restrict__ partial, const u32 *__restrict__ row_of, int count, int each,
    int width) {
    __shared__ float sums[8][32];
    int lane = threadIdx.x % 32, slice = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    int from = (int)((long long)slice * count / 8), to = (int)((long long)(slice + 1) * count / 8);
    float sum = 0.0f;
    if (column < width) {
#pragma unroll 4
        for (int p = from; p < to; p++) {
            if (!row_of || row_of[p / each] == blockIdx.y) sum += partial[(long long)p * width + column];
        }
    }
    sums[slice][lane] = sum;
    __syncthreads();
    if (slice == 0 && column < width) {
#pragma unroll
        for (int i = 1; i < 8; i++) sum += sums[i][lane];
        table[(long long)blockIdx.y * width + column] = sum;
    }
}
