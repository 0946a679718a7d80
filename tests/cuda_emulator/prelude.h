// The language that kernels are written in, for g++: what NVRTC has built in. `abi.h` stands in front. No header of the
// system is included, so that compiling stays quick and no name of a library gets in a kernel's way.
//
// `__global__`, `__launch_bounds__` and `__shared__` are not macros: nvrtc.cpp rewrites them after the preprocessor.

#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#define CUDA_EMULATOR 1

typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;

#define EMU_VECTORS(T, name, a2, a4)                                                                           \
    struct name##1 { T x; };                                                                                   \
    struct alignas(a2) name##2 { T x, y; };                                                                    \
    struct name##3 { T x, y, z; };                                                                             \
    struct alignas(a4) name##4 { T x, y, z, w; };                                                              \
    static inline name##1 make_##name##1(T x) { return {x}; }                                                  \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                          \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                  \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTORS(signed char, char, 2, 4)
EMU_VECTORS(unsigned char, uchar, 2, 4)
EMU_VECTORS(short, short, 4, 8)
EMU_VECTORS(unsigned short, ushort, 4, 8)
EMU_VECTORS(int, int, 8, 16)
EMU_VECTORS(unsigned, uint, 8, 16)
EMU_VECTORS(long, long, 16, 16)
EMU_VECTORS(unsigned long, ulong, 16, 16)
EMU_VECTORS(long long, longlong, 16, 16)
EMU_VECTORS(unsigned long long, ulonglong, 16, 16)
EMU_VECTORS(float, float, 8, 16)
EMU_VECTORS(double, double, 16, 16)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Written by the emulator whenever another thread goes on.
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
static const int warpSize = 32;
unsigned char *emu_dynamic_shared;
const EmuRuntime *emu_runtime;

// ---- Threads together ----

#define __syncthreads() ((void)emu_runtime->block(EMU_SYNC, 0, __LINE__))
#define __syncthreads_count(p) emu_runtime->block(EMU_SYNC_COUNT, (p) != 0, __LINE__)
#define __syncthreads_and(p) emu_runtime->block(EMU_SYNC_AND, (p) != 0, __LINE__)
#define __syncthreads_or(p) emu_runtime->block(EMU_SYNC_OR, (p) != 0, __LINE__)

// One of a block's sixteen barriers by number, as PTX's bar.sync and bar.arrive: `count` threads have to come, of which some
// do not wait.
#define emulated_barrier(barrier, count, waits) emu_runtime->named(barrier, count, waits, __LINE__)

