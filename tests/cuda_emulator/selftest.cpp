// What the emulator promises, tried through the calls a program makes. Prints what fails; exits with 1 if anything did.
// With `--die N` it runs one kernel that has to end the process.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

extern "C" {
typedef unsigned long long DevicePointer;
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void **, int);
int cuCtxSetCurrent(void *);
int cuStreamCreate(void **, unsigned);
int cuStreamSynchronize(void *);
int cuStreamBeginCapture_v2(void *, int);
int cuStreamEndCapture(void *, void **);
int cuGraphInstantiateWithFlags(void **, void *, unsigned long long);
int cuGraphGetNodes(void *, void **, size_t *);
int cuGraphLaunch(void *, void *);
int cuMemAlloc_v2(DevicePointer *, size_t);
int cuMemFree_v2(DevicePointer);
int cuMemcpyHtoDAsync_v2(DevicePointer, const void *, size_t, void *);
int cuMemcpyDtoHAsync_v2(void *, DevicePointer, size_t, void *);
int cuMemsetD8Async(DevicePointer, unsigned char, size_t, void *);
int cuModuleLoadData(void **, const void *);
int cuModuleGetFunction(void **, void *, const char *);
int cuFuncSetAttribute(void *, int, int);
int cuFuncGetAttribute(int *, int, void *);
int cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
int nvrtcCreateProgram(void **, const char *, const char *, int, const char *const *, const char *const *);
int nvrtcCompileProgram(void *, int, const char *const *);
int nvrtcGetCUBINSize(void *, size_t *);
int nvrtcGetCUBIN(void *, char *);
int nvrtcGetProgramLogSize(void *, size_t *);
int nvrtcGetProgramLog(void *, char *);
int cublasLtCreate(void **);
int cublasLtMatrixLayoutCreate(void **, int, uint64_t, uint64_t, int64_t);
int cublasLtMatrixLayoutSetAttribute(void *, int, const void *, size_t);
int cublasLtMatmulDescCreate(void **, int, int);
int cublasLtMatmulDescSetAttribute(void *, int, const void *, size_t);
int cublasLtMatmulPreferenceCreate(void **);
int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *, int, void *, int *);
int cublasLtMatmul(void *, void *, const void *, const void *, void *, const void *, void *, const void *, const void *,
                   void *, void *, void *, const void *, void *, size_t, void *);
}

static const char *SOURCE = R"(
// extern "C" __global__ void in_a_comment(int *x) { __shared__ int y[1]; }
#if USED
#define THREADS 256
#else
extern "C" __global__ void not_taken(int *x) {}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 2) sum_rows(float *__restrict__ y, const float *__restrict__ x, int n) {
    __shared__ float part[THREADS / 32];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[(long long)blockIdx.x * n + i];
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0.0f;
        for (int w = 0; w < THREADS / 32; w++) total += part[w];
        y[blockIdx.x] = total;
    }
}

struct Pair { unsigned char a; double b; };

