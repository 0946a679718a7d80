// The selective scan, backward, for N = 16: `scan_backward`, which follows `scan_carries` of carries.cu and precedes the
// sums of reduce.cu.
//
// Bound. Per token, channel and state 29 instructions are issued, 32 with a state offset and its gradient: the states
// of a chunk are recomputed nearly twice (from the saved state to every Kth token, and from there), each time a
// multiplication, ex2, a multiplication and a multiply-add; the gradient takes seven more and the readout two or three;
// the rest are sums over states and channels (four) and, once per token and channel, softplus, silu and the gradients
// of activations (three). 2.2 of them are ex2 and the like, at a quarter of the rate or less: 17 clocks of 29. The bytes
// (u, delta, z, dout and their gradients once each, the saved states, the partial sums of dB and dC) need a quarter of
// the time. Measured on an H100 at [4, 2048, 1536]: registers and shared memory leave room for two warps to a scheduler,
// instructions issue in 57 % of the clocks, and what is lost is waiting for the instruction before, for shuffles and
// shared memory, and for what a chunk begins with. Half the channels to a lane, with three warps to a scheduler, was
// slower: there are 13 % more instructions.
//
// Idea of `scan_backward`. A warp has 32 channels and all 16 states: a lane four channels times four states, lane =
// 4 group + quarter. Sums over channels, for dB and dC, are multiply-adds within the lane first and then an exchange over
// 8 lanes; sums over states, for du, ddelta and dz, likewise over 4. A block's warps add dB and dC in shared memory;
// what it writes are partial sums per block. A chunk is walked forward once to find the state before every Kth token; then,
// from its end, K tokens at a time: forward with states and decays kept in registers, reading out y, and backward.
// Tokens past the end and channels past D are staged as zero steps, which add nothing anywhere. Numbers are
// asked for long before they are used: a chunk's brought into L2 while the one before it is at work, those of K tokens
// into registers as soon as the K tokens behind have left some.
//
// Channels are read and written in pairs: D is even and every row of u, delta, z, dout and their gradients begins at a
// whole pair. For that, lane = 16 second + pair stages, or finishes, two channels of every other token.
//
// Defines: WARPS (4, or 2 where shared memory is small), HAS_Z, SOFTPLUS, HAS_STATE_OFFSET; wanted: DU, DDELTA, DBIAS,
// DZ, DC, DB, DSTATE_OFFSET, DA, DINITIAL; ACT_BF16.

// The sum over a channel's four lanes; `lane` gets that of channel `lane` of the warp.
DEVICE float fold_channels(float *v, int lane) {
    fold<4>(v, 2, lane & 2);
    fold<2>(v, 1, lane & 1);
    return v[0];
}

// The parts of shared memory that belong to one warp.
struct WarpMemory {
    float4 states[PARTS - 2][CH][32];                 // before every Kth token but the first and the last of a chunk
    float steps[CHUNK][WIDTH], inputs[CHUNK][WIDTH];  // Δ, Δ u
    float dys[K][WIDTH];
    // Sums over states: y, and the gradient of ΔA times A log2(e).
    float readouts[K][WIDTH], by_steps[K][WIDTH];
    float gates[2 * K / ROWS][32];  // what a lane keeps for its pairs: dout silu'(z)
#if DB || DC
    float maps[K][32];  // dB, dC of the warp's channels
#endif
#if HAS_STATE_OFFSET && (DC || DZ)
    float4 offset[CH][32];
#endif
#if DSTATE_OFFSET
    float4 state_offset_sum[CH][32];
#endif
};

struct BlockMemory {
    WarpMemory warps[WARPS];
    float4 maps[CHUNK][8];  // B, C
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
        for (int mask = 16; mask >= PAIRS; mask /= 2) sum[i] += __shfl_xor_sync(ALL_LANES, sum[i], mask);
        if (writes) partial[i] = sum[i];
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
    const u32 *__restrict__ offsets, int tokens, int sequences, int d_inner, int segments, int parts,
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
    int pair = lane % PAIRS, second = lane / PAIRS, staged = first_channel + 2 * pair;
    bool stages = staged < d_inner;
    int reached = stages ? staged : d_inner - 2;
    float bias[2] = {}, skip[2] = {};
    if (delta_bias) bias[0] = delta_bias[reached], bias[1] = delta_bias[reached + 1];
    if (d_skip) skip[0] = d_skip[reached], skip[1] = d_skip[reached + 1];
    int map_bytes = threadIdx.x % 32 < N ? b_bytes : c_bytes;
    const act *map = threadIdx.x % 32 < N ? b + threadIdx.x % 32 : c + (threadIdx.x % 32 - N);

