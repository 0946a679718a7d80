// cuBLASLt: D = alpha op(A) op(B) + beta C, column-major, f32, bf16 and f16, sums in f32.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "device.h"
#include "engine.h"

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum { SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum Type { F32 = 0, F16 = 2, BF16 = 14 };
enum { EPILOGUE_DEFAULT = 1, EPILOGUE_RELU = 2, EPILOGUE_BIAS = 4, EPILOGUE_GELU = 32 };

struct Handle {
    int unused;
};
struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t ld;
    int order = 0, batches = 1;
    int64_t stride = 0;
};
struct Operation {
    int compute, scale;
    int pointer_mode = 0, trans_a = 0, trans_b = 0;
    unsigned epilogue = EPILOGUE_DEFAULT;
    const void *bias = nullptr;
    int bias_type = -1;
    int64_t bias_stride = 0;
    bool unknown = false;
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t alignment[4] = {256, 256, 256, 256};
};
struct Algorithm {
    char magic[8];
    uint64_t m, n, k;
    uint32_t alignment[4];
    uint64_t number;  // 0, or 2, which is the same; or 1, which splits the inner index
    uint64_t rest;
};
static_assert(sizeof(Algorithm) == 64, "as large as cublasLtMatmulAlgo_t");
struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

int refuse(int code, const char *why) {
    fprintf(stderr, "cuda emulator: cublasLt: %s\n", why);
    return code;
}

size_t bytes_of(int type) { return type == F32 ? 4 : 2; }

float from_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}
uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float from_f16(uint16_t x) {
    int exponent = x >> 10 & 31, fraction = x & 1023;
    float y = exponent == 0 ? std::ldexp((float)fraction, -24)
              : exponent == 31 ? (fraction ? NAN : INFINITY)
                               : std::ldexp((float)(fraction | 1024), exponent - 25);
    return x & 0x8000 ? -y : y;
}
uint16_t to_f16(float x) {
    uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    float y = std::fabs(x);
    if (y != y) return sign | 0x7e00;
    if (y >= 65520.0f) return sign | 0x7c00;
    if (y < 0x1p-24f * 0.5f) return sign;
    int exponent = std::max(std::ilogb(y), -14);
    // In units of the last place; a carry runs into the exponent by itself.
    int units = (int)std::nearbyint(std::ldexp(y, 10 - exponent));
    return (uint16_t)(sign | (((exponent + 14) << 10) + units));
}
float load(const void *p, int type, size_t i) {
    if (type == F32) return ((const float *)p)[i];
    uint16_t x = ((const uint16_t *)p)[i];
    return type == BF16 ? from_bf16(x) : from_f16(x);
}
void store(void *p, int type, size_t i, float x) {
    if (type == F32) ((float *)p)[i] = x;
    else ((uint16_t *)p)[i] = type == BF16 ? to_bf16(x) : to_f16(x);
}

