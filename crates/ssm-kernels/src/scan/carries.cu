// The selective scan, backward, for N = 16: what `scan_carries` and `scan_backward` share, and `scan_carries`. This
// source stands before backward.cu.
//
// Idea of `scan_carries`. Where channels and sequences are too few to fill the device, sequences are cut in `segments`.
// The gradient that enters a segment from its right obeys the recurrence X <- exp(ΔA) (X + dy C). What a segment adds to it
// is the sum over its tokens of exp(A S) dy C, S being the sum of Δ from the segment's first token to that one: this kernel
// makes it, and the sum of all Δ, with which X_left = local + exp(A ΣΔ) X_right joins segments. A segment is
// cut in `parts` for that, as many as it takes to fill the device: this kernel holds three blocks where the backward holds
// two, and has a segment of each sequence less.
//
// Bound. Per token, channel and state 6.5 instructions, two of them for what is staged, and 9.5 clocks of ex2 and the like,
// for all segments but each first. No token waits for another, so that polynomials pay for some of the exponentials: with
// three of sixteen it is 8.2 instructions and 8 clocks.
//
// Where blocks have but few chunks (EARLY, see backward.cu), the backward begins while this kernel runs.
//
// Defines: WARPS (4, or 2 where shared memory is small), HAS_Z, SOFTPLUS; wanted: DU, DDELTA, DBIAS; ACT_BF16.

#define N 16
#define CH 4                     // channels of a lane
#define WIDTH (8 * CH)           // channels of a warp
#define PAIRS (WIDTH / 2)        // pairs of them
#define ROWS (32 / PAIRS)        // tokens whose pairs a warp stages at once
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

// One of the `parts` of a segment.
DEVICE Segment part_of(const Segment &whole, int part, int parts) {
    int each = (whole.last - whole.first + parts - 1) / parts;
    Segment x = whole;
    x.first = min(whole.first + part * each, whole.last);
    x.last = min(x.first + each, whole.last);
    return x;
}

// A number of each channel of a lane.
DEVICE void take(float *to, const float *from) { *(float4 *)to = *(const float4 *)from; }

// B and C, or C alone, of a chunk, as f32; a thread has one column of every fourth token. The last token stands in for
// those behind it.
template <int COLUMNS> struct Maps {
    static constexpr int STEP = THREADS / COLUMNS, EACH = CHUNK / STEP;
    act raw[EACH];

    HERE void load(const act *map, int start, int count, int bytes) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            raw[i] = *row_at(map, start + min((int)threadIdx.x / COLUMNS + i * STEP, count - 1), bytes);
        }
    }
    HERE void store(float *to) const {
#pragma unroll
        for (int i = 0; i < EACH; i++) to[threadIdx.x + i * THREADS] = to_f32(raw[i]);
    }
};

// A warp's pairs of channels of some tokens: every ROWSth from `row` on. The last token stands in for those behind it.
template <int TOKENS> struct Column {
    Pair raw[TOKENS / ROWS];

    HERE void load(const act *from, int start, int first, int count, int bytes) {
#pragma unroll
        for (int k = 0; k < TOKENS / ROWS; k++) {
            raw[k] = *(const Pair *)row_at(from, start + min(first + k * ROWS, count - 1), bytes);
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 3) scan_carries(
    float *__restrict__ carries, float *__restrict__ step_sums,
    const act *__restrict__ dout, const act *__restrict__ delta, const float *__restrict__ delta_bias,
    const float *__restrict__ a, const act *__restrict__ c, const act *__restrict__ z,
    const u32 *__restrict__ offsets, int d_inner, int segments, int parts, int dout_bytes, int delta_bytes, int c_bytes,
    int z_bytes) {
    __shared__ float4 map[CHUNK][4];
    __shared__ float steps[WARPS][CHUNK][WIDTH], dys[WARPS][CHUNK][WIDTH];

    let_next_begin();
    int s = blockIdx.y, own = blockIdx.z + parts;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quarter = lane % 4;
    int first_channel = blockIdx.x * CHANNELS + warp * WIDTH;
    Segment at = part_of(segment_of(offsets, s, own / parts, segments), own % parts, parts);

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
    int pair = lane % PAIRS, second = lane / PAIRS, staged = first_channel + 2 * pair;
    bool stages = staged < d_inner;
    int reached = stages ? staged : d_inner - 2;
    float bias[2] = {};
    if (delta_bias) bias[0] = delta_bias[reached], bias[1] = delta_bias[reached + 1];

    for (int chunk = at.first; chunk < at.last; chunk++) {
        int start = at.begin + chunk * CHUNK, count = min(CHUNK, at.length - chunk * CHUNK);
        Maps<N> new_map;
        Column<CHUNK> new_delta, new_dout;
        new_delta.load(delta + reached, start, second, count, delta_bytes);
        new_dout.load(dout + reached, start, second, count, dout_bytes);
#if HAS_Z
        Column<CHUNK> new_z;
        new_z.load(z + reached, start, second, count, z_bytes);
#endif
        new_map.load(c + threadIdx.x % N, start, count, c_bytes);
        if (chunk + 1 < at.last) {
            int token = min(start + CHUNK + lane, at.begin + at.length - 1), near = min(first_channel, d_inner - 2);
            prefetch(row_at(delta + near, token, delta_bytes));
            prefetch(row_at(dout + near, token, dout_bytes));
#if HAS_Z
            prefetch(row_at(z + near, token, z_bytes));
#endif
            if (warp == 0) prefetch(row_at(c, token, c_bytes));
        }
        __syncthreads();
        new_map.store((float *)map);
#pragma unroll
        for (int k = 0; k < CHUNK / ROWS; k++) {
            int t = ROWS * k + second;
            bool there = stages && t < count;
            float2 step, dy = {low(new_dout.raw[k]), high(new_dout.raw[k])};
            float slope;
            step_of(low(new_delta.raw[k]) + bias[0], &step.x, &slope);
            step_of(high(new_delta.raw[k]) + bias[1], &step.y, &slope);
#if HAS_Z
            float2 gate = {low(new_z.raw[k]), high(new_z.raw[k])};
            dy.x *= gate.x * fast_sigmoid(gate.x);
            dy.y *= gate.y * fast_sigmoid(gate.y);
#endif
            float2 none = {0.0f, 0.0f};
            ((float2 *)steps[warp][t])[pair] = there ? step : none;
            ((float2 *)dys[warp][t])[pair] = there ? dy : none;
        }
        __syncthreads();
#pragma unroll 4
        for (int t = 0; t < ((count + 3) & ~3); t++) {
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
                    float exponent = total[i] * decay[i][n]; // of tokens behind the end, dy is zero
                    bool soft = ACT_BF16 && i == n && i < 3;
                    carry[i][n] += dy[i] * cs[n] * (soft ? ex2_by_polynomial(exponent) : ex2(exponent));
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < CH; i++) {
        int channel = first_channel + group * CH + i;
        if (channel >= d_inner) continue;
        long long row = ((long long)s * segments * parts + own) * d_inner + channel;
        *(float4 *)(carries + row * N + quarter * 4) = *(float4 *)carry[i];
        if (quarter == 0) step_sums[row] = total[i];
    }
}
