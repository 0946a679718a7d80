// The selective scan, forward, for N = 16.
//
// Bound. Per token, channel and state: a multiplication, ex2, a multiplication and two multiply-adds; per token and
// channel: softplus and silu, four more of the special functions. At 16 of those a clock and multiprocessor they are
// the bound, (1 + 4/16) T D N / 16 clocks of a multiprocessor, with the issue of eight to ten instructions per state-step
// right behind; the bytes (u, delta, z, out once each) are far from it.
//
// Idea. What stands in the way of these bounds is waiting: a warp that stages, walks and finishes its tokens in turn
// waits for memory, special functions and its neighbours in each. So a block's warps have one task each. Stagers turn
// u and delta into what the recurrence wants, computed once per token and channel: (Δ, Δ u); and B and C into f32.
// Walkers do nothing but the recurrence: LANES lanes share a channel and hold 16 / LANES of its states each in registers,
// A already times log2(e). Finishers add a channel's lanes, the skip and the output offset, gate and write. They hand each
// other tiles of TILE tokens in two slots of shared memory, by named barriers at which those who only hand over do not
// wait. Tokens past the end are staged as zero steps, which change no state.
//
// Channels, B and C are read and written in pairs: D is even and every row of u, delta, z, b, c and out begins at a
// whole pair. B and C of two tokens lie beside each other where a lane has but two states, so that it reads four numbers
// at once; so do Δ and Δ u of two tokens.
//
// Defines: CHANNELS of a block, LANES, HELPERS (warps that stage; as many finish), TILE; HAS_Z, SOFTPLUS,
// HAS_STATE_OFFSET, ACT_BF16.

#define N 16
#define STATES (N / LANES)
#define PAIRS (CHANNELS / 2)  // pairs of channels
#define WALKING (CHANNELS * LANES)
#define HELPING (32 * HELPERS)
#define THREADS (WALKING + 2 * HELPING)
#define SLOTS 2
#define ROWS (HELPING / PAIRS)    // tokens, or groups of them, of a pair that helpers take at once
#define TWOS (TILE / 2 / ROWS)    // twos of tokens of a stager
#define FOURS (TILE / 4 / ROWS)   // fours of a finisher
#define MAP_ROWS (HELPING / N)    // tokens whose B and C the stagers take at once
#define MAPPED ((TILE + MAP_ROWS - 1) / MAP_ROWS)
#define AHEAD 4                   // tiles from what is brought into the second cache to what is staged

// The named barriers of a slot. At STAGED walkers wait for stagers, and for finishers to have read what they will write
// over; at FREE stagers wait for walkers; at WALKED finishers do.
#define STAGED(slot) (1 + (slot))
#define FREE(slot) (1 + SLOTS + (slot))
#define WALKED(slot) (1 + 2 * SLOTS + (slot))

// All THREADS of a named barrier have to come; these do not wait for the others.
template <int COUNT> DEVICE void pass(int barrier) {
#ifdef __CUDA_ARCH__
    asm volatile("bar.arrive %0, %1;" :: "r"(barrier), "n"(COUNT) : "memory");
#else
    emulated_barrier(barrier, COUNT, false);
#endif
}
template <int COUNT> DEVICE void meet(int barrier) {
#ifdef __CUDA_ARCH__
    asm volatile("bar.sync %0, %1;" :: "r"(barrier), "n"(COUNT) : "memory");
#else
    emulated_barrier(barrier, COUNT, true);
#endif
}

struct Slot {
    float4 steps[TILE / 2][CHANNELS];  // (Δ, Δ u) of two tokens
    float4 maps[TILE][8];              // B, C
    float4 sums[TILE / 4][WALKING];    // of a lane's states, of four tokens
};

// What a stager takes of a tile.
struct Raw {
    Pair u[TWOS][2], delta[TWOS][2];
    Pair maps[MAPPED];
};

// Where a walker's sums lie among those of the block: so that neither its neighbours nor those who add a channel's lanes
// meet in a bank.
DEVICE int place_of(int walker) { return walker ^ (walker / (LANES == 8 ? 16 : 8) & 7); }

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

