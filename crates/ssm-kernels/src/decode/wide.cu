// A large matrix times the vectors of many sequences, bf16, on Hopper's warpgroups, with the convolution behind it, for
// decoding.
//
// Bound. The matrix is read once, from memory: 2 COLS bytes a row. A block reads its columns of all vectors too, from the
// second cache.
//
// Idea. Sequences are the 64 rows of a warpgroup's product, rows of the matrix its columns. Both lie in shared memory, in
// SLOTS chunks of 64 columns, which asynchronous copies fill: much is on its way without a register, the matrix before the
// vectors are there. Two blocks fit a multiprocessor. Without the compiler's word that the device has warpgroups (and none
// but compute capability 9.0 has these) the same is computed plainly.
//
// Grid: blocks of WIDE rows; blocks of 64 sequences; PARTS of the columns. With more than one part the sums are f32, one for
// each part, and whoever reads them adds them up.
//
// Defines: COLS: columns, a multiple of 8; PARTS; SLOTS; WIDTH: of the convolution.

#define THREADS 128
#define SEQS 64
#define WIDE 32
#define CHUNK 64
#define PART ((COLS + PARTS * CHUNK - 1) / (PARTS * CHUNK) * CHUNK)
#define CHUNKS (PART / CHUNK)
#define SLOT ((SEQS + WIDE) * CHUNK)                   // elements
#define AT_FIRST (SLOTS >= CHUNKS ? CHUNKS : SLOTS - 2) // chunks asked for before the first is used
#define RESULTS (SEQS * WIDE / THREADS)
#define SUM_STRIDE (WIDE + 4)
#define LINES (THREADS / 8) // rows that all threads copy at once

// What threads have written to shared memory, for the warpgroup's product to read after a barrier.
DEVICE void publish() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Where element [row, column] of a tile of rows of CHUNK lies. Eight pieces of eight elements make a row of 128 bytes, as many as
// there are banks; their order changes from row to row, so that the same piece of eight rows lies in different banks.
DEVICE int place(int row, int column) { return row * CHUNK + ((column / 8) ^ (row % 8)) * 8 + column % 8; }

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// What the product knows of a tile: its address, 1024 bytes from one eight rows to the next, and that order of pieces.
DEVICE u64 described(const act *tile) {
    u32 at = (u32)__cvta_generic_to_shared(tile);
    return (u64)((at & 0x3ffff) >> 4) | 1ull << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62;
}
#endif

// sums [64, WIDE] += a [64, 16] b [WIDE, 16]ᵀ, columns k and on of both tiles. Lane 4 g + q of warp w has columns 8 j + 2 q and
// the next of rows 16 w + g and 16 w + g + 8.
DEVICE void multiply(float (&d)[WIDE / 2], const act *a, const act *b, int k) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    u64 left = described(a + k), right = described(b + k);
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
        "%13, %14, %15}, %16, %17, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
        : "l"(left), "l"(right));
#else
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int i = 0; i < WIDE / 2; i++) {
        int m = warp * 16 + i / 2 % 2 * 8 + lane / 4, n = i / 4 * 8 + lane % 4 * 2 + i % 2;
        for (int c = k; c < k + 16; c++) d[i] += to_f32(a[place(m, c)]) * to_f32(b[place(n, c)]);
    }
#endif
}

// Products are asked for between these; all but the latest PENDING chunks' are done.
DEVICE void before_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
DEVICE void after_products() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int PENDING> DEVICE void await_products(float (&d)[WIDE / 2]) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
#pragma unroll
    for (int i = 0; i < WIDE / 2; i++) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

