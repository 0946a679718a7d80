// The CUDA driver: one device, whose memory is the host's, whose streams do everything at once.
//
// What a program could get wrong is refused rather than forgiven: copies outside allocations, calls without a current
// context, handles that are gone, waiting or allocating while a stream is captured. Each refusal is said on stderr.
#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "device.h"
#include "engine.h"
#include "faults.h"
#include "image.h"

#define API extern "C" __attribute__((visibility("default")))

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    ECC_UNCORRECTABLE = 214,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    LAUNCH_OUT_OF_RESOURCES = 701,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_IMPLICIT = 906,
    CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908,
};

typedef unsigned long long DevicePointer;
typedef std::function<void()> Work;

struct Context {
    int retained = 0;
};
struct Graph {
    std::vector<Work> nodes;
};
struct Executable {
    std::vector<Work> nodes;
};
struct Stream {
    std::unique_ptr<Graph> capture;  // null when nothing is captured
    bool invalidated = false;
    int mode = 0;
    pid_t capturer = 0;
    std::vector<Work> waiting;  // with CUDA_EMULATOR_LAZY
};
struct Event {
    std::chrono::steady_clock::time_point time;
    bool recorded = false, captured = false;
    Stream *stream = nullptr;
};
struct Module {
    void *library;
    const EmuModule *table;
    std::vector<struct Function *> functions;
};
struct Function {
    Module *module;
    const EmuKernel *kernel;
    int max_dynamic = 48 << 10;
    int fixed() const { return (int)(kernel->shared_end - kernel->shared_begin); }
    int threads() const { return kernel->max_threads ? (int)std::min(kernel->max_threads, 1024u) : 1024; }
};
struct Allocation {
    size_t size;
    void *map;
    size_t map_size;
    bool freed;
};

