// What every kernel source begins with: number types, loads and stores, the exponential, sums over a warp and a block.
//
// No header of the toolkit is included, so NVRTC needs nothing but itself. Where a line of PTX is used, the plain C++
// beside it is what a compiler without PTX takes.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef __CUDA_ARCH__
#define DEVICE static __device__ __forceinline__
#else
#define DEVICE static inline
#endif

// A bf16 number in memory. Arithmetic is always f32.
struct bf16 {
    u16 bits;
};

// The type of activations in this build of the source.
#if ACT_BF16
typedef bf16 act;
#else
typedef float act;
#endif

DEVICE float to_f32(float x) { return x; }
DEVICE float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

// To the nearest, ties to even; NaN stays NaN.
DEVICE u16 bf16_bits(float x) {
#ifdef __CUDA_ARCH__
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(0.0f), "f"(x));
    return (u16)(pair & 0xffffu);
#else
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)0x7fffu;
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
}

DEVICE void put(float *p, float x) { *p = x; }
DEVICE void put(bf16 *p, float x) { p->bits = bf16_bits(x); }

// 2^x, to about 2 units in the last place.
DEVICE float ex2(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

// log2(x), likewise.
DEVICE float lg2(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return log2f(x);
#endif
}

#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f
#define NEGATIVE_INFINITY __uint_as_float(0xff800000u)

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + ex2(-x * LOG2E)); }

// ln(1 + e^x) as max(x, 0) + ln(1 + e^-|x|).
DEVICE float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(ex2(-fabsf(x) * LOG2E)); }

// The sum over the lanes of a warp, in a fixed order, in every lane.
DEVICE float warp_sum(float x) {
    for (int mask = 16; mask > 0; mask >>= 1) x += __shfl_xor_sync(0xffffffffu, x, mask);
    return x;
}

DEVICE float warp_max(float x) {
    for (int mask = 16; mask > 0; mask >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask));
    return x;
}

// The sum over a block of whole warps (at most 1024 threads), in a fixed order, in every thread. `shared` has 32 floats.
DEVICE float block_sum(float x, float *shared) {
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = (blockDim.x + 31) >> 5;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? shared[lane] : 0.0f);
}
