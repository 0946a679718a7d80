// What the sources of the scan share: it is put between the prelude and each of them.
//
// Letters as in the Rust module: T tokens, D channels, N states, S sequences. A saved state stands before every CHUNKth
// token of a sequence, its first included: row offsets[s] / CHUNK + s + i holds [D, N] for chunk i of sequence s.

#define CHUNK 32
#define ALL_LANES 0xffffffffu
// A method, where DEVICE is a function.
#ifdef __CUDA_ARCH__
#define HERE __device__ __forceinline__
#else
#define HERE inline
#endif

DEVICE float reciprocal(float x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return 1.0f / x;
#endif
}

// x, but not less than `least` nor more than `most`; NaN stays NaN, where fmaxf would drop it.
DEVICE float between(float least, float x, float most) {
#ifdef __CUDA_ARCH__
    float y;
    asm("{ .reg .f32 t; max.NaN.f32 t, %1, %2; min.NaN.f32 %0, t, %3; }" : "=f"(y) : "f"(x), "f"(least), "f"(most));
    return y;
#else
    return x != x ? x : fminf(fmaxf(x, least), most);
#endif
}

// 2^x by multiply-adds, for some of the exponentials where special functions are what is scarce: to 3e-6 of it (the
// least largest error of a fourth degree that is 1 at 0), better than a bf16 step is known. What is less than 2^-126 is
// that, and from 2^127.5 on it is infinite.
DEVICE float ex2_by_polynomial(float x) {
    x = between(-126.0f, x, 128.0f);
    float shifted = x + 12582912.0f; // 1.5 * 2^23: the low bits are the nearest integer's
    float rest = x - (shifted - 12582912.0f), y = 0.0095825763f;
    y = y * rest + 0.0559068285f;
    y = y * rest + 0.2402410656f;
    y = y * rest + 0.6931241155f;
    y = y * rest + 1.0f;
    return y * __uint_as_float((__float_as_uint(shifted) << 23) + 0x3f800000u);
}

DEVICE float fast_sigmoid(float x) { return reciprocal(1.0f + ex2(-x * LOG2E)); }

// The step Δ of a raw step x, and its slope dΔ/dx.
DEVICE void step_of(float x, float *step, float *slope) {
#if SOFTPLUS
    // Though fmaxf drops a NaN, e keeps it.
    float least = fmaxf(x, 0.0f), e = ex2(-fabsf(x) * LOG2E), w = 1.0f + e;
#if ACT_BF16
    // ln(1 + e) / e for e in 0 to 1, to 1.3e-6 of it (least squares, weighted until the errors are even): a bf16 x is known
    // to a thousandth. As many instructions as with the hardware's logarithm, whose special functions are what is scarce.
    float ratio = 0.014140945f;
    ratio = ratio * e - 0.066401599f;
    ratio = ratio * e + 0.149223701f;
    ratio = ratio * e - 0.235038551f;
    ratio = ratio * e + 0.331094492f;
    ratio = ratio * e - 0.499869659f;
    ratio = ratio * e + 0.999998732f;
    *step = ratio * e + least;
#else
    // A series where the hardware's logarithm, whose error is absolute, would lose digits.
    float series = 1.0f / 5;
    series = series * e - 1.0f / 4;
    series = series * e + 1.0f / 3;
    series = series * e - 1.0f / 2;
    series = series * e + 1.0f;
    *step = e < 1.0f / 16 ? series * e + least : lg2(w) * LN2 + least;
#endif
    *slope = reciprocal(w) * (x < 0.0f ? e : 1.0f);
#else
    *step = x;
    *slope = 1.0f;
#endif
}

// The slope of the softplus where its value is `step`: 1 - exp(-step).
DEVICE float slope_at(float step) {
#if SOFTPLUS
    float series = -1.0f / 720;
    series = series * step + 1.0f / 120;
    series = series * step - 1.0f / 24;
    series = series * step + 1.0f / 6;
    series = series * step - 1.0f / 2;
    series = series * step + 1.0f;
    return step < 0.25f ? series * step : 1.0f - ex2(-step * LOG2E);
#else
    return 1.0f;
#endif
}

// The element `t` rows on, where rows are `bytes` apart: one instruction, as long as `bytes` is a kernel's argument.
DEVICE const act *row_at(const act *base, int t, int bytes) {
    return (const act *)((const char *)base + (long long)t * bytes);
}
DEVICE act *row_at(act *base, int t, int bytes) { return (act *)((char *)base + (long long)t * bytes); }

// Two neighbouring activations, which the fast kernels read and write at once.
#if ACT_BF16
typedef u32 Pair;
DEVICE float low(Pair x) { return bf16_low(x); }
DEVICE float high(Pair x) { return bf16_high(x); }
DEVICE Pair pair_of(float x, float y) { return bf16_pair(x, y); }
#else
typedef float2 Pair;
DEVICE float low(Pair x) { return x.x; }
DEVICE float high(Pair x) { return x.y; }
DEVICE Pair pair_of(float x, float y) {
    Pair pair = {x, y};
    return pair;
}
#endif

// Brings the line of an address into the second cache.
DEVICE void prefetch(const void *p) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" :: "l"(p));
#endif
}
