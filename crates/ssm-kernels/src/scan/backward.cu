// The selective scan, backward, for N = 16: `scan_carries`, then `scan_backward`, then the sums of reduce.cu.
//
// Bound. Per token, channel and state 28 instructions are issued, 31 with a state offset and its gradient: the states
// of a chunk are recomputed nearly twice (from the saved state to every Kth token, and from there), each time a
// multiplication, ex2, a multiplication and a multiply-add; the gradient takes eight more and the readout two or four;
// the rest are sums over states and channels (six) and, once per token and channel, softplus, silu and the gradients
// of activations (three). 2.2 of them are ex2 and the like, at a quarter of the rate or less: 17 clocks of 31. The bytes
// (u, delta, z, dout and their gradients once each, the saved states, the partial sums of dB and dC) need a quarter of
// the time. `scan_carries` adds seven instructions, or ten clocks of ex2, for all segments but each first.
//
// Idea of `scan_backward`. A warp has 32 channels and all 16 states: a lane four channels times four states, lane =
// 4 group + quarter. Sums over channels, for dB and dC, are multiply-adds within the lane first and then an exchange over 8
// lanes; sums over states, for du, ddelta and dz, likewise over 4. A block's warps add dB and dC in shared memory; what
// it writes are partial sums per block. A chunk is walked forward once to find the state before every Kth token; then,
// from its end, K tokens at a time: forward with states and decays kept in registers, reading out y, and backward.
// Tokens past the end and channels past D are staged as zero steps, which add nothing anywhere.
//
// Idea of `scan_carries`. Where channels and sequences are too few to fill the device, sequences are cut in `segments`.
// The gradient that enters a segment from its right obeys the plain recurrence X <- exp(ΔA) (X + dy C); this kernel runs
// it over each segment from zero. With the segment's sum of Δ, X_left = local + exp(A ΣΔ) X_right joins them.
//
// Channels are read and written in pairs: D is even and every row of u, delta, z, dout and their gradients begins at a
// whole pair. For that, lane = 16 second + pair stages, or finishes, two channels of every other token.
//
// Defines: WARPS (4, or 2 where shared memory is small), HAS_Z, SOFTPLUS, HAS_STATE_OFFSET; wanted: DU, DDELTA, DBIAS, DZ, DC, DB, DSTATE_OFFSET, DA, DINITIAL;
// ACT_BF16.

#define N 16
#define CH 4                     // channels of a lane
#define WIDTH 32                 // channels of a warp
#define CHANNELS (WARPS * WIDTH)
#define K 4                      // tokens whose states are in registers
#define PARTS (CHUNK / K)
#define THREADS (32 * WARPS)
#define DSTEP (DU || DDELTA || DBIAS)

// Where a segment of a sequence lies.
struct Segment {
    int begin, first, last;  // first token of the sequence; chunks first.. before last
    int length;
};

DEVICE Segment segment_of(const u32 *offsets, int s, int g, int segments) {
    Segment x;
    x.begin = offsets[s];
    x.length = (int)offsets[s + 1] - x.begin;
    int chunks = (x.length + CHUNK - 1) / CHUNK, each = (chunks + segments - 1) / segments;
    x.first = min(g * each, chunks);
    x.last = min(x.first + each, chunks);
    return x;
}

// Four neighbouring numbers.
DEVICE void take(float *to, const float *from) { *(float4 *)to = *(const float4 *)from; }

