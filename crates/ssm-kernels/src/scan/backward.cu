// The selective scan, backward, for N = 16: `scan_backward`, which follows `scan_carries` of carries.cu and precedes the
// sums of reduce.cu.
//
// Bound. Per token, channel and state 25 instructions are issued, 27 with a state offset and its gradient: the states
// of a chunk are recomputed nearly twice (from the saved state to every Kth token, and from there), each time a
// multiplication, ex2, a multiplication and a multiply-add; the gradient takes seven and the readout two or three; the rest
// are sums over states and channels and, once per token and channel, softplus, silu and the gradients of activations.
// 2.2 of them are ex2 and the like, at a quarter of the rate or less: 17 clocks of 25. The bytes (u, delta, z, dout and
// their gradients once each, the saved states, the partial sums of dB and dC) need a quarter of the time. Measured on an
// H100 at [8, 1024, 4096]: registers and shared memory leave room for two warps to a scheduler, instructions issue in 55 %
// of the clocks, and what is lost is waiting for the instruction before, for shared memory and special functions, and for
// what a chunk begins with.
//
// Idea of `scan_backward`. A warp has 32 channels and all 16 states: a lane four channels times four states, lane =
// 4 group + quarter. Sums over channels, for dB and dC, are multiply-adds within the lane first and then over 8 lanes; sums
// over states, for du, ddelta and dz, likewise over 4 (sums.cuh). A block's warps add dB and dC in shared memory;
// what it writes are partial sums per block. A chunk is walked forward once to find the state before every Kth token; then,
// from its end, K tokens at a time: forward with states and decays kept in registers, reading out y, and backward.
// Tokens past the end and channels past D are staged as zero steps, which add nothing anywhere. Numbers are
// asked for long before they are used: a chunk's brought into L2 while the one before it is at work, those of K tokens
// into registers as soon as the K tokens behind have left some.
//
// Channels are read and written in pairs: D is even and every row of u, delta, z, dout and their gradients begins at a
// whole pair. For that, lane = 16 second + pair stages, or finishes, two channels of every other token.
//
// With EARLY it begins while `scan_carries` runs, and waits for that only where it has walked its first chunk: what a
// block begins with then takes no time of its own. But its chunks take 2 % longer, so that it is for blocks of few chunks
// (docs/src/performance.md).
//
// Defines: EARLY; WARPS (4, or 2 where shared memory is small), HAS_Z, SOFTPLUS, HAS_STATE_OFFSET; wanted: DU, DDELTA,
// DBIAS, DZ, DC, DB, DSTATE_OFFSET, DA, DINITIAL; ACT_BF16.

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
    const float *carries, const float *step_sums,
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
    bool begins = true;  // a partial sum of the state offset's gradient
#endif
    float bias_sum[2] = {}, skip_sum[2] = {}, output_offset_sum[2] = {};

    int first_sequence = (int)((long long)walker * sequences / walkers);
    int end_sequence = (int)((long long)(walker + 1) * sequences / walkers);
    for (int s = first_sequence; s < end_sequence; s++) {
        Segment at = segment_of(offsets, s, g, segments);
#if DSTATE_OFFSET
        // A table of several rows gets a partial sum per sequence and segment, one of a single row per block.
        float *offset_partial = dstate_offset +
                                ((rows_of_state_offset > 1 ? s : walker) * (long long)segments + g) * d_inner * N;
#endif
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

        auto state_before = [&](int chunk) {
            return boundaries + ((long long)at.begin / CHUNK + s + chunk) * d_inner * N;
        };
        // Brings a saved state near, and the numbers of a chunk.
        auto fetch_states = [&](const float *saved) {
            int channel = first_channel + 2 * lane;
            if (lane < WIDTH / 2 && channel < d_inner) prefetch(saved + channel * N);
        };
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
            fetch_states(saved);
        };
        // And what the segments behind add, once `scan_carries` has made it.
        auto enter = [&]() {
#if EARLY
            await_previous();
#endif
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
        };
#if EARLY
        if (at.first >= at.last) await_previous(); // no block leaves before
#else
        if (at.first < at.last) {
            int last = at.last - 1, start = at.begin + last * CHUNK;
            fetch(start, at.length - last * CHUNK, state_before(last));
        }
        enter();
