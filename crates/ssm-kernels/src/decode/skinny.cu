// A matrix times the vectors of up to 64 sequences in bf16, with a convolution behind it, for decoding.
//
// Bound. The matrix is read once from memory, the vectors once by every block from L2. What a library's tiles lose at these
// sizes is that few of them are made: here every block has 8 TILES rows of the matrix, and its eight warps share the
// columns.
//
// Idea. Products of 16 x 8 x 16 (mma). Which columns a product takes does not matter as long as both factors agree, so a
// lane loads 16 bytes of a row at once, which serve two products: its four pairs of columns stand where the first and
// second half of a product's columns would. The next loads are on their way while products are made. The warps' sums meet
// in shared memory, eight rows of the matrix at a time, and are added in the order of the warps.
//
// The columns are a multiple of 8, and every row begins at 16 bytes.
//
// Defines: ACT_BF16 = 1; SEQ_TILES: 16 sequences each; TILES; WIDTH: of the convolution.

#define THREADS 256
#define WARPS (THREADS / 32)
#define CHUNK 32
#define SEQS (16 * SEQ_TILES)

// c [16, 8] += a [16, 16] b [16, 8], laid over the lanes as the instruction wants it.
DEVICE void multiply_add(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#ifdef __CUDA_ARCH__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    int lane = threadIdx.x & 31, row = lane / 4, column = lane % 4 * 2;
    for (int q = 0; q < 4; q++) {
        u32 a[4] = {__shfl_sync(0xffffffffu, a0, row * 4 + q), __shfl_sync(0xffffffffu, a2, row * 4 + q),
                    __shfl_sync(0xffffffffu, a1, row * 4 + q), __shfl_sync(0xffffffffu, a3, row * 4 + q)};
        for (int n = 0; n < 2; n++) {
            u32 b[2] = {__shfl_sync(0xffffffffu, b0, (column + n) * 4 + q), __shfl_sync(0xffffffffu, b1, (column + n) * 4 + q)};
            for (int half = 0; half < 2; half++) {
                for (int k = 0; k < 2; k++) {
                    u32 x = a[2 * half + k];
                    c[2 * half + n] += __uint_as_float(x << 16) * __uint_as_float(b[k] << 16);
                    c[2 * half + n] += __uint_as_float(x & 0xffff0000u) * __uint_as_float(b[k] & 0xffff0000u);
                }
            }
        }
    }
#endif
}

struct alignas(16) Eight {
    u32 at[4]; // two numbers each
};

extern "C" __global__ void __launch_bounds__(THREADS) skinny(
    act *__restrict__ y, const act *__restrict__ weight, const float *__restrict__ bias, const act *__restrict__ x,
    int x_stride, float *__restrict__ conv_state, const float *__restrict__ conv_weight,
    const float *__restrict__ conv_bias, int d_inner, int sequences, int rows, int columns) {
    __shared__ float partial[WARPS][SEQS][8];

    int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, quarter = lane / 4, eighth = lane % 4 * 8;
    int first = blockIdx.x * 8 * TILES;
    Conv conv = {conv_state, conv_weight, conv_bias, d_inner};
    Eight a[SEQ_TILES][2] = {}, b[TILES] = {};
    auto load_weight = [&](int k) {
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            int row = min(first + t * 8 + quarter, rows - 1); // the last stands in for those past the end
            b[t] = Eight{};
            if (k + eighth < columns) b[t] = *(const Eight *)(weight + (long long)row * columns + k + eighth);
        }
    };
    auto load_vectors = [&](int k) {
#pragma unroll
        for (int m = 0; m < SEQ_TILES; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int s = m * 16 + half * 8 + quarter;
                a[m][half] = Eight{};
                if (s < sequences && k + eighth < columns)
                    a[m][half] = *(const Eight *)(x + (long long)s * x_stride + k + eighth);
            }
        }
    };
    int k = warp * CHUNK;
    load_weight(k);
    after_previous();
    load_vectors(k);

    float sums[SEQ_TILES][TILES][4] = {};
    for (; k < columns; k += WARPS * CHUNK) {
        Eight a_now[SEQ_TILES][2], b_now[TILES];
#pragma unroll
        for (int m = 0; m < SEQ_TILES; m++) {
            a_now[m][0] = a[m][0];
            a_now[m][1] = a[m][1];
        }
#pragma unroll
        for (int t = 0; t < TILES; t++) b_now[t] = b[t];
        if (k + WARPS * CHUNK < columns) {
            load_weight(k + WARPS * CHUNK);
            load_vectors(k + WARPS * CHUNK);
        }
#pragma unroll
        for (int t = 0; t < TILES; t++) {
#pragma unroll
            for (int m = 0; m < SEQ_TILES; m++) {
#pragma unroll
                for (int i = 0; i < 4; i += 2) {
                    multiply_add(sums[m][t], a_now[m][0].at[i], a_now[m][1].at[i], a_now[m][0].at[i + 1],
                        a_now[m][1].at[i + 1], b_now[t].at[i], b_now[t].at[i + 1]);
                }
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        if (t > 0) __syncthreads();
#pragma unroll
        for (int m = 0; m < SEQ_TILES; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) partial[warp][m * 16 + i / 2 * 8 + quarter][lane % 4 * 2 + i % 2] = sums[m][t][i];
        }
        __syncthreads();
        for (int i = thread; i < SEQS * 8; i += THREADS) {
            int s = i / 8, row = first + t * 8 + i % 8;
            if (s >= sequences || row >= rows) continue;
            float total = bias ? bias[row] : 0.0f;
            for (int j = 0; j < WARPS; j++) total += partial[j][s][i % 8];
            total = as_act(total);
            if (row < d_inner) total = convolved(conv, s, row, total);
            put(y + (long long)s * rows + row, total);
        }
    }
}
