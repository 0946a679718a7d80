// Softmax cross-entropy of rows of logits, which become their own gradients. Bytes are the bound: logits are read twice
// (the second time from the cache, where the block's row still is) and written once.
//
// Defines: ACT_BF16; GRADIENT: whether the logits are overwritten.

#define IGNORED 0xffffffffu

// One block per row. losses[r] = log sum exp - logit[target]; a row whose target is IGNORED has loss 0 and gradient 0.
extern "C" __global__ void __launch_bounds__(512) cross_entropy(act *__restrict__ logits, float *__restrict__ losses, u32 *__restrict__ best, const u32 *__restrict__ targets, const float *__restrict__ scale, int vocab) {
    __shared__ float shared[32];
    __shared__ float tops[16];
    __shared__ u32 places[16];
    act *row = logits + (long long)blockIdx.x * vocab;
    u32 target = targets[blockIdx.x];
    // Largest logit, its first place, and the sum of exponentials relative to it, online.
    float top = NEGATIVE_INFINITY, total = 0.0f;
    u32 place = 0xffffffffu;
    for (int j = threadIdx.x; j < vocab; j += 512) {
        float x = to_f32(row[j]);
        if (x > top) {
            total = total * ex2((top - x) * LOG2E) + 1.0f;
            top = x;
            place = j;
        } else {
            // NaN joins the sum, and is never the largest.
            total += ex2((x - top) * LOG2E);
            if (place == 0xffffffffu && x == top) place = j;
        }
    }
    float mine = top;
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
    for (int w = 1; w < 16; w++) {
        if (tops[w] > top || (tops[w] == top && places[w] < place)) {
            top = tops[w];
            place = places[w];
        }
    }
    // A thread without elements has no largest of its own.
    total = block_sum(mine == NEGATIVE_INFINITY ? (total == total ? 0.0f : total) : total * ex2((mine - top) * LOG2E), shared);
    bool live = target != IGNORED;
    if (threadIdx.x == 0) {
        if (best) best[blockIdx.x] = place == 0xffffffffu ? 0u : place;
        // The difference first: the sum of two large numbers would round the small loss away.
        losses[blockIdx.x] = live ? logf(total) + (top - to_f32(row[target])) : 0.0f;
    }
#if GRADIENT
    float s = live ? *scale : 0.0f, over = live ? s / total : 0.0f;
    __syncthreads(); // the loss has read its logit
    for (int j = threadIdx.x; j < vocab; j += 512) {
        float d = live ? ex2((to_f32(row[j]) - top) * LOG2E) * over : 0.0f;
        if ((u32)j == target) d -= s;
        put(row + j, d);
    }
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