// What fits the product, or why not.
int check(const Operation &op, const Layout &a, const Layout &b, const Layout &c, const Layout &d) {
    for (const Layout *l : {&a, &b, &c, &d}) {
        if (l->type != F32 && l->type != BF16 && l->type != F16) return refuse(NOT_SUPPORTED, "a type that is not emulated");
        if (l->order != 0) return refuse(NOT_SUPPORTED, "only column-major order is emulated");
        if (l->ld < (int64_t)l->rows) return refuse(INVALID_VALUE, "a leading dimension below the number of rows");
        if (l->batches < 1) return refuse(INVALID_VALUE, "a batch count below one");
        if (l->batches != d.batches) return refuse(INVALID_VALUE, "batch counts differ");
    }
    bool f32 = a.type == F32;
    if (a.type != b.type || c.type != d.type) return refuse(NOT_SUPPORTED, "A and B, or C and D, of different types");
    if (f32 ? d.type != F32 : d.type != F32 && d.type != a.type) return refuse(NOT_SUPPORTED, "a combination of types");
    if (op.compute != 68 && op.compute != 69 && !(f32 && (op.compute == 74 || op.compute == 75 || op.compute == 77)))
        return refuse(NOT_SUPPORTED, "only f32 sums are emulated");
    if (op.scale != F32) return refuse(NOT_SUPPORTED, "only an f32 scale is emulated");
    if (op.unknown) return refuse(NOT_SUPPORTED, "an attribute of the product that is not emulated");
    if (op.epilogue & ~(EPILOGUE_DEFAULT | EPILOGUE_RELU | EPILOGUE_BIAS | EPILOGUE_GELU))
        return refuse(NOT_SUPPORTED, "an epilogue that is not emulated");
    uint64_t m = op.trans_a ? a.cols : a.rows, k = op.trans_a ? a.rows : a.cols;
    uint64_t n = op.trans_b ? b.rows : b.cols, k_b = op.trans_b ? b.cols : b.rows;
    if (k != k_b || d.rows != m || d.cols != n || c.rows != m || c.cols != n)
        return refuse(INVALID_VALUE, "shapes do not fit");
    if (m == 0 || n == 0 || k == 0) return refuse(INVALID_VALUE, "an empty product");
    return SUCCESS;
}

// ---- The product ----

typedef float Lanes __attribute__((vector_size(32)));
const int MR = 16, NR = 4;

// op(A) in strips of MR rows, op(B) in strips of NR columns, both along k, widened and padded with zeros.
void pack(std::vector<float> &to, const void *from, int type, int64_t ld, bool across, size_t count, size_t k, int strip) {
    to.assign((count + strip - 1) / strip * strip * k + 8, 0.0f);
    float *base = (float *)(((uintptr_t)to.data() + 31) & ~(uintptr_t)31);
    for (size_t i = 0; i < count; i++)
        for (size_t l = 0; l < k; l++)
            base[(i / strip * k + l) * strip + i % strip] = load(from, type, across ? i + l * ld : i * ld + l);
}

#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "arch=haswell", "default")))
#endif
void tile(float *to, const float *a, const float *b, size_t k) {
    Lanes sum[NR][2] = {};
    for (size_t l = 0; l < k; l++, a += MR, b += NR) {
        Lanes low, high;
        memcpy(&low, a, sizeof low);
        memcpy(&high, a + 8, sizeof high);
        for (int j = 0; j < NR; j++) {
            sum[j][0] += low * b[j];
            sum[j][1] += high * b[j];
        }
    }
    memcpy(to, sum, sizeof sum);
}

void multiply(const Operation &op, float alpha, const void *a, const Layout &la, const void *b, const Layout &lb, float beta,
              const void *c, const Layout &lc, void *d, const Layout &ld, const void *bias, int bias_type, bool splits) {
    size_t m = ld.rows, n = ld.cols, k = op.trans_a ? la.rows : la.cols;
    static std::vector<float> packed_a, packed_b;  // under the lock
    pack(packed_a, a, la.type, la.ld, !op.trans_a, m, k, MR);
    pack(packed_b, b, lb.type, lb.ld, op.trans_b, n, k, NR);
    auto aligned = [](std::vector<float> &v) { return (float *)(((uintptr_t)v.data() + 31) & ~(uintptr_t)31); };
    const float *pa = aligned(packed_a), *pb = aligned(packed_b);
    float sums[NR * MR], more[NR * MR];
    size_t first = splits ? k / 2 : k;
    for (size_t j0 = 0; j0 < n; j0 += NR)
        for (size_t i0 = 0; i0 < m; i0 += MR) {
            tile(sums, pa + i0 * k, pb + j0 * k, first);
            if (splits) {
                tile(more, pa + i0 * k + first * MR, pb + j0 * k + first * NR, k - first);
                for (int i = 0; i < NR * MR; i++) sums[i] += more[i];
            }
            for (size_t j = j0; j < std::min(n, j0 + NR); j++)
                for (size_t i = i0; i < std::min(m, i0 + MR); i++) {
                    float x = alpha * sums[(j - j0) * MR + i - i0];
                    if (beta != 0.0f) x += beta * load(c, lc.type, i + j * lc.ld);
                    if (op.epilogue & EPILOGUE_BIAS) x += load(bias, bias_type, i);
                    if (op.epilogue & EPILOGUE_RELU) x = std::max(x, 0.0f);
                    if (op.epilogue & EPILOGUE_GELU)
                        x = 0.5f * x * (1.0f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
                    store(d, ld.type, i + j * ld.ld, x);
                }
        }
}

bool covered(const void *p, const Layout &l, const char *what) {
    size_t each = ((l.cols - 1) * l.ld + l.rows) * bytes_of(l.type);
    for (int i = 0; i < l.batches; i++)
        if (!device_range((uint64_t)p + (int64_t)i * l.stride * (int64_t)bytes_of(l.type), each, what)) return false;
    return true;
}
const void *batch(const void *p, const Layout &l, int i) {
    return (const char *)p + (int64_t)i * l.stride * (int64_t)bytes_of(l.type);
}

template <typename T> bool take(T &to, const void *from, size_t size) {
    if (!from || size != sizeof(T)) return false;
    memcpy(&to, from, sizeof(T));
    return true;
}

}  // namespace