static inline unsigned long long emu_warp(int op, unsigned mask, unsigned long long value, int argument, int width,
                                          int line) {
    return emu_runtime->warp(op, mask, value, argument, width, line);
}
template <typename T>
static inline T emu_exchange(int line, int op, unsigned mask, T value, int argument, int width = 32) {
    static_assert(sizeof(T) <= 8, "shuffles move at most eight bytes");
    unsigned long long word = 0;
    __builtin_memcpy(&word, &value, sizeof value);
    word = emu_warp(op, mask, word, argument, width, line);
    __builtin_memcpy(&value, &word, sizeof value);
    return value;
}
#define __shfl_sync(mask, ...) emu_exchange(__LINE__, EMU_SHFL, mask, __VA_ARGS__)
#define __shfl_up_sync(mask, ...) emu_exchange(__LINE__, EMU_SHFL_UP, mask, __VA_ARGS__)
#define __shfl_down_sync(mask, ...) emu_exchange(__LINE__, EMU_SHFL_DOWN, mask, __VA_ARGS__)
#define __shfl_xor_sync(mask, ...) emu_exchange(__LINE__, EMU_SHFL_XOR, mask, __VA_ARGS__)
#define __ballot_sync(mask, p) ((unsigned)emu_warp(EMU_BALLOT, mask, (p) != 0, 0, 32, __LINE__))
#define __any_sync(mask, p) ((int)emu_warp(EMU_ANY, mask, (p) != 0, 0, 32, __LINE__))
#define __all_sync(mask, p) ((int)emu_warp(EMU_ALL, mask, (p) != 0, 0, 32, __LINE__))
#define __match_any_sync(mask, value) ((unsigned)emu_warp(EMU_MATCH_ANY, mask, emu_word(value), 0, 32, __LINE__))
template <typename T> static inline unsigned long long emu_word(T value) {
    unsigned long long word = 0;
    __builtin_memcpy(&word, &value, sizeof value);
    return word;
}
// Of signed numbers only the sum is right: the others compare as unsigned.
#define __reduce_add_sync(mask, value) ((decltype(value))emu_warp(EMU_REDUCE_ADD, mask, (unsigned)(value), 0, 32, __LINE__))
#define __reduce_min_sync(mask, value) emu_reduce(EMU_REDUCE_MIN, mask, value, __LINE__)
#define __reduce_max_sync(mask, value) emu_reduce(EMU_REDUCE_MAX, mask, value, __LINE__)
#define __reduce_and_sync(mask, value) ((unsigned)emu_warp(EMU_REDUCE_AND, mask, value, 0, 32, __LINE__))
#define __reduce_or_sync(mask, value) ((unsigned)emu_warp(EMU_REDUCE_OR, mask, value, 0, 32, __LINE__))
#define __reduce_xor_sync(mask, value) ((unsigned)emu_warp(EMU_REDUCE_XOR, mask, value, 0, 32, __LINE__))
static inline unsigned emu_reduce(int op, unsigned mask, unsigned value, int line) {
    return (unsigned)emu_warp(op, mask, value, 0, 32, line);
}
static inline int emu_reduce(int op, unsigned mask, int value, int line) {
    return (int)((unsigned)emu_warp(op, mask, (unsigned)value ^ 0x80000000u, 0, 32, line) ^ 0x80000000u);
}
#define EMU_SYNCWARP_(mask, ...) ((void)emu_warp(EMU_SYNCWARP, mask, 0, 0, 32, __LINE__))
#define __syncwarp(...) EMU_SYNCWARP_(__VA_ARGS__ __VA_OPT__(, ) 0xffffffffu, 0)
#define __threadfence() ((void)0)
#define __threadfence_block() ((void)0)
#define __threadfence_system() ((void)0)
#define __nanosleep(n) ((void)0)
#define __trap() emu_runtime->fail("__trap", __LINE__)
#define assert(x) ((x) ? (void)0 : emu_runtime->fail("assert(" #x ")", __LINE__))
#define __builtin_assume(x) ((x) ? (void)0 : emu_runtime->fail("__builtin_assume(" #x ")", __LINE__))

// One thread runs at a time, so plain reads and writes are atomic.
#define EMU_ATOMIC(name, T, expression)                                                                        \
    static inline T name(T *p, T x) {                                                                          \
        T old = *p;                                                                                            \
        *p = expression;                                                                                       \
        return old;                                                                                            \
    }
#define EMU_ATOMICS(T)                                                                                         \
    EMU_ATOMIC(atomicAdd, T, old + x)                                                                          \
    EMU_ATOMIC(atomicMin, T, x < old ? x : old)                                                                \
    EMU_ATOMIC(atomicMax, T, x > old ? x : old)                                                                \
    EMU_ATOMIC(atomicExch, T, x)                                                                               \
    EMU_ATOMIC(atomicAnd, T, old & x)                                                                          \
    EMU_ATOMIC(atomicOr, T, old | x)                                                                           \
    EMU_ATOMIC(atomicXor, T, old ^ x)                                                                          \
    static inline T atomicCAS(T *p, T expected, T x) {                                                         \
        T old = *p;                                                                                            \
        if (old == expected) *p = x;                                                                           \
        return old;                                                                                            \
    }
EMU_ATOMICS(int)
EMU_ATOMICS(unsigned)
EMU_ATOMICS(unsigned long long)
EMU_ATOMIC(atomicSub, int, old - x)
EMU_ATOMIC(atomicSub, unsigned, old - x)
EMU_ATOMIC(atomicAdd, float, old + x)
EMU_ATOMIC(atomicAdd, double, old + x)
EMU_ATOMIC(atomicExch, float, x)

// ---- Numbers ----

#define EMU_BITS(name, To, From)                                                                               \
    static inline To name(From x) {                                                                            \
        To y;                                                                                                  \
        static_assert(sizeof x == sizeof y, "as many bits");                                                   \
        __builtin_memcpy(&y, &x, sizeof y);                                                                    \
        return y;                                                                                              \
    }
