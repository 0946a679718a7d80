// The selective scan, forward, for N = 16.
//
// Bound. Per token, channel and state: a multiplication, ex2, a multiplication and two multiply-adds; per token and
// channel: softplus and silu, three more of the special functions, four with f32. At 16 of those a clock and multiprocessor
// they are the bound, (1 + 3/16) T D N / 16 clocks of a multiprocessor, with the issue of eight to ten instructions per
// state-step right behind; the bytes (u, delta, z, out once each) are far from it.
//
// Idea. What stands in the way of these bounds is waiting: a warp that stages, walks and finishes its tokens in turn
// waits for memory, special functions and its neighbours in each. So a block's warps have one task each. Stagers turn
// u and delta into what the recurrence wants, computed once per token and channel: (Δ, Δ u); and B and C into f32.
// Walkers do nothing but the recurrence: LANES lanes share a channel and hold 16 / LANES of its states each in registers,
// A already times log2(e). Finishers add a channel's lanes, the skip and the output offset, gate and write. They hand each
// other tiles of TILE tokens in two slots of shared memory: between two barriers of the block one tile is staged, the
// one before it walked, and the one before that finished. (Barriers of two tasks each, at which those who only hand over
// do not wait, took up to 6 % longer, H100; and racecheck takes them for races.) What stagers and finishers read of u,
// delta, z, B and C is on its way to shared memory two tiles before. Tokens past the end are staged as zero steps, which
// change no state.
//
// A multiprocessor's four schedulers have to have the same work: blocks of 48 channels have six warps of walkers, so that two
// schedulers have two of them, and what helpers do beside those takes the block's time. So there one stager, beside a single
// walker, takes half of a tile, two take a quarter each, and finishers ask for all copies. Elsewhere each role asks for
// its own, which is 1 to 2 % faster.
//
// Shared memory is a bound too: a load of sixteen bytes a lane takes two of its clocks where every four neighbouring
// lanes ask for at most two places, and four where they ask for more. So lanes 0, 2, 4, .. share a channel, and lanes 1, 3,
// 5, .. the next. (As many lanes in a row took the channels of 130m 9 % longer, H100.)
//
// Channels, B and C are read and written in pairs: D is even and every row of u, delta, z, b, c and out begins at a
// whole pair. B and C of two tokens lie beside each other where a lane has but two states, so that it reads four numbers
// at once; so do Δ and Δ u of two tokens.
//
// Defines: CHANNELS of a block, LANES, HELPERS (warps that stage; as many finish), TILE; COPY: the bytes of one copy, 16 or
// a pair; HAS_Z, SOFTPLUS, HAS_STATE_OFFSET, ACT_BF16.

#define N 16
#define STATES (N / LANES)
#define PAIRS (CHANNELS / 2)  // pairs of channels
#define WALKING (CHANNELS * LANES)
#define HELPING (32 * HELPERS)
#define THREADS (WALKING + 2 * HELPING)
#define ROWS (HELPING / PAIRS)        // fours of tokens that finishers take at once
#define FOURS (TILE / 4 / ROWS)       // fours of a finisher
// A stager's warp takes whole twos of tokens in a round, of which each lane has KINDS pairs; rounds are dealt to the warps.
#define KINDS (PAIRS % 3 == 0 ? 3 : 1)
#define TWOS (32 * KINDS / PAIRS)     // of a round
#define ROUNDS (TILE / 2 / TWOS)      // of a tile
#define MAP_ROWS (HELPING / (N / 2))  // tokens whose B and C the stagers take at once
#define MAPPED ((TILE + MAP_ROWS - 1) / MAP_ROWS)
#define RAWS 4                        // tiles of activations that have room

// Whether a lane's first state has its decay by a polynomial in every SOFTth token: where walkers are many they wait for
// special functions, and without an offset's additions there is room for more instructions (docs/src/performance.md).
#define SOFT (ACT_BF16 && !HAS_STATE_OFFSET && CHANNELS >= 48 ? (LANES == 2 ? 4 : 8) : 0)

