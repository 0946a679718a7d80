// How the scan's backward for N = 16 adds up what its lanes have: sums over states, over channels and over tokens; and its
// shared memory. This source stands between carries.cu and backward.cu.
//
// Lanes put what they have of a token into shared memory and each reads the parts of a sum of its own. Exchanges between
// registers took a tenth more instructions, and each waits for the one before it.

// What the lanes of a warp have of a token, four numbers each. Eight lanes' lie side by side and then there is a gap, so that
// neither sum finds two of its numbers in one bank.
struct Shares {
    float at[4][36];

    HERE void put(const float *four, int lane) { *(float4 *)(at[lane / 8] + lane % 8 * 4) = *(const float4 *)four; }

    // Of numbers per channel, the sums of a pair of channels over their four lanes.
    HERE float2 over_states(int pair) const {
        const float *first = at[pair / 4] + pair / 2 % 2 * 16 + pair % 2 * 2;
        float2 sum = *(const float2 *)first;
#pragma unroll
        for (int q = 1; q < 4; q++) {
            float2 more = *(const float2 *)(first + 4 * q);
            sum.x += more.x, sum.y += more.y;
        }
        return sum;
    }

    // Of numbers per state, the sums of a pair of states over their eight lanes.
    HERE float2 over_channels(int pair) const {
        float2 sum = *(const float2 *)(at[0] + 2 * pair);
#pragma unroll
        for (int g = 1; g < 8; g++) {
            float2 more = *(const float2 *)(at[g / 2] + g % 2 * 16 + 2 * pair);
            sum.x += more.x, sum.y += more.y;
        }
        return sum;
    }
};

// The parts of shared memory that belong to one warp.
struct WarpMemory {
    float4 states[PARTS - 2][CH][32];                 // before every Kth token but the first and the last of a chunk
    float steps[CHUNK][WIDTH], inputs[CHUNK][WIDTH];  // Δ, Δ u
    float dys[K][WIDTH];
    Shares shares[2 * K];
#if HAS_STATE_OFFSET && (DC || DZ)
    float4 offset[CH][32];
#endif
};

struct BlockMemory {
    WarpMemory warps[WARPS];
    float4 maps[CHUNK][8];  // B, C
};

// A lane's numbers of a table [D, N], zeros where there is no channel.
DEVICE void load_states(float (&h)[CH][4], const float *states, int first_channel, int d_inner, int quarter) {
#pragma unroll
    for (int i = 0; i < CH; i++) {
        float4 x = {0.0f, 0.0f, 0.0f, 0.0f};
        if (first_channel + i < d_inner) x = *(const float4 *)(states + (long long)(first_channel + i) * N + quarter * 4);
        *(float4 *)h[i] = x;
    }
}

// Writes a lane's part of a partial sum of a table.
DEVICE void store_states(float *partial, const float (&sum)[CH][4], int first_channel, int d_inner, int quarter) {
#pragma unroll
    for (int i = 0; i < CH; i++) {
        if (first_channel + i < d_inner) {
            *(float4 *)(partial + (long long)(first_channel + i) * N + quarter * 4) = *(const float4 *)sum[i];
        }
    }
}

// Likewise of a vector, two channels, of which each half of the warp has seen half of the tokens; and forgets it.
DEVICE void flush_pair(float *partial, float *sum, bool writes) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        for (int mask = 16; mask >= PAIRS; mask /= 2) sum[i] += __shfl_xor_sync(ALL_LANES, sum[i], mask);
        if (writes) partial[i] = sum[i];
        sum[i] = 0.0f;
    }
}

// Adds a chunk's sum of dy C to a lane's part of a partial sum, or begins one with it. In registers for the time of a chunk
// only: there is room neither there nor in shared memory to keep it longer. Tensor cores would take a third of the
// instructions, but the whole kernel's clock falls by a twelfth where one uses them (H100).
DEVICE void add_outer(float *partial, const float (*dys)[WIDTH], const float4 (*maps)[8], bool begins, int first_channel,
                      int d_inner, int group, int quarter) {
    float before[CH][4] = {}, sum[CH][4] = {};
    if (!begins) load_states(before, partial, first_channel, d_inner, quarter);
#pragma unroll 8
    for (int t = 0; t < CHUNK; t++) {
        float dy[CH], cs[4];
        take(dy, &dys[t][group * CH]);
        *(float4 *)cs = maps[t][4 + quarter];
#pragma unroll
        for (int i = 0; i < CH; i++) {
#pragma unroll
            for (int n = 0; n < 4; n++) sum[i][n] += dy[i] * cs[n];
        }
    }
#pragma unroll
    for (int i = 0; i < CH; i++) {
#pragma unroll
        for (int n = 0; n < 4; n++) sum[i][n] += before[i][n];
    }
    store_states(partial, sum, first_channel, d_inner, quarter);
}
