// The small functions that operands of patches are made of, DoRA's norms, and the largest of each row.
//
// Defines: Y_TYPE and X_TYPE, the types of output and input where the arguments say Y and X: 0 f32, 1 bf16, 2 f16. What
// says float is f32 in every build. Sums are made in an order that depends on the sizes only.

typedef Storage<Y_TYPE>::type Y;
typedef Storage<X_TYPE>::type X;

// y [columns, rows] = x [rows, columns] transposed, in tiles of 32 by 32; a block takes tile after tile.
extern "C" __global__ void __launch_bounds__(256) transpose(Y *__restrict__ y, const X *__restrict__ x, int rows,
                                                            int columns) {
    __shared__ float tile[32 * 33];
    int lane = threadIdx.x & 31, eighth = threadIdx.x >> 5;
    int across = (columns + 31) / 32;
    long long tiles = (long long)across * ((rows + 31) / 32);
    for (long long t = blockIdx.x; t < tiles; t += gridDim.x) {
        int row = (int)(t / across) * 32, column = (int)(t % across) * 32;
        for (int i = eighth; i < 32; i += 8) {
            if (row + i < rows && column + lane < columns) {
                tile[i * 33 + lane] = to_f32(x[(long long)(row + i) * columns + column + lane]);
            }
        }
        __syncthreads();
        for (int i = eighth; i < 32; i += 8) {
            if (column + i < columns && row + lane < rows) {
                put(y + (long long)(column + i) * rows + row + lane, tile[lane * 33 + i]);
            }
        }
        __syncthreads();
    }
}

// y[r] = the sum of x[r, :], or of x[r, :] · other[r, :] where it is there. One warp per row.
extern "C" __global__ void __launch_bounds__(256) row_sums(float *__restrict__ y, const X *__restrict__ x,
                                                           const Y *__restrict__ other, int rows, int columns) {
    int row = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    float sum = 0.0f;
    if (row < rows) {
        for (int j = lane; j < columns; j += 32) {
            long long at = (long long)row * columns + j;
            sum += other ? to_f32(x[at]) * to_f32(other[at]) : to_f32(x[at]);
        }
    }
    sum = warp_sum(sum);
    if (row < rows && lane == 0) y[row] = sum;
}

// y[r, :] = x[r, :] · scale[r]; without x, scale[r] itself.
extern "C" __global__ void __launch_bounds__(256) scale_rows(Y *y, const X *x, const float *__restrict__ scale,
                                                             long long rows, int columns, int shift) {
    FOR_ROWS(row, rows, shift) {
        float s = scale[row];
        FOR_LANES(j, columns, shift) {
            long long at = row * columns + j;
            put(y + at, x ? s * to_f32(x[at]) : s);
        }
    }
}

// y[r, :] = x[r, :] + row[:].
extern "C" __global__ void __launch_bounds__(256) add_row(Y *y, const X *x, const float *__restrict__ row_added,
                                                          long long rows, int columns, int shift) {
    FOR_ROWS(row, rows, shift) {
        FOR_LANES(j, columns, shift) {
            long long at = row * columns + j;
            put(y + at, to_f32(x[at]) + row_added[j]);
        }
    }
}

// y = x / divisor.
extern "C" __global__ void __launch_bounds__(256) divide(Y *y, const X *x, const float *__restrict__ divisor,
                                                         long long n) {
    for (long long i = blockIdx.x * 256LL + threadIdx.x; i < n; i += gridDim.x * 256LL) {
        put(y + i, to_f32(x[i]) / divisor[i]);
    }
}

// y[i] = x[entries[i]]; NaN where x has no such entry.
extern "C" __global__ void __launch_bounds__(256) gather(float *__restrict__ y, const X *__restrict__ x,
                                                         const u32 *__restrict__ entries, int n, u32 size) {
    for (int i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) {
        y[i] = entries[i] < size ? to_f32(x[entries[i]]) : __uint_as_float(0x7fffffffu);
    }
}

// Values scattered into zeros, equal entries added in their order, without a sort: entries are hardly ever equal.
//
// `claim` leaves in each place of y, which was zero, the bits n - i of the first i that goes there; `settle` notes who
// came first and counts, for every block of 256, those who did not; `place_first` writes the firsts' values;
// `add_repeats` adds the others one by one.
DEVICE void at_least(u32 *p, u32 x) {
#ifdef __CUDA_ARCH__
    atomicMax(p, x);
#else
    if (*p < x) *p = x;
#endif
}

extern "C" __global__ void __launch_bounds__(256) claim(u32 *y, const u32 *__restrict__ entries, int n, u32 size) {
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i < n && entries[i] < size) at_least(y + entries[i], (u32)(n - i));
}

extern "C" __global__ void __launch_bounds__(256) settle(u32 *__restrict__ repeats, u32 *__restrict__ per_block,
                                                         const u32 *__restrict__ y, const u32 *__restrict__ entries,
                                                         int n, u32 size) {
    __shared__ u32 of_warp[8];
    int i = blockIdx.x * 256 + threadIdx.x;
    bool repeat = i < n && entries[i] < size && y[entries[i]] != (u32)(n - i);
    if (i < n) repeats[i] = repeat;
    u32 any = __ballot_sync(0xffffffffu, repeat);
    if ((threadIdx.x & 31) == 0) of_warp[threadIdx.x >> 5] = any;
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 found = 0;
        for (int w = 0; w < 8; w++) found |= of_warp[w];
        per_block[blockIdx.x] = found;
    }
}

