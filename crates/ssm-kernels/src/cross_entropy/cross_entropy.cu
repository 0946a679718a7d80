// Softmax cross-entropy of rows of logits, which become their own gradients. Bytes are the bound: logits are read twice
// (the second time from the cache, where the block's row still is) and written once, 16 bytes at a time.
//
// Defines: ACT_BF16; GRADIENT: whether the logits are overwritten.

#define IGNORED 0xffffffffu
#define NOWHERE 0xffffffffu
#define THREADS 1024

// Elements of 16 bytes.
#define PACK (ACT_BF16 ? 8 : 4)

struct alignas(16) Acts {
    act at[PACK];
};

// The largest logit so far, its first place, and the sum of exponentials relative to it. NaN joins the sum, and is never
// the largest.
struct Softmax {
    float top, total;
    u32 place;
};

template <int COUNT> DEVICE void join(Softmax *so_far, const act *in, u32 at) {
    float x[COUNT], largest = NEGATIVE_INFINITY;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        x[i] = to_f32(in[i]);
        largest = fmaxf(largest, x[i]);
    }
    if (largest > so_far->top || so_far->place == NOWHERE) {
        // Nothing but -inf and NaN so far: 0 or NaN, whatever it is multiplied by.
        so_far->total *= ex2((so_far->top == NEGATIVE_INFINITY ? 0.0f : so_far->top - largest) * LOG2E);
        so_far->top = largest;
#pragma unroll
        for (int i = COUNT - 1; i >= 0; i--) {
            if (x[i] == largest) so_far->place = at + i;
        }
    }
    float origin = so_far->top == NEGATIVE_INFINITY ? 0.0f : so_far->top;
#pragma unroll
    for (int i = 0; i < COUNT; i++) so_far->total += ex2((x[i] - origin) * LOG2E);
}

// The elements before the first 16 bytes that are aligned, at most `vocab`.
DEVICE int head_of(const act *row, int vocab) {
    return min(vocab, (int)((16 - (u64)row % 16) % 16 / sizeof(act)));
}

// One block per row. losses[r] = log sum exp - logit[target]; a row whose target is IGNORED has loss 0 and gradient 0.
extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy(act *__restrict__ logits, float *__restrict__ losses, u32 *__restrict__ best, const u32 *__restrict__ targets, const float *__restrict__ scale, int vocab) {
    __shared__ float shared[32];
    __shared__ float tops[THREADS / 32];
    __shared__ u32 places[THREADS / 32];
    act *row = logits + (long long)blockIdx.x * vocab;
    u32 target = targets[blockIdx.x];
    int head = head_of(row, vocab), packs = (vocab - head) / PACK, tail = head + packs * PACK;
    Acts *whole = (Acts *)(row + head);
    Softmax mine = {NEGATIVE_INFINITY, 0.0f, NOWHERE};
    if (threadIdx.x < head) join<1>(&mine, row + threadIdx.x, threadIdx.x);
#pragma unroll 2
    for (int p = threadIdx.x; p < packs; p += THREADS) {
        Acts in = whole[p];
        join<PACK>(&mine, in.at, head + p * PACK);
    }
    if (threadIdx.x < vocab - tail) join<1>(&mine, row + tail + threadIdx.x, tail + threadIdx.x);
    float top = mine.top;
    u32 place = mine.place;
    for (int mask = 16; mask > 0; mask >>= 1) {
        float other = __shfl_xor_sync(0xffffffffu, top, mask);
        u32 at = __shfl_xor_sync(0xffffffffu, place, mask);
        if (other > top || (other == top && at < place)) {
            top = other;
            place = at;
        }
    }
    if ((threadIdx.x & 31) == 0) {
        tops[threadIdx.x >> 5] = top;
        places[threadIdx.x >> 5] = place;
    }
    __syncthreads();
    top = tops[0];
    place = places[0];
    for (int w = 1; w < THREADS / 32; w++) {
        if (tops[w] > top || (tops[w] == top && places[w] < place)) {
            top = tops[w];
            place = places[w];
        }
    }
    // Of a thread without a largest the sum is 0 or NaN.
    float total = block_sum(mine.top == NEGATIVE_INFINITY ? mine.total : mine.total * ex2((mine.top - top) * LOG2E), shared);
    bool live = target != IGNORED;
    if (threadIdx.x == 0) {
        if (best) best[blockIdx.x] = place == NOWHERE ? 0u : place;
        // The difference first: the sum of two large numbers would round the small loss away.
        losses[blockIdx.x] = live ? logf(total) + (top - to_f32(row[target])) : 0.0f;
    }
#if GRADIENT
    float s = live ? *scale : 0.0f, over = live ? s / total : 0.0f;
    __syncthreads(); // the loss has read its logit
#define GRADIENT_OF(x, j) ((live ? ex2((to_f32(x) - top) * LOG2E) * over : 0.0f) - ((u32)(j) == target ? s : 0.0f))
    if (threadIdx.x < head) put(row + threadIdx.x, GRADIENT_OF(row[threadIdx.x], threadIdx.x));
#pragma unroll 2
    for (int p = threadIdx.x; p < packs; p += THREADS) {
        Acts in = whole[p], out;
#pragma unroll
        for (int i = 0; i < PACK; i++) put(&out.at[i], GRADIENT_OF(in.at[i], head + p * PACK + i));
        whole[p] = out;
    }
    int last = tail + threadIdx.x;
    if (last < vocab) put(row + last, GRADIENT_OF(row[last], last));
#endif
}

// out = scale times the sum of the losses, added in double precision in a fixed order.
extern "C" __global__ void __launch_bounds__(256) sum_losses(float *__restrict__ out, const float *__restrict__ losses, const float *__restrict__ scale, int rows) {
    __shared__ double sums[256];
    double total = 0.0;
    for (int r = threadIdx.x; r < rows; r += 256) total += losses[r];
    sums[threadIdx.x] = total;
    __syncthreads();
    for (int half = 128; half > 0; half >>= 1) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) out[0] = (float)(sums[0] * (double)scale[0]);
}