extern "C" __global__ void reversed(float *y, const float *x, unsigned n, Pair pair) {
    extern __shared__ __align__(16) unsigned char memory[];
    float *copy = (float *)memory;
    copy[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = copy[n - 1 - threadIdx.x] + (float)pair.b + pair.a;
}

extern "C" __global__ void lanes(unsigned *y) {
    unsigned lane = threadIdx.x;
    y[lane] = __shfl_sync(0xffffffffu, lane * 10, 5);
    y[32 + lane] = __shfl_up_sync(0xffffffffu, lane, 3);
    y[64 + lane] = __shfl_down_sync(0xffffffffu, lane, 3);
    y[96 + lane] = __shfl_xor_sync(0xffffffffu, lane, 4, 8);
    y[128 + lane] = __ballot_sync(0xffffffffu, lane % 3 == 0);
    y[160 + lane] = __any_sync(0xffffffffu, lane == 7) + 2 * __all_sync(0xffffffffu, lane < 32) + 4 * __all_sync(0xffffffffu, lane < 31);
    if (lane < 16) y[192 + lane] = __shfl_sync(0x0000ffffu, lane, 2);
    else y[192 + lane] = (unsigned)(__shfl_down_sync(0xffff0000u, (unsigned long long)lane << 40, 1, 16) >> 40);
    __syncwarp();
    y[224 + lane] = __syncthreads_count(lane < 9) + 100 * __syncthreads_or(lane == 3) + 1000 * __syncthreads_and(lane < 4);
    y[256 + lane] = __reduce_add_sync(0xffffffffu, lane);
    y[288 + lane] = __match_any_sync(0xffffffffu, lane / 8);
    y[320 + lane] = (unsigned)__reduce_min_sync(0xffffffffu, (int)lane - 5);
}

// One warp makes numbers, two take them; a slot is written again when both have passed.
extern "C" __global__ void hand_over(int *y, int rounds) {
    __shared__ int slot[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int sum = 0;
    for (int i = 0; i < rounds; i++) {
        if (warp == 0) {
            if (i > 0) emulated_barrier(2, 96, true);
            slot[lane] = i * lane;
            emulated_barrier(1, 96, false);
        } else {
            emulated_barrier(1, 96, true);
            sum += slot[31 - lane];
            if (i + 1 < rounds) emulated_barrier(2, 96, false);
        }
    }
    if (warp > 0) y[threadIdx.x - 32] = sum;
}

extern "C" __global__ void fresh_shared(unsigned *y) {
    __shared__ unsigned x[32];
    y[blockIdx.x * 32 + threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = threadIdx.x;
}

extern "C" __global__ void partial(int *y, int n) {
    if (threadIdx.x >= n) return;
    int x = __shfl_xor_sync(0xffffffffu, (int)threadIdx.x, 1);
    y[threadIdx.x] = x + blockDim.x * (threadIdx.y + blockIdx.y);
}

extern "C" __global__ void add(float *y, const float *x, float a, long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
}

extern "C" __global__ void diverges(int *y) {
    if (threadIdx.x < 3) __syncthreads();
    else y[0] = __shfl_sync(0xffffffffu, 1, 0);
}
extern "C" __global__ void two_barriers() {
    if (threadIdx.x < 32) __syncthreads();
    else {
        __syncthreads();
    }
}
extern "C" __global__ void comes_twice() {
    for (int i = 0; i < 2; i++) emulated_barrier(1, 64, false);
}
extern "C" __global__ void waits_alone() {
    if (threadIdx.x < 32) emulated_barrier(1, 64, true);
}
extern "C" __global__ void past_the_end(float *y, int n) { y[n] = 1.0f; }
extern "C" __global__ void misaligned(float4 *y) { *(float4 *)((float *)y + 1) = make_float4(1, 2, 3, 4); }
extern "C" __global__ void past_shared(int *y, int n) {
    __shared__ int x[4];
    x[n] = 1;
    y[0] = x[0];
}
extern "C" __global__ void past_dynamic(int n) {
    extern __shared__ float dynamic[];
    dynamic[n] = 1.0f;
}
extern "C" __global__ void deep(int *y, int n) {
    int big[60000];
    for (int i = 0; i < n; i++) big[i * 60 % 60000] = y[i];
    for (int i = 0; i < n; i++) y[i] = big[60000 - 1 - i];
}
)";

static int failures = 0;
#define EXPECT(x)                                                                        \
    do {                                                                                 \
        if (!(x)) printf("selftest line %d: %s\n", __LINE__, #x), failures++;   \
    } while (0)
#define OK(x) EXPECT((x) == 0)

static void *stream, *module_;

static DevicePointer allocate(size_t bytes) {
    DevicePointer p = 0;
    OK(cuMemAlloc_v2(&p, bytes));
    return p;
}
template <typename T> DevicePointer upload(const std::vector<T> &x) {
    DevicePointer p = allocate(x.size() * sizeof(T));
    OK(cuMemcpyHtoDAsync_v2(p, x.data(), x.size() * sizeof(T), stream));
    return p;
}
template <typename T> std::vector<T> download(DevicePointer p, size_t n) {
    std::vector<T> x(n);
    OK(cuMemcpyDtoHAsync_v2(x.data(), p, n * sizeof(T), stream));
    OK(cuStreamSynchronize(stream));
    return x;
}
static void *function(const char *name) {
    void *f = nullptr;
    OK(cuModuleGetFunction(&f, module_, name));
    return f;
}
template <typename... A> int launch(const char *name, unsigned grid, unsigned block, unsigned shared, A... args) {
    void *params[] = {&args..., nullptr};
    return cuLaunchKernel(function(name), grid, 1, 1, block, 1, 1, shared, stream, params, nullptr);
}

static void load() {
    void *program;
    OK(nvrtcCreateProgram(&program, SOURCE, "selftest.cu", 0, nullptr, nullptr));
    const char *options[] = {"--gpu-architecture=sm_90", "--std=c++17", "-DUSED=1"};
    int code = nvrtcCompileProgram(program, 3, options);
    size_t size = 0;
    OK(nvrtcGetProgramLogSize(program, &size));
    std::string log(size, ' ');
    OK(nvrtcGetProgramLog(program, log.data()));
    if (code) printf("%s\n", log.c_str()), exit(1);
    OK(nvrtcGetCUBINSize(program, &size));
    std::vector<char> image(size);
    OK(nvrtcGetCUBIN(program, image.data()));
    OK(cuModuleLoadData(&module_, image.data()));

    OK(nvrtcCreateProgram(&program, "\n\nextern \"C\" __global__ void bad() { missing(); }", "bad.cu", 0, nullptr, nullptr));
    EXPECT(nvrtcCompileProgram(program, 0, nullptr) == 6);
    OK(nvrtcGetProgramLogSize(program, &size));
    log.assign(size, ' ');
    OK(nvrtcGetProgramLog(program, log.data()));
    EXPECT(log.find("bad.cu:3:") != std::string::npos && log.find("missing") != std::string::npos);
}

static void test_kernels() {
    int rows = 5, n = 1000;
    std::vector<float> x(rows * n);
    for (size_t i = 0; i < x.size(); i++) x[i] = (float)(i % 7);
    DevicePointer dx = upload(x), dy = allocate(rows * 4);
    EXPECT(std::isnan(download<float>(dy, rows)[0]));
    OK(launch("sum_rows", rows, 256, 0, dy, dx, n));
    EXPECT(launch("sum_rows", rows, 512, 0, dy, dx, n) != 0);
    EXPECT(launch("sum_rows", 0, 256, 0, dy, dx, n) != 0);
    std::vector<float> y = download<float>(dy, rows);
    for (int r = 0; r < rows; r++) {
        float sum = 0;
        for (int i = 0; i < n; i++) sum += x[r * n + i];
        EXPECT(y[r] == sum);
    }
    int value = 0;
    OK(cuFuncGetAttribute(&value, 1, function("sum_rows")));
    EXPECT(value == 32);

    struct Pair {
        unsigned char a;
        double b;
    } pair = {1, 2.0};
    unsigned count = 700;
    DevicePointer dr = allocate(count * 4);
    OK(launch("reversed", 1, count, count * 4, dr, dx, count, pair));
    std::vector<float> r = download<float>(dr, count);
    for (unsigned i = 0; i < count; i++) EXPECT(r[i] == x[count - 1 - i] + 3.0f);
    EXPECT(launch("reversed", 1, count, 100 << 10, dr, dx, count, pair) != 0);
    OK(cuFuncSetAttribute(function("reversed"), 8, 100 << 10));
    OK(launch("reversed", 1, count, 100 << 10, dr, dx, count, pair));

    DevicePointer dl = allocate(352 * 4);
    OK(launch("lanes", 1, 32, 0, dl));
    std::vector<unsigned> l = download<unsigned>(dl, 352);
    for (unsigned i = 0; i < 32; i++) {
        EXPECT(l[i] == 50);
        EXPECT(l[32 + i] == (i < 3 ? i : i - 3));
        EXPECT(l[64 + i] == (i > 28 ? i : i + 3));
        EXPECT(l[96 + i] == (i ^ 4));
        EXPECT(l[128 + i] == 0x49249249u);
        EXPECT(l[160 + i] == 3);
        EXPECT(l[192 + i] == (i < 16 ? 2 : i == 31 ? 31 : i + 1));
        EXPECT(l[224 + i] == 109);
        EXPECT(l[256 + i] == 496);
        EXPECT(l[288 + i] == 0xffu << (i / 8 * 8));
        EXPECT((int)l[320 + i] == -5);
    }

    DevicePointer df = allocate(64 * 4);
    DevicePointer dh = allocate(64 * 4);
    int handed[64];
    OK(launch("hand_over", 1, 96, 0, dh, 5));
    OK(cuMemcpyDtoHAsync_v2(handed, dh, sizeof handed, stream));
    OK(cuStreamSynchronize(stream));
    for (int i = 0; i < 64; i++) EXPECT(handed[i] == 10 * (31 - i % 32));
    OK(launch("fresh_shared", 2, 32, 0, df));
    for (unsigned u : download<unsigned>(df, 64)) EXPECT(u == 0xffffffffu);

    DevicePointer dp = upload(std::vector<int>(33, 0));
    OK(launch("partial", 1, 33, 0, dp, 20));
    std::vector<int> p = download<int>(dp, 33);
    for (int i = 0; i < 33; i++) EXPECT(p[i] == (i < 20 ? (i ^ 1) : 0));

    // Outside its allocation, and without one.
    EXPECT(cuMemcpyDtoHAsync_v2(x.data(), dy, rows * 4 + 1, stream) == 1);
    EXPECT(cuMemsetD8Async(dy, 0, 1 << 20, stream) == 1);
    OK(cuMemFree_v2(dl));
    EXPECT(cuMemFree_v2(dl) == 1);
    DevicePointer much;
    EXPECT(cuMemAlloc_v2(&much, (size_t)1 << 45) == 2);
}

static void test_graph() {
    long long n = 100;
    std::vector<float> ones(n, 1.0f);
    DevicePointer dx = upload(ones), dy = allocate(n * 4);
    OK(cuStreamSynchronize(stream));
    OK(cuStreamBeginCapture_v2(stream, 1));
    OK(cuMemsetD8Async(dy, 0, n * 4, stream));
    for (int i = 1; i <= 3; i++) OK(launch("add", 1, 128, 0, dy, dx, (float)i, n));
    void *graph, *executable;
    OK(cuStreamEndCapture(stream, &graph));
    size_t nodes = 0;
    OK(cuGraphGetNodes(graph, nullptr, &nodes));
    EXPECT(nodes == 4);
    EXPECT(std::isnan(download<float>(dy, n)[0]));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    for (int i = 0; i < 2; i++) {
        OK(cuGraphLaunch(executable, stream));
        EXPECT(download<float>(dy, n)[99] == 6.0f);
    }
    // Waiting, allocating and copies of pageable memory are no part of a capture.
    for (int what = 0; what < 3; what++) {
        OK(cuStreamBeginCapture_v2(stream, 1));
        DevicePointer p;
        int code = what == 0   ? cuStreamSynchronize(stream)
                   : what == 1 ? cuMemAlloc_v2(&p, 16)
                               : cuMemcpyDtoHAsync_v2(ones.data(), dx, 4, stream);
        EXPECT(code == 900);
        EXPECT(cuStreamEndCapture(stream, &graph) == 901 && graph == nullptr);
    }
}

static uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static float from_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

static void test_products() {
    void *handle, *preference;
    OK(cublasLtCreate(&handle));
    OK(cublasLtMatmulPreferenceCreate(&preference));
    unsigned seed = 1;
    auto number = [&] { return (float)((seed = seed * 1664525u + 1013904223u) >> 24) / 128.0f - 1.0f; };
    for (int mask = 0; mask < 32; mask++) {
        int ta = mask & 1, tb = mask >> 1 & 1;
        bool half = mask & 4, wide = mask & 8, biased = mask & 16;
        int m = 37, n = 11, k = 29, batches = 2, pad = 3, type = half ? 14 : 0, out = half && !wide ? 14 : 0;
        int ra = ta ? k : m, ca = ta ? m : k, rb = tb ? n : k, cb = tb ? k : n;
        int64_t lda = ra + pad, ldb = rb + pad, ldc = m + pad, sa = lda * ca, sb = ldb * cb, sc = ldc * n;
        auto fill = [&](std::vector<float> &v, size_t size, int t) {
            v.resize(size);
            for (float &x : v) x = t == 14 ? from_bf16(to_bf16(number())) : number();
        };
        std::vector<float> a, b, c, bias;
        fill(a, sa * batches, type), fill(b, sb * batches, type), fill(c, sc * batches, out), fill(bias, m, 0);
        auto put = [&](const std::vector<float> &v, int t) {
            if (t == 0) return upload(v);
            std::vector<uint16_t> h;
            for (float x : v) h.push_back(to_bf16(x));
            return upload(h);
        };
        DevicePointer da = put(a, type), db = put(b, type), dc = put(c, out), dbias = upload(bias);
        void *op, *la, *lb, *lc;
        OK(cublasLtMatmulDescCreate(&op, 68, 0));
        OK(cublasLtMatmulDescSetAttribute(op, 3, &ta, 4));
        OK(cublasLtMatmulDescSetAttribute(op, 4, &tb, 4));
        if (biased) {
            int epilogue = 4, bias_type = 0;
            OK(cublasLtMatmulDescSetAttribute(op, 7, &epilogue, 4));
            OK(cublasLtMatmulDescSetAttribute(op, 8, &dbias, 8));
            OK(cublasLtMatmulDescSetAttribute(op, 26, &bias_type, 4));
        }
        OK(cublasLtMatrixLayoutCreate(&la, type, ra, ca, lda));
        OK(cublasLtMatrixLayoutCreate(&lb, type, rb, cb, ldb));
        OK(cublasLtMatrixLayoutCreate(&lc, out, m, n, ldc));
        int64_t strides[] = {sa, sb, sc};
        void *layouts[] = {la, lb, lc};
        for (int i = 0; i < 3; i++) {
            OK(cublasLtMatrixLayoutSetAttribute(layouts[i], 5, &batches, 4));
            OK(cublasLtMatrixLayoutSetAttribute(layouts[i], 6, &strides[i], 8));
        }
        struct {
            unsigned long long algorithm[8];
            size_t workspace;
            int state;
            float waves;
            int reserved[4];
        } result;
        int found = 0;
        OK(cublasLtMatmulAlgoGetHeuristic(handle, op, la, lb, lc, lc, preference, 1, &result, &found));
        EXPECT(found == 1 && result.state == 0);
        float alpha = 0.5f, beta = mask % 3 ? 2.0f : 0.0f;
        OK(cublasLtMatmul(handle, op, &alpha, (void *)da, la, (void *)db, lb, &beta, (void *)dc, lc, (void *)dc, lc,
                          result.algorithm, nullptr, 0, stream));
        std::vector<float> d;
        if (out == 0) d = download<float>(dc, sc * batches);
        else
            for (uint16_t x : download<uint16_t>(dc, sc * batches)) d.push_back(from_bf16(x));
        double worst = 0;
        for (int batch = 0; batch < batches; batch++)
            for (int j = 0; j < n; j++)
                for (int64_t i = 0; i < ldc; i++) {
                    size_t at = batch * sc + j * ldc + i;
                    double sum = 0;
                    for (int l = 0; i < m && l < k; l++)
                        sum += (double)a[batch * sa + (ta ? i * lda + l : l * lda + i)] *
                               b[batch * sb + (tb ? l * ldb + j : j * ldb + l)];
                    double expected = i < m ? 0.5 * sum + beta * c[at] + (biased ? bias[i] : 0.0f) : c[at];
                    worst = std::max(worst, std::fabs(d[at] - expected) / (1 + std::fabs(expected)));
                }
        EXPECT(worst < (out == 14 ? 4e-3 : 1e-5));
    }
    void *op, *la, *lb, *lc;
    OK(cublasLtMatmulDescCreate(&op, 68, 0));
    OK(cublasLtMatrixLayoutCreate(&la, 0, 4, 4, 4));
    OK(cublasLtMatrixLayoutCreate(&lb, 14, 4, 4, 4));
    OK(cublasLtMatrixLayoutCreate(&lc, 0, 5, 4, 5));
    int found;
    char result[128];
    EXPECT(cublasLtMatmulAlgoGetHeuristic(handle, op, la, la, lb, lb, preference, 1, result, &found) == 15);
    EXPECT(cublasLtMatmulAlgoGetHeuristic(handle, op, la, la, lc, lc, preference, 1, result, &found) == 7);
}

static void die(int which) {
    DevicePointer y = allocate(64);
    switch (which) {
    case 0: launch("diverges", 1, 32, 0, y); break;
    case 1: launch("two_barriers", 1, 64, 0); break;
    case 2: launch("past_the_end", 1, 1, 0, y, 16); break;
    case 3: launch("misaligned", 1, 1, 0, y); break;
    case 4: launch("past_shared", 1, 1, 0, y, 4); break;
    case 5: launch("past_dynamic", 1, 1, 64, 16); break;
    case 6: launch("deep", 1, 1, 0, y, 16); break;
    case 7: launch("comes_twice", 1, 64, 0); break;
    case 8: launch("waits_alone", 1, 64, 0); break;
    }
    cuStreamSynchronize(stream);
}

int main(int argc, char **argv) {
    void *context;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuStreamCreate(&stream, 1));
    if (argc == 1 && !freopen("/dev/null", "w", stderr)) return 1;  // refusals are expected
    load();
    if (argc == 3) return die(atoi(argv[2])), 0;
    test_kernels();
    test_graph();
    test_products();
    const char *check = getenv("CUDA_EMULATOR_CHECK");
    for (int which = 0; which < 9; which++) {
        if (which >= 2 && which <= 5 && !check) continue;
        std::string command = std::string(argv[0]) + " --die " + std::to_string(which) + " 2>&1 | grep 'kernel `' > /dev/null";
        if (system(command.c_str()) != 0) printf("selftest: faulty kernel %d was not found out\n", which), failures++;
    }
    if (failures) return printf("%d failures\n", failures), 1;
    printf("cuda emulator: all as promised\n");
    return 0;
}
