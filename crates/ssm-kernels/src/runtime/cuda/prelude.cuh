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

// Two numbers as bf16 in a word, the first in the low half, and each of them.
DEVICE u32 bf16_pair(float x, float y) {
#ifdef __CUDA_ARCH__
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(y), "f"(x));
    return pair;
#else
    return (u32)bf16_bits(x) | (u32)bf16_bits(y) << 16;
#endif
}
DEVICE float bf16_low(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float bf16_high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

DEVICE void put(float *p, float x) { *p = x; }
DEVICE void put(bf16 *p, float x) { p->bits = bf16_bits(x); }

// IEEE half precision in memory.
struct f16 {
    u16 bits;
};

// A half moved to the place of a float's bits is 2^-112 of its value, subnormal numbers too.
DEVICE float to_f32(f16 x) {
    u32 sign = (u32)(x.bits & 0x8000u) << 16, rest = (u32)(x.bits & 0x7fffu) << 13;
    if (rest >= 0x0f800000u) return __uint_as_float(sign | rest | 0x7f800000u);
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest) * __uint_as_float(0x77800000u)));
}

// To the nearest, ties to even.
DEVICE void put(f16 *p, float x) {
    u32 bits = __float_as_uint(x), sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    u32 half;
    if (bits > 0x7f800000u) {
        half = 0x7e00u;
    } else if (bits >= 0x477ff000u) {
        half = 0x7c00u; // 65520 and more round to infinity
    } else if (bits < 0x38800000u) {
        half = __float_as_uint(__uint_as_float(bits) + 0.5f) - 0x3f000000u; // one of 0.5 is 2^-24
    } else {
        half = (bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13;
    }
    p->bits = (u16)(sign | half);
}

// The storage types by the numbers that defines give them.
template <int TYPE> struct Storage;
template <> struct Storage<0> { typedef float type; };
template <> struct Storage<1> { typedef bf16 type; };
template <> struct Storage<2> { typedef f16 type; };

// What is moved at once: arrays that begin at a multiple of 16 bytes allow it.
template <typename T, int V> struct alignas(sizeof(T) * V) Pack {
    T at[V];
};

DEVICE bool aligned(const void *p) { return (u64)p % 16 == 0; }

// For kernels over rows: blocks are 256 >> shift rows of 1 << shift lanes.
#define FOR_ROWS(row, rows, shift)                                                                                     \
    for (long long row = (long long)blockIdx.x * (256 >> shift) + (threadIdx.x >> shift); row < rows;                  \
         row += (long long)gridDim.x * (256 >> shift))
#define FOR_LANES(i, count, shift) for (int i = threadIdx.x & ((1 << shift) - 1); i < count; i += 1 << shift)

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

// Where a kernel may begin while the one in front of it still runs (programmatic dependent launch): that one's word that it
// may, and the wait, in every block, until that one has ended and what it wrote can be read. Elsewhere both are nothing.
DEVICE void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

DEVICE void await_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

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