// A lane's B and C of two tokens.
DEVICE void take_maps(float (&bs)[2][STATES], float (&cs)[2][STATES], const Slot &slot, int t, int lane) {
#if STATES == 2
    float4 b = slot.maps[t][lane], c = slot.maps[t + 1][lane];
    bs[0][0] = b.x, bs[0][1] = b.y, bs[1][0] = b.z, bs[1][1] = b.w;
    cs[0][0] = c.x, cs[0][1] = c.y, cs[1][0] = c.z, cs[1][1] = c.w;
#else
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const float4 *numbers = slot.maps[t + j] + lane * (STATES / 4);
#pragma unroll
        for (int i = 0; i < STATES; i += 4) {
            *(float4 *)(bs[j] + i) = numbers[i / 4];
            *(float4 *)(cs[j] + i) = numbers[N / 4 + i / 4];
        }
    }
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, LANES == 2 ? 2 : 1) scan_forward(
    act *__restrict__ out, float *__restrict__ final_state, float *__restrict__ boundaries,
    const act *__restrict__ u, const act *__restrict__ delta, const float *__restrict__ delta_bias,
    const float *__restrict__ a, const act *__restrict__ b, const act *__restrict__ c,
    const float *__restrict__ d_skip, const act *__restrict__ z,
    const float *__restrict__ initial, const u32 *__restrict__ initial_row,
    const float *__restrict__ state_offset, const u32 *__restrict__ state_offset_row,
    const float *__restrict__ output_offset, const u32 *__restrict__ output_offset_row,
    const u32 *__restrict__ offsets, int d_inner, int out_bytes, int u_bytes, int delta_bytes, int b_bytes, int c_bytes,
    int z_bytes) {
    extern __shared__ unsigned char scan_memory[];
    Slot *slots = (Slot *)scan_memory;

    int groups = (d_inner + CHANNELS - 1) / CHANNELS;
    int s = blockIdx.x / groups, first_channel = (blockIdx.x - s * groups) * CHANNELS;
    int begin = offsets[s], length = (int)offsets[s + 1] - begin;

    if (threadIdx.x < WALKING) {
        int walker = threadIdx.x, walked = walker / LANES, lane = walker % LANES, channel = first_channel + walked;
        bool exists = channel < d_inner;
        long long state_at = (long long)channel * N + lane * STATES;
        float decay[STATES], h[STATES];
#if HAS_STATE_OFFSET
        float state_added[STATES];
#endif
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            decay[i] = exists ? a[state_at + i] * LOG2E : 0.0f;
            h[i] = exists && initial ? initial[(long long)initial_row[s] * d_inner * N + state_at + i] : 0.0f;
#if HAS_STATE_OFFSET
            state_added[i] = exists ? state_offset[(long long)state_offset_row[s] * d_inner * N + state_at + i] : 0.0f;
#endif
        }
        long long chunk = begin / CHUNK + s;
        // Not a pointer that is null where nothing is saved: of its advance under a condition, ptxas 13.0 makes a move that
        // reads a register's zero a clock before it is there.
        bool saves = boundaries && exists;
        float *saved = boundaries + chunk * d_inner * N + state_at;
        int at = 0;
        for (int tile = 0; tile < length; tile += TILE) {
            Slot &slot = slots[at];
            if (tile % CHUNK == 0) {
                if (saves) save(saved, h);
                saved += (long long)d_inner * N;
            }
            meet<THREADS>(STAGED(at));
            float y[TILE];
#pragma unroll
            for (int t = 0; t < TILE; t += 2) {
                float4 steps = slot.steps[t / 2][walked];
                float bs[2][STATES], cs[2][STATES];
                take_maps(bs, cs, slot, t, lane);
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float step = j ? steps.z : steps.x, input = j ? steps.w : steps.y;
                    y[t + j] = 0.0f;
#pragma unroll
                    for (int i = 0; i < STATES; i++) {
                        h[i] = ex2(step * decay[i]) * h[i] + input * bs[j][i];
#if HAS_STATE_OFFSET
                        y[t + j] += (h[i] + state_added[i]) * cs[j][i];
#else
                        y[t + j] += h[i] * cs[j][i];
#endif
                    }
                }
            }
            // Only now: a store to shared memory would keep every load behind it waiting.
#pragma unroll
            for (int t = 0; t < TILE; t += 4) {
                slot.sums[t / 4][place_of(walker)] = float4{y[t], y[t + 1], y[t + 2], y[t + 3]};
            }
            pass<WALKING + HELPING>(FREE(at));
            pass<WALKING + HELPING>(WALKED(at));
            at = at + 1 == SLOTS ? 0 : at + 1;
        }
        if (final_state && exists) save(final_state + (long long)s * d_inner * N + state_at, h);
        return;
    }
    if (length <= 0) return;

    // As a helper: some tokens of two channels. The last channels stand in for those behind them.
    int helper = (int)threadIdx.x - WALKING;
    bool finishes = helper >= HELPING;
    if (finishes) helper -= HELPING;
    int pair = helper % PAIRS, row = helper / PAIRS, own = first_channel + 2 * pair;
    int channel = own < d_inner ? own : d_inner - 2;

    if (!finishes) {
        float bias[2] = {};
        if (delta_bias) bias[0] = delta_bias[channel], bias[1] = delta_bias[channel + 1];
        const act *next_u = row_at(u + channel, begin + 2 * row, u_bytes);
        const act *next_delta = row_at(delta + channel, begin + 2 * row, delta_bytes);
        int column = helper % N, map_row = helper / N, map_bytes = column < N / 2 ? b_bytes : c_bytes;
        const act *next_map = row_at(column < N / 2 ? b + 2 * column : c + (2 * column - N), begin + map_row, map_bytes);
        // What a lane brings into the second cache of a token: u, B and z, or delta and C.
        bool first_half = helper % 32 < 16;
        const act *near = (first_half ? u : delta) + first_channel, *near_map = first_half ? b : c;
        int near_bytes = first_half ? u_bytes : delta_bytes, near_map_bytes = first_half ? b_bytes : c_bytes;
        // What was there before stands in for tokens past the end.
        auto load = [&](Raw &raw, int tile) {
#pragma unroll
            for (int k = 0; k < TWOS; k++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    int t = 2 * k * ROWS + i;
                    if (tile + 2 * row + t >= length) continue;
                    raw.delta[k][i] = *(const Pair *)row_at(next_delta, t, delta_bytes);
                    raw.u[k][i] = *(const Pair *)row_at(next_u, t, u_bytes);
                }
            }
#pragma unroll
            for (int k = 0; k < MAPPED; k++) {
                int t = map_row + k * MAP_ROWS;
                if (t >= TILE || tile + t >= length) continue;
                raw.maps[k] = *(const Pair *)row_at(next_map, k * MAP_ROWS, map_bytes);
            }
            next_u = row_at(next_u, TILE, u_bytes);
            next_delta = row_at(next_delta, TILE, delta_bytes);
            next_map = row_at(next_map, TILE, map_bytes);
            if (helper < 2 * TILE) {
                int token = begin + min(tile + AHEAD * TILE + helper / 32 * 16 + helper % 16, length - 1);
                prefetch(row_at(near, token, near_bytes));
                prefetch(row_at(near_map, token, near_map_bytes));
#if HAS_Z
                if (first_half) prefetch(row_at(z + first_channel, token, z_bytes));
#endif
            }
        };
        float4 steps[TWOS][2];
        auto prepare = [&](const Raw &raw, int tile) {
#pragma unroll
            for (int k = 0; k < TWOS; k++) {
                float step[2][2], slope;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    step_of(low(raw.delta[k][i]) + bias[0], &step[i][0], &slope);
                    step_of(high(raw.delta[k][i]) + bias[1], &step[i][1], &slope);
                }
                steps[k][0] = float4{
                    step[0][0], step[0][0] * low(raw.u[k][0]), step[1][0], step[1][0] * low(raw.u[k][1])};
                steps[k][1] = float4{
                    step[0][1], step[0][1] * high(raw.u[k][0]), step[1][1], step[1][1] * high(raw.u[k][1])};
            }
            if (tile + TILE > length) {
#pragma unroll
                for (int k = 0; k < TWOS; k++) {
                    int left = length - tile - 2 * (row + k * ROWS);
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        if (left < 1) steps[k][i].x = steps[k][i].y = 0.0f;
                        if (left < 2) steps[k][i].z = steps[k][i].w = 0.0f;
                    }
                }
            }
        };
        auto store = [&](const Raw &raw, Slot &slot) {
#pragma unroll
            for (int k = 0; k < TWOS; k++) {
                slot.steps[row + k * ROWS][2 * pair] = steps[k][0];
                slot.steps[row + k * ROWS][2 * pair + 1] = steps[k][1];
            }
#pragma unroll
            for (int k = 0; k < MAPPED; k++) {
                int t = map_row + k * MAP_ROWS;
                if (t >= TILE) continue;
#if STATES == 2
                float2 *to = (float2 *)slot.maps[t & ~1] + 2 * column + (t & 1);
#else
                float2 *to = (float2 *)slot.maps[t] + column;
#endif
                *to = float2{low(raw.maps[k]), high(raw.maps[k])};
            }
        };
        Raw now = {}, next = {};
        load(now, 0);
        int at = 0;
