// The sums, in a fixed order, of what the blocks of the scan's backward left: all of them in one launch, since each alone takes
// hardly longer than a launch. Bound by the bytes of the partial sums.
//
// Defines: ACT_BF16.

// Partial sums [blocks, T, count, N] of the gradients of B, C and C' (`count` of them); a null result is passed over.
struct Maps {
    act *results[3];
    const float *partial;
    int strides[3];
    int blocks, tokens, count, states;
    int own_blocks; // of the launch, its first
};

// Partial rows [count, width] of a table's gradient [rows, width]. With `row_of`, partial row p belongs to
// row_of[p / each]; without, all belong to the only row.
struct Table {
    float *result;
    const float *partial;
    const u32 *row_of;
    int count, each, width, columns; // blocks to a row of it
    int first_block, unused;
};

struct Tables {
    Table tables[8];
};

DEVICE void sum_maps(const Maps &maps) {
    long long width = (long long)maps.tokens * maps.count * maps.states, i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= width) return;
    int n = (int)(i % maps.states), map = (int)(i / maps.states % maps.count);
    long long t = i / maps.states / maps.count;
    act *to = map == 0 ? maps.results[0] : map == 1 ? maps.results[1] : maps.results[2];
    if (!to) return;
    float sum = 0.0f;
#pragma unroll 8
    for (int block = 0; block < maps.blocks; block++) sum += maps.partial[block * width + i];
    put(to + t * (map == 0 ? maps.strides[0] : map == 1 ? maps.strides[1] : maps.strides[2]) + n, sum);
}

DEVICE void sum_table(const Table &own) {
    __shared__ float sums[8][32];
    int block = blockIdx.x - own.first_block, row = block / own.columns, lane = threadIdx.x % 32;
    int slice = threadIdx.x / 32, column = block % own.columns * 32 + lane;
    int from = (int)((long long)slice * own.count / 8), to = (int)((long long)(slice + 1) * own.count / 8);
    float sum = 0.0f;
    if (column < own.width) {
#pragma unroll 4
        for (int p = from; p < to; p++) {
            if (!own.row_of || own.row_of[p / own.each] == row) sum += own.partial[(long long)p * own.width + column];
        }
    }
    sums[slice][lane] = sum;
    __syncthreads();
    if (slice == 0 && column < own.width) {
#pragma unroll
        for (int i = 1; i < 8; i++) sum += sums[i][lane];
        own.result[(long long)row * own.width + column] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(256) scan_sums(Maps maps, Tables all, int tables) {
    if ((int)blockIdx.x < maps.own_blocks) return sum_maps(maps);
    int own = 0;
    while (own + 1 < tables && (int)blockIdx.x >= all.tables[own + 1].first_block) own++;
    sum_table(all.tables[own]);
}
