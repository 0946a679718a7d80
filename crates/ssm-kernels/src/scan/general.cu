// The selective scan for any N up to 256 and every operand, forward and backward: right first, fast enough.
//
// A warp has one channel at a time, lane i the states i, i + 32, ...; sums over states are sums over the warp. The
// backward keeps the states of a chunk in shared memory. Its warp goes through `channels_each` channels one after the
// other and adds their dB, dC and dC' to its own partial sums, [blocks, T, 3 N], which reduce.cu adds.
//
// Defines: N, SOFTPLUS, ACT_BF16.

#define OF_LANE ((N + 31) / 32)  // states of a lane

// What channel `d` of sequence `s` reads besides its tokens; 1 or 0 where an operand is absent.
struct Channel {
    float a[OF_LANE], scale[OF_LANE], extra[OF_LANE], offset[OF_LANE];
    float bias, skip, added;
};

DEVICE float of_table(const float *table, const u32 *row_of, int s, long long width, long long at, float absent) {
    return table ? table[row_of[s] * width + at] : absent;
}

DEVICE Channel channel_of(
    int s, int d, int d_inner, int lane, const float *delta_bias, const float *a, const float *d_skip,
    const float *state_scale, const u32 *state_scale_row, const float *state_extra, const u32 *state_extra_row,
    const float *state_offset, const u32 *state_offset_row, const float *output_offset, const u32 *output_offset_row) {
    Channel x;
    long long width = (long long)d_inner * N;
    for (int j = 0; j < OF_LANE; j++) {
        int n = lane + 32 * j;
        bool there = n < N;
        long long at = (long long)d * N + n;
        x.a[j] = there ? a[at] : 0.0f;
        x.scale[j] = there ? of_table(state_scale, state_scale_row, s, width, at, 1.0f) : 0.0f;
        x.extra[j] = there ? of_table(state_extra, state_extra_row, s, width, at, 0.0f) : 0.0f;
        x.offset[j] = there ? of_table(state_offset, state_offset_row, s, width, at, 0.0f) : 0.0f;
    }
    x.bias = delta_bias ? delta_bias[d] : 0.0f;
    x.skip = d_skip ? d_skip[d] : 0.0f;
    x.added = of_table(output_offset, output_offset_row, s, d_inner, d, 0.0f);
    return x;
}