// What will be read soon, from memory into the second cache.
DEVICE void on_its_way(const void *p) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) project_wide(
    act *y, float *parts, const act *weight, const float *bias,
    const act *x, int x_stride, float *conv_state, const float *conv_weight,
    const float *conv_bias, int d_inner, int rows, int sequences) {
    extern __shared__ float shared[]; // [SLOTS] of the vectors [64, CHUNK] and rows of the matrix [WIDE, CHUNK]
    act *slots = (act *)(((u64)shared + 1023) / 1024 * 1024);

    int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, g = lane / 4, q = lane % 4;
    int first_row = blockIdx.x * WIDE, first_seq = blockIdx.y * SEQS;
    int begin = blockIdx.z * PART, columns = min(COLS - begin, PART);
    Conv conv = {conv_state, conv_weight, conv_bias, d_inner};

    // A lane copies a piece of every 16th row, eight lanes a row; rows past the end read the last one.
    int own_line = thread / 8, piece = thread % 8 * 8, to = place(own_line, piece);
    const act *from[WIDE / LINES], *of[SEQS / LINES];
#pragma unroll
    for (int i = 0; i < WIDE / LINES; i++) {
        from[i] = weight + (long long)min(first_row + own_line + i * LINES, rows - 1) * COLS + begin + piece;
    }
#pragma unroll
    for (int i = 0; i < SEQS / LINES; i++) {
        of[i] = x + (long long)(first_seq + own_line + i * LINES) * x_stride + begin + piece;
    }
    auto copy_matrix = [&](int chunk, int slot) {
        bool there = chunk * CHUNK + piece < columns;
#pragma unroll
        for (int i = 0; i < WIDE / LINES; i++) {
            act *at = slots + slot * SLOT + (SEQS + i * LINES) * CHUNK + to;
            copy_async<16>(at, there ? from[i] + chunk * CHUNK : weight, there);
        }
    };
    auto copy_vectors = [&](int chunk, int slot) {
#pragma unroll
        for (int i = 0; i < SEQS / LINES; i++) {
            bool there = chunk * CHUNK + piece < columns && first_seq + own_line + i * LINES < sequences;
            copy_async<16>(slots + slot * SLOT + i * LINES * CHUNK + to, there ? of[i] + chunk * CHUNK : x, there);
        }
    };
    for (int i = 0; i < AT_FIRST; i++) copy_matrix(i, i);
    int own = thread % WIDE, row = first_row + own; // the results that a thread finishes are of one row
    bool convolves = row < d_inner;
    Past past = {};
    if (convolves) past = taps_of(conv, row);
    float row_bias = bias && row < rows ? bias[row] : 0.0f;
#pragma unroll
    for (int i = 0; i < RESULTS; i++) {
        int s = first_seq + i * (THREADS / WIDE) + thread / WIDE;
        if (convolves && s < sequences && own % 8 == 0) on_its_way(state_of(conv, s, row));
    }
    after_previous();
    for (int i = 0; i < AT_FIRST; i++) {
        copy_vectors(i, i);
        end_group();
    }

    float sums[WIDE / 2] = {};
    int slot = 0, free = AT_FIRST % SLOTS;
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        await_groups<AT_FIRST - 1>();
        publish();
        __syncthreads(); // the chunk is there for all; what was multiplied two chunks ago is read no more
        const act *in = slots + slot * SLOT;
        before_products();
#pragma unroll
        for (int k = 0; k < CHUNK; k += 16) {
            multiply(sums, in, in + SEQS * CHUNK, k);
        }
        after_products();
        if (SLOTS < CHUNKS && chunk + AT_FIRST < CHUNKS) {
            copy_matrix(chunk + AT_FIRST, free);
            copy_vectors(chunk + AT_FIRST, free);
        }
        end_group();
        await_products<1>(sums);
        slot = slot + 1 == SLOTS ? 0 : slot + 1;
        free = free + 1 == SLOTS ? 0 : free + 1;
    }

    float inputs[RESULTS][WIDTH];
#pragma unroll
    for (int i = 0; i < RESULTS; i++) {
        int s = first_seq + i * (THREADS / WIDE) + thread / WIDE;
#pragma unroll
        for (int j = 0; j < WIDTH - 1; j++) {
            inputs[i][j] = convolves && s < sequences ? state_of(conv, s, row)[j] : 0.0f;
        }
    }
    await_products<0>(sums);
    __syncthreads(); // nobody reads the slots any more
#pragma unroll
    for (int i = 0; i < WIDE / 2; i++) {
        shared[(warp * 16 + i / 2 % 2 * 8 + g) * SUM_STRIDE + i / 4 * 8 + 2 * q + i % 2] = sums[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < RESULTS; i++) {
        int at = i * (THREADS / WIDE) + thread / WIDE, s = first_seq + at;
        if (s >= sequences || row >= rows) continue;
        float total = shared[at * SUM_STRIDE + own];
        if (PARTS > 1) {
            parts[((long long)blockIdx.z * sequences + s) * rows + row] = total;
            continue;
        }
        put(y + (long long)s * rows + row, result_of(total + row_bias, conv, past, inputs[i], s, row));
    }
}
