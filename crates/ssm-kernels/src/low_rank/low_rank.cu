// Low-rank additions to a linear layer, bf16: y += s (x Aᵀ) Bᵀ with A [r, I] and B [O, r], and the gradients.
//
// Bound. With r of 8 to 32 there are few operations per byte: `low_rank_rows` reads x, reads and writes y, and
// `low_rank_gradients` reads dy and x once more. The factors are small and stay in the caches.
//
// Idea. Tensor cores multiply, so that the arithmetic hides behind the loads. A lane loads eight neighbours of a row at
// once; that these are not the places which a product's fragment names does not matter where they are summed over, as
// long as both operands agree, and where they are a result's columns the factor's columns are taken in the same order.
// A block of `low_rank_rows` has ROWS rows: it makes x Aᵀ, its warps a part of the columns each, keeps it, and multiplies
// it by Bᵀ; what y holds is on its way meanwhile. The backward is the same with dy for x, B for Aᵀ and A for Bᵀ. In `low_rank_gradients` a block has COLUMNS
// columns of dy or of x, its warps every WARPSth tile of tokens; sums meet in shared memory, in a fixed order.
//
// Factors are f32 and rounded to bf16, as a product of activations would have them; x Aᵀ too. Every block of `low_rank_rows`
// reads all of both factors, so that `low_rank_pack` rounds them once a step, in the two orders in which lanes take sixteen
// bytes at once: by rank, [ranks][columns], to multiply x; and in pairs, of every four columns [four pairs of ranks][four
// columns] for each eight ranks, to be multiplied by x Aᵀ. Ranks are filled up to whole eights with zeros. Columns, strides and
// arrays are multiples of eight elements.
//
// Where y is much wider than x, blocks share a tile of rows, each with some of y's columns; where blocks are many, they are
// half as large, so that two on a multiprocessor load and store in turn.
//
// Where the matrix is small beside the activations, the pass over y is saved: `low_rank_extended` writes the matrix with a
// factor beside or below it, and one product makes y of x with x Aᵀ beside it, or x Aᵀ beside y. `low_rank_rows` then only
// puts x Aᵀ beside x, with the matrix written by the same launch, or takes it as it is given.
//
// Defines: TILES: of eight ranks, 1 to 4; WHOLE: whether they are all of the rank; COPIES: whether
// `low_rank_rows` copies x; COLUMNS: of a block of `low_rank_gradients`, 32, or 16 where blocks would be few; THREADS: 512
// or 256.

#define WARPS (THREADS / 32)
#define ROWS 16
#define PACK 32                // columns that a warp's lanes have of a row
#define OWN (COLUMNS / 8)      // of them a lane's
#define AHEAD (TILES == 1 ? 3 : 1) // packs that a warp has on their way
#define RANKS (8 * TILES)

// The low halves of two words as one, or the high halves.
DEVICE u32 lows(u32 x, u32 y) { return (x & 0xffffu) | y << 16; }
DEVICE u32 highs(u32 x, u32 y) { return x >> 16 | (y & 0xffff0000u); }

struct alignas(2 * OWN) Few {
    u32 pair[OWN / 2];
};

DEVICE Few few_at(const bf16 *p, bool there) {
    Few none = {};
    return there ? *(const Few *)p : none;
}

DEVICE Eight eight_at(const bf16 *p, bool there) {
    Eight none = {};
    return there ? *(const Eight *)p : none;
}

// What a lane has on its way of x and of the factor that it is multiplied by: rows g and g + 8, rank g of each tile.
struct Inputs {
    Eight upper, lower, down[TILES];
#if COPIES
    bf16 *copy; // where the upper ones go, if anywhere
#endif
};

// A matrix w [rows, columns], and a factor [rows, rank], times scale, beside it, or [rank, columns] below it: both in `out`,
// whose rows lie `stride` apart.
struct Extension {
    bf16 *out;
    const bf16 *w;
    const float *factor;
    int rows, columns, rank, below;
    float scale;
    int blocks; // of a launch that does something else too
    long long stride;
};

// Eight neighbours of it.
DEVICE void extend(const Extension &all, int eighth) {
    int width = all.below ? all.columns : all.columns + all.rank, height = all.below ? all.rows + all.rank : all.rows;
    int row = eighth / (width / 8), column = eighth % (width / 8) * 8;
    if (row >= height) return;
    Eight eight;
    if (row < all.rows && column < all.columns) {
        eight = *(const Eight *)(all.w + (long long)row * all.columns + column);
    } else {
        const float *from = all.factor + (all.below ? (long long)(row - all.rows) * all.columns + column
                                                    : (long long)row * all.rank + (column - all.columns));
        for (int i = 0; i < 4; i++) eight.pair[i] = bf16_pair(all.scale * from[2 * i], all.scale * from[2 * i + 1]);
    }
    *(Eight *)(all.out + row * all.stride + column) = eight;
}

