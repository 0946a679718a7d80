// AdamW over all trained tensors in one launch, and what decides whether it runs: the norm of all gradients together and
// their finiteness. Everything that changes from step to step is read from device memory.
//
// A tensor is a row of `tensors`: the addresses of parameter, first and second moment, gradient; its length; its first
// chunk; decay (1 or 0) and multiple of the learning rate as two floats; the gradient of this micro-batch. Work is cut into chunks of CHUNK
// elements, numbered through all tensors.

#define CHUNK 4096
#define THREADS 256

struct Slot {
    float *parameter, *m, *v, *gradient;
    u64 length, first_chunk;
    float decay, rate;
    const float *part;
};

// What the host sets before a step.
struct Settings {
    double lr, clip_norm;
};

// What the step came to; the host reads it later.
struct Record {
    float loss, norm, clip, finite;
    double correction1, root_correction2; // 1 - beta1^t and the root of 1 - beta2^t
    u64 updates, steps;
};

// The tensor that a chunk belongs to.
DEVICE int tensor_of(const Slot *tensors, int count, u64 chunk) {
    int low = 0, high = count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (tensors[middle].first_chunk <= chunk) low = middle; else high = middle - 1;
    }
    return low;
}

// gradient (+)= part, for every tensor that has one; the first micro-batch of a step overwrites, and clears the others.
extern "C" __global__ void __launch_bounds__(THREADS) take_gradients(const Slot *__restrict__ tensors, int count, float *__restrict__ loss, const float *__restrict__ part_loss, int first) {
    int i = tensor_of(tensors, count, blockIdx.x);
    Slot slot = tensors[i];
    u64 start = (blockIdx.x - slot.first_chunk) * CHUNK;
    if (blockIdx.x == 0 && threadIdx.x == 0) *loss = first ? *part_loss : *loss + *part_loss;
    for (u64 j = start + threadIdx.x; j < start + CHUNK && j < slot.length; j += THREADS) {
        float x = slot.part ? slot.part[j] : 0.0f;
        slot.gradient[j] = first ? x : slot.gradient[j] + x;
    }
}

// partial[chunk] = the sum of squares of the chunk's gradients; not finite if one of them is not.
extern "C" __global__ void __launch_bounds__(THREADS) squares(const Slot *__restrict__ tensors, int count, double *__restrict__ partial) {
    __shared__ double sums[THREADS];
    Slot slot = tensors[tensor_of(tensors, count, blockIdx.x)];
    u64 start = (blockIdx.x - slot.first_chunk) * CHUNK;
    double total = 0.0;
    for (u64 j = start + threadIdx.x; j < start + CHUNK && j < slot.length; j += THREADS) {
        double x = slot.gradient[j];
        total += x * x;
    }
    sums[threadIdx.x] = total;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half >>= 1) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
}

// One block: the norm, the clip factor, whether the step counts, and the bias corrections of the update it is.
extern "C" __global__ void __launch_bounds__(THREADS) decide(Record *__restrict__ record, const double *__restrict__ partial, int chunks, const float *__restrict__ loss, const Settings *__restrict__ settings, double beta1, double beta2) {
    __shared__ double sums[THREADS];
    double total = 0.0;
    for (int c = threadIdx.x; c < chunks; c += THREADS) total += partial[c];
    sums[threadIdx.x] = total;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half >>= 1) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        double norm = sqrt(sums[0]);
        // x - x is 0 for what is finite, and nothing else.
        bool finite = sums[0] - sums[0] == 0.0 && *loss - *loss == 0.0f;
        // As PyTorch's clip_grad_norm_, its 1e-6 included.
        double clip = settings->clip_norm > 0.0 ? fmin(settings->clip_norm / (norm + 1e-6), 1.0) : 1.0;
        record->loss = *loss;
        record->norm = (float)norm;
        record->clip = (float)clip;
        record->finite = finite ? 1.0f : 0.0f;
        record->steps += 1;
        if (finite) {
            record->updates += 1;
            double t = (double)record->updates;
            record->correction1 = 1.0 - pow(beta1, t);
            record->root_correction2 = sqrt(1.0 - pow(beta2, t));
        }
    }
}

// The order of operations is PyTorch's; see the reference. Nothing moves in a step that does not count.
extern "C" __global__ void __launch_bounds__(THREADS) update(const Slot *__restrict__ tensors, int count, const Record *__restrict__ record, const Settings *__restrict__ settings, double weight_decay, float one_minus_beta1, float beta2, float one_minus_beta2, float eps) {
    if (record->finite == 0.0f) return;
    Slot slot = tensors[tensor_of(tensors, count, blockIdx.x)];
    u64 start = (blockIdx.x - slot.first_chunk) * CHUNK;
    double lr = settings->lr * (double)slot.rate;
    float shrink = (float)(1.0 - lr * weight_decay * (double)slot.decay);
    float step_size = (float)(lr / record->correction1), root = (float)record->root_correction2, clip = record->clip;
    for (u64 j = start + threadIdx.x; j < start + CHUNK && j < slot.length; j += THREADS) {
        float g = slot.gradient[j] * clip;
        float decayed = slot.parameter[j] * shrink;
        float m = slot.m[j] + (g - slot.m[j]) * one_minus_beta1;
        float v = slot.v[j] * beta2 + g * g * one_minus_beta2;
        slot.m[j] = m;
        slot.v[j] = v;
        slot.parameter[j] = decayed - step_size * (m / (sqrtf(v) / root + eps));
    }
}