namespace {

const int SHARED_PER_BLOCK = 48 << 10, SHARED_OPTIN = 232448, SHARED_PER_SM = 233472, SMS = 132;

bool initialized = false, lazy = false;
Context primary;
thread_local Context *current = nullptr;
std::set<void *> handles;  // of streams, events, modules, functions, graphs, executables
std::set<Stream *> capturing, streams;
std::map<uint64_t, Allocation> device_memory, host_memory;
size_t used = 0, limit = (size_t)8 << 30;

int refuse(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
int refuse(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "cuda emulator: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    return code;
}

struct Lock {
    std::lock_guard<std::recursive_mutex> guard{device_lock()};
};

#define ENTER(what)                                                                                                  \
    Lock lock;                                                                                                       \
    const char *const call = what;                                                                                   \
    if (!initialized) return refuse(NOT_INITIALIZED, "%s before cuInit", call);                                      \
    if (!current) return refuse(INVALID_CONTEXT, "%s: no context is current in this thread", call);                  \
    if (device_is_lost()) return ECC_UNCORRECTABLE;                                                                  \
    (void)call

// What may wait for the device is not allowed while this thread, or one in global mode, captures.
#define NOT_WHILE_CAPTURING()                                                                                        \
    do {                                                                                                             \
        if (int code = unsafe_call(call)) return code;                                                               \
    } while (0)

int unsafe_call(const char *call) {
    for (Stream *s : capturing)
        if (s->mode == 0 || (s->mode == 1 && s->capturer == gettid())) {
            s->invalidated = true;
            return refuse(CAPTURE_UNSUPPORTED, "%s while a stream is being captured", call);
        }
    return SUCCESS;
}

bool known(void *handle) { return handles.count(handle) != 0; }
#define KNOWN(handle)                                                                                                \
    if (!known(handle)) return refuse(INVALID_HANDLE, "%s: a handle that does not exist", call)

// The null stream is one like the others here, but may not be used while one of them is captured.
Stream *stream_of(void *handle) {
    static Stream null;
    if (handle == nullptr || handle == (void *)1 || handle == (void *)2) {
        streams.insert(&null);
        return &null;
    }
    return known(handle) ? (Stream *)handle : nullptr;
}

void drain(Stream *s) {
    std::vector<Work> waiting;
    waiting.swap(s->waiting);
    for (Work &work : waiting) work();
}
void drain_all() {
    for (Stream *s : streams) drain(s);
}

int submit(void *handle, const char *call, Work work) {
    Stream *s = stream_of(handle);
    if (!s) return refuse(INVALID_HANDLE, "%s: a stream that does not exist", call);
    if (s->capture) {
        if (s->invalidated) return refuse(CAPTURE_INVALIDATED, "%s: the capture is invalid by an earlier call", call);
        if (s->mode != 2 && s->capturer != gettid())
            return refuse(CAPTURE_WRONG_THREAD, "%s: the stream is captured by another thread", call);
        s->capture->nodes.push_back(std::move(work));
    } else if (handle == nullptr && !capturing.empty()) {
        for (Stream *c : capturing) c->invalidated = true;
        return refuse(CAPTURE_IMPLICIT, "%s on the null stream while another is captured", call);
    } else if (lazy) {
        s->waiting.push_back(std::move(work));
    } else {
        work();
    }
    return SUCCESS;
}

// The allocation that an address lies in, or the nearest below.
std::map<uint64_t, Allocation>::iterator below(std::map<uint64_t, Allocation> &memory, uint64_t address) {
    auto it = memory.upper_bound(address);
    return it == memory.begin() ? memory.end() : std::prev(it);
}

bool inside(std::map<uint64_t, Allocation> &memory, uint64_t address, size_t bytes) {
    auto it = below(memory, address);
    return it != memory.end() && !it->second.freed && address - it->first <= it->second.size &&
           bytes <= it->second.size - (address - it->first);
}

bool allocate(size_t size, Allocation &a, uint64_t &address) {
    const size_t page = 4096;
    if (engine_options().check) {
        // The end at a page that cannot be touched, up to the alignment of the begin.
        size_t rounded = (size + 15) & ~(size_t)15, pages = (rounded + page - 1) & ~(page - 1);
        void *p = mmap(nullptr, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) return false;
        mprotect((char *)p + pages, page, PROT_NONE);
        a = {size, p, pages + page, false};
        address = (uint64_t)p + pages - rounded;
    } else {
        size_t rounded = ((size + 255) & ~(size_t)255);
        void *p = rounded < (1 << 20) ? aligned_alloc(256, rounded)
                                      : mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (!p || p == MAP_FAILED) return false;
        a = {size, p, rounded < (1 << 20) ? 0 : rounded, false};
        address = (uint64_t)p;
    }
    memset((void *)address, 0xff, size);
    return true;
}

// With checks, an address is never given out again, so that its use after this faults.
void release(std::map<uint64_t, Allocation> &memory, std::map<uint64_t, Allocation>::iterator it) {
    Allocation &a = it->second;
    if (engine_options().check) {
        mmap(a.map, a.map_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        a.freed = true;
        return;
    }
    if (a.map_size) munmap(a.map, a.map_size);
    else free(a.map);
    memory.erase(it);
}

int host_allocate(void **to, size_t size) {
    if (!to || size == 0) return INVALID_VALUE;
    Allocation a;
    uint64_t address;
    if (!allocate(size, a, address)) return OUT_OF_MEMORY;
    host_memory[address] = a;
    *to = (void *)address;
    return SUCCESS;
}

struct Error {
    int code;
    const char *name, *text;
};
const Error ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {ECC_UNCORRECTABLE, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not initiated in this stream"},
    {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
};

}  // namespace

std::recursive_mutex &device_lock() {
    static auto *lock = new std::recursive_mutex;  // never destroyed: threads may still be here when the process ends
    return *lock;
}

int device_submit(void *stream, const char *what, Work work) { return submit(stream, what, std::move(work)); }

bool device_range(uint64_t address, size_t bytes, const char *what) {
    if (bytes == 0 || inside(device_memory, address, bytes)) return true;
    char words[200];
    describe_address(address, words, sizeof words);
    refuse(0, "%s: %zu bytes from %#zx on, %s", what, bytes, (size_t)address, words);
    return false;
}

void describe_address(uintptr_t address, char *to, size_t size) {
    auto it = below(device_memory, address);
    if (address < 1 << 16) {
        snprintf(to, size, "near a null pointer");
        return;
    }
    if (it == device_memory.end()) {
        snprintf(to, size, "below all allocations of the device");
        return;
    }
    size_t offset = address - it->first;
    const char *freed = it->second.freed ? ", which was freed" : "";
    if (offset < it->second.size) {
        snprintf(to, size, "byte %zu of an allocation of %zu%s", offset, it->second.size, freed);
    } else {
        snprintf(to, size, "%zu bytes past the end of an allocation of %zu%s", offset - it->second.size, it->second.size,
                 freed);
    }
}

// ---- Device and context ----

API int cuGetErrorName(int error, const char **name) {
    for (const Error &e : ERRORS)
        if (e.code == error) return *name = e.name, SUCCESS;
    return *name = "CUDA_ERROR_UNKNOWN", INVALID_VALUE;
}
API int cuGetErrorString(int error, const char **text) {
    for (const Error &e : ERRORS)
        if (e.code == error) return *text = e.text, SUCCESS;
    return *text = "unknown error", INVALID_VALUE;
}
API int cuInit(unsigned flags) {
    Lock lock;
    if (flags) return INVALID_VALUE;
    if (!initialized) {
        initialized = true;
        const char *memory = getenv("CUDA_EMULATOR_MEMORY"), *wait = getenv("CUDA_EMULATOR_LAZY");
        if (memory && *memory) limit = strtoull(memory, nullptr, 10);
        lazy = wait && *wait && strcmp(wait, "0") != 0;
        engine_install_signal_handlers();
    }
    return SUCCESS;
}
API int cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
API int cuDeviceGetCount(int *count) { return initialized ? (*count = 1, SUCCESS) : NOT_INITIALIZED; }
API int cuDeviceGet(int *device, int ordinal) {
    if (!initialized) return NOT_INITIALIZED;
    return ordinal == 0 ? (*device = 0, SUCCESS) : INVALID_DEVICE;
}
API int cuDeviceGetName(char *name, int length, int) {
    return snprintf(name, (size_t)length, "CUDA emulator"), SUCCESS;
}
API int cuDeviceGetUuid_v2(char *uuid, int) { return memcpy(uuid, "cuda emulator 0", 16), SUCCESS; }
API int cuDeviceGetUuid(char *uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }
API int cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = limit, SUCCESS; }
API int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (!value || device != 0) return INVALID_VALUE;
    static const std::map<int, int> values = {
        {1, 1024},          {2, 1024},        {3, 1024},         {4, 64},           {5, 0x7fffffff},   {6, 65535},
        {7, 65535},         {8, SHARED_PER_BLOCK}, {9, 65536},   {10, 32},          {11, 0x7fffffff},  {12, 65536},
        {13, 1755000},      {14, 512},        {16, SMS},         {19, 1},           {31, 1},           {36, 2619000},
        {37, 5120},         {38, 50 << 20},   {39, 2048},        {40, 3},           {41, 1},           {78, 1},
        {81, SHARED_PER_SM}, {82, 65536},     {83, 1},           {87, 2},           {90, 1},           {95, 1},
        {97, SHARED_OPTIN}, {106, 32},        {111, 1024},       {115, 0},
    };
    const int MAJOR = 75, MINOR = 76;
    if (attribute == MAJOR || attribute == MINOR) return *value = fault_capability(attribute == MINOR), SUCCESS;
    auto it = values.find(attribute);
    *value = it == values.end() ? 0 : it->second;
    return SUCCESS;
}
API int cuDevicePrimaryCtxRetain(Context **context, int device) {
    Lock lock;
    if (!initialized) return NOT_INITIALIZED;
    if (device != 0) return INVALID_DEVICE;
    primary.retained++;
    return *context = &primary, SUCCESS;
}
API int cuDevicePrimaryCtxRelease_v2(int) {
    Lock lock;
    if (primary.retained == 0) return refuse(INVALID_CONTEXT, "cuDevicePrimaryCtxRelease: it is not retained");
    primary.retained--;
    return SUCCESS;
}
API int cuCtxSetCurrent(Context *context) {
    if (context && context != &primary) return INVALID_CONTEXT;
    return current = context, SUCCESS;
}
API int cuCtxGetCurrent(Context **context) { return *context = current, SUCCESS; }
API int cuCtxGetDevice(int *device) { return current ? (*device = 0, SUCCESS) : INVALID_CONTEXT; }
API int cuCtxSynchronize() {
    ENTER("cuCtxSynchronize");
    NOT_WHILE_CAPTURING();
    drain_all();
    return SUCCESS;
}

// ---- Memory ----

API int cuMemGetInfo_v2(size_t *free, size_t *total) {
    ENTER("cuMemGetInfo");
    *total = limit;
    *free = memory_is_full() ? 0 : limit - used;
    return SUCCESS;
}
API int cuMemAlloc_v2(DevicePointer *pointer, size_t size) {
    ENTER("cuMemAlloc");
    NOT_WHILE_CAPTURING();
    if (!pointer || size == 0) return INVALID_VALUE;
    Allocation a;
    uint64_t address;
    if (memory_is_full() || size > limit - used || !allocate(size, a, address)) return OUT_OF_MEMORY;
    used += size;
    device_memory[address] = a;
    return *pointer = address, SUCCESS;
}
API int cuMemFree_v2(DevicePointer pointer) {
    ENTER("cuMemFree");
    NOT_WHILE_CAPTURING();
    if (pointer == 0) return SUCCESS;
    drain_all();
    auto it = device_memory.find(pointer);
    if (it == device_memory.end() || it->second.freed)
        return refuse(INVALID_VALUE, "cuMemFree: %#llx was not allocated, or was freed before", pointer);
    used -= it->second.size;
    release(device_memory, it);
    return SUCCESS;
}
API int cuMemHostAlloc(void **to, size_t size, unsigned) {
    ENTER("cuMemHostAlloc");
    NOT_WHILE_CAPTURING();
    return host_allocate(to, size);
}
API int cuMemAllocHost_v2(void **to, size_t size) {
    ENTER("cuMemAllocHost");
    NOT_WHILE_CAPTURING();
    return host_allocate(to, size);
}
API int cuMemFreeHost(void *pointer) {
    ENTER("cuMemFreeHost");
    NOT_WHILE_CAPTURING();
    drain_all();
    auto it = host_memory.find((uint64_t)pointer);
    if (it == host_memory.end() || it->second.freed)
        return refuse(INVALID_VALUE, "cuMemFreeHost: %p was not allocated, or was freed before", pointer);
    release(host_memory, it);
    return SUCCESS;
}

static int to_device(DevicePointer to, const void *from, size_t bytes, void *handle, const char *call) {
    if (!device_range(to, bytes, call)) return INVALID_VALUE;
    bool pinned = inside(host_memory, (uint64_t)from, bytes);
    Stream *s = stream_of(handle);
    if (s && s->capture && !pinned) {
        s->invalidated = true;
        return refuse(CAPTURE_UNSUPPORTED, "%s from pageable memory while the stream is captured", call);
    }
    if (pinned) return submit(handle, call, [=] { memcpy((void *)to, from, bytes); });
    // Pageable memory has been read when the call returns.
    auto copy = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
    return submit(handle, call, [=] { memcpy((void *)to, copy->data(), bytes); });
}
static int to_host(void *to, DevicePointer from, size_t bytes, void *handle, const char *call) {
    if (!device_range(from, bytes, call)) return INVALID_VALUE;
    bool pinned = inside(host_memory, (uint64_t)to, bytes);
    Stream *s = stream_of(handle);
    if (s && s->capture && !pinned) {
        s->invalidated = true;
        return refuse(CAPTURE_UNSUPPORTED, "%s to pageable memory while the stream is captured", call);
    }
    int code = submit(handle, call, [=] { memcpy(to, (const void *)from, bytes); });
    // A copy to pageable memory has arrived when the call returns.
    if (code == SUCCESS && !pinned) drain(s);
    return code;
}
API int cuMemcpyHtoDAsync_v2(DevicePointer to, const void *from, size_t bytes, void *stream) {
    ENTER("cuMemcpyHtoDAsync");
    return to_device(to, from, bytes, stream, call);
}
API int cuMemcpyDtoHAsync_v2(void *to, DevicePointer from, size_t bytes, void *stream) {
    ENTER("cuMemcpyDtoHAsync");
    return to_host(to, from, bytes, stream, call);
}
API int cuMemcpyHtoD_v2(DevicePointer to, const void *from, size_t bytes) {
    ENTER("cuMemcpyHtoD");
    NOT_WHILE_CAPTURING();
    drain_all();
    int code = to_device(to, from, bytes, nullptr, call);
    drain_all();
    return code;
}
API int cuMemcpyDtoH_v2(void *to, DevicePointer from, size_t bytes) {
    ENTER("cuMemcpyDtoH");
    NOT_WHILE_CAPTURING();
    drain_all();
    int code = to_host(to, from, bytes, nullptr, call);
    drain_all();
    return code;
}
API int cuMemcpyDtoDAsync_v2(DevicePointer to, DevicePointer from, size_t bytes, void *stream) {
    ENTER("cuMemcpyDtoDAsync");
    if (!device_range(to, bytes, call) || !device_range(from, bytes, call)) return INVALID_VALUE;
    if (from < to ? to - from < bytes : from - to < bytes && from != to)
        return refuse(INVALID_VALUE, "cuMemcpyDtoDAsync: source and destination overlap");
    return submit(stream, call, [=] { memmove((void *)to, (const void *)from, bytes); });
}
API int cuMemcpyDtoD_v2(DevicePointer to, DevicePointer from, size_t bytes) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr);
}
API int cuMemsetD8Async(DevicePointer to, unsigned char value, size_t count, void *stream) {
    ENTER("cuMemsetD8Async");
    if (!device_range(to, count, call)) return INVALID_VALUE;
    return submit(stream, call, [=] { memset((void *)to, value, count); });
}
API int cuMemsetD32Async(DevicePointer to, unsigned value, size_t count, void *stream) {
    ENTER("cuMemsetD32Async");
    if (to % 4 || !device_range(to, count * 4, call)) return INVALID_VALUE;
    return submit(stream, call, [=] { std::fill_n((unsigned *)to, count, value); });
}
API int cuMemsetD8_v2(DevicePointer to, unsigned char value, size_t count) {
    return cuMemsetD8Async(to, value, count, nullptr);
}
API int cuMemsetD32_v2(DevicePointer to, unsigned value, size_t count) {
    return cuMemsetD32Async(to, value, count, nullptr);
}