API size_t cublasLtGetVersion() { return 130000; }
API size_t cublasLtGetCudartVersion() { return 13000; }
API const char *cublasLtGetStatusName(int status) {
    return status == SUCCESS          ? "CUBLAS_STATUS_SUCCESS"
           : status == INVALID_VALUE  ? "CUBLAS_STATUS_INVALID_VALUE"
           : status == NOT_SUPPORTED  ? "CUBLAS_STATUS_NOT_SUPPORTED"
                                      : "CUBLAS_STATUS_EXECUTION_FAILED";
}
API const char *cublasLtGetStatusString(int status) { return cublasLtGetStatusName(status); }
API int cublasLtCreate(Handle **handle) { return *handle = new Handle, SUCCESS; }
API int cublasLtDestroy(Handle *handle) { return delete handle, SUCCESS; }

API int cublasLtMatrixLayoutCreate(Layout **layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    *layout = new Layout{type, rows, cols, ld};
    return SUCCESS;
}
API int cublasLtMatrixLayoutDestroy(Layout *layout) { return delete layout, SUCCESS; }
API int cublasLtMatrixLayoutSetAttribute(Layout *layout, int attribute, const void *from, size_t size) {
    bool taken = attribute == 0   ? take(layout->type, from, size)
                 : attribute == 1 ? take(layout->order, from, size)
                 : attribute == 2 ? take(layout->rows, from, size)
                 : attribute == 3 ? take(layout->cols, from, size)
                 : attribute == 4 ? take(layout->ld, from, size)
                 : attribute == 5 ? take(layout->batches, from, size)
                 : attribute == 6 ? take(layout->stride, from, size)
                                  : false;
    return taken ? SUCCESS : refuse(INVALID_VALUE, "an attribute of a layout");
}

API int cublasLtMatmulDescCreate(Operation **operation, int compute, int scale) {
    *operation = new Operation{compute, scale};
    return SUCCESS;
}
API int cublasLtMatmulDescDestroy(Operation *operation) { return delete operation, SUCCESS; }
API int cublasLtMatmulDescSetAttribute(Operation *operation, int attribute, const void *from, size_t size) {
    Operation &op = *operation;
    bool taken = true;
    int ignored;
    switch (attribute) {
    case 0: taken = take(op.compute, from, size); break;
    case 1: taken = take(op.scale, from, size); break;
    case 2: taken = take(op.pointer_mode, from, size) && op.pointer_mode <= 1; break;
    case 3: taken = take(op.trans_a, from, size) && op.trans_a <= 1; break;
    case 4: taken = take(op.trans_b, from, size) && op.trans_b <= 1; break;
    case 7: taken = take(op.epilogue, from, size); break;
    case 8: taken = take(op.bias, from, size); break;
    case 10: taken = take(op.bias_stride, from, size); break;
    case 15: taken = take(ignored, from, size); break;
    case 26: taken = take(op.bias_type, from, size); break;
    default: op.unknown = true;
    }
    return taken ? SUCCESS : refuse(INVALID_VALUE, "an attribute of a product");
}