// projected [rows, rank] = inner x down, x being x0, x1 and x2 side by side, or what is given instead; y (+)= outer projected
// up. Forward, `down` is A by rank and `up` B in pairs; backward `down` is B and `up` A. What is projected also goes to
// `beside`, if asked, and with COPIES x to the columns in front of it; the first blocks then extend the matrix that both are
// for, if asked.
extern "C" __global__ void __launch_bounds__(THREADS, 512 / THREADS) low_rank_rows(
    bf16 *__restrict__ y, long long y_stride, int y_columns, int adds, bf16 *__restrict__ projected,
    const bf16 *__restrict__ x0, long long stride0, int columns0, const bf16 *__restrict__ x1, long long stride1,
    int columns1, const bf16 *__restrict__ x2, long long stride2, int columns2, const bf16 *__restrict__ given, long long given_stride, bf16 *__restrict__ beside,
    long long beside_stride, const bf16 *__restrict__ down, const Eight *__restrict__ up, float inner,
    float outer, int rank, int rows, Extension extension) {
    int block = blockIdx.x;
#if COPIES
    if (block < extension.blocks) return extend(extension, block * THREADS + threadIdx.x);
    block -= extension.blocks;
#endif
#if WHOLE
    rank = RANKS;
#endif
    __shared__ float sums[WARPS][ROWS][RANKS];
    __shared__ bf16 joint[ROWS][RANKS + 8]; // padded: eight rows lie in different banks

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
    int row = block * ROWS + g, width = columns0 + columns1 + columns2;
    bool upper = row < rows, lower = row + 8 < rows;
    // The block's share of y's columns.
    int share = (y_columns + PACK * gridDim.y - 1) / (PACK * gridDim.y) * PACK, own_first = blockIdx.y * share;
    int own_end = min(y_columns, own_first + share);

    int packs0 = (columns0 + PACK - 1) / PACK, packs1 = packs0 + (columns1 + PACK - 1) / PACK;
    int packs = packs1 + (columns2 + PACK - 1) / PACK;
    auto load = [&](Inputs &in, int pack) {
        bool second = pack >= packs0, third = pack >= packs1;
        int column = (pack - (third ? packs1 : second ? packs0 : 0)) * PACK + 8 * q;
        bool there = pack < packs && column < (third ? columns2 : second ? columns1 : columns0);
        long long stride = third ? stride2 : second ? stride1 : stride0;
        const bf16 *from = (third ? x2 : second ? x1 : x0) + row * stride + column;
        in.upper = eight_at(from, upper && there);
        in.lower = eight_at(from + 8 * stride, lower && there);
        int at = (third ? columns0 + columns1 : second ? columns0 : 0) + column;
#if COPIES
        in.copy = there ? beside - width + row * beside_stride + at : nullptr;
#endif
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            in.down[tile] = eight_at(down + (long long)(tile * 8 + g) * width + at, there);
        }
    };
    // What y holds at a lane's columns of rows g and g + 8.
    Eight kept[AHEAD][2];
    auto load_y = [&](int first) {
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            int column = first + k * WARPS * PACK + 8 * q;
            bool there = adds && column < own_end;
            kept[k][0] = eight_at(y + row * y_stride + column, upper && there);
            kept[k][1] = eight_at(y + (row + 8) * y_stride + column, lower && there);
        }
    };

    float found[TILES][4] = {};
    for (int first = warp; first < packs; first += AHEAD * WARPS) {
        Inputs in[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++) load(in[k], first + k * WARPS);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            const u32 *a = in[k].upper.pair, *b = in[k].lower.pair;
#if COPIES
            if (in[k].copy && upper) *(Eight *)in[k].copy = in[k].upper;
            if (in[k].copy && lower) *(Eight *)(in[k].copy + 8 * beside_stride) = in[k].lower;
#endif
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                const u32 *f = in[k].down[tile].pair;
                multiply_16(found[tile], a[0], b[0], a[1], b[1], f[0], f[1]);
                multiply_16(found[tile], a[2], b[2], a[3], b[3], f[2], f[3]);
            }
        }
    }
    load_y(own_first + warp * PACK);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int i = 0; i < 4; i++) sums[warp][g + i / 2 * 8][tile * 8 + 2 * q + i % 2] = found[tile][i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ROWS * RANKS; i += THREADS) {
        int r = i / RANKS, j = i % RANKS;
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += sums[w][r][j];
        bf16 rounded = {};
        long long at = block * ROWS + r;
        bool there = at < rows && j < rank;
        if (!given) put(&rounded, inner * sum);
        if (given && there) rounded = given[at * given_stride + j];
        joint[r][j] = rounded;
        if (blockIdx.y == 0 && there) {
            projected[at * rank + j] = rounded;
            if (beside) beside[at * beside_stride + j] = rounded;
        }
    }
    if (!y_columns) return;
    __syncthreads();

    u32 above[TILES], below[TILES];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        above[tile] = *(const u32 *)&joint[g][tile * 8 + 2 * q];
        below[tile] = *(const u32 *)&joint[g + 8][tile * 8 + 2 * q];
    }
    for (int first = own_first + warp * PACK; first < own_end; first += AHEAD * WARPS * PACK) {
        // Column g of product i is column 4 g + i here: a lane's results 2 q, 2 q + 1 of four products are eight neighbours.
        float sum[AHEAD][4][4] = {};
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            int own = first + k * WARPS * PACK + 4 * g;
            bool there = own < own_end;
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                Eight none = {}, factor = there ? up[(own / 4 * TILES + tile) * 4 + q] : none;
#pragma unroll
                for (int i = 0; i < 4; i++) multiply_8(sum[k][i], above[tile], below[tile], factor.pair[i]);
            }
        }
        Eight result[AHEAD][2];
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const Eight &from = kept[k][half];
                Eight &to = result[k][half];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    // Pairs 0 and 1 are the first column's, 2 and 3 the second's.
                    const float *x = &sum[k][2 * i % 4][2 * half + i / 2], *z = &sum[k][2 * i % 4 + 1][2 * half + i / 2];
                    to.pair[i] = bf16_pair(bf16_low(from.pair[i]) + outer * *x, bf16_high(from.pair[i]) + outer * *z);
                }
            }
        }
        load_y(first + AHEAD * WARPS * PACK);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            int column = first + k * WARPS * PACK + 8 * q;
            bool there = column < own_end;
            if (upper && there) *(Eight *)(y + row * y_stride + column) = result[k][0];
            if (lower && there) *(Eight *)(y + (row + 8) * y_stride + column) = result[k][1];
        }
    }
}

