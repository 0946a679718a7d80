// What the sources of decoding share.
//
// A step is a chain of short kernels. On devices that can, each begins while those in front of it still run (programmatic
// dependent launch): what nobody in the chain writes is loaded first, then it waits until all that was launched before is
// through.
//
// When may the next begin? Most kernels say so after they have waited (`after_previous`): what begins then knows that all
// but the one launch in front of it has ended, and with it the step before, whose states it may read at once. Those between
// in_proj and out_proj say so before they wait, so that out_proj's matrix is on its way while they are at work: what begins
// then knows that all in front of in_proj has ended. Were all to do so, small kernels would run ahead as far as a device has
// room, and read states that the step before has not written yet.
//
// Pointers are not `__restrict__`: where the compiler is told that nobody writes what a kernel reads, it takes it for unchanged
// as long as the kernel lives, and moves loads in front of the wait.

DEVICE void after_previous() {
    await_previous();
    let_next_begin();
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