// B and C, or C alone, of a chunk, as f32; a thread has one column of every fourth token. The last token stands in for
// those behind it.
template <int COLUMNS> DEVICE void stage_maps(float *to, const act *map, int start, int count, int bytes) {
    int column = threadIdx.x % COLUMNS, first = threadIdx.x / COLUMNS;
#pragma unroll
    for (int t = first; t < CHUNK; t += THREADS / COLUMNS) {
        to[t * COLUMNS + column] = to_f32(*row_at(map, start + min(t, count - 1), bytes));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) scan_carries(
    float *__restrict__ carries, float *__restrict__ step_sums,
    const act *__restrict__ dout, const act *__restrict__ delta, const float *__restrict__ delta_bias,
    const float *__restrict__ a, const act *__restrict__ c, const act *__restrict__ z,
    const u32 *__restrict__ offsets, int d_inner, int segments, int dout_bytes, int delta_bytes, int c_bytes,
    int z_bytes) {
    __shared__ float4 map[CHUNK][4];
    __shared__ float steps[WARPS][CHUNK][WIDTH], dys[WARPS][CHUNK][WIDTH];

    int s = blockIdx.y, g = blockIdx.z + 1;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quarter = lane % 4;
    int first_channel = blockIdx.x * CHANNELS + warp * WIDTH;
    Segment at = segment_of(offsets, s, g, segments);

    float decay[CH][4], carry[CH][4], total[CH];
#pragma unroll
    for (int i = 0; i < CH; i++) {
        int channel = first_channel + group * CH + i;
        total[i] = 0.0f;
#pragma unroll
        for (int n = 0; n < 4; n++) {
            decay[i][n] = channel < d_inner ? a[(long long)channel * N + quarter * 4 + n] * LOG2E : 0.0f;
            carry[i][n] = 0.0f;
        }
    }
    int pair = lane % 16, second = lane / 16, staged = first_channel + 2 * pair;
    bool stages = staged < d_inner;
    int reached = stages ? staged : d_inner - 2;
    float bias[2] = {};
    if (delta_bias) bias[0] = delta_bias[reached], bias[1] = delta_bias[reached + 1];

    for (int chunk = at.last - 1; chunk >= at.first; chunk--) {
        int start = at.begin + chunk * CHUNK, count = min(CHUNK, at.length - chunk * CHUNK);
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < CHUNK / 2; k++) {
            int t = 2 * k + second, token = start + min(t, count - 1);
            bool there = stages && t < count;
            Pair raw_delta = *(const Pair *)row_at(delta + reached, token, delta_bytes);
            Pair raw_dout = *(const Pair *)row_at(dout + reached, token, dout_bytes);
            float2 step, dy = {low(raw_dout), high(raw_dout)};
            float slope;
            step_of(low(raw_delta) + bias[0], &step.x, &slope);
            step_of(high(raw_delta) + bias[1], &step.y, &slope);
#if HAS_Z
            Pair raw_z = *(const Pair *)row_at(z + reached, token, z_bytes);
            dy.x *= low(raw_z) * fast_sigmoid(low(raw_z));
            dy.y *= high(raw_z) * fast_sigmoid(high(raw_z));
#endif
            float2 none = {0.0f, 0.0f};
            ((float2 *)steps[warp][t])[pair] = there ? step : none;
            ((float2 *)dys[warp][t])[pair] = there ? dy : none;
        }
        stage_maps<N>((float *)map, c + threadIdx.x % N, start, count, c_bytes);
        __syncthreads();
#pragma unroll 2
        for (int t = (count - 1) | 1; t >= 0; t--) {
            float step[CH], dy[CH];
            take(step, &steps[warp][t][group * CH]);
            take(dy, &dys[warp][t][group * CH]);
            float cs[4];
            *(float4 *)cs = map[t][quarter];
#pragma unroll
            for (int i = 0; i < CH; i++) {
                total[i] += step[i];
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    carry[i][n] = (carry[i][n] + dy[i] * cs[n]) * ex2(step[i] * decay[i][n]);
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < CH; i++) {
        int channel = first_channel + group * CH + i;
        if (channel >= d_inner) continue;
        long long row = ((long long)s * segments + g) * d_inner + channel;
        *(float4 *)(carries + row * N + quarter * 4) = *(float4 *)carry[i];
        if (quarter == 0) step_sums[row] = total[i];
    }
}

// The parts of shared memory that belong to one warp.
struct WarpMemory {
    float4 states[PARTS - 1][CH][32];                 // before every Kth token but the first of a chunk
    float steps[CHUNK][WIDTH], inputs[CHUNK][WIDTH];  // Δ, Δ u
    float dys[K][WIDTH];
    // Sums over states: y, dh B, and the gradient of ΔA times A log2(e).
    float readouts[K][WIDTH], by_inputs[K][WIDTH], by_steps[K][WIDTH];
    // What a lane keeps for its two pairs: u, dΔ/d(raw Δ), and dout silu'(z).
    float4 us[32], slopes[32], gates[32];
};

struct BlockMemory {
    WarpMemory warps[WARPS];
    float4 maps[CHUNK][8];        // B, C
    float sums[2][WARPS][K][32];  // dB, dC of each warp
};

// A state before a token: from global memory, [N] of each channel.
DEVICE void load_states(float (&h)[CH][4], const float *states, int first_channel, int d_inner, int quarter) {
#pragma unroll
    for (int i = 0; i < CH; i++) {
        float4 x = {0.0f, 0.0f, 0.0f, 0.0f};
        if (first_channel + i < d_inner) x = *(const float4 *)(states + (long long)(first_channel + i) * N + quarter * 4);
        *(float4 *)h[i] = x;
    }
}

// Adds what was gathered to a partial sum of a table, and forgets it.
DEVICE void flush_states(float *partial, float (&sum)[CH][4], int first_channel, int d_inner, int quarter) {
#pragma unroll
    for (int i = 0; i < CH; i++) {
        if (first_channel + i < d_inner) {
            *(float4 *)(partial + (long long)(first_channel + i) * N + quarter * 4) = *(float4 *)sum[i];
        }
#pragma unroll
        for (int n = 0; n < 4; n++) sum[i][n] = 0.0f;
    }
}

// Likewise of a vector, two channels, of which each half of the warp has seen half of the tokens.
DEVICE void flush_pair(float *partial, float *sum, bool writes) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float other = __shfl_xor_sync(ALL_LANES, sum[i], 16);
        if (writes) partial[i] = sum[i] + other;
        sum[i] = 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) scan_backward(
    act *__restrict__ du, act *__restrict__ ddelta, act *__restrict__ dz, float *__restrict__ map_sums,
    float *__restrict__ ddelta_bias, float *__restrict__ da, float *__restrict__ dd_skip,
    float *__restrict__ dinitial, float *__restrict__ dstate_offset, float *__restrict__ doutput_offset,
    const act *__restrict__ dout, const float *__restrict__ d_final, const float *__restrict__ boundaries,
    const act *__restrict__ u, const act *__restrict__ delta, const float *__restrict__ delta_bias,
    const float *__restrict__ a, const act *__restrict__ b, const act *__restrict__ c,
    const float *__restrict__ d_skip, const act *__restrict__ z,
    const float *__restrict__ state_offset, const u32 *__restrict__ state_offset_row,
    const float *__restrict__ output_offset, const u32 *__restrict__ output_offset_row,
    const float *__restrict__ carries, const float *__restrict__ step_sums,
    const u32 *__restrict__ offsets, int tokens, int sequences, int d_inner, int segments,
    int rows_of_state_offset, int rows_of_output_offset,
    int du_bytes, int ddelta_bytes, int dz_bytes, int dout_bytes, int u_bytes, int delta_bytes, int b_bytes,
    int c_bytes, int z_bytes) {
    extern __shared__ unsigned char scan_memory[];
    BlockMemory &memory = *(BlockMemory *)scan_memory;

    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quarter = lane % 4;
    WarpMemory &mine = memory.warps[warp];
    int first_channel = blockIdx.x * CHANNELS + warp * WIDTH, channels = first_channel + group * CH;
    int g = blockIdx.z, walker = blockIdx.y, walkers = gridDim.y;

    float decay[CH][4];
    load_states(decay, a, channels, d_inner, quarter);
#pragma unroll
    for (int i = 0; i < CH; i++) {
#pragma unroll
        for (int n = 0; n < 4; n++) decay[i][n] *= LOG2E;
    }
    // The two channels whose steps it stages and whose gradients it finishes. Loads never pass the end: the last token
    // stands in for those behind it, and the last channels likewise.
    int pair = lane % 16, second = lane / 16, staged = first_channel + 2 * pair;
    bool stages = staged < d_inner;
    int reached = stages ? staged : d_inner - 2;
    float bias[2] = {}, skip[2] = {};
    if (delta_bias) bias[0] = delta_bias[reached], bias[1] = delta_bias[reached + 1];
    if (d_skip) skip[0] = d_skip[reached], skip[1] = d_skip[reached + 1];
    int map_bytes = threadIdx.x % 32 < N ? b_bytes : c_bytes;
    const act *map = threadIdx.x % 32 < N ? b + threadIdx.x % 32 : c + (threadIdx.x % 32 - N);

    float state_offset_sum[CH][4] = {}, a_sum[CH][4] = {};
    float bias_sum[2] = {}, skip_sum[2] = {}, output_offset_sum[2] = {};
    int turn = 0;

    int first_sequence = (int)((long long)walker * sequences / walkers);
    int end_sequence = (int)((long long)(walker + 1) * sequences / walkers);
    for (int s = first_sequence; s < end_sequence; s++) {
        Segment at = segment_of(offsets, s, g, segments);
        float added[2] = {};
        if (output_offset) {
            const float *row = output_offset + (long long)output_offset_row[s] * d_inner + reached;
            added[0] = row[0], added[1] = row[1];
        }
#if HAS_STATE_OFFSET && (DC || DZ)
        float offset[CH][4];
        load_states(offset, state_offset + (long long)state_offset_row[s] * d_inner * N, channels, d_inner, quarter);
#endif
        // dL/dh of the last token without what its y adds: from the right.
        float carry[CH][4] = {};
        if (d_final) load_states(carry, d_final + (long long)s * d_inner * N, channels, d_inner, quarter);
        for (int right = segments - 1; right > g; right--) {
            Segment other = segment_of(offsets, s, right, segments);
            if (other.first >= other.last) continue;
            long long row = ((long long)s * segments + right) * d_inner;
            float local[CH][4];
            load_states(local, carries + row * N, channels, d_inner, quarter);
#pragma unroll
            for (int i = 0; i < CH; i++) {
                float sum = channels + i < d_inner ? step_sums[row + channels + i] : 0.0f;
#pragma unroll
                for (int n = 0; n < 4; n++) carry[i][n] = local[i][n] + ex2(sum * decay[i][n]) * carry[i][n];
            }
        }

        for (int chunk = at.last - 1; chunk >= at.first; chunk--) {
            int start = at.begin + chunk * CHUNK, count = min(CHUNK, at.length - chunk * CHUNK);
            const float *saved = boundaries + ((long long)at.begin / CHUNK + s + chunk) * d_inner * N;
            __syncthreads();
            stage_maps<32>((float *)memory.maps, map, start, count, map_bytes);
#pragma unroll 4
            for (int k = 0; k < CHUNK / 2; k++) {
                int t = 2 * k + second, token = start + min(t, count - 1);
                bool there = stages && t < count;
                Pair raw_delta = *(const Pair *)row_at(delta + reached, token, delta_bytes);
                Pair raw_u = *(const Pair *)row_at(u + reached, token, u_bytes);
                float2 step;
                float slope;
                step_of(low(raw_delta) + bias[0], &step.x, &slope);
                step_of(high(raw_delta) + bias[1], &step.y, &slope);
                float2 input = {step.x * low(raw_u), step.y * high(raw_u)}, none = {0.0f, 0.0f};
                ((float2 *)mine.steps[t])[pair] = there ? step : none;
                ((float2 *)mine.inputs[t])[pair] = there ? input : none;
            }
            __syncthreads();

            // Forward over all but the last part, to the state before each.
            int parts = (count + K - 1) / K;
            {
                float h[CH][4];
                load_states(h, saved, channels, d_inner, quarter);
                for (int part = 0; part < parts - 1; part++) {
#pragma unroll
                    for (int k = 0; k < K; k++) {
                        int t = part * K + k;
                        float step[CH], input[CH], bs[4];
                        take(step, &mine.steps[t][group * CH]);
                        take(input, &mine.inputs[t][group * CH]);
                        *(float4 *)bs = memory.maps[t][quarter];
#pragma unroll
                        for (int i = 0; i < CH; i++) {
#pragma unroll
                            for (int n = 0; n < 4; n++) {
                                h[i][n] = ex2(step[i] * decay[i][n]) * h[i][n] + input[i] * bs[n];
                            }
                        }
                    }
#pragma unroll
                    for (int i = 0; i < CH; i++) mine.states[part][i][lane] = *(float4 *)h[i];
                }
            }

            for (int part = parts - 1; part >= 0; part--) {
                int from = part * K;
                const float *steps = &mine.steps[from][group * CH], *inputs = &mine.inputs[from][group * CH];
                const float4 *maps = &memory.maps[from][quarter];
                // On their way while the states are recomputed.
                Pair raw_dout[K / 2], raw_z[K / 2], raw_u[K / 2];
#pragma unroll
                for (int j = 0; j < K / 2; j++) {
                    int token = start + min(from + 2 * j + second, count - 1);
                    raw_dout[j] = *(const Pair *)row_at(dout + reached, token, dout_bytes);
#if HAS_Z
                    raw_z[j] = *(const Pair *)row_at(z + reached, token, z_bytes);
#endif
                    raw_u[j] = *(const Pair *)row_at(u + reached, token, u_bytes);
                }

                // h[k] is the state before token k; what token k kept of it is decays[k].
                float h[K + 1][CH][4], decays[K][CH][4];
                if (part == 0) {
                    load_states(h[0], saved, channels, d_inner, quarter);
                } else {
#pragma unroll
                    for (int i = 0; i < CH; i++) *(float4 *)h[0][i] = mine.states[part - 1][i][lane];
                }
#pragma unroll
                for (int k = 0; k < K; k++) {
                    float step[CH], input[CH], bs[4];
                    take(step, steps + k * WIDTH);
                    take(input, inputs + k * WIDTH);
                    *(float4 *)bs = maps[k * 8];
#pragma unroll
                    for (int i = 0; i < CH; i++) {
#pragma unroll
                        for (int n = 0; n < 4; n++) {
                            decays[k][i][n] = ex2(step[i] * decay[i][n]);
                            h[k + 1][i][n] = decays[k][i][n] * h[k][i][n] + input[i] * bs[n];
                        }
                    }
                }

                float lane_us[K], lane_slopes[K], lane_gates[K];
#pragma unroll
                for (int j = 0; j < K / 2; j++) {
                    bool there = stages && from + 2 * j + second < count;
                    float dout2[2] = {low(raw_dout[j]), high(raw_dout[j])}, dy[2];
#if HAS_Z
                    float gate[2] = {low(raw_z[j]), high(raw_z[j])};
#endif
                    lane_us[2 * j] = low(raw_u[j]);
                    lane_us[2 * j + 1] = high(raw_u[j]);
                    float2 step = ((const float2 *)mine.steps[from + 2 * j + second])[pair];
                    lane_slopes[2 * j] = slope_at(step.x);
                    lane_slopes[2 * j + 1] = slope_at(step.y);
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        dy[i] = there ? dout2[i] : 0.0f;
                        lane_gates[2 * j + i] = 0.0f;
#if HAS_Z
                        float open = fast_sigmoid(gate[i]), gated = gate[i] * open;
                        lane_gates[2 * j + i] = dy[i] * (open + gated * (1.0f - open));
                        dy[i] *= gated;
#endif
                        output_offset_sum[i] += dy[i];
                        skip_sum[i] += dy[i] * lane_us[2 * j + i];
                    }
                    ((float2 *)mine.dys[2 * j + second])[pair] = float2{dy[0], dy[1]};
                }
#if DU || DDELTA || DBIAS || DZ
                mine.us[lane] = *(float4 *)lane_us;
#endif
#if DSTEP
                mine.slopes[lane] = *(float4 *)lane_slopes;
#endif
#if DZ
                mine.gates[lane] = *(float4 *)lane_gates;
#endif
                __syncwarp();

                // The readout: y, and what depends on dy alone.
                float (*sums)[32] = memory.sums[turn][warp];
#pragma unroll
                for (int k = 0; k < K; k++) {
                    float dy[CH], cs[4], dc[4] = {}, y[CH] = {};
                    take(dy, &mine.dys[k][group * CH]);
                    *(float4 *)cs = maps[k * 8 + 4];
#pragma unroll
                    for (int i = 0; i < CH; i++) {
#pragma unroll
                        for (int n = 0; n < 4; n++) {
#if HAS_STATE_OFFSET && (DC || DZ)
                            float state = h[k + 1][i][n] + offset[i][n];
#else
                            float state = h[k + 1][i][n];
#endif
                            y[i] += state * cs[n];
                            dc[n] += dy[i] * state;
#if DSTATE_OFFSET
                            state_offset_sum[i][n] += dy[i] * cs[n];
#endif
                        }
                    }
#if DC
                    fold<4>(dc, 16, lane & 16);
                    fold<2>(dc, 8, lane & 8);
                    dc[0] += __shfl_xor_sync(ALL_LANES, dc[0], 4);
                    if (!(lane & 4)) sums[k][N + quarter * 4 + (lane & 16) / 8 + (lane & 8) / 8] = dc[0];
#endif
#if DZ
                    fold<4>(y, 2, lane & 2);
                    fold<2>(y, 1, lane & 1);
                    mine.readouts[k][lane] = y[0];
#endif
                }

                // The recurrence backward.
#pragma unroll
                for (int k = K - 1; k >= 0; k--) {
                    float input[CH], dy[CH], bs[4], cs[4], db[4] = {}, by_input[CH] = {}, by_step[CH] = {};
#if DA
                    float step[CH];
                    take(step, steps + k * WIDTH);
#endif
                    take(input, inputs + k * WIDTH);
                    take(dy, &mine.dys[k][group * CH]);
                    *(float4 *)bs = maps[k * 8];
                    *(float4 *)cs = maps[k * 8 + 4];
#pragma unroll
                    for (int i = 0; i < CH; i++) {
#pragma unroll
                        for (int n = 0; n < 4; n++) {
                            float dh = carry[i][n] + dy[i] * cs[n];
                            by_input[i] += dh * bs[n];
                            db[n] += dh * input[i];
                            carry[i][n] = dh * decays[k][i][n];
                            float d_exponent = carry[i][n] * h[k][i][n];
                            by_step[i] += d_exponent * decay[i][n];
#if DA
                            a_sum[i][n] += d_exponent * step[i];
#endif
                        }
                    }
#if DB
                    fold<4>(db, 16, lane & 16);
                    fold<2>(db, 8, lane & 8);
                    db[0] += __shfl_xor_sync(ALL_LANES, db[0], 4);
                    if (!(lane & 4)) sums[k][quarter * 4 + (lane & 16) / 8 + (lane & 8) / 8] = db[0];
#endif
#if DSTEP
                    fold<4>(by_input, 2, lane & 2);
                    fold<4>(by_step, 2, lane & 2);
                    fold<2>(by_input, 1, lane & 1);
                    fold<2>(by_step, 1, lane & 1);
                    mine.by_inputs[k][lane] = by_input[0];
                    mine.by_steps[k][lane] = by_step[0];
#endif
                }
#if DB || DC
                __syncthreads();
#else
                __syncwarp();
#endif

                // The sums over states become gradients.
#if DSTEP || DZ
                take(lane_us, (const float *)&mine.us[lane]);
#if DSTEP
                take(lane_slopes, (const float *)&mine.slopes[lane]);
#endif
#if DZ
                take(lane_gates, (const float *)&mine.gates[lane]);
#endif
#pragma unroll
                for (int j = 0; j < K / 2; j++) {
                    int k = 2 * j + second, token = start + from + k;
                    bool there = stages && from + k < count;
                    float2 x = {lane_us[2 * j], lane_us[2 * j + 1]};
#if DSTEP
                    float2 by_input = ((const float2 *)mine.by_inputs[k])[pair];
                    float2 by_step = ((const float2 *)mine.by_steps[k])[pair];
#endif
#if DU
                    float2 step = ((const float2 *)mine.steps[from + k])[pair], dy = ((const float2 *)mine.dys[k])[pair];
                    Pair du2 = pair_of(step.x * by_input.x + skip[0] * dy.x, step.y * by_input.y + skip[1] * dy.y);
                    if (there) *(Pair *)row_at(du + reached, token, du_bytes) = du2;
#endif
#if DDELTA || DBIAS
                    float2 raw_gradient = {
                        (by_step.x * LN2 + x.x * by_input.x) * lane_slopes[2 * j],
                        (by_step.y * LN2 + x.y * by_input.y) * lane_slopes[2 * j + 1]};
#if DBIAS
                    bias_sum[0] += there ? raw_gradient.x : 0.0f;
                    bias_sum[1] += there ? raw_gradient.y : 0.0f;
#endif
#if DDELTA
                    Pair ddelta2 = pair_of(raw_gradient.x, raw_gradient.y);
                    if (there) *(Pair *)row_at(ddelta + reached, token, ddelta_bytes) = ddelta2;
#endif
#endif
#if DZ
                    float2 y = ((const float2 *)mine.readouts[k])[pair];
                    y.x += skip[0] * x.x + added[0];
                    y.y += skip[1] * x.y + added[1];
                    Pair dz2 = pair_of(lane_gates[2 * j] * y.x, lane_gates[2 * j + 1] * y.y);
                    if (there) *(Pair *)row_at(dz + reached, token, dz_bytes) = dz2;
#endif
                }
#endif
#if DB || DC
                // The block adds the warps' sums, a warp some tokens; the next part has the other buffer.
#pragma unroll
                for (int k = warp; k < K; k += WARPS) {
                    float sum = memory.sums[turn][0][k][lane];
#pragma unroll
                    for (int w = 1; w < WARPS; w++) sum += memory.sums[turn][w][k][lane];
                    long long row = (long long)blockIdx.x * tokens + start + from + k;
                    if (from + k < count) map_sums[row * 32 + lane] = sum;
                }
                turn ^= 1;
#endif
                __syncwarp();
            }
        }

#if DINITIAL
        if (g == 0) flush_states(dinitial + (long long)s * d_inner * N, carry, channels, d_inner, quarter);
#endif
        // A table of several rows gets a partial sum per sequence and segment, one of a single row per block.
        bool last = s == end_sequence - 1;
#if DSTATE_OFFSET
        if (last || rows_of_state_offset > 1) {
            long long at_row = (long long)(rows_of_state_offset > 1 ? s : walker) * segments + g;
            flush_states(dstate_offset + at_row * d_inner * N, state_offset_sum, channels, d_inner, quarter);
        }
#endif
        if (doutput_offset && (last || rows_of_output_offset > 1)) {
            long long at_row = (long long)(rows_of_output_offset > 1 ? s : walker) * segments + g;
            flush_pair(doutput_offset + at_row * d_inner + staged, output_offset_sum, stages && !second);
        }
    }
    long long block_row = (long long)walker * segments + g;
#if DA
    flush_states(da + block_row * d_inner * N, a_sum, channels, d_inner, quarter);
#endif
#if DBIAS
    flush_pair(ddelta_bias + block_row * d_inner + staged, bias_sum, stages && !second);
#endif
    if (dd_skip) flush_pair(dd_skip + block_row * d_inner + staged, skip_sum, stages && !second);
}