// Whose block this is: the last of `count` whose first block is not behind it. Halving, since every step may wait for another
// line of the launch's arguments.
template <class One> DEVICE int owner(const One *all, int count) {
    int own = 0;
    for (int end = count; end - own > 1;) {
        int middle = (own + end) / 2;
        if (all[middle].first_block <= (int)blockIdx.x) own = middle;
        else end = middle;
    }
    return own;
}

// A matrix x [rows, columns] of which the sums over rows of x[row][c] projected[row][j] are asked for.
struct Side {
    const bf16 *x;
    long long stride;
    const bf16 *projected;
    float *out;            // of the first part of the rows
    long long part_length; // numbers from its sums to those of the next
    int columns, by_rank;  // out is [columns, rank], or by rank [rank, columns]
    float scale;
    int first_block;
};

// As many as sixteen additions have, with dy in two matrices.
struct Gradients {
    Side sides[48];
};

// Of each addition d_up [columns of dy, rank] = s dyᵀ (x Aᵀ), dy being one or two matrices, and d_down [rank, columns of x] =
// (dy B)ᵀ x; of each part of the rows. The sides' blocks follow one another.
extern "C" __global__ void __launch_bounds__(THREADS, THREADS == 512 ? 1 : TILES == 1 ? 3 : 2) low_rank_gradients(
    Gradients all, int count, int rank, int rows, int rows_each) {
#if WHOLE
    rank = RANKS;
#endif
    __shared__ float sums[WARPS][COLUMNS][8];

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
    int part = blockIdx.y;
    const Side &sum = all.sides[owner(all.sides, count)];
    int block = blockIdx.x - sum.first_block;
    int column = block * COLUMNS + OWN * g;
    bool there = column < sum.columns;

    // Columns 2i and 2i + 1 of a lane's are the rows g and g + 8 of product i.
    float found[TILES][OWN / 2][4] = {};
    int begin = part * rows_each, end = min(rows, begin + rows_each);
#pragma unroll 4
    for (int first = begin + warp * 16; first < end; first += WARPS * 16) {
        Few numbers[4];
        u32 factor[TILES][2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = first + 2 * q + i / 2 * 8 + i % 2;
            numbers[i] = few_at(sum.x + row * sum.stride + column, there && row < end);
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = first + 2 * q + 8 * half, j = tile * 8 + g;
                const bf16 *from = sum.projected + (long long)row * rank + j;
                u32 one = j < rank && row < end ? from[0].bits : 0, other = j < rank && row + 1 < end ? from[rank].bits : 0;
                factor[tile][half] = one | other << 16;
            }
        }
#pragma unroll
        for (int i = 0; i < OWN / 2; i++) {
            u32 a0 = lows(numbers[0].pair[i], numbers[1].pair[i]), a1 = highs(numbers[0].pair[i], numbers[1].pair[i]);
            u32 a2 = lows(numbers[2].pair[i], numbers[3].pair[i]), a3 = highs(numbers[2].pair[i], numbers[3].pair[i]);
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                multiply_16(found[tile][i], a0, a1, a2, a3, factor[tile][0], factor[tile][1]);
            }
        }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (tile > 0) __syncthreads();