#endif
        for (int chunk = at.last - 1; chunk >= at.first; chunk--) {
            int start = at.begin + chunk * CHUNK, count = min(CHUNK, at.length - chunk * CHUNK);
            const float *saved = state_before(chunk);
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
            new_maps.store((float *)memory.maps); // they arrive last
            __syncthreads();

            // What the last part begins with is on its way during the walk.
            int parts = (count + K - 1) / K;
            Column<K> raw_dout, raw_z, raw_u, next_u;
            auto load = [&](int part) {
                raw_dout.load(dout + reached, start, part * K + second, count, dout_bytes);
#if HAS_Z
                raw_z.load(z + reached, start, part * K + second, count, z_bytes);
#endif
            };
            load(parts - 1);
            raw_u.load(u + reached, start, (parts - 1) * K + second, count, u_bytes);

            // Forward over all but the last part, to the state before each.
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

#if EARLY
            if (chunk == at.last - 1) enter();
#endif
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

#if !HAS_STATE_OFFSET
                // The compiler would begin the part with dout and z, which may not have come yet. So they wait for the state
                // after the second token: `odd` is zero, since rows are whole pairs. With an offset it costs more than it saves.
                u32 odd = u_bytes & 1;
#pragma unroll
                for (int j = 0; j < K / ROWS; j++) {
                    u32 nothing = __float_as_uint(h[2][j][0]) & odd;
                    *(u32 *)&raw_dout.raw[j] |= nothing;
#if HAS_Z
                    *(u32 *)&raw_z.raw[j] |= nothing;
#endif
                }
#endif
                float gates[K / ROWS][2];  // dout silu'(z)
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
                        gates[j][i] = dy[i] * (open + gated * (1.0f - open));
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
#if DZ
                        mine.shares[two + j].put(y[j], lane);
#endif
#if DC
                        mine.shares[K + two + j].put(dc[j], lane);
#endif
                    }
                }
                __syncwarp();
#if DC
                float2 dc_sum = mine.shares[K + lane / 8].over_channels(lane % 8);
#endif
#if DZ
#pragma unroll
                for (int j = 0; j < K / ROWS; j++) {
                    int k = ROWS * j + second;
                    bool there = stages && from + k < count;
                    float2 y = mine.shares[k].over_states(pair);
                    y.x += skip[0] * low(raw_u.raw[j]) + added[0];
                    y.y += skip[1] * high(raw_u.raw[j]) + added[1];
                    Pair dz2 = pair_of(gates[j][0] * y.x, gates[j][1] * y.y);
                    if (there) *(Pair *)row_at(dz + reached, start + from + k, dz_bytes) = dz2;
                }
#endif
                // What a token needs first, asked for before the warp meets and not behind it.
                float ahead[4][4];  // Δ u, dy, B, C
                auto take_ahead = [&](int k) {
                    take(ahead[0], inputs + k * WIDTH);
                    take(ahead[1], &mine.dys[k][group * CH]);
                    *(float4 *)ahead[2] = maps[k * 8];
                    *(float4 *)ahead[3] = maps[k * 8 + 4];
                };
                take_ahead(K - 1);
                __syncwarp();

                // The recurrence backward, ROWS tokens at a time.
