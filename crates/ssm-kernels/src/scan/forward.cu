// The selective scan, forward, for N = 16.
//
// Bound. Per token, channel and state: a multiplication, ex2, a multiplication and two multiply-adds; per token and
// channel: softplus and silu, four more of the special functions. At 16 of those a clock and multiprocessor they are
// the bound, (1 + 4/16) T D N / 16 clocks of a multiprocessor, with the issue of 10 to 11 instructions per state-step (13
// with eight lanes) right behind; the bytes (u, delta, z, out once each) are far from it. Measured on an H100 at
// [4, 2048, 1536]: instructions issue in 60 % of the clocks, three warps to a scheduler; the rest is mostly waiting for
// shared memory, shuffles and ex2 (short scoreboard), which only more channels or sequences would hide.
//
// Idea. LANES lanes share a channel and hold 16 / LANES of its states each in registers, A already times log2(e). A
// block stages TILE tokens of its channels in shared memory as what the recurrence wants, computed once each: (Δ, Δ u)
// and (D_skip u + y', silu(z)); B and C as f32. While a tile is walked, the numbers of the next are on their way from
// memory. JOINT tokens are walked before their sums over the lanes are made, of which each lane ends with some: all
// of a tile, but for eight lanes, where that was slower. The results replace what was staged and leave coalesced, by
// the threads that will refill those places: with two buffers one barrier a tile is enough. They leave before the next
// tile is walked, or after it, whichever was faster. Tokens past the end are staged as zero steps, which change no
// state.
//
// Channels, B and C are read and written in pairs: D is even and every row of u, delta, z, b, c and out begins at a
// whole pair.
//
// Defines: LANES (2, 4, 8), HAS_Z, SOFTPLUS, HAS_STATE_OFFSET, ACT_BF16.

#define N 16
#define THREADS 128
#define TILE 16
#define JOINT (LANES == 8 ? 8 : TILE)  // tokens whose sums over lanes are made together
#define STATES (N / LANES)
#define CHANNELS (THREADS / LANES)
#define PAIRS (CHANNELS / 2)         // pairs of channels
#define STAGED (TILE / (2 * LANES))  // pairs of a tile per thread
#define MAPPED (TILE * N / THREADS)  // and of its B and C
#define ROW (CHANNELS + 16 / LANES)  // padded so that LANES tokens of few channels lie in different banks

// One lane's states to memory, in as few stores as can be (which the compiler does not find by itself here).
DEVICE void save(float *to, const float (&h)[STATES]) {
#ifdef __CUDA_ARCH__
#if STATES >= 4
#pragma unroll
    for (int i = 0; i < STATES; i += 4) {
        asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};"
            :: "l"(to + i), "f"(h[i]), "f"(h[i + 1]), "f"(h[i + 2]), "f"(h[i + 3]));
    }
#else
    asm volatile("st.global.v2.f32 [%0], {%1, %2};" :: "l"(to), "f"(h[0]), "f"(h[1]));
#endif
#else
    for (int i = 0; i < STATES; i++) to[i] = h[i];
#endif
}

struct Raw {
    Pair u[STAGED], delta[STAGED], z[STAGED];
    Pair maps[MAPPED];
};