EMU_BITS(__float_as_uint, unsigned, float)
EMU_BITS(__float_as_int, int, float)
EMU_BITS(__uint_as_float, float, unsigned)
EMU_BITS(__int_as_float, float, int)
EMU_BITS(__double_as_longlong, long long, double)
EMU_BITS(__longlong_as_double, double, long long)

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline unsigned __brev(unsigned x) {
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(x);
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) {
    return (unsigned)((((unsigned long long)hi << 32 | lo) << (n & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) {
    return (unsigned)(((unsigned long long)hi << 32 | lo) >> (n & 31));
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    unsigned long long both = (unsigned long long)b << 32 | a;
    unsigned y = 0;
    for (int i = 0; i < 4; i++) y |= (unsigned)(both >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
    return y;
}
template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline T __ldcg(const T *p) { return *p; }
template <typename T> static inline void __stcs(T *p, T x) { *p = x; }
template <typename T> static inline void __stcg(T *p, T x) { *p = x; }

extern "C" {
int printf(const char *, ...);
void *memcpy(void *, const void *, size_t);
void *memset(void *, int, size_t);
int abs(int);
long long llabs(long long);
#define EMU_MATH1(name) double name(double); float name##f(float);
#define EMU_MATH2(name) double name(double, double); float name##f(float, float);
EMU_MATH1(sqrt) EMU_MATH1(cbrt) EMU_MATH1(exp) EMU_MATH1(exp2) EMU_MATH1(expm1) EMU_MATH1(log) EMU_MATH1(log2)
EMU_MATH1(log10) EMU_MATH1(log1p) EMU_MATH1(sin) EMU_MATH1(cos) EMU_MATH1(tan) EMU_MATH1(asin) EMU_MATH1(acos)
EMU_MATH1(atan) EMU_MATH1(sinh) EMU_MATH1(cosh) EMU_MATH1(tanh) EMU_MATH1(erf) EMU_MATH1(erfc) EMU_MATH1(lgamma)
EMU_MATH1(tgamma) EMU_MATH1(floor) EMU_MATH1(ceil) EMU_MATH1(trunc) EMU_MATH1(round) EMU_MATH1(rint)
EMU_MATH1(nearbyint) EMU_MATH1(fabs)
EMU_MATH2(pow) EMU_MATH2(fmod) EMU_MATH2(fmax) EMU_MATH2(fmin) EMU_MATH2(copysign) EMU_MATH2(atan2) EMU_MATH2(hypot)
EMU_MATH2(fdim)
double fma(double, double, double);
float fmaf(float, float, float);
double ldexp(double, int);
float ldexpf(float, int);
long lrintf(float);
long lroundf(float);
void sincosf(float, float *, float *);
}

#define EMU_OVER1(name) static inline float name(float x) { return name##f(x); }
#define EMU_OVER2(name) static inline float name(float x, float y) { return name##f(x, y); }
EMU_OVER1(sqrt) EMU_OVER1(cbrt) EMU_OVER1(exp) EMU_OVER1(exp2) EMU_OVER1(expm1) EMU_OVER1(log) EMU_OVER1(log2)
EMU_OVER1(log10) EMU_OVER1(log1p) EMU_OVER1(sin) EMU_OVER1(cos) EMU_OVER1(tan) EMU_OVER1(asin) EMU_OVER1(acos)
EMU_OVER1(atan) EMU_OVER1(sinh) EMU_OVER1(cosh) EMU_OVER1(tanh) EMU_OVER1(erf) EMU_OVER1(erfc) EMU_OVER1(floor)
EMU_OVER1(ceil) EMU_OVER1(trunc) EMU_OVER1(round) EMU_OVER1(rint) EMU_OVER1(fabs)
EMU_OVER2(pow) EMU_OVER2(fmod) EMU_OVER2(fmax) EMU_OVER2(fmin) EMU_OVER2(copysign) EMU_OVER2(atan2)
static inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
static inline float abs(float x) { return fabsf(x); }
static inline double abs(double x) { return fabs(x); }
static inline long long abs(long long x) { return x < 0 ? -x : x; }
static inline bool isnan(float x) { return __builtin_isnan(x); }
static inline bool isnan(double x) { return __builtin_isnan(x); }
static inline bool isinf(float x) { return __builtin_isinf(x); }
static inline bool isinf(double x) { return __builtin_isinf(x); }
static inline bool isfinite(float x) { return __builtin_isfinite(x); }
static inline bool isfinite(double x) { return __builtin_isfinite(x); }
static inline bool signbit(float x) { return __builtin_signbit(x); }

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rsqrt(float x) { return rsqrtf(x); }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline float __expf(float x) { return expf(x); }
static inline float __exp10f(float x) { return exp2f(x * 3.3219280948873623f); }
static inline float exp10f(float x) { return (float)pow(10.0, (double)x); }
static inline float __logf(float x) { return logf(x); }
static inline float __log2f(float x) { return log2f(x); }
static inline float __log10f(float x) { return log10f(x); }
static inline float __powf(float x, float y) { return powf(x, y); }
static inline float __sinf(float x) { return sinf(x); }
static inline float __cosf(float x) { return cosf(x); }
static inline float __tanhf(float x) { return tanhf(x); }
static inline float __fdividef(float x, float y) { return x / y; }
// Rounded by themselves: the empty asm keeps the compiler from joining a product to a sum.
static inline float emu_alone(float x) {
    __asm__("" : "+x"(x));
    return x;
}
static inline double emu_alone(double x) {
    __asm__("" : "+x"(x));
    return x;
}
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline float __fadd_rn(float a, float b) { return emu_alone(emu_alone(a) + emu_alone(b)); }
static inline float __fsub_rn(float a, float b) { return emu_alone(emu_alone(a) - emu_alone(b)); }
static inline float __fmul_rn(float a, float b) { return emu_alone(emu_alone(a) * emu_alone(b)); }
static inline float __fdiv_rn(float a, float b) { return emu_alone(a / b); }
static inline float __frcp_rn(float x) { return emu_alone(1.0f / x); }
static inline float __fsqrt_rn(float x) { return emu_alone(sqrtf(x)); }
static inline float __frsqrt_rn(float x) { return rsqrtf(x); }
static inline double __dadd_rn(double a, double b) { return emu_alone(emu_alone(a) + emu_alone(b)); }
static inline double __dmul_rn(double a, double b) { return emu_alone(emu_alone(a) * emu_alone(b)); }

// From float to integer, saturating, as the device does.
template <typename T> static inline T emu_to_integer(double x, double low, double high, T least, T most) {
    return x != x ? (T)0 : x <= low ? least : x >= high ? most : (T)x;
}
static inline int __float2int_rn(float x) { return emu_to_integer<int>(rintf(x), -0x1p31, 0x1p31, (int)0x80000000u, 0x7fffffff); }
static inline int __float2int_rz(float x) { return emu_to_integer<int>(truncf(x), -0x1p31, 0x1p31, (int)0x80000000u, 0x7fffffff); }
static inline int __float2int_rd(float x) { return emu_to_integer<int>(floorf(x), -0x1p31, 0x1p31, (int)0x80000000u, 0x7fffffff); }
static inline int __float2int_ru(float x) { return emu_to_integer<int>(ceilf(x), -0x1p31, 0x1p31, (int)0x80000000u, 0x7fffffff); }
static inline unsigned __float2uint_rn(float x) { return emu_to_integer<unsigned>(rintf(x), 0.0, 0x1p32, 0u, 0xffffffffu); }
static inline unsigned __float2uint_rz(float x) { return emu_to_integer<unsigned>(truncf(x), 0.0, 0x1p32, 0u, 0xffffffffu); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __ull2float_rn(unsigned long long x) { return (float)x; }
static inline float __double2float_rn(double x) { return (float)x; }

#define EMU_MIN_MAX(R, A, B)                                                                                   \
    static inline R min(A a, B b) { return (R)a < (R)b ? (R)a : (R)b; }                                        \
    static inline R max(A a, B b) { return (R)a > (R)b ? (R)a : (R)b; }
EMU_MIN_MAX(int, int, int)
EMU_MIN_MAX(unsigned, unsigned, unsigned)
EMU_MIN_MAX(unsigned, int, unsigned)
EMU_MIN_MAX(unsigned, unsigned, int)
EMU_MIN_MAX(long, long, long)
EMU_MIN_MAX(unsigned long, unsigned long, unsigned long)
EMU_MIN_MAX(long long, long long, long long)
EMU_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

// ---- How a kernel is called ----

template <int... I> struct EmuSequence {};
template <typename... A> struct EmuParameters {
    static constexpr unsigned sizes[sizeof...(A) + 1] = {sizeof(A)..., 0};
};
template <typename... A, int... I> static inline void emu_call(void (*kernel)(A...), void **params, EmuSequence<I...>) {
    kernel(*(A *)params[I]...);
}
template <typename... A> static inline void emu_call(void (*kernel)(A...), void **params) {
    emu_call(kernel, params, EmuSequence<__integer_pack(sizeof...(A))...>());
}
template <typename... A> static constexpr const unsigned *emu_sizes(void (*)(A...)) { return EmuParameters<A...>::sizes; }
template <typename... A> static constexpr unsigned emu_count(void (*)(A...)) { return sizeof...(A); }
static constexpr unsigned emu_first(unsigned first = 0, unsigned = 0, unsigned = 0) { return first; }