API int cublasLtMatmulPreferenceCreate(Preference **preference) { return *preference = new Preference, SUCCESS; }
API int cublasLtMatmulPreferenceDestroy(Preference *preference) { return delete preference, SUCCESS; }
API int cublasLtMatmulPreferenceSetAttribute(Preference *preference, int attribute, const void *from, size_t size) {
    if (attribute == 1) return take(preference->workspace, from, size) ? SUCCESS : INVALID_VALUE;
    if (attribute >= 5 && attribute <= 8) return take(preference->alignment[attribute - 5], from, size) ? SUCCESS : INVALID_VALUE;
    return SUCCESS;
}
API int cublasLtMatmulAlgoGetHeuristic(Handle *, Operation *operation, Layout *a, Layout *b, Layout *c, Layout *d,
                                       Preference *preference, int wanted, Heuristic *results, int *found) {
    *found = 0;
    if (wanted < 1) return INVALID_VALUE;
    if (int code = check(*operation, *a, *b, *c, *d)) return code;
    for (int i = 0; i < std::min(wanted, 3); i++) {
        results[i] = {};
        Algorithm &algorithm = results[i].algorithm;
        memcpy(algorithm.magic, "emulated", 8);
        algorithm.m = d->rows, algorithm.n = d->cols, algorithm.k = operation->trans_a ? a->rows : a->cols;
        memcpy(algorithm.alignment, preference->alignment, sizeof algorithm.alignment);
        algorithm.number = i;
        results[i].waves = 1.0f;
        ++*found;
    }
    return SUCCESS;
}
API int cublasLtMatmulAlgoConfigGetAttribute(const Algorithm *algorithm, int attribute, void *to, size_t size, size_t *written) {
    uint32_t splits = algorithm->number == 1, value = attribute == 2 ? 1 + splits : attribute == 3 ? 2 * splits : 0;
    if (attribute != 2 && attribute != 3) return refuse(INVALID_VALUE, "an attribute of an algorithm that is not emulated");
    if (size != sizeof value) return refuse(INVALID_VALUE, "an attribute's size");
    memcpy(to, &value, sizeof value);
    if (written) *written = sizeof value;
    return SUCCESS;
}
API int cublasLtMatmul(Handle *handle, Operation *operation, const void *alpha, const void *a, Layout *la, const void *b,
                       Layout *lb, const void *beta, const void *c, Layout *lc, void *d, Layout *ld,
                       const Algorithm *algorithm, void *workspace, size_t workspace_size, void *stream) {
    std::unique_lock<std::recursive_mutex> guard(device_lock());
    if (!handle || !operation || !alpha || !beta || !a || !b || !d || !la || !lb || !lc || !ld)
        return refuse(INVALID_VALUE, "a null pointer");
    if (int code = check(*operation, *la, *lb, *lc, *ld)) return code;
    if (algorithm) {
        uint64_t k = operation->trans_a ? la->rows : la->cols;
        if (memcmp(algorithm->magic, "emulated", 8) || algorithm->m != ld->rows || algorithm->n != ld->cols || algorithm->k != k)
            return refuse(INVALID_VALUE, "an algorithm that was chosen for another product");
        const void *pointers[4] = {a, b, c, d};
        // Allocations that end at a guard page are aligned to 16 bytes only.
        const uint32_t most = engine_options().check ? 16 : 256;
        for (int i = 0; i < 4; i++)
            if (pointers[i] && (uint64_t)pointers[i] % std::clamp(algorithm->alignment[i], 1u, most))
                return refuse(INVALID_VALUE, "an operand less aligned than was promised when the algorithm was chosen");
    }
    for (auto [p, type] : {std::pair{a, la->type}, {b, lb->type}, {c, lc->type}, {(const void *)d, ld->type}})
        if (p && (uint64_t)p % bytes_of(type)) return refuse(INVALID_VALUE, "an operand that is not aligned to its type");
    if (c == d && (lc->ld != ld->ld || lc->stride != ld->stride)) return refuse(INVALID_VALUE, "C in place of D, but laid out otherwise");
    Operation op = *operation;
    Layout A = *la, B = *lb, C = *lc, D = *ld;
    float alpha_value = 0, beta_value = 0;
    bool on_device = op.pointer_mode == 1;
    if (!on_device) alpha_value = *(const float *)alpha, beta_value = *(const float *)beta;
    else if (!device_range((uint64_t)alpha, 4, "alpha") || !device_range((uint64_t)beta, 4, "beta")) return EXECUTION_FAILED;
    if (!c && (on_device || beta_value != 0.0f)) return refuse(INVALID_VALUE, "C is null but beta is not zero");
    if (!covered(a, A, "cublasLtMatmul: A") || !covered(b, B, "cublasLtMatmul: B") || !covered(d, D, "cublasLtMatmul: D"))
        return EXECUTION_FAILED;
    if ((on_device || beta_value != 0.0f) && !covered(c, C, "cublasLtMatmul: C")) return EXECUTION_FAILED;
    if (workspace_size && !device_range((uint64_t)workspace, workspace_size, "cublasLtMatmul: workspace")) return EXECUTION_FAILED;
    int bias_type = op.bias_type >= 0 ? op.bias_type : D.type;
    if (op.epilogue & EPILOGUE_BIAS) {
        if (!op.bias) return refuse(INVALID_VALUE, "an epilogue with a bias that is not given");
        if (bias_type != F32 && bias_type != BF16 && bias_type != F16) return refuse(NOT_SUPPORTED, "the bias's type");
        size_t bytes = bytes_of(bias_type);
        for (int i = 0; i < D.batches; i++)
            if (!device_range((uint64_t)op.bias + i * op.bias_stride * bytes, D.rows * bytes, "cublasLtMatmul: bias"))
                return EXECUTION_FAILED;
    }
    // A product may be several kernels with sums and counts in the workspace: another thread's can come between them.
    bool parts = workspace_size >= sizeof(uint64_t);
    static uint64_t products = 0;
    uint64_t ticket = ++products;
    if (parts) {
        if (int code = device_submit(stream, "cublasLtMatmul", [=] { *(uint64_t *)workspace = ticket; })) return code;
        guard.unlock();
        std::this_thread::yield();
        guard.lock();
    }
    bool splits = algorithm && algorithm->number == 1;
    int spare = !algorithm || splits ? 0 : algorithm->number == 0 ? 10 : 5;
    int code = device_submit(stream, "cublasLtMatmul", [=] {
        // Of small products the first choice is the slowest, and what gives other bits the fastest, so that whoever measures
        // takes another and whoever only measures the wrong one.
        auto begin = std::chrono::steady_clock::now();
        while (std::chrono::steady_clock::now() - begin < std::chrono::microseconds(spare)) {}
        if (parts && *(const uint64_t *)workspace != ticket) {
            refuse(EXECUTION_FAILED, "another product came between the parts of one in the same workspace");
            abort();
        }
        float alpha_now = on_device ? *(const float *)alpha : alpha_value, beta_now = on_device ? *(const float *)beta : beta_value;
        for (int i = 0; i < D.batches; i++) {
            const char *bias = (const char *)op.bias + i * op.bias_stride * (int64_t)bytes_of(bias_type);
            multiply(op, alpha_now, batch(a, A, i), A, batch(b, B, i), B, beta_now, batch(c, C, i), C,
                     const_cast<void *>(batch(d, D, i)), D, bias, bias_type, splits);
        }
    });
    return code == 0 ? SUCCESS : EXECUTION_FAILED;
}