extern "C" __global__ void __launch_bounds__(THREADS) scan_forward(
    act *__restrict__ out, float *__restrict__ final_state, float *__restrict__ boundaries,
    const act *__restrict__ u, const act *__restrict__ delta, const float *__restrict__ delta_bias,
    const float *__restrict__ a, const act *__restrict__ b, const act *__restrict__ c,
    const float *__restrict__ d_skip, const act *__restrict__ z,
    const float *__restrict__ initial, const u32 *__restrict__ initial_row,
    const float *__restrict__ state_offset, const u32 *__restrict__ state_offset_row,
    const float *__restrict__ output_offset, const u32 *__restrict__ output_offset_row,
    const u32 *__restrict__ offsets, int d_inner, int out_bytes, int u_bytes, int delta_bytes, int b_bytes, int c_bytes,
    int z_bytes) {
    __shared__ float4 step_pairs[2][TILE][ROW / 2];     // (Δ, Δ u) of two channels
    __shared__ float4 readout_pairs[2][TILE][ROW / 2];  // (D_skip u + y', silu(z)), then (out, -)
    __shared__ float4 maps[2][TILE][8];        // B, C

    int groups = (d_inner + CHANNELS - 1) / CHANNELS;
    int s = blockIdx.x / groups, first_channel = (blockIdx.x - s * groups) * CHANNELS;
    int begin = offsets[s], length = (int)offsets[s + 1] - begin;
    int thread = threadIdx.x;

    // As a walker: states first_state.. of `channel`.
    int walked = thread / LANES, lane = thread % LANES, channel = first_channel + walked;
    bool walks = channel < d_inner;
    long long state_at = (long long)channel * N + lane * STATES;
    float decay[STATES], h[STATES];
#if HAS_STATE_OFFSET
    float state_added[STATES];
#endif
#pragma unroll
    for (int i = 0; i < STATES; i++) {
        decay[i] = walks ? a[state_at + i] * LOG2E : 0.0f;
        h[i] = walks && initial ? initial[(long long)initial_row[s] * d_inner * N + state_at + i] : 0.0f;
#if HAS_STATE_OFFSET
        state_added[i] = walks ? state_offset[(long long)state_offset_row[s] * d_inner * N + state_at + i] : 0.0f;
#endif
    }

    // As a stager: some tokens of two channels, and of two of B's and C's 32 columns.
    int place = thread % PAIRS, first_token = thread / PAIRS, staged = first_channel + 2 * place;
    bool stages = staged < d_inner;
    // Loads never pass the end: the last channels stand in for those behind them.
    int reached = stages ? staged : d_inner - 2;
    float bias[2] = {}, skip[2] = {}, added[2] = {};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (delta_bias) bias[i] = delta_bias[reached + i];
        if (d_skip) skip[i] = d_skip[reached + i];
        if (output_offset) added[i] = output_offset[(long long)output_offset_row[s] * d_inner + reached + i];
    }
    int column = thread % N, map_token = thread / N, map_bytes = column < N / 2 ? b_bytes : c_bytes;
    const act *map = row_at(column < N / 2 ? b + 2 * column : c + (2 * column - N), begin + map_token, map_bytes);
    u = row_at(u + reached, begin + first_token, u_bytes);
    delta = row_at(delta + reached, begin + first_token, delta_bytes);
#if HAS_Z
    z = row_at(z + reached, begin + first_token, z_bytes);