// Warps go to the four schedulers in turn. Where that leaves two with a warp of walkers less, they get three finishers and
// the last stager: helpers begin with the last third of their warps.
#define UNEVEN (WALKING / 32 % 4 == 2)
#define TURN (UNEVEN ? HELPING + HELPING / 3 : 0)
static_assert(!UNEVEN || HELPERS % 3 == 0, "a warp has one task");
static_assert(32 * KINDS % PAIRS == 0 && TILE / 2 % TWOS == 0, "rounds are whole");

// All of the block, each warp at its own place in the program, which __syncthreads() does not promise to serve.
DEVICE void meet() {
#ifdef __CUDA_ARCH__
    asm volatile("bar.sync 1, %0;" :: "n"(THREADS) : "memory");
#else
    emulated_barrier(1, THREADS, true);
#endif
}

struct Slot {
    float4 steps[TILE / 2][2][PAIRS + 4];  // (Δ, Δ u) of two tokens: even channels, odd ones
    float4 maps[TILE][8];                  // B, C
    float4 sums[TILE / 4][WALKING];        // of a lane's states, of four tokens
};

// Activations as they are in memory: a tile is asked for two turns before it is staged, and finished two turns after.
struct alignas(16) Raws {
    act delta[RAWS][TILE][CHANNELS], u[RAWS][TILE][CHANNELS], maps[RAWS][TILE][2 * N];
#if HAS_Z
    act z[RAWS][TILE][CHANNELS];
#endif
};

// A helper's part of bringing an operand's tiles to shared memory, rows of WIDTH activations: some of every STEPth token.
template <int WIDTH> struct Copies {
    static constexpr int PIECE = COPY / sizeof(act), COLUMNS = WIDTH / PIECE, STEP = HELPING / COLUMNS;
    const act *from;
    int row, column, bytes;
    bool exists;

    HERE Copies(const act *matrix, int bytes, int width, int helper) : bytes(bytes) {
        static_assert(WIDTH % PIECE == 0 && HELPING % COLUMNS == 0, "");
        row = helper / COLUMNS, column = helper % COLUMNS * PIECE;
        exists = column < width;
        from = row_at(matrix + (exists ? column : 0), row, bytes);
    }
    // The next tile, of which `left` tokens and more are left; zeros stand for others.
    HERE void ask(act *tile, int left) {
#pragma unroll
        for (int t = 0; t < TILE; t += STEP) {
            if (TILE % STEP != 0 && row + t >= TILE) continue;
            copy_async<COPY>(tile + (row + t) * WIDTH + column, row_at(from, t, bytes), exists && row + t < left);
        }
        from = row_at(from, TILE, bytes);
    }
};

// What only stagers read: delta, B and C.
struct StagersCopies {
    Copies<CHANNELS> deltas;
    Copies<2 * N> maps;

    HERE void ask(Raws &raws, int raw, int left) {
        deltas.ask(raws.delta[raw][0], left);
        maps.ask(raws.maps[raw][0], left);
    }
};