// ---- Streams, graphs, events ----

API int cuStreamCreate(Stream **stream, unsigned) {
    ENTER("cuStreamCreate");
    *stream = new Stream;
    handles.insert(*stream);
    streams.insert(*stream);
    return SUCCESS;
}
API int cuStreamCreateWithPriority(Stream **stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
API int cuStreamDestroy_v2(Stream *stream) {
    ENTER("cuStreamDestroy");
    KNOWN(stream);
    drain(stream);
    capturing.erase(stream);
    streams.erase(stream);
    handles.erase(stream);
    delete stream;
    return SUCCESS;
}
static int wait_for(void *handle, const char *call) {
    Stream *s = stream_of(handle);
    if (!s) return refuse(INVALID_HANDLE, "%s: a stream that does not exist", call);
    if (s->capture) {
        s->invalidated = true;
        return refuse(CAPTURE_UNSUPPORTED, "%s on a stream that is being captured", call);
    }
    return SUCCESS;
}
API int cuStreamSynchronize(void *stream) {
    ENTER("cuStreamSynchronize");
    if (int code = wait_for(stream, call)) return code;
    drain(stream_of(stream));
    return SUCCESS;
}
API int cuStreamQuery(void *stream) {
    ENTER("cuStreamQuery");
    if (int code = wait_for(stream, call)) return code;
    return stream_of(stream)->waiting.empty() ? SUCCESS : NOT_READY;
}
API int cuStreamWaitEvent(void *stream, Event *event, unsigned) {
    ENTER("cuStreamWaitEvent");
    KNOWN(event);
    if (event->captured) return refuse(CAPTURE_UNSUPPORTED, "cuStreamWaitEvent: joining captures is not emulated");
    if (event->stream) drain(event->stream);
    return stream_of(stream) ? SUCCESS : INVALID_HANDLE;
}
API int cuStreamBeginCapture_v2(Stream *stream, int mode) {
    ENTER("cuStreamBeginCapture");
    if (!stream) return refuse(CAPTURE_UNSUPPORTED, "cuStreamBeginCapture: the null stream cannot be captured");
    KNOWN(stream);
    if (stream->capture) return refuse(INVALID_VALUE, "cuStreamBeginCapture: the stream is captured already");
    drain(stream);
    stream->capture = std::make_unique<Graph>();
    stream->invalidated = false;
    stream->mode = mode;
    stream->capturer = gettid();
    capturing.insert(stream);
    return SUCCESS;
}
API int cuStreamEndCapture(Stream *stream, Graph **graph) {
    ENTER("cuStreamEndCapture");
    KNOWN(stream);
    if (!stream->capture) return refuse(CAPTURE_UNMATCHED, "cuStreamEndCapture: the stream is not captured");
    if (stream->mode != 2 && stream->capturer != gettid())
        return refuse(CAPTURE_WRONG_THREAD, "cuStreamEndCapture by a thread that did not begin it");
    capturing.erase(stream);
    std::unique_ptr<Graph> made = std::move(stream->capture);
    *graph = nullptr;
    if (stream->invalidated) return refuse(CAPTURE_INVALIDATED, "cuStreamEndCapture: an earlier call was not permitted");
    *graph = made.release();
    handles.insert(*graph);
    return SUCCESS;
}
API int cuStreamIsCapturing(void *stream, int *status) {
    ENTER("cuStreamIsCapturing");
    Stream *s = stream_of(stream);
    if (!s) return INVALID_HANDLE;
    *status = !s->capture ? 0 : s->invalidated ? 2 : 1;
    return SUCCESS;
}
API int cuGraphGetNodes(Graph *graph, void **nodes, size_t *count) {
    ENTER("cuGraphGetNodes");
    KNOWN(graph);
    if (nodes) return refuse(INVALID_VALUE, "cuGraphGetNodes: only their number is emulated");
    *count = graph->nodes.size();
    return SUCCESS;
}
API int cuGraphInstantiateWithFlags(Executable **executable, Graph *graph, unsigned long long) {
    ENTER("cuGraphInstantiate");
    KNOWN(graph);
    *executable = new Executable{graph->nodes};
    handles.insert(*executable);
    return SUCCESS;
}
API int cuGraphLaunch(Executable *executable, void *stream) {
    fault_launch();
    ENTER("cuGraphLaunch");
    KNOWN(executable);
    return submit(stream, call, [nodes = executable->nodes] {
        for (const Work &work : nodes) work();
    });
}
API int cuGraphUpload(Executable *executable, void *stream) {
    ENTER("cuGraphUpload");
    KNOWN(executable);
    return stream_of(stream) ? SUCCESS : INVALID_HANDLE;
}
API int cuGraphExecDestroy(Executable *executable) {
    ENTER("cuGraphExecDestroy");
    KNOWN(executable);
    handles.erase(executable);
    delete executable;
    return SUCCESS;
}
API int cuGraphDestroy(Graph *graph) {
    ENTER("cuGraphDestroy");
    KNOWN(graph);
    handles.erase(graph);
    delete graph;
    return SUCCESS;
}
API int cuEventCreate(Event **event, unsigned) {
    ENTER("cuEventCreate");
    *event = new Event;
    handles.insert(*event);
    return SUCCESS;
}
API int cuEventRecord(Event *event, void *stream) {
    ENTER("cuEventRecord");
    KNOWN(event);
    Stream *s = stream_of(stream);
    event->captured = s && s->capture;
    event->stream = s;
    event->recorded = false;
    if (event->captured) return submit(stream, call, [] {});
    return submit(stream, call, [=] {
        if (!known(event)) return;
        event->time = std::chrono::steady_clock::now();
        event->recorded = true;
    });
}
API int cuEventSynchronize(Event *event) {
    ENTER("cuEventSynchronize");
    KNOWN(event);
    if (event->captured) return refuse(CAPTURED_EVENT, "cuEventSynchronize on an event of a capture");
    if (event->stream && !event->recorded) drain(event->stream);
    return SUCCESS;
}
API int cuEventQuery(Event *event) {
    ENTER("cuEventQuery");
    KNOWN(event);
    if (event->captured) return refuse(CAPTURED_EVENT, "cuEventQuery on an event of a capture");
    return event->stream && !event->recorded ? NOT_READY : SUCCESS;
}
API int cuEventElapsedTime(float *milliseconds, Event *start, Event *end) {
    ENTER("cuEventElapsedTime");
    KNOWN(start);
    KNOWN(end);
    if (!start->stream || !end->stream) return refuse(INVALID_HANDLE, "cuEventElapsedTime: an event was never recorded");
    if (!start->recorded || !end->recorded) return NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return SUCCESS;
}
API int cuEventElapsedTime_v2(float *milliseconds, Event *start, Event *end) {
    return cuEventElapsedTime(milliseconds, start, end);
}
API int cuEventDestroy_v2(Event *event) {
    ENTER("cuEventDestroy");
    KNOWN(event);
    handles.erase(event);
    delete event;
    return SUCCESS;
}

// ---- Modules and launches ----

API int cuModuleLoadData(Module **module, const void *image) {
    ENTER("cuModuleLoadData");
    NOT_WHILE_CAPTURING();
    ImageHeader header;
    memcpy(&header, image, sizeof header);
    if (memcmp(header.magic, IMAGE_MAGIC, sizeof header.magic) != 0)
        return refuse(INVALID_IMAGE, "cuModuleLoadData: the image is not of the emulator's NVRTC");
    __builtin_cpu_init();
    if (header.needs_fma && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")))
        return refuse(NO_BINARY_FOR_GPU, "cuModuleLoadData: the image was made on another kind of CPU");
    const char *temporary = getenv("TMPDIR");
    std::string path = std::string(temporary && *temporary ? temporary : "/tmp") + "/cuda_emulator_XXXXXX";
    int file = mkstemp(path.data());
    if (file < 0) return refuse(INVALID_IMAGE, "cuModuleLoadData: %s cannot be made", path.c_str());
    const char *bytes = (const char *)image + sizeof header;
    size_t done = 0;
    while (done < header.length) {
        ssize_t n = write(file, bytes + done, header.length - done);
        if (n <= 0) break;
        done += (size_t)n;
    }
    close(file);
    void *library = done == header.length ? dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
    const char *problem = library ? nullptr : done == header.length ? dlerror() : "the disk is full";
    if (!getenv("CUDA_EMULATOR_KEEP")) unlink(path.c_str());
    if (!library) return refuse(INVALID_IMAGE, "cuModuleLoadData: %s", problem);
    auto *table = (const EmuModule *)dlsym(library, "emu_module");
    if (!table || table->abi != EMU_ABI) {
        dlclose(library);
        return refuse(INVALID_IMAGE, "cuModuleLoadData: the image is of another version of the emulator");
    }
    for (unsigned i = 0; i < table->kernel_count; i++) {
        const EmuKernel &k = table->kernels[i];
        if (k.shared_end - k.shared_begin > SHARED_PER_BLOCK)
            return refuse(INVALID_IMAGE, "kernel `%s` has %td bytes of static shared memory", k.name,
                          k.shared_end - k.shared_begin);
    }
    *table->runtime = &engine_runtime;
    *module = new Module{library, table, {}};
    handles.insert(*module);
    return SUCCESS;
}
API int cuModuleLoadDataEx(Module **module, const void *image, unsigned, void *, void *) {
    return cuModuleLoadData(module, image);
}
API int cuModuleUnload(Module *module) {
    ENTER("cuModuleUnload");
    KNOWN(module);
    drain_all();
    for (Function *f : module->functions) {
        handles.erase(f);
        delete f;
    }
    handles.erase(module);
    dlclose(module->library);
    delete module;
    return SUCCESS;
}
API int cuModuleGetFunction(Function **function, Module *module, const char *name) {
    ENTER("cuModuleGetFunction");
    KNOWN(module);
    for (Function *f : module->functions)
        if (strcmp(f->kernel->name, name) == 0) return *function = f, SUCCESS;
    for (unsigned i = 0; i < module->table->kernel_count; i++)
        if (strcmp(module->table->kernels[i].name, name) == 0) {
            *function = new Function{module, &module->table->kernels[i]};
            module->functions.push_back(*function);
            handles.insert(*function);
            return SUCCESS;
        }
    return refuse(NOT_FOUND, "cuModuleGetFunction: there is no kernel `%s`", name);
}
API int cuFuncSetAttribute(Function *function, int attribute, int value) {
    ENTER("cuFuncSetAttribute");
    KNOWN(function);
    if (attribute != 8) return SUCCESS;
    if (value < 0 || value + function->fixed() > SHARED_OPTIN)
        return refuse(INVALID_VALUE, "kernel `%s`: %d bytes of dynamic and %d of static shared memory are more than %d",
                      function->kernel->name, value, function->fixed(), SHARED_OPTIN);
    function->max_dynamic = value;
    return SUCCESS;
}
API int cuFuncGetAttribute(int *value, int attribute, Function *function) {
    ENTER("cuFuncGetAttribute");
    KNOWN(function);
    switch (attribute) {
    case 0: *value = function->threads(); break;
    case 1: *value = function->fixed(); break;
    case 4: *value = 32; break;
    case 5:
    case 6: *value = 90; break;
    case 8: *value = function->max_dynamic; break;
    case 9: *value = -1; break;
    default: *value = 0;
    }
    return SUCCESS;
}
API int cuFuncSetCacheConfig(Function *, int) { return SUCCESS; }
API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, Function *function, int threads, size_t shared) {
    ENTER("cuOccupancyMaxActiveBlocksPerMultiprocessor");
    KNOWN(function);
    if (threads < 1) return INVALID_VALUE;
    int by_threads = threads > function->threads() ? 0 : 2048 / ((threads + 31) / 32 * 32);
    int by_shared = (int)(SHARED_PER_SM / (shared + (size_t)function->fixed() + 1024));
    *blocks = std::min({by_threads, by_shared, 32});
    return SUCCESS;
}
API int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, Function *function, int threads, size_t shared,
                                                             unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared);
}