#endif
    out = row_at(out + reached, begin + first_token, out_bytes);

    Raw raw = {};
    // Of the next tile; what was there before stands in for tokens past the end.
    auto load = [&](int tile) {
#pragma unroll
        for (int k = 0; k < STAGED; k++) {
            if (tile + first_token + k * 2 * LANES >= length) continue;
            raw.u[k] = *(const Pair *)row_at(u, k * 2 * LANES, u_bytes);
            raw.delta[k] = *(const Pair *)row_at(delta, k * 2 * LANES, delta_bytes);
#if HAS_Z
            raw.z[k] = *(const Pair *)row_at(z, k * 2 * LANES, z_bytes);
#endif
        }
#pragma unroll
        for (int k = 0; k < MAPPED; k++) {
            if (tile + map_token + k * (THREADS / N) >= length) continue;
            raw.maps[k] = *(const Pair *)row_at(map, k * (THREADS / N), map_bytes);
        }
        u = row_at(u, TILE, u_bytes);
        delta = row_at(delta, TILE, delta_bytes);
#if HAS_Z
        z = row_at(z, TILE, z_bytes);
#endif
        map = row_at(map, TILE, map_bytes);
    };
    auto stage = [&](int tile, int buffer) {
#pragma unroll
        for (int k = 0; k < STAGED; k++) {
            int t = first_token + k * 2 * LANES;
            bool there = tile + t < length;
            float x[2] = {low(raw.u[k]), high(raw.u[k])}, delta[2] = {low(raw.delta[k]), high(raw.delta[k])};
#if HAS_Z
            float gate[2] = {low(raw.z[k]), high(raw.z[k])};
#endif
            float steps[4], readouts[4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float step, slope;
                step_of(delta[i] + bias[i], &step, &slope);
                steps[2 * i] = there ? step : 0.0f;
                steps[2 * i + 1] = there ? step * x[i] : 0.0f;
                readouts[2 * i] = skip[i] * x[i] + added[i];
#if HAS_Z
                readouts[2 * i + 1] = gate[i] * fast_sigmoid(gate[i]);
#else
                readouts[2 * i + 1] = 1.0f;
#endif
            }
            step_pairs[buffer][t][place] = *(float4 *)steps;
            readout_pairs[buffer][t][place] = *(float4 *)readouts;
        }
#pragma unroll
        for (int k = 0; k < MAPPED; k++) {
            ((float2 *)maps[buffer][map_token + k * (THREADS / N)])[column] = float2{low(raw.maps[k]), high(raw.maps[k])};
        }
    };
    Pair results[STAGED];
    auto collect = [&](int buffer) {
#pragma unroll
        for (int k = 0; k < STAGED; k++) {
            float4 readout = readout_pairs[buffer][first_token + k * 2 * LANES][place];
            results[k] = pair_of(readout.x, readout.z);
        }
    };
    auto write = [&](int tile) {
#pragma unroll
        for (int k = 0; k < STAGED; k++) {
            bool there = stages && tile + first_token + k * 2 * LANES < length;
            if (there) *(Pair *)row_at(out, k * 2 * LANES, out_bytes) = results[k];
        }
        out = row_at(out, TILE, out_bytes);
    };

    long long row = begin / CHUNK + s;
    if (length > 0) load(0);
    for (int tile = 0; tile < length; tile += TILE) {
        int buffer = tile / TILE & 1;
        stage(tile, buffer);
        load(tile + TILE);
        __syncthreads();
        if (LANES == 2 || tile > 0) collect(buffer ^ 1);
        if (LANES > 2 && tile > 0) write(tile - TILE);
        if (boundaries && walks && tile % CHUNK == 0) {
            save(boundaries + (row + tile / CHUNK) * d_inner * N + state_at, h);
        }
#pragma unroll
        for (int first = 0; first < TILE; first += JOINT) {
            float sums[JOINT / LANES][LANES];
#pragma unroll
            for (int t = first; t < first + JOINT; t += LANES) {
                float *y = sums[(t - first) / LANES];
#pragma unroll
                for (int j = 0; j < LANES; j++) {
                    float2 step = ((const float2 *)step_pairs[buffer][t + j])[walked];
                    float bs[STATES], cs[STATES];
                    const float *numbers = (const float *)maps[buffer][t + j];
#if STATES >= 4
#pragma unroll
                    for (int i = 0; i < STATES; i += 4) {
                        *(float4 *)(bs + i) = *(const float4 *)(numbers + lane * STATES + i);
                        *(float4 *)(cs + i) = *(const float4 *)(numbers + N + lane * STATES + i);
                    }
#else
                    *(float2 *)bs = *(const float2 *)(numbers + lane * STATES);
                    *(float2 *)cs = *(const float2 *)(numbers + N + lane * STATES);
#endif
                    y[j] = 0.0f;
#pragma unroll
                    for (int i = 0; i < STATES; i++) {
                        h[i] = ex2(step.x * decay[i]) * h[i] + step.y * bs[i];
#if HAS_STATE_OFFSET
                        y[j] += (h[i] + state_added[i]) * cs[i];
#else
                        y[j] += h[i] * cs[i];
#endif
                    }
                }
            }
            // Of every LANES tokens a lane ends with one. The sums wait for one another as little as they can.
#if LANES >= 8
#pragma unroll
            for (int i = 0; i < JOINT / LANES; i++) fold<8>(sums[i], 4, lane & 4);
#endif
#if LANES >= 4
#pragma unroll
            for (int i = 0; i < JOINT / LANES; i++) fold<4>(sums[i], 2, lane & 2);
#endif
#pragma unroll
            for (int i = 0; i < JOINT / LANES; i++) fold<2>(sums[i], 1, lane & 1);
#pragma unroll
            for (int i = 0; i < JOINT / LANES; i++) {
                float2 *readout = (float2 *)readout_pairs[buffer][first + i * LANES + lane] + walked;
#if HAS_Z
                readout->x = (sums[i][0] + readout->x) * readout->y;
#else
                readout->x = sums[i][0] + readout->x;
#endif
            }
        }
        if (LANES == 2 && tile > 0) write(tile - TILE);
    }
    if (length > 0) {
        __syncthreads();
        int last = (length - 1) / TILE * TILE;
        collect(last / TILE & 1);
        write(last);
    }
    if (final_state && walks) save(final_state + (long long)s * d_inner * N + state_at, h);
}