// Where a walker's sums lie among those of the block: so that neither its neighbours nor those who add a channel's lanes
// meet in a bank.
DEVICE int place_of(int walker) { return walker ^ (walker / (2 * LANES) & 7); }

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
    int begin = offsets[s], length = max((int)offsets[s + 1] - begin, 0);

    if (threadIdx.x < WALKING) {
        int walker = threadIdx.x, lane = walker / 2 % LANES, walked = 2 * (walker / (2 * LANES)) + walker % 2;
        int channel = first_channel + walked;
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
        meet();
        for (int tile = 0; tile < length; tile += TILE) {
            Slot &slot = slots[at];
            if (tile % CHUNK == 0) {
                if (saves) save(saved, h);
                saved += (long long)d_inner * N;
            }
            meet();
            float y[TILE];
#pragma unroll
            for (int t = 0; t < TILE; t += 2) {
                float4 steps = slot.steps[t / 2][walked % 2][walked / 2];
                float bs[2][STATES], cs[2][STATES];
                take_maps(bs, cs, slot, t, lane);
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float step = j ? steps.z : steps.x, input = j ? steps.w : steps.y;
                    y[t + j] = 0.0f;
#pragma unroll
                    for (int i = 0; i < STATES; i++) {
                        bool soft = SOFT != 0 && i == 0 && (t + j) % SOFT == 0;
                        float exponent = step * decay[i], kept = soft ? ex2_by_polynomial(exponent) : ex2(exponent);
                        h[i] = kept * h[i] + input * bs[j][i];
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
            at ^= 1;
        }
        meet();
        if (final_state && exists) save(final_state + (long long)s * d_inner * N + state_at, h);
        return;
    }

    Raws &raws = *(Raws *)(slots + 2);
    int helper = ((int)threadIdx.x - WALKING + TURN) % (2 * HELPING);
    bool finishes = helper >= HELPING;
    if (finishes) helper -= HELPING;
    int tiles = (length + TILE - 1) / TILE, width = d_inner - first_channel;
    // The last channels stand in for those behind them.
    auto reached = [&](int own) { return own < d_inner ? own : d_inner - 2; };
    auto stagers_copies = [&]() {
        bool is_b = helper % Copies<2 * N>::COLUMNS < Copies<2 * N>::COLUMNS / 2;
        int map_bytes = is_b ? b_bytes : c_bytes;
        return StagersCopies{
            Copies<CHANNELS>(row_at(delta + first_channel, begin, delta_bytes), delta_bytes, width, helper),
            Copies<2 * N>(row_at(is_b ? b : c - N, begin, map_bytes), map_bytes, 2 * N, helper)};
    };

    if (!finishes) {
        int warp = helper / 32, pairs[KINDS], twos[KINDS];
        float bias[KINDS][2] = {};
#pragma unroll
        for (int k = 0; k < KINDS; k++) {
            int item = helper % 32 + 32 * k;
            pairs[k] = item % PAIRS, twos[k] = item / PAIRS;
            int channel = reached(first_channel + 2 * pairs[k]);
            if (delta_bias) bias[k][0] = delta_bias[channel], bias[k][1] = delta_bias[channel + 1];
        }
        int first_round = warp * ROUNDS / HELPERS, rounds = (warp + 1) * ROUNDS / HELPERS - first_round;
        int column = helper % (N / 2), map_row = helper / (N / 2);
#if !UNEVEN
        StagersCopies copies = stagers_copies();
        auto ask = [&](int tile) {
            int left = length - tile * TILE;
            if (left > 0) copies.ask(raws, tile & RAWS - 1, left);
            end_group();
        };
        ask(0);
        ask(1);
        await_groups<1>();
#endif
        meet();
#pragma unroll 1
        for (int tile = 0; tile < tiles; tile++) {
            int raw = tile & RAWS - 1, left = length - tile * TILE;
#if !UNEVEN
            ask(tile + 2);
#endif
            Slot &slot = slots[tile & 1];
#pragma unroll
            for (int round = 0; round < (ROUNDS + HELPERS - 1) / HELPERS; round++) {
                if (ROUNDS % HELPERS != 0 && round >= rounds) break;
#pragma unroll
                for (int k = 0; k < KINDS; k++) {
                    int two = twos[k] + (first_round + round) * TWOS, pair = pairs[k];
                    float step[2][2], input[2][2], slope;
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        Pair raw_delta = ((const Pair *)raws.delta[raw][2 * two + i])[pair];
                        Pair raw_u = ((const Pair *)raws.u[raw][2 * two + i])[pair];
                        step_of(low(raw_delta) + bias[k][0], &step[i][0], &slope);
                        step_of(high(raw_delta) + bias[k][1], &step[i][1], &slope);
                        input[i][0] = step[i][0] * low(raw_u), input[i][1] = step[i][1] * high(raw_u);
                    }
                    if (left < TILE) {
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            if (2 * two + i >= left) step[i][0] = step[i][1] = input[i][0] = input[i][1] = 0.0f;
                        }
                    }
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        slot.steps[two][j][pair] = float4{step[0][j], input[0][j], step[1][j], input[1][j]};
                    }
                }
            }
#pragma unroll
            for (int k = 0; k < MAPPED; k++) {
                int t = map_row + k * MAP_ROWS;
                if (TILE % MAP_ROWS != 0 && t >= TILE) continue;
                const Pair *two = (const Pair *)raws.maps[raw][t] + 2 * column;
                Pair first = two[0], second = two[1];
#if STATES == 2
                float2 *to = (float2 *)slot.maps[t & ~1] + 4 * column + (t & 1);
                to[0] = float2{low(first), high(first)};
                to[2] = float2{low(second), high(second)};
#else
                slot.maps[t][column] = float4{low(first), high(first), low(second), high(second)};
#endif
            }
#if !UNEVEN
            await_groups<1>();
#endif
            meet();
        }
        meet();
        return;
    }

    int pair = helper % PAIRS, row = helper / PAIRS, own = first_channel + 2 * pair, channel = reached(own);
    float skip[2] = {}, added[2] = {};
    if (d_skip) skip[0] = d_skip[channel], skip[1] = d_skip[channel + 1];
    if (output_offset) {
        const float *from = output_offset + (long long)output_offset_row[s] * d_inner + channel;
        added[0] = from[0], added[1] = from[1];
    }