#pragma unroll 1
        for (int tile = 0; tile < length; tile += TILE) {
            load(next, tile + TILE);
            prepare(now, tile);
            if (tile >= SLOTS * TILE) meet<WALKING + HELPING>(FREE(at));
            store(now, slots[at]);
            pass<THREADS>(STAGED(at));
            now = next;
            at = at + 1 == SLOTS ? 0 : at + 1;
        }
        return;
    }

    float skip[2] = {}, added[2] = {};
    if (d_skip) skip[0] = d_skip[channel], skip[1] = d_skip[channel + 1];
    if (output_offset) {
        const float *from = output_offset + (long long)output_offset_row[s] * d_inner + channel;
        added[0] = from[0], added[1] = from[1];
    }
    const act *next_u = row_at(u + channel, begin + 4 * row, u_bytes);
#if HAS_Z
    const act *next_z = row_at(z + channel, begin + 4 * row, z_bytes);
#endif
    out = row_at(out + channel, begin + 4 * row, out_bytes);
    int end = own < d_inner ? length : 0;
    Pair raw_u[FOURS][4] = {}, raw_z[FOURS][4] = {};
    auto load = [&](int tile) {
#pragma unroll
        for (int k = 0; k < FOURS; k++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int t = 4 * k * ROWS + i;
                if (tile + 4 * row + t >= length) continue;
                raw_u[k][i] = *(const Pair *)row_at(next_u, t, u_bytes);
#if HAS_Z
                raw_z[k][i] = *(const Pair *)row_at(next_z, t, z_bytes);
#endif
            }
        }
        next_u = row_at(next_u, TILE, u_bytes);