// The parameters of a launch, copied: what the pointers led to may be gone when the kernel runs.
struct Parameters {
    std::vector<unsigned long long> words;
    std::vector<void *> pointers;

    Parameters(const EmuKernel &kernel, void **given) {
        std::vector<size_t> at;
        size_t total = 0;
        for (unsigned i = 0; i < kernel.count; i++) {
            at.push_back(total);
            total += (kernel.sizes[i] + 15) / 16 * 2;
        }
        words.resize(total + 2);
        auto *base = (unsigned long long *)(((uintptr_t)words.data() + 15) & ~(uintptr_t)15);
        for (unsigned i = 0; i < kernel.count; i++) {
            memcpy(base + at[i], given[i], kernel.sizes[i]);
            pointers.push_back(base + at[i]);
        }
    }
};

API int cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned shared, void *stream, void **params, void **extra) {
    fault_launch();
    ENTER("cuLaunchKernel");
    KNOWN(function);
    const EmuKernel &kernel = *function->kernel;
    if (!gx || !gy || !gz || !bx || !by || !bz || gx > 0x7fffffff || gy > 65535 || gz > 65535)
        return refuse(INVALID_VALUE, "kernel `%s`: a grid of (%u, %u, %u) blocks of (%u, %u, %u)", kernel.name, gx, gy, gz,
                      bx, by, bz);
    unsigned long long threads = (unsigned long long)bx * by * bz;
    if (threads > 1024 || bz > 64)
        return refuse(INVALID_VALUE, "kernel `%s`: blocks of %llu threads", kernel.name, threads);
    if (kernel.max_threads && threads > kernel.max_threads)
        return refuse(LAUNCH_OUT_OF_RESOURCES, "kernel `%s`: blocks of %llu threads, by its launch bounds %u at most",
                      kernel.name, threads, kernel.max_threads);
    if ((int)shared > function->max_dynamic || (int)shared + function->fixed() > SHARED_OPTIN)
        return refuse(INVALID_VALUE, "kernel `%s`: %u bytes of dynamic shared memory, %d beside %d are permitted",
                      kernel.name, shared, function->max_dynamic, function->fixed());
    if (extra || (kernel.count && !params))
        return refuse(INVALID_VALUE, "kernel `%s`: its %u parameters are not given", kernel.name, kernel.count);
    auto copy = std::make_shared<Parameters>(kernel, params);
    EmuIndex grid = {gx, gy, gz}, block = {bx, by, bz};
    const EmuModule *module = function->module->table;
    return submit(stream, call, [=, &kernel] {
        engine_run(*module, kernel, grid, block, shared, copy->pointers.data());
    });
}

// A kernel that may begin early begins in its turn, which is always right.
struct LaunchConfig {
    unsigned gx, gy, gz, bx, by, bz, shared;
    void *stream;
    void *attributes;
    unsigned count;
};
API int cuLaunchKernelEx(const LaunchConfig *config, Function *function, void **params, void **extra) {
    return cuLaunchKernel(function, config->gx, config->gy, config->gz, config->bx, config->by, config->bz,
                          config->shared, config->stream, params, extra);
}