#pragma unroll
        for (int i = 0; i < OWN / 2; i++) {
#pragma unroll
            for (int k = 0; k < 4; k++) sums[warp][OWN * g + 2 * i + k / 2][2 * q + k % 2] = found[tile][i][k];
        }
        __syncthreads();
        for (int i = threadIdx.x; i < COLUMNS * 8; i += THREADS) {
            // Neighbouring threads write neighbouring numbers.
            int c = sum.by_rank ? i % COLUMNS : i / 8, j = sum.by_rank ? i / COLUMNS : i % 8;
            float total = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) total += sums[w][c][j];
            int at = block * COLUMNS + c, in_rank = tile * 8 + j;
            if (at < sum.columns && in_rank < rank) {
                long long place = sum.by_rank ? (long long)in_rank * sum.columns + at : (long long)at * rank + in_rank;
                sum.out[part * sum.part_length + place] = sum.scale * total;
            }
        }
    }
}

// The matrix alone.
extern "C" __global__ void low_rank_extended(Extension all) { extend(all, blockIdx.x * blockDim.x + threadIdx.x); }

// A factor, [width, rank] or with by_rank [rank, width], and the place of both its orders.
struct Packing {
    const float *factor;
    bf16 *out;
    int width, rank, by_rank, first_block;
};

// As many as one launch packs.
struct Packings {
    Packing factors[96];
};

// A thread has eight columns and eight ranks of a factor. The factors' blocks follow one another.
extern "C" __global__ void __launch_bounds__(256) low_rank_pack(Packings all, int count) {
    const Packing &one = all.factors[owner(all.factors, count)];
    int i = (blockIdx.x - one.first_block) * blockDim.x + threadIdx.x, eighths = one.width / 8;
    int tile = i / eighths, column = i % eighths * 8;
    if (tile >= TILES) return;
    float numbers[8][8]; // of a column and a rank
#pragma unroll
    for (int i = 0; i < 8; i++) {
        // Eight neighbours in memory: of a rank, or of a column.
        int rank = tile * 8 + i;
        const float *from = one.factor + (one.by_rank ? (long long)rank * one.width + column
                                                      : (long long)(column + i) * one.rank + tile * 8);
        float eight[8];
#if WHOLE
        *(float4 *)eight = *(const float4 *)from;
        *(float4 *)(eight + 4) = *(const float4 *)(from + 4);
#else
#pragma unroll
        for (int k = 0; k < 8; k++) eight[k] = (one.by_rank ? rank : tile * 8 + k) < one.rank ? from[k] : 0.0f;
#endif
#pragma unroll
        for (int k = 0; k < 8; k++) {
            if (one.by_rank) numbers[k][i] = eight[k];
            else numbers[i][k] = eight[k];
        }
    }
    Eight eight;
#pragma unroll
    for (int j = 0; j < 8; j++) {
#pragma unroll
        for (int c = 0; c < 4; c++) eight.pair[c] = bf16_pair(numbers[2 * c][j], numbers[2 * c + 1][j]);
        *(Eight *)(one.out + (long long)(tile * 8 + j) * one.width + column) = eight;
    }
    Eight *in_pairs = (Eight *)(one.out + (long long)RANKS * one.width);
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int q = 0; q < 4; q++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const float *two = &numbers[4 * half + c][2 * q];
                eight.pair[c] = bf16_pair(two[0], two[1]);
            }
            in_pairs[((long long)(column / 4 + half) * TILES + tile) * 4 + q] = eight;
        }
    }
}
