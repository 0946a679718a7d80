// Columns of matrices whose rows may lie further apart than they are wide: copied with conversion, picked, scaled.
//
// Defines: Y_TYPE and X_TYPE, the types of output and input: 0 f32, 1 bf16. In every kernel but the sums over rows, a
// block is 256 >> shift rows of 1 << shift lanes; the wrapper chooses the shift by the width.

typedef Storage<Y_TYPE>::type Y;
typedef Storage<X_TYPE>::type X;

// Elements per pack: 16 bytes of the wider type.
#define V (Y_TYPE && X_TYPE ? 8 : 4)

// y[r, :] = x[r, :], of `width` columns each.
extern "C" __global__ void __launch_bounds__(256) copy_columns(Y *__restrict__ y, const X *__restrict__ x,
                                                               long long y_stride, long long x_stride, long long rows,
                                                               int width, int shift) {
    bool packs = aligned(y) && aligned(x) && y_stride % V == 0 && x_stride % V == 0 && width % V == 0;
    FOR_ROWS(row, rows, shift) {
        const X *from = x + row * x_stride;
        Y *to = y + row * y_stride;
        if (packs) {
            FOR_LANES(i, width / V, shift) {
                Pack<X, V> read = ((const Pack<X, V> *)from)[i];
                Pack<Y, V> written;
                for (int v = 0; v < V; v++) put(&written.at[v], to_f32(read.at[v]));
                ((Pack<Y, V> *)to)[i] = written;
            }
        } else {
            FOR_LANES(i, width, shift) put(to + i, to_f32(from[i]));
        }
    }
}

// y[r, :] = up to three matrices side by side.
extern "C" __global__ void __launch_bounds__(256) join_columns(Y *__restrict__ y, long long y_stride,
                                                               const X *__restrict__ x0, long long stride0, int width0,
                                                               const X *__restrict__ x1, long long stride1, int width1,
                                                               const X *__restrict__ x2, long long stride2, int width2,
                                                               long long rows, int shift) {
    int first = width0 + width1, width = first + width2;
    bool packs = aligned(y) && aligned(x0) && aligned(x1) && aligned(x2) && y_stride % V == 0 && stride0 % V == 0 &&
        stride1 % V == 0 && stride2 % V == 0 && width0 % V == 0 && width1 % V == 0 && width2 % V == 0;
    int v = packs ? V : 1;
    FOR_ROWS(row, rows, shift) {
        FOR_LANES(i, width / v, shift) {
            int at = i * v;
            const X *from = at < width0 ? x0 + row * stride0 + at
                : at < first            ? x1 + row * stride1 + (at - width0)
                                        : x2 + row * stride2 + (at - first);
            Y *to = y + row * y_stride + at;
            if (packs) {
                Pack<X, V> read = *(const Pack<X, V> *)from;
                Pack<Y, V> written;
                for (int k = 0; k < V; k++) put(&written.at[k], to_f32(read.at[k]));
                *(Pack<Y, V> *)to = written;
            } else {
                put(to, to_f32(*from));
            }
        }
    }
}

// y[r, j] = x[r, columns[j]]. A column that x has not got gives NaN.
extern "C" __global__ void __launch_bounds__(256) gather_columns(Y *__restrict__ y, const X *__restrict__ x,
                                                                 const u32 *__restrict__ columns, long long x_stride,
                                                                 long long rows, int width, int count, int shift) {
    FOR_ROWS(row, rows, shift) {
        const X *from = x + row * x_stride;
        Y *to = y + row * count;
        FOR_LANES(j, count, shift) {
            u32 column = columns[j];
            put(to + j, column < (u32)width ? to_f32(from[column]) : __uint_as_float(0x7fffffffu));
        }
    }
}

// y[r, c] += the sum of x[r, j] over the j with columns[j] = c, in their order. Which j those are stands in `order` and
// `starts`, as the ordering of keys in embedding.cu writes them.
extern "C" __global__ void __launch_bounds__(256) scatter_add_columns(Y *__restrict__ y, const X *__restrict__ x,
                                                                      const u32 *__restrict__ columns,
                                                                      const u32 *__restrict__ order,
                                                                      const u32 *__restrict__ starts, long long rows,
                                                                      int width, int count, int shift) {
    int segments = starts[0];
    FOR_ROWS(row, rows, shift) {
        const X *from = x + row * count;
        FOR_LANES(s, segments, shift) {
            u32 start = starts[1 + s], end = starts[2 + s];
            Y *to = y + row * width + columns[order[start]];
            float sum = to_f32(*to);
            for (u32 k = start; k < end; k++) sum += to_f32(from[order[k]]);
            put(to, sum);
        }
    }
}

// y = x · gain, row by row.
extern "C" __global__ void __launch_bounds__(256) scale_columns(Y *__restrict__ y, const X *__restrict__ x,
                                                                const float *__restrict__ gain, long long rows,
                                                                int width, int shift) {
    bool packs = aligned(y) && aligned(x) && aligned(gain) && width % V == 0;
    FOR_ROWS(row, rows, shift) {
        const X *from = x + row * width;
        Y *to = y + row * width;
        if (packs) {
            FOR_LANES(i, width / V, shift) {
                Pack<X, V> read = ((const Pack<X, V> *)from)[i];
                Pack<float, 4> factors[V / 4];
                for (int v = 0; v < V / 4; v++) factors[v] = ((const Pack<float, 4> *)gain)[i * (V / 4) + v];
                Pack<Y, V> written;
                for (int v = 0; v < V; v++) put(&written.at[v], to_f32(read.at[v]) * factors[v / 4].at[v % 4]);
                ((Pack<Y, V> *)to)[i] = written;
            }
        } else {
            FOR_LANES(i, width, shift) put(to + i, to_f32(from[i]) * gain[i]);
        }
    }
}

// sums[chunk, c] = Σ y[r, c] · x[r, c] over the `per_chunk` rows of the chunk: first of every eighth row, then of the
// eight. A block has 32 columns.
extern "C" __global__ void __launch_bounds__(256) column_dots(float *__restrict__ sums, const Y *__restrict__ y,
                                                              const X *__restrict__ x, long long rows, int width,
                                                              int per_chunk) {
    __shared__ float part[256];
    int lane = threadIdx.x & 31, eighth = threadIdx.x >> 5, column = blockIdx.x * 32 + lane;
    long long start = (long long)blockIdx.y * per_chunk, end = start + per_chunk < rows ? start + per_chunk : rows;
    float sum = 0.0f;
    if (column < width) {
#pragma unroll 4
        for (long long row = start + eighth; row < end; row += 8) {
            sum += to_f32(y[row * width + column]) * to_f32(x[row * width + column]);
        }
    }
    part[threadIdx.x] = sum;
    __syncthreads();
    if (eighth == 0 && column < width) {
        for (int i = 1; i < 8; i++) sum += part[i * 32 + lane];
        sums[(long long)blockIdx.y * width + column] = sum;
    }
}

// y[c] = the sum of the chunks' sums, in their order.
extern "C" __global__ void __launch_bounds__(256) sum_chunks(float *__restrict__ y, const float *__restrict__ sums,
                                                             int chunks, int width) {
    int column = blockIdx.x * 256 + threadIdx.x;
    if (column >= width) return;
    float sum = 0.0f;
    for (int chunk = 0; chunk < chunks; chunk++) sum += sums[(long long)chunk * width + column];
    y[column] = sum;
}