    float a_sum[CH][4] = {};
#if DSTATE_OFFSET
#pragma unroll
    for (int i = 0; i < CH; i++) mine.state_offset_sum[i][lane] = float4{0.0f, 0.0f, 0.0f, 0.0f};
#endif
    float bias_sum[2] = {}, skip_sum[2] = {}, output_offset_sum[2] = {};

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
#pragma unroll
        for (int i = 0; i < CH; i++) mine.offset[i][lane] = *(float4 *)offset[i];
#endif
        // dL/dh of the last token without what its y adds: from the right.
        float carry[CH][4] = {};
        if (d_final) load_states(carry, d_final + (long long)s * d_inner * N, channels, d_inner, quarter);
        for (int right = segments * parts - 1; right >= (g + 1) * parts; right--) {
            Segment other = part_of(segment_of(offsets, s, right / parts, segments), right % parts, parts);
            if (other.first >= other.last) continue;
            long long row = ((long long)s * segments * parts + right) * d_inner;
            float local[CH][4];
            load_states(local, carries + row * N, channels, d_inner, quarter);
#pragma unroll
            for (int i = 0; i < CH; i++) {
                float sum = channels + i < d_inner ? step_sums[row + channels + i] : 0.0f;
#pragma unroll
                for (int n = 0; n < 4; n++) carry[i][n] = local[i][n] + ex2(sum * decay[i][n]) * carry[i][n];
            }
        }

        // Brings the numbers of a chunk near.
        auto fetch = [&](int start, int count, const float *saved) {
            int token = start + min(lane, count - 1), channel = min(first_channel, d_inner - 2);
            prefetch(row_at(delta + channel, token, delta_bytes));
            prefetch(row_at(u + channel, token, u_bytes));
            prefetch(row_at(dout + channel, token, dout_bytes));
#if HAS_Z
            prefetch(row_at(z + channel, token, z_bytes));
#endif
            if (warp == 0) prefetch(row_at(b, token, b_bytes));
            if (warp == 1) prefetch(row_at(c, token, c_bytes));
            if (lane < WIDTH / 2 && channel + 2 * lane < d_inner) prefetch(saved + (channel + 2 * lane) * N);
        };
        for (int chunk = at.last - 1; chunk >= at.first; chunk--) {
            int start = at.begin + chunk * CHUNK, count = min(CHUNK, at.length - chunk * CHUNK);
            const float *saved = boundaries + ((long long)at.begin / CHUNK + s + chunk) * d_inner * N;
            // All that the chunk begins with is on its way at once.
            Maps<32> new_maps;
            Column<CHUNK> new_delta, new_u;
            float h0[CH][4];
            new_delta.load(delta + reached, start, second, count, delta_bytes);
            new_u.load(u + reached, start, second, count, u_bytes);
            new_maps.load(map, start, count, map_bytes);
            load_states(h0, saved, channels, d_inner, quarter);
            if (chunk > at.first) fetch(start - CHUNK, CHUNK, saved - (long long)d_inner * N);
            __syncthreads();
            new_maps.store((float *)memory.maps);
#pragma unroll
            for (int k = 0; k < CHUNK / ROWS; k++) {
                int t = ROWS * k + second;
                bool there = stages && t < count;
                float2 step;
                float slope;
                step_of(low(new_delta.raw[k]) + bias[0], &step.x, &slope);
                step_of(high(new_delta.raw[k]) + bias[1], &step.y, &slope);
                float2 input = {step.x * low(new_u.raw[k]), step.y * high(new_u.raw[k])}, none = {0.0f, 0.0f};
                ((float2 *)mine.steps[t])[pair] = there ? step : none;
                ((float2 *)mine.inputs[t])[pair] = there ? input : none;
            }
            __syncthreads();

            // Forward over all but the last part, to the state before each.
            int parts = (count + K - 1) / K;
            for (int part = 0; part < parts - 1; part++) {
                if (part > 0) {
#pragma unroll
                    for (int i = 0; i < CH; i++) mine.states[part - 1][i][lane] = *(float4 *)h0[i];
                }
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
                            h0[i][n] = ex2(step[i] * decay[i][n]) * h0[i][n] + input[i] * bs[n];
                        }
                    }
                }
            }

            Column<K> raw_dout, raw_z, raw_u, next_u;
            auto load = [&](int part) {
                raw_dout.load(dout + reached, start, part * K + second, count, dout_bytes);
#if HAS_Z
                raw_z.load(z + reached, start, part * K + second, count, z_bytes);
#endif
            };
            load(parts - 1);
            raw_u.load(u + reached, start, (parts - 1) * K + second, count, u_bytes);

            for (int part = parts - 1; part >= 0; part--) {
                int from = part * K;
                const float *steps = &mine.steps[from][group * CH], *inputs = &mine.inputs[from][group * CH];
                const float4 *maps = &memory.maps[from][quarter];
                // h[k] is the state before token k; what token k kept of it is decays[k].
                float h[K + 1][CH][4], decays[K][CH][4];
#pragma unroll
                for (int i = 0; i < CH; i++) *(float4 *)h[0][i] = *(float4 *)h0[i];
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

#pragma unroll
                for (int j = 0; j < K / ROWS; j++) {
                    bool there = stages && from + ROWS * j + second < count;
                    float dout2[2] = {low(raw_dout.raw[j]), high(raw_dout.raw[j])}, dy[2];
#if HAS_Z
                    float gate[2] = {low(raw_z.raw[j]), high(raw_z.raw[j])};
#endif
                    float x[2] = {low(raw_u.raw[j]), high(raw_u.raw[j])};
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        dy[i] = there ? dout2[i] : 0.0f;
#if HAS_Z
                        float open = fast_sigmoid(gate[i]), gated = gate[i] * open;
                        mine.gates[2 * j + i][lane] = dy[i] * (open + gated * (1.0f - open));
                        dy[i] *= gated;
#endif
                        output_offset_sum[i] += dy[i];
                        skip_sum[i] += dy[i] * x[i];
                    }
                    ((float2 *)mine.dys[ROWS * j + second])[pair] = float2{dy[0], dy[1]};
                }
                __syncwarp();

                // The readout: y, and what depends on dy alone.
