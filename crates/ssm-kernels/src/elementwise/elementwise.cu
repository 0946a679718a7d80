// Maps and zips over whole arrays, of any mixture of storage types; arithmetic is f32.
//
// Defines: OP, which function (the numbers below, kept in step with cuda.rs), and Y_TYPE, A_TYPE, B_TYPE, the types of
// the output and the inputs: 0 f32, 1 bf16, 2 f16. Memory is the limit, so a thread moves 16 bytes at a time where
// all arrays are aligned, and single elements elsewhere. An output may be the same array as an input of its type.

typedef Storage<Y_TYPE>::type Y;
typedef Storage<A_TYPE>::type A;
typedef Storage<B_TYPE>::type B;

// Elements per pack: 16 bytes of the widest type.
#define V (Y_TYPE && A_TYPE && B_TYPE ? 8 : 4)

DEVICE float map_of(float a, float s) {
    switch (OP) {
    case 0: return s * a;
    case 1: return -expf(a);
    case 2: return tanhf(a);
    case 3: return a * sigmoid(a);
    case 4: return softplus(a);
    default: return a;
    }
}

DEVICE float zip_of(float a, float b) {
    switch (OP) {
    case 10: return a + b;
    case 11: return a * b;
    case 12: return a * (1.0f - b * b); // dy and y = tanh(x)
    case 13: {                          // dy and x of silu
        float s = sigmoid(b);
        return a * (s * (1.0f + b * (1.0f - s)));
    }
    case 14: return a * sigmoid(b); // dy and x of softplus
    default: return a;
    }
}

// y = f(a); `factor`, if it is there, is a further factor of s.
extern "C" __global__ void __launch_bounds__(256) map(Y *y, const A *a, const float *factor, float s, long long n) {
    if (factor) s *= *factor;
    long long thread = blockIdx.x * 256LL + threadIdx.x, threads = gridDim.x * 256LL, packs = 0;
    if (aligned(y) && aligned(a)) {
        packs = n / V;
        for (long long i = thread; i < packs; i += threads) {
            Pack<A, V> from = ((const Pack<A, V> *)a)[i];
            Pack<Y, V> to;
            for (int v = 0; v < V; v++) put(&to.at[v], map_of(to_f32(from.at[v]), s));
            ((Pack<Y, V> *)y)[i] = to;
        }
    }
    for (long long i = packs * V + thread; i < n; i += threads) put(y + i, map_of(to_f32(a[i]), s));
}

// y = f(a, b).
extern "C" __global__ void __launch_bounds__(256) zip(Y *y, const A *a, const B *b, long long n) {
    long long thread = blockIdx.x * 256LL + threadIdx.x, threads = gridDim.x * 256LL, packs = 0;
    if (aligned(y) && aligned(a) && aligned(b)) {
        packs = n / V;
        for (long long i = thread; i < packs; i += threads) {
            Pack<A, V> left = ((const Pack<A, V> *)a)[i];
            Pack<B, V> right = ((const Pack<B, V> *)b)[i];
            Pack<Y, V> to;
            for (int v = 0; v < V; v++) put(&to.at[v], zip_of(to_f32(left.at[v]), to_f32(right.at[v])));
            ((Pack<Y, V> *)y)[i] = to;
        }
    }
    for (long long i = packs * V + thread; i < n; i += threads) put(y + i, zip_of(to_f32(a[i]), to_f32(b[i])));
}

// y += s · a; `factor` as above.
extern "C" __global__ void __launch_bounds__(256) axpy(Y *y, const A *a, const float *factor, float s, long long n) {
    if (factor) s *= *factor;
    long long thread = blockIdx.x * 256LL + threadIdx.x, threads = gridDim.x * 256LL, packs = 0;
    if (aligned(y) && aligned(a)) {
        packs = n / V;
        for (long long i = thread; i < packs; i += threads) {
            Pack<A, V> from = ((const Pack<A, V> *)a)[i];
            Pack<Y, V> to = ((const Pack<Y, V> *)y)[i];
            for (int v = 0; v < V; v++) put(&to.at[v], to_f32(to.at[v]) + s * to_f32(from.at[v]));
            ((Pack<Y, V> *)y)[i] = to;
        }
    }
    for (long long i = packs * V + thread; i < n; i += threads) put(y + i, to_f32(y[i]) + s * to_f32(a[i]));
}

// y = s everywhere.
extern "C" __global__ void __launch_bounds__(256) fill(Y *y, float s, long long n) {
    long long thread = blockIdx.x * 256LL + threadIdx.x, threads = gridDim.x * 256LL;
    for (long long i = thread; i < n; i += threads) put(y + i, s);
}