// The numbers of a map at token t that belong to this lane; zeros where the map is absent.
DEVICE void map_at(float *to, const act *map, long long t, int stride, int lane) {
    for (int j = 0; j < OF_LANE; j++) {
        int n = lane + 32 * j;
        to[j] = map && n < N ? to_f32(map[t * stride + n]) : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(128) scan_forward_general(
    act *__restrict__ out, float *__restrict__ final_state, float *__restrict__ boundaries,
    const act *__restrict__ u, const act *__restrict__ delta, const float *__restrict__ delta_bias,
    const float *__restrict__ a, const act *__restrict__ b, const act *__restrict__ c,
    const float *__restrict__ d_skip, const act *__restrict__ z,
    const float *__restrict__ initial, const u32 *__restrict__ initial_row,
    const float *__restrict__ state_scale, const u32 *__restrict__ state_scale_row,
    const float *__restrict__ state_extra, const u32 *__restrict__ state_extra_row,
    const float *__restrict__ state_offset, const u32 *__restrict__ state_offset_row,
    const act *__restrict__ c_previous,
    const float *__restrict__ output_offset, const u32 *__restrict__ output_offset_row,
    const u32 *__restrict__ offsets, int d_inner, int out_stride, int u_stride, int delta_stride, int b_stride,
    int c_stride, int c_previous_stride, int z_stride) {
    int groups = (d_inner + 3) / 4, s = blockIdx.x / groups, lane = threadIdx.x % 32;
    int d = (blockIdx.x - s * groups) * 4 + threadIdx.x / 32;
    if (d >= d_inner) return;
    long long begin = offsets[s], end = offsets[s + 1], state_at = (long long)s * d_inner * N + (long long)d * N;
    Channel x = channel_of(s, d, d_inner, lane, delta_bias, a, d_skip, state_scale, state_scale_row, state_extra,
        state_extra_row, state_offset, state_offset_row, output_offset, output_offset_row);
    float h[OF_LANE];
    for (int j = 0; j < OF_LANE; j++) {
        int n = lane + 32 * j;
        h[j] = n < N ? of_table(initial, initial_row, s, (long long)d_inner * N, (long long)d * N + n, 0.0f) : 0.0f;
    }
    for (long long t = begin; t < end; t++) {
        int i = (int)(t - begin);
        if (boundaries && i % CHUNK == 0) {
            float *saved = boundaries + ((begin / CHUNK + s + i / CHUNK) * d_inner + d) * N;
            for (int j = 0; j < OF_LANE; j++) {
                if (lane + 32 * j < N) saved[lane + 32 * j] = h[j];
            }
        }
        float step, slope, input = to_f32(u[t * u_stride + d]), y = 0.0f;
        step_of(to_f32(delta[t * delta_stride + d]) + x.bias, &step, &slope);
        float bs[OF_LANE], cs[OF_LANE], previous[OF_LANE];
        map_at(bs, b, t, b_stride, lane);
        map_at(cs, c, t, c_stride, lane);
        map_at(previous, c_previous, t, c_previous_stride, lane);
        for (int j = 0; j < OF_LANE; j++) {
            y += h[j] * previous[j];
            h[j] = ex2(step * x.a[j] * LOG2E) * h[j] + step * input * bs[j];
            y += h[j] * (x.scale[j] * cs[j] + x.extra[j]) + x.offset[j] * cs[j];
        }
        y = warp_sum(y) + x.added + x.skip * input;
        if (z) {
            float gate = to_f32(z[t * z_stride + d]);
            y *= gate * fast_sigmoid(gate);
        }
        if (lane == 0) put(out + t * out_stride + d, y);
    }
    if (!final_state) return;
    for (int j = 0; j < OF_LANE; j++) {
        if (lane + 32 * j < N) final_state[state_at + lane + 32 * j] = h[j];
    }
}

// Writes a sum of this lane's states where asked, and forgets it.
DEVICE void flush(float *partial, float *sum, long long row, int d, int d_inner, int lane) {
    for (int j = 0; j < OF_LANE; j++) {
        int n = lane + 32 * j;
        if (partial && n < N) partial[(row * d_inner + d) * N + n] = sum[j];
        sum[j] = 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(32) scan_backward_general(
    act *__restrict__ du, act *__restrict__ ddelta, act *__restrict__ dz, float *__restrict__ map_sums,
    float *__restrict__ ddelta_bias, float *__restrict__ da, float *__restrict__ dd_skip,
    float *__restrict__ dinitial, float *__restrict__ dstate_scale, float *__restrict__ dstate_extra,
    float *__restrict__ dstate_offset, float *__restrict__ doutput_offset,
    const act *__restrict__ dout, const float *__restrict__ d_final, const float *__restrict__ boundaries,
    const act *__restrict__ u, const act *__restrict__ delta, const float *__restrict__ delta_bias,
    const float *__restrict__ a, const act *__restrict__ b, const act *__restrict__ c,
    const float *__restrict__ d_skip, const act *__restrict__ z,
    const float *__restrict__ state_scale, const u32 *__restrict__ state_scale_row,
    const float *__restrict__ state_extra, const u32 *__restrict__ state_extra_row,
    const float *__restrict__ state_offset, const u32 *__restrict__ state_offset_row,
    const act *__restrict__ c_previous,
    const float *__restrict__ output_offset, const u32 *__restrict__ output_offset_row,
    const u32 *__restrict__ offsets, int tokens, int sequences, int d_inner, int channels_each,
    int rows_of_state_scale, int rows_of_state_extra, int rows_of_state_offset, int rows_of_output_offset,
    int du_stride, int ddelta_stride, int dz_stride, int dout_stride, int u_stride, int delta_stride, int b_stride,
    int c_stride, int c_previous_stride, int z_stride) {
    extern __shared__ unsigned char scan_memory[];
    float *states = (float *)scan_memory;  // [CHUNK, N], before each token

    int lane = threadIdx.x, walker = blockIdx.y, walkers = gridDim.y;
    int first_sequence = (int)((long long)walker * sequences / walkers);
    int end_sequence = (int)((long long)(walker + 1) * sequences / walkers);
    int first_channel = blockIdx.x * channels_each, end_channel = min(first_channel + channels_each, d_inner);
    for (int d = first_channel; d < end_channel; d++) {
        float a_sum[OF_LANE] = {}, scale_sum[OF_LANE] = {}, extra_sum[OF_LANE] = {}, offset_sum[OF_LANE] = {};
        float bias_sum = 0.0f, skip_sum = 0.0f, output_sum = 0.0f;
        for (int s = first_sequence; s < end_sequence; s++) {
            long long begin = offsets[s], end = offsets[s + 1];
            Channel x = channel_of(s, d, d_inner, lane, delta_bias, a, d_skip, state_scale, state_scale_row,
                state_extra, state_extra_row, state_offset, state_offset_row, output_offset, output_offset_row);
            float carry[OF_LANE];
            for (int j = 0; j < OF_LANE; j++) {
                int n = lane + 32 * j;
                carry[j] = d_final && n < N ? d_final[((long long)s * d_inner + d) * N + n] : 0.0f;
            }
            for (int chunk = (int)((end - begin + CHUNK - 1) / CHUNK) - 1; chunk >= 0; chunk--) {
                long long start = begin + (long long)chunk * CHUNK;
                int count = end - start < CHUNK ? (int)(end - start) : CHUNK;
                const float *saved = boundaries + ((begin / CHUNK + s + chunk) * d_inner + d) * N;
                float h[OF_LANE], bs[OF_LANE], cs[OF_LANE], previous[OF_LANE], step, slope;
                for (int j = 0; j < OF_LANE; j++) h[j] = lane + 32 * j < N ? saved[lane + 32 * j] : 0.0f;
                for (int i = 0; i < count; i++) {
                    long long t = start + i;
                    step_of(to_f32(delta[t * delta_stride + d]) + x.bias, &step, &slope);
                    float input = step * to_f32(u[t * u_stride + d]);
                    map_at(bs, b, t, b_stride, lane);
                    for (int j = 0; j < OF_LANE; j++) {
                        if (lane + 32 * j < N) states[i * N + lane + 32 * j] = h[j];
                        h[j] = ex2(step * x.a[j] * LOG2E) * h[j] + input * bs[j];
                    }
                }
                for (int i = count - 1; i >= 0; i--) {
                    long long t = start + i;
                    float input = to_f32(u[t * u_stride + d]), dy = to_f32(dout[t * dout_stride + d]);
                    step_of(to_f32(delta[t * delta_stride + d]) + x.bias, &step, &slope);
                    map_at(bs, b, t, b_stride, lane);
                    map_at(cs, c, t, c_stride, lane);
                    map_at(previous, c_previous, t, c_previous_stride, lane);
                    float before[OF_LANE];
                    for (int j = 0; j < OF_LANE; j++) {
                        before[j] = lane + 32 * j < N ? states[i * N + lane + 32 * j] : 0.0f;
                    }
                    if (z) {
                        float gate = to_f32(z[t * z_stride + d]), open = fast_sigmoid(gate);
                        if (dz) {
                            float y = 0.0f;
                            for (int j = 0; j < OF_LANE; j++) {
                                y += h[j] * (x.scale[j] * cs[j] + x.extra[j]) + x.offset[j] * cs[j] + before[j] * previous[j];
                            }
                            y = warp_sum(y) + x.added + x.skip * input;
                            if (lane == 0) put(dz + t * dz_stride + d, dy * y * open * (1.0f + gate * (1.0f - open)));
                        }
                        dy *= gate * open;
                    }
                    skip_sum += dy * input;
                    output_sum += dy;
                    float by_step = 0.0f, by_input = 0.0f;
                    for (int j = 0; j < OF_LANE; j++) {
                        int n = lane + 32 * j;
                        float dh = carry[j] + dy * (x.scale[j] * cs[j] + x.extra[j]);
                        if (map_sums && n < N) {
                            float *sums = map_sums + ((long long)blockIdx.x * tokens + t) * (3 * N) + n;
                            bool first = d == first_channel;
                            sums[0] = (first ? 0.0f : sums[0]) + dh * step * input;
                            sums[N] = (first ? 0.0f : sums[N]) + dy * (x.scale[j] * h[j] + x.offset[j]);
                            sums[2 * N] = (first ? 0.0f : sums[2 * N]) + dy * before[j];
                        }
                        scale_sum[j] += dy * h[j] * cs[j];
                        extra_sum[j] += dy * h[j];
                        offset_sum[j] += dy * cs[j];
                        by_input += dh * bs[j];
                        float kept = dh * ex2(step * x.a[j] * LOG2E), d_exponent = kept * before[j];
                        by_step += d_exponent * x.a[j];
                        a_sum[j] += d_exponent * step;
                        carry[j] = kept + dy * previous[j];
                        h[j] = before[j];
                    }
                    by_step = warp_sum(by_step);
                    by_input = warp_sum(by_input);
                    float raw_gradient = (by_step + input * by_input) * slope;
                    bias_sum += raw_gradient;
                    if (lane == 0) {
                        if (ddelta) put(ddelta + t * ddelta_stride + d, raw_gradient);
                        if (du) put(du + t * du_stride + d, step * by_input + dy * x.skip);
                    }
                }
            }
            flush(dinitial, carry, s, d, d_inner, lane);
            // A table of several rows gets a partial sum per sequence, one of a single row per block.
            bool last = s == end_sequence - 1;
            if (last || rows_of_state_scale > 1) {
                flush(dstate_scale, scale_sum, rows_of_state_scale > 1 ? s : walker, d, d_inner, lane);
            }
            if (last || rows_of_state_extra > 1) {
                flush(dstate_extra, extra_sum, rows_of_state_extra > 1 ? s : walker, d, d_inner, lane);
            }
            if (last || rows_of_state_offset > 1) {
                flush(dstate_offset, offset_sum, rows_of_state_offset > 1 ? s : walker, d, d_inner, lane);
            }
            if (last || rows_of_output_offset > 1) {
                long long row = rows_of_output_offset > 1 ? s : walker;
                if (doutput_offset && lane == 0) doutput_offset[row * d_inner + d] = output_sum;
                output_sum = 0.0f;
            }
        }
        flush(da, a_sum, walker, d, d_inner, lane);
        if (ddelta_bias && lane == 0) ddelta_bias[(long long)walker * d_inner + d] = bias_sum;
        if (dd_skip && lane == 0) dd_skip[(long long)walker * d_inner + d] = skip_sum;
    }
}