#pragma unroll
                for (int two = 0; two < K; two += 2) {
                    float dy[2][CH], cs[2][4], dc[2][4] = {}, y[2][CH] = {};
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        take(dy[j], &mine.dys[two + j][group * CH]);
                        *(float4 *)cs[j] = maps[(two + j) * 8 + 4];
                    }
#pragma unroll
                    for (int i = 0; i < CH; i++) {
#if HAS_STATE_OFFSET && (DC || DZ)
                        float offset[4];
                        *(float4 *)offset = mine.offset[i][lane];
#endif
#pragma unroll
                        for (int j = 0; j < 2; j++) {
#pragma unroll
                            for (int n = 0; n < 4; n++) {
                                float state = h[two + j + 1][i][n];
#if HAS_STATE_OFFSET && (DC || DZ)
                                state += offset[n];
#endif
                                y[j][i] += state * cs[j][n];
                                dc[j][n] += dy[j][i] * state;
                            }
                        }
                    }
#pragma unroll
                    for (int j = 0; j < 2; j++) {
#if DC
                        fold<4>(dc[j], 16, lane & 16);
                        fold<2>(dc[j], 8, lane & 8);
                        dc[j][0] += __shfl_xor_sync(ALL_LANES, dc[j][0], 4);
                        int column = N + quarter * 4 + (lane & 16) / 8 + (lane & 8) / 8;
                        if (!(lane & 4)) mine.maps[two + j][column] = dc[j][0];
#endif
#if DZ
                        mine.readouts[two + j][lane] = fold_channels(y[j], lane);
#endif
                    }
                }

                // The recurrence backward.
                float map_sum[K], input_sum[K], step_sum[K];