#pragma unroll
                for (int j = K / ROWS - 1; j >= 0; j--) {
                    float db[ROWS][4], by_input[ROWS][CH], by_step[ROWS][CH];
#pragma unroll
                    for (int r = ROWS - 1; r >= 0; r--) {
                        int k = ROWS * j + r;
                        // The next part's numbers come to the places that the tokens behind have left.
                        int next = max(part - 1, 0);
                        if (k == K - 2) load(next);
                        // The saved state, for the first part: of a chunk ago, it may have left L2.
                        if (k == K - 1 && part == PARTS / 2) fetch_states(saved);
                        if (k == K - 3) next_u.load(u + reached, start, next * K + second, count, u_bytes);
                        if (r < ROWS - 1) take_ahead(k);
                        float(&input)[4] = ahead[0], (&dy)[4] = ahead[1], (&bs)[4] = ahead[2], (&cs)[4] = ahead[3];
#if DA
                        float step[CH];
                        take(step, steps + k * WIDTH);
#endif
#pragma unroll
                        for (int i = 0; i < 4; i++) db[r][i] = 0.0f;
#pragma unroll
                        for (int i = 0; i < CH; i++) by_input[r][i] = by_step[r][i] = 0.0f;
#pragma unroll
                        for (int n = 0; n < 4; n++) {
#pragma unroll
                            for (int i = 0; i < CH; i++) {
                                float dh = carry[i][n] + dy[i] * cs[n];
                                by_input[r][i] += dh * bs[n];
                                db[r][n] += dh * input[i];
                                carry[i][n] = dh * decays[k][i][n];
                                float d_exponent = carry[i][n] * h[k][i][n];
                                by_step[r][i] += d_exponent * decay[i][n];
#if DA
                                a_sum[i][n] += d_exponent * step[i];
#endif
                            }
                        }
                    }
                    // Only now, so that a token's loads need not wait for the sums of the one behind it.
#pragma unroll
                    for (int r = 0; r < ROWS; r++) {
#if DSTEP
                        mine.shares[r].put(by_input[r], lane);
                        mine.shares[ROWS + r].put(by_step[r], lane);
#endif
#if DB
                        mine.shares[K + ROWS * j + r].put(db[r], lane);
#endif
                    }
                    __syncwarp();
#if DSTEP
                    // The sums over states become gradients.
                    int k = ROWS * j + second, token = start + from + k;
                    bool there = stages && from + k < count;
                    float2 x = {low(raw_u.raw[j]), high(raw_u.raw[j])};
                    float2 step2 = ((const float2 *)mine.steps[from + k])[pair];
                    float2 input2 = mine.shares[second].over_states(pair);
#if DU
                    float2 dy2 = ((const float2 *)mine.dys[k])[pair];
                    Pair du2 = pair_of(step2.x * input2.x + skip[0] * dy2.x, step2.y * input2.y + skip[1] * dy2.y);
                    if (there) *(Pair *)row_at(du + reached, token, du_bytes) = du2;
#endif
#if DDELTA || DBIAS
                    float2 exponent2 = mine.shares[ROWS + second].over_states(pair);
                    float2 raw_gradient = {
                        (exponent2.x * LN2 + x.x * input2.x) * slope_at(step2.x),
                        (exponent2.y * LN2 + x.y * input2.y) * slope_at(step2.y)};
#if DBIAS
                    bias_sum[0] += there ? raw_gradient.x : 0.0f;
                    bias_sum[1] += there ? raw_gradient.y : 0.0f;
#endif
#if DDELTA
                    Pair ddelta2 = pair_of(raw_gradient.x, raw_gradient.y);
                    if (there) *(Pair *)row_at(ddelta + reached, token, ddelta_bytes) = ddelta2;
#endif
#endif
#endif
                    if (j > 0) {
                        take_ahead(ROWS * j - 1);
#if DSTEP
                        __syncwarp();
#endif
                    }
                }
#if DB
                float2 db_sum = mine.shares[K + lane / 8].over_channels(lane % 8);
#endif
                if (part == 1) {
                    load_states(h0, saved, channels, d_inner, quarter);
                } else if (part > 1) {
#pragma unroll
                    for (int i = 0; i < CH; i++) *(float4 *)h0[i] = mine.states[part - 2][i][lane];
                }
#if DSTATE_OFFSET
                // dy to where the part's Δ u stood, which all lanes have read by now.
                *(float4 *)(mine.inputs[from + lane / 8] + lane % 8 * 4) = *(float4 *)(mine.dys[lane / 8] + lane % 8 * 4);
#endif
                __syncwarp();

#if DB || DC
                // To where the part's Δ stood, which all lanes have read by now: [K][32] here and there.
                float2 *sums = (float2 *)mine.steps[from + lane / 8] + lane % 8;
#if DB
                sums[0] = db_sum;
#endif
#if DC
                sums[8] = dc_sum;
#endif
#endif
                raw_u = next_u;
                __syncwarp();
            }
#if DSTATE_OFFSET
            add_outer(offset_partial, mine.inputs, memory.maps, begins, channels, d_inner, group, quarter);
            begins = false;
#endif
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
        if (g == 0) store_states(dinitial + (long long)s * d_inner * N, carry, channels, d_inner, quarter);
#endif
        bool last = s == end_sequence - 1;
#if DSTATE_OFFSET
        if (last || rows_of_state_offset > 1) {
            // Without a token here it has not begun.
            float none[CH][4] = {};
            if (begins) store_states(offset_partial, none, channels, d_inner, quarter);
            begins = true;
        }
#endif
        if (doutput_offset && (last || rows_of_output_offset > 1)) {
            long long at_row = (long long)(rows_of_output_offset > 1 ? s : walker) * segments + g;
            flush_pair(doutput_offset + at_row * d_inner + staged, output_offset_sum, stages && !second);
        }
    }
    long long block_row = (long long)walker * segments + g;
#if DA
    store_states(da + block_row * d_inner * N, a_sum, channels, d_inner, quarter);
#endif
#if DBIAS
    flush_pair(ddelta_bias + block_row * d_inner + staged, bias_sum, stages && !second);
#endif
    if (dd_skip) flush_pair(dd_skip + block_row * d_inner + staged, skip_sum, stages && !second);
}