#if UNEVEN
    StagersCopies copies = stagers_copies();
#endif
    Copies<CHANNELS> us(row_at(u + first_channel, begin, u_bytes), u_bytes, width, helper);
#if HAS_Z
    Copies<CHANNELS> zs(row_at(z + first_channel, begin, z_bytes), z_bytes, width, helper);
#endif
    auto ask = [&](int tile) {
        int raw = tile & RAWS - 1, left = length - tile * TILE;
        if (left > 0) {
            us.ask(raws.u[raw][0], left);
#if HAS_Z
            zs.ask(raws.z[raw][0], left);
#endif
#if UNEVEN
            copies.ask(raws, raw, left);
#endif
        }
        end_group();
    };
    // All but what was asked for last is there: for every helper, behind the next barrier.
    ask(0);
    ask(1);
    await_groups<1>();
    meet();
    ask(2);
    await_groups<1>();
    meet();
    out = row_at(out + channel, begin + 4 * row, out_bytes);
    int end = own < d_inner ? length : 0;
#pragma unroll 1
    for (int tile = 0; tile < tiles; tile++) {
        int raw = tile & RAWS - 1;
        ask(tile + 3);
        // What needs no walker.
        float y[FOURS][4][2], gates[FOURS][4][2];
#pragma unroll
        for (int k = 0; k < FOURS; k++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int t = 4 * (row + k * ROWS) + i;
                Pair raw_u = ((const Pair *)raws.u[raw][t])[pair];
                y[k][i][0] = skip[0] * low(raw_u) + added[0];
                y[k][i][1] = skip[1] * high(raw_u) + added[1];
#if HAS_Z
                Pair raw_z = ((const Pair *)raws.z[raw][t])[pair];
                float gate[2] = {low(raw_z), high(raw_z)};
                gates[k][i][0] = gate[0] * fast_sigmoid(gate[0]);
                gates[k][i][1] = gate[1] * fast_sigmoid(gate[1]);
#else
                gates[k][i][0] = gates[k][i][1] = 1.0f;
#endif
            }
        }
        await_groups<1>();
        meet();
#pragma unroll
        for (int k = 0; k < FOURS; k++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float4 parts[LANES];
#pragma unroll
                for (int l = 0; l < LANES; l++) {
                    parts[l] = slots[tile & 1].sums[row + k * ROWS][place_of((pair * LANES + l) * 2 + j)];
                }
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
#pragma unroll
        for (int k = 0; k < FOURS; k++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int t = 4 * k * ROWS + i;
                Pair result = pair_of(y[k][i][0] * gates[k][i][0], y[k][i][1] * gates[k][i][1]);
                if (tile * TILE + 4 * row + t < end) *(Pair *)row_at(out, t, out_bytes) = result;
            }
        }
        out = row_at(out, TILE, out_bytes);
    }
}