#pragma unroll
                for (int k = K - 1; k >= 0; k--) {
                    // The next part's numbers come to the places that the tokens behind have left.
                    int next = max(part - 1, 0);
                    if (k == K - 2) load(next);
                    if (k == K - 3) next_u.load(u + reached, start, next * K + second, count, u_bytes);
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
                    for (int n = 0; n < 4; n++) {
#pragma unroll
                        for (int i = 0; i < CH; i++) {
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
                    map_sum[k] = db[0] + __shfl_xor_sync(ALL_LANES, db[0], 4);
#endif
#if DSTEP
                    input_sum[k] = fold_channels(by_input, lane), step_sum[k] = fold_channels(by_step, lane);
#endif
                }
                // Only now, so that a token's loads need not wait for the sums of the one behind it.
#if DB
#pragma unroll
                for (int k = 0; k < K; k++) {
                    if (!(lane & 4)) mine.maps[k][quarter * 4 + (lane & 16) / 8 + (lane & 8) / 8] = map_sum[k];
                }
#endif
#if DSTEP
                // Instead of Δ u, which all lanes have read by now.
                __syncwarp();
#pragma unroll
                for (int k = 0; k < K; k++) {
                    mine.inputs[from + k][lane] = input_sum[k];
                    mine.by_steps[k][lane] = step_sum[k];
                }
#endif
                if (part == 1) {
                    load_states(h0, saved, channels, d_inner, quarter);
                } else if (part > 1) {
#pragma unroll
                    for (int i = 0; i < CH; i++) *(float4 *)h0[i] = mine.states[part - 2][i][lane];
                }
#if DSTATE_OFFSET
#pragma unroll
                for (int i = 0; i < CH; i++) *(float4 *)h[0][i] = mine.state_offset_sum[i][lane];
#pragma unroll
                for (int k = 0; k < K; k++) {
                    float dy[CH], cs[4];
                    take(dy, &mine.dys[k][group * CH]);
                    *(float4 *)cs = maps[k * 8 + 4];
#pragma unroll
                    for (int i = 0; i < CH; i++) {
#pragma unroll
                        for (int n = 0; n < 4; n++) h[0][i][n] += dy[i] * cs[n];
                    }
                }
#pragma unroll
                for (int i = 0; i < CH; i++) mine.state_offset_sum[i][lane] = *(float4 *)h[0][i];
#endif
                __syncwarp();

                // The sums over states become gradients.
#if DSTEP || DZ
#pragma unroll
                for (int j = 0; j < K / ROWS; j++) {
                    int k = ROWS * j + second, token = start + from + k;
                    bool there = stages && from + k < count;
                    float2 x = {low(raw_u.raw[j]), high(raw_u.raw[j])};
#if DSTEP
                    float2 step = ((const float2 *)mine.steps[from + k])[pair];
                    float2 by_input = ((const float2 *)mine.inputs[from + k])[pair];
                    float2 by_step = ((const float2 *)mine.by_steps[k])[pair];
#endif
#if DU
                    float2 dy = ((const float2 *)mine.dys[k])[pair];
                    Pair du2 = pair_of(step.x * by_input.x + skip[0] * dy.x, step.y * by_input.y + skip[1] * dy.y);
                    if (there) *(Pair *)row_at(du + reached, token, du_bytes) = du2;
#endif
#if DDELTA || DBIAS
                    float2 raw_gradient = {
                        (by_step.x * LN2 + x.x * by_input.x) * slope_at(step.x),
                        (by_step.y * LN2 + x.y * by_input.y) * slope_at(step.y)};
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
                    Pair dz2 = pair_of(mine.gates[2 * j][lane] * y.x, mine.gates[2 * j + 1][lane] * y.y);
                    if (there) *(Pair *)row_at(dz + reached, token, dz_bytes) = dz2;
#endif
                }
#endif
#if DB || DC
                // To where the part's Δ stood, which all lanes have read by now: [K][32] here and there.
                __syncwarp();
                ((float4 *)mine.steps[from])[lane] = ((const float4 *)mine.maps)[lane];
#endif
                raw_u = next_u;
                __syncwarp();
            }
#if DB || DC
            // The block adds what its warps have of the chunk.
            __syncthreads();
            for (int i = threadIdx.x; i < count * 8; i += THREADS) {
                float4 sum = ((const float4 *)memory.warps[0].steps)[i];
#pragma unroll
                for (int w = 1; w < WARPS; w++) {
                    float4 more = ((const float4 *)memory.warps[w].steps)[i];
                    sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
                }
                ((float4 *)map_sums)[((long long)blockIdx.x * tokens + start) * 8 + i] = sum;
            }
#endif
        }

#if DINITIAL
        if (g == 0) flush_states(dinitial + (long long)s * d_inner * N, carry, channels, d_inner, quarter);
#endif
        // A table of several rows gets a partial sum per sequence and segment, one of a single row per block.
        bool last = s == end_sequence - 1;
#if DSTATE_OFFSET
        if (last || rows_of_state_offset > 1) {
            long long at_row = (long long)(rows_of_state_offset > 1 ? s : walker) * segments + g;
            float sum[CH][4];
#pragma unroll
            for (int i = 0; i < CH; i++) {
                *(float4 *)sum[i] = mine.state_offset_sum[i][lane];
                mine.state_offset_sum[i][lane] = float4{0.0f, 0.0f, 0.0f, 0.0f};
            }
            flush_states(dstate_offset + at_row * d_inner * N, sum, channels, d_inner, quarter);
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