extern "C" __global__ void __launch_bounds__(256) place_first(float *__restrict__ y, const X *__restrict__ values,
                                                              const u32 *__restrict__ entries,
                                                              const u32 *__restrict__ repeats, int n, u32 size) {
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i < n && entries[i] < size && !repeats[i]) y[entries[i]] = to_f32(values[i]);
}

// One block, whose warps look at the blocks' notes together and whose first thread adds.
extern "C" __global__ void __launch_bounds__(256) add_repeats(float *y, const X *__restrict__ values,
                                                              const u32 *__restrict__ entries,
                                                              const u32 *__restrict__ repeats,
                                                              const u32 *__restrict__ per_block, int n) {
    __shared__ u32 found[256];
    int blocks = (n + 255) / 256;
    for (int base = 0; base < blocks; base += 256) {
        int block = base + threadIdx.x;
        found[threadIdx.x] = block < blocks ? per_block[block] : 0u;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int b = 0; b < 256; b++) {
                if (!found[b]) continue;
                int start = (base + b) * 256, end = start + 256 < n ? start + 256 : n;
                for (int i = start; i < end; i++) {
                    if (repeats[i]) y[entries[i]] += to_f32(values[i]);
                }
            }
        }
        __syncthreads();
    }
}

// W + sBA for eight rows from `row` on and one column. Rows that B has not got repeat the last.
DEVICE void adapted(float *w, const X *weight, const float *a, const float *b, float s, int row, int rows, int column,
                    int columns, int rank) {
    const float *of_row[8];
    for (int i = 0; i < 8; i++) {
        of_row[i] = b + (long long)(row + i < rows ? row + i : rows - 1) * rank;
        w[i] = 0.0f;
    }
    for (int k = 0; k < rank; k++) {
        float of_column = a[(long long)k * columns + column];
        for (int i = 0; i < 8; i++) w[i] += of_row[i][k] * of_column;
    }
    for (int i = 0; i < 8; i++) {
        if (row + i < rows) w[i] = to_f32(weight[(long long)(row + i) * columns + column]) + s * w[i];
    }
}

// norms[r] = ‖(W + sBA)[r, :]‖, squares added in double precision. A block has eight rows.
extern "C" __global__ void __launch_bounds__(256) adapted_row_norms(float *__restrict__ norms,
                                                                    const X *__restrict__ weight,
                                                                    const float *__restrict__ a,
                                                                    const float *__restrict__ b, float s, int rows,
                                                                    int columns, int rank) {
    __shared__ double sums[8 * 256];
    int row = blockIdx.x * 8, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    double sum[8] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
    for (int column = threadIdx.x; column < columns; column += 256) {
        float w[8];
        adapted(w, weight, a, b, s, row, rows, column, columns, rank);
        for (int i = 0; i < 8; i++) sum[i] += (double)w[i] * w[i];
    }
    for (int i = 0; i < 8; i++) sums[i * 256 + threadIdx.x] = sum[i];
    __syncthreads();
    double of_lane = 0.0;
    for (int i = 0; i < 8; i++) of_lane += sums[warp * 256 + i * 32 + lane];
    __syncwarp();
    sums[warp * 256 + lane] = of_lane;
    __syncwarp();
    if (lane == 0 && row + warp < rows) {
        double total = 0.0;
        for (int i = 0; i < 32; i++) total += sums[warp * 256 + i];
        norms[row + warp] = (float)sqrt(total);
    }
}

// sums[chunk, c] = Σ (W + sBA)[r, c]² over the rows of the chunk. A block has 64 columns and four eights of rows at
// once.
extern "C" __global__ void __launch_bounds__(256) adapted_column_squares(double *__restrict__ sums,
                                                                         const X *__restrict__ weight,
                                                                         const float *__restrict__ a,
                                                                         const float *__restrict__ b, float s, int rows,
                                                                         int columns, int rank, int per_chunk) {
    __shared__ double part[256];
    int lane = threadIdx.x & 63, fourth = threadIdx.x >> 6, column = blockIdx.x * 64 + lane;
    int start = blockIdx.y * per_chunk, end = start + per_chunk < rows ? start + per_chunk : rows;
    double sum = 0.0;
    if (column < columns) {
        for (int row = start + fourth * 8; row < end; row += 32) {
            float w[8];
            adapted(w, weight, a, b, s, row, rows, column, columns, rank);
            for (int i = 0; i < 8; i++) {
                if (row + i < end) sum += (double)w[i] * w[i];
            }
        }
    }
    part[threadIdx.x] = sum;
    __syncthreads();
    if (fourth == 0 && column < columns) {
        sums[(long long)blockIdx.y * columns + column] = sum + part[64 + lane] + part[128 + lane] + part[192 + lane];
    }
}

// norms[c] = the root of the sum of the chunks' sums, in their order.
extern "C" __global__ void __launch_bounds__(256) root_of_chunks(float *__restrict__ norms,
                                                                 const double *__restrict__ sums, int chunks,
                                                                 int columns) {
    int column = blockIdx.x * 256 + threadIdx.x;
    if (column >= columns) return;
    double sum = 0.0;
    for (int chunk = 0; chunk < chunks; chunk++) sum += sums[(long long)chunk * columns + column];
    norms[column] = (float)sqrt(sum);
}