#if HAS_Z
        next_z = row_at(next_z, TILE, z_bytes);
#endif
    };
    for (int i = 0; i < SLOTS && i * TILE < length; i++) pass<THREADS>(STAGED(i));
    load(0);
    int at = 0;
#pragma unroll 1
    for (int tile = 0; tile < length; tile += TILE) {
        // What needs no walker.
        float y[FOURS][4][2], gates[FOURS][4][2];
#pragma unroll
        for (int k = 0; k < FOURS; k++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                y[k][i][0] = skip[0] * low(raw_u[k][i]) + added[0];
                y[k][i][1] = skip[1] * high(raw_u[k][i]) + added[1];
#if HAS_Z
                float gate[2] = {low(raw_z[k][i]), high(raw_z[k][i])};
                gates[k][i][0] = gate[0] * fast_sigmoid(gate[0]);
                gates[k][i][1] = gate[1] * fast_sigmoid(gate[1]);
#else
                gates[k][i][0] = gates[k][i][1] = 1.0f;
#endif
            }
        }
        load(tile + TILE);
        meet<WALKING + HELPING>(WALKED(at));
#pragma unroll
        for (int k = 0; k < FOURS; k++) {
            const float4 *sums = slots[at].sums[row + k * ROWS];
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float4 parts[LANES];
#pragma unroll
                for (int l = 0; l < LANES; l++) parts[l] = sums[place_of((2 * pair + j) * LANES + l)];
#pragma unroll
                for (int half = LANES / 2; half > 0; half /= 2) {
#pragma unroll
                    for (int l = 0; l < half; l++) {
                        parts[l].x += parts[l + half].x, parts[l].y += parts[l + half].y;
                        parts[l].z += parts[l + half].z, parts[l].w += parts[l + half].w;
                    }
                }
                y[k][0][j] += parts[0].x, y[k][1][j] += parts[0].y;
                y[k][2][j] += parts[0].z, y[k][3][j] += parts[0].w;
            }
        }
        if (tile + SLOTS * TILE < length) pass<THREADS>(STAGED(at));
#pragma unroll
        for (int k = 0; k < FOURS; k++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int t = 4 * k * ROWS + i;
                Pair result = pair_of(y[k][i][0] * gates[k][i][0], y[k][i][1] * gates[k][i][1]);
                if (tile + 4 * row + t < end) *(Pair *)row_at(out, t, out_bytes) = result;
            }
        }
        out = row_at(out, TILE, out_bytes);
        at = at + 1 == SLOTS ? 0 : at + 1;
    }
}
