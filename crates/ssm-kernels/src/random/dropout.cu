// Dropout: y = x / (1 - p) where kept, 0 where dropped, with the bits of random/reference.rs.
//
// Defines: ACT_BF16. A block is 256 >> shift rows of 1 << shift lanes; a lane draws one Philox block for four columns.

DEVICE u64 mixed(u64 x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

// Philox4x32-10: the block of this counter, in its place.
DEVICE void philox(u32 *c, u64 key) {
    u32 k0 = (u32)key, k1 = (u32)(key >> 32);
    for (int round = 0; round < 10; round++) {
        u64 p0 = (u64)0xd2511f53u * c[0], p1 = (u64)0xcd9e8d57u * c[2];
        u32 c0 = (u32)(p1 >> 32) ^ c[1] ^ k0, c2 = (u32)(p0 >> 32) ^ c[3] ^ k1;
        c[0] = c0;
        c[1] = (u32)p1;
        c[2] = c2;
        c[3] = (u32)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}

struct alignas(4 * sizeof(act)) Four {
    act at[4];
};

// `key` is that of the generator; or, where the step is read from memory, what the seed alone gives.
extern "C" __global__ void __launch_bounds__(256) dropout(act *y, const act *x, const u64 *__restrict__ example,
                                                          const u32 *__restrict__ position,
                                                          const u64 *__restrict__ step, u64 key, u64 site,
                                                          u32 threshold, float scale, long long rows, int cols,
                                                          int shift) {
    const u64 golden = 0x9e3779b97f4a7c15ull;
    if (step) {
        key = mixed((key ^ *step) + golden);
        key = mixed((key ^ site) + golden);
    }
    bool packs = (u64)x % sizeof(Four) == 0 && (u64)y % sizeof(Four) == 0 && cols % 4 == 0;
    int groups = (cols + 3) / 4, per_block = 256 >> shift;
    for (long long row = (long long)blockIdx.x * per_block + (threadIdx.x >> shift); row < rows;
         row += (long long)gridDim.x * per_block) {
        u64 who = example[row];
        u32 where = position[row];
        for (int group = threadIdx.x & ((1 << shift) - 1); group < groups; group += 1 << shift) {
            u32 words[4] = {(u32)who, (u32)(who >> 32), where, (u32)group};
            philox(words, key);
            long long at = row * cols + 4 * group;
            if (packs) {
                Four read = *(const Four *)(x + at), written;
                for (int j = 0; j < 4; j++) {
                    put(&written.at[j], words[j] >= threshold ? to_f32(read.at[j]) * scale : 0.0f);
                }
                *(Four *)(y + at) = written;
            } else {
                for (int j = 0; j < 4 && 4 * group + j < cols; j++) {
                    put(y + at + j, words[j] >= threshold ? to_f32(x[at + j]) * scale : 0.0f);
                }
            }
        }
    }
}
