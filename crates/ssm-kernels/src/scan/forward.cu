// The selective scan, forward, for N = 16.
//
// Bound. Per token, channel and state: a multiplication, ex2, a multiplication and two multiply-adds; per token and
// channel: softplus and silu, four more of the special functions. At 16 of those a clock and multiprocessor they are
// the bound, (1 + 4/16) T D N / 16 clocks of a multiprocessor, with the issue of 11 to 12 instructions per state-step (16
// with eight lanes) right behind; the bytes (u, delta, z, out once each) are far from it.
//
// Idea. LANES lanes share a channel and hold 16 / LANES of its states each in registers, A already times log2(e). A
// block stages TILE tokens of its channels in shared memory as what the recurrence wants, computed once each: (Δ, Δ u)
// and (D_skip u + y', silu(z)); B and C as f32. While a tile is walked, the numbers of the next are on their way from
// memory. LANES tokens are walked before their sums over the lanes are made, so that each lane ends with the sum of one
// token. The results replace what was staged and leave coalesced, by the threads that will refill those places: with
// two buffers one barrier a tile is enough. Tokens past the end are staged as zero steps, which change no state.
//
// Channels are read and written in pairs: D is even and every row of u, delta, z and out begins at a whole pair.
//
// Defines: LANES (2, 4, 8), HAS_Z, SOFTPLUS, HAS_STATE_OFFSET, ACT_BF16.

#define N 16
#define THREADS 128
#define TILE 16
#define STATES (N / LANES)
#define CHANNELS (THREADS / LANES)
#define PAIRS (CHANNELS / 2)         // pairs of channels
#define STAGED (TILE / (2 * LANES))  // pairs of a tile per thread
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
    act maps[4];
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

    // As a stager: some tokens of two channels, and every fourth token of one of B's and C's 32 columns.
    int place = thread % PAIRS, first_token = thread / PAIRS, staged = first_channel + 2 * place;
    bool stages = staged < d_inner;
    // Loads never pass the end: the last token stands in for those behind it, and the last channels likewise.
    int reached = stages ? staged : d_inner - 2, end = length - 1;
    float bias[2] = {}, skip[2] = {}, added[2] = {};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (delta_bias) bias[i] = delta_bias[reached + i];
        if (d_skip) skip[i] = d_skip[reached + i];
        if (output_offset) added[i] = output_offset[(long long)output_offset_row[s] * d_inner + reached + i];
    }
    int column = thread % 32, map_token = thread / 32, map_bytes = column < N ? b_bytes : c_bytes;
    const act *map = row_at(column < N ? b + column : c + (column - N), begin, map_bytes);
    u = row_at(u + reached, begin, u_bytes);
    delta = row_at(delta + reached, begin, delta_bytes);
#if HAS_Z
    z = row_at(z + reached, begin, z_bytes);
#endif
    out = row_at(out + reached, begin, out_bytes);

    Raw raw;
    auto load = [&](int tile) {
#pragma unroll
        for (int k = 0; k < STAGED; k++) {
            int t = min(tile + first_token + k * 2 * LANES, end);
            raw.u[k] = *(const Pair *)row_at(u, t, u_bytes);
            raw.delta[k] = *(const Pair *)row_at(delta, t, delta_bytes);
#if HAS_Z
            raw.z[k] = *(const Pair *)row_at(z, t, z_bytes);
#endif
        }
#pragma unroll
        for (int k = 0; k < 4; k++) raw.maps[k] = *row_at(map, min(tile + map_token + k * 4, end), map_bytes);
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
        for (int k = 0; k < 4; k++) ((float *)maps[buffer][map_token + k * 4])[column] = to_f32(raw.maps[k]);
    };
    auto write = [&](int tile, int buffer) {
#pragma unroll
        for (int k = 0; k < STAGED; k++) {
            int t = first_token + k * 2 * LANES;
            float4 readout = readout_pairs[buffer][t][place];
            Pair result = pair_of(readout.x, readout.z);
            act *to = row_at(out, tile + t, out_bytes);
            if (stages && tile + t < length) *(Pair *)to = result;
        }
    };

    long long row = begin / CHUNK + s;
    if (length > 0) load(0);
    for (int tile = 0; tile < length; tile += TILE) {
        int buffer = tile / TILE & 1;
        stage(tile, buffer);
        load(tile + TILE);
        __syncthreads();
        if (tile > 0) write(tile - TILE, buffer ^ 1);
        if (boundaries && walks && tile % CHUNK == 0) {
            save(boundaries + (row + tile / CHUNK) * d_inner * N + state_at, h);
        }
        int count = length - tile < TILE ? length - tile : TILE;
        for (int t = 0; t < count; t += LANES) {
            float y[LANES];
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
            // Lane j ends with token t + j.
#if LANES >= 8
            fold<8>(y, 4, lane & 4);
#endif
#if LANES >= 4
            fold<4>(y, 2, lane & 2);
#endif
            fold<2>(y, 1, lane & 1);
            float2 *readout = (float2 *)readout_pairs[buffer][t + lane] + walked;
#if HAS_Z
            readout->x = (y[0] + readout->x) * readout->y;
#else
            readout->x = y[0] + readout->x;
#endif
        }
    }
    if (length > 0) {
        __syncthreads();
        int last = (length - 1) / TILE * TILE;
        write(last, last / TILE & 1);
    }
    if (final_state && walks) save(final_state + (long long)s * d_inner * N + state_at, h);
}
