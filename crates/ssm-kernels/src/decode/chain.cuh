// What the sources of decoding share.
//
// A step is a chain of short kernels. On devices that can, each begins while the one in front of it still runs
// (programmatic dependent launch): what nobody in the chain writes is loaded first, then `after_previous` waits until all
// that was launched before is through, and lets the next begin. A kernel that has begun knows that the one two before it
// has ended. To let the next begin before the wait would cost that; it was tried, and results were wrong on a device (see
// docs/architecture.md).

DEVICE void after_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Where in_proj's outputs x go: through the convolution, whose states move on, and silu.
struct Conv {
    float *state;         // [S, D, WIDTH - 1]
    const float *weight;  // [D, WIDTH]
    const float *bias;    // [D]
    int d_inner;          // 0: nothing is convolved
};

DEVICE float *state_of(const Conv &conv, int s, int d) {
    return conv.state + ((long long)s * conv.d_inner + d) * (WIDTH - 1);
}

// What u of one channel of one sequence is made of besides its newest input; nobody else in the chain writes it.
struct Past {
    float *own;
    float inputs[WIDTH], taps[WIDTH], bias; // of the inputs the last is to come
};

// What is the same for every sequence.
DEVICE Past taps_of(const Conv &conv, int d) {
    Past past = {};
    past.bias = conv.bias ? conv.bias[d] : 0.0f;
#pragma unroll
    for (int j = 0; j < WIDTH; j++) past.taps[j] = conv.weight[d * WIDTH + j];
    return past;
}

DEVICE Past past_of(const Conv &conv, int s, int d) {
    Past past = taps_of(conv, d);
    past.own = state_of(conv, s, d);
#pragma unroll
    for (int j = 0; j < WIDTH - 1; j++) past.inputs[j] = past.own[j];
    return past;
}

// u with the newest input x; the state is this thread's to change.
DEVICE float convolved(const Past &past, float x) {
    float total = past.bias;
#pragma unroll
    for (int j = 0; j < WIDTH - 1; j++) total += past.taps[j] * past.inputs[j];
    total += past.taps[WIDTH - 1] * x;
#pragma unroll
    for (int j = 0; j < WIDTH - 1; j++) past.own[j] = j + 1 < WIDTH - 1 ? past.inputs[j + 1] : x;
    return total * sigmoid(total);
}

// As an activation keeps it.
DEVICE float as_act(float x) {
    act rounded;
    put(&rounded, x);
    return to_f32(rounded);
}

// What becomes of a product's sum: rounded, and where it is a newest input, u. The inputs before it were fetched early.
DEVICE float result_of(float sum, const Conv &conv, Past past, const float (&inputs)[WIDTH], int s, int row) {
    float x = as_act(sum);
    if (row >= conv.d_inner) return x;
    past.own = state_of(conv, s, row);
#pragma unroll
    for (int j = 0; j < WIDTH - 1; j++) past.inputs[j] = inputs[j];
    return convolved(past, x);
}
