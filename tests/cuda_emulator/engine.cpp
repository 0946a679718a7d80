// Fibers, barriers and what the lanes of a warp exchange.
//
// A fiber runs until it waits: at a barrier of its block, or with its warp for lanes that have not arrived yet. The last
// to arrive does the work for all, marks the others ready and goes on. When nothing is ready and not all are done, the
// kernel is stuck; who waits where is printed and the process ends.
#include "engine.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

namespace {

const size_t PAGE = 4096, STACK = 64 << 10, MAX_THREADS = 1024;

extern "C" void emu_switch(void **save, void *load);
__asm__(R"(
    .text
    .hidden emu_switch
    .globl emu_switch
    .type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emu_switch, .-emu_switch
)");

enum Waiting { NOT, FOR_BLOCK, FOR_NAMED, FOR_WARP, DONE };

struct Fiber {
    void *stack_pointer;
    EmuIndex index;
    unsigned warp, lane;
    Waiting waiting;
    int op, line;
    // What it brought to its warp, and what it takes away.
    unsigned long long value, result;
    int argument, width;
};

// Lanes that have arrived at one operation of their warp.
struct Group {
    int op;
    unsigned mask, arrived;
};

struct Warp {
    unsigned live, ready, parked;
    int groups;
    Group group[32];
};

// A barrier by number: who has come to it, and of those who waits.
struct Named {
    unsigned count, arrived;
    unsigned come[MAX_THREADS / 32], parked[MAX_THREADS / 32];
};
const unsigned NAMED = 16;

struct Engine {
    const EmuModule *module;
    const EmuKernel *kernel;
    void **params;
    EmuIndex grid, block, at;
    unsigned threads, done;
    bool running;
    pid_t thread;

    Fiber fibers[MAX_THREADS];
    Warp warps[MAX_THREADS / 32];
    unsigned made, current;
    char *stacks;
    void *scheduler;

    // The barrier.
    unsigned arrived;
    int barrier_op, barrier_line, count, result;
    bool all, any;
    Named named[NAMED];

    unsigned char *shared, *shared_end;  // dynamic shared memory; a guard page follows
    int order;
    uint64_t random;
} engine;

const char *const OPS[] = {"__shfl_sync",    "__shfl_up_sync",    "__shfl_down_sync",  "__shfl_xor_sync",
                           "__ballot_sync",  "__any_sync",        "__all_sync",        "__syncwarp",
                           "__match_any_sync", "__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync",
                           "__reduce_and_sync", "__reduce_or_sync", "__reduce_xor_sync"};
const char *const BLOCK_OPS[] = {"__syncthreads", "__syncthreads_count", "__syncthreads_and", "__syncthreads_or"};

void print_place(const Fiber &f) {
    fprintf(stderr, "  kernel `%s`, grid (%u, %u, %u) of (%u, %u, %u), block (%u, %u, %u), thread (%u, %u, %u)\n",
            engine.kernel->name, engine.grid.x, engine.grid.y, engine.grid.z, engine.block.x, engine.block.y,
            engine.block.z, engine.at.x, engine.at.y, engine.at.z, f.index.x, f.index.y, f.index.z);
}

[[noreturn]] void die(const Fiber &f) {
    print_place(f);
    fflush(stderr);
    engine.running = false;
    abort();
}

uint64_t next_random() {
    engine.random ^= engine.random << 13;
    engine.random ^= engine.random >> 7;
    engine.random ^= engine.random << 17;
    return engine.random;
}

// The next lane of a warp to run, of those that are ready.
unsigned draw(Warp &warp) {
    unsigned rest = warp.ready;
    if (engine.order == EngineOptions::RANDOM) {
        for (unsigned skip = next_random() % __builtin_popcount(rest); skip > 0; skip--) rest &= rest - 1;
    }
    unsigned lane = engine.order == EngineOptions::REVERSE ? 31 - __builtin_clz(rest) : __builtin_ctz(rest);
    warp.ready &= ~(1u << lane);
    return lane;
}

// Leaves one stack, which `save` remembers, for that of a thread.
void go_on(void **save, unsigned thread) {
    engine.current = thread;
    Fiber &f = engine.fibers[thread];
    f.waiting = NOT;
    *engine.module->thread = f.index;
    emu_switch(save, f.stack_pointer);
}

// The thread that runs waits. Another of its warp goes on, without the scheduler in between: switches are what emulating
// costs, and a processor predicts well where one ends that goes from fiber to fiber.
void yield() {
    Fiber &f = engine.fibers[engine.current];
    Warp &warp = engine.warps[f.warp];
    if (warp.ready) {
        go_on(&f.stack_pointer, 32 * f.warp + draw(warp));
    } else {
        emu_switch(&f.stack_pointer, engine.scheduler);
    }
}

// The work of a group that is complete, for all its lanes.
void complete(Warp &warp, Fiber *lanes, const Group &group) {
    unsigned arrived = group.arrived, ballot = 0;
    unsigned long long reduced = 0;
    bool first = true, exchanges = group.op <= EMU_SHFL_XOR || group.op == EMU_SYNCWARP;
    for (unsigned rest = exchanges ? 0 : arrived; rest; rest &= rest - 1) {
        unsigned lane = __builtin_ctz(rest);
        unsigned long long x = lanes[lane].value;
        if (x) ballot |= 1u << lane;
        switch (group.op) {
        case EMU_REDUCE_ADD: reduced = (unsigned)(reduced + x); break;
        case EMU_REDUCE_MIN: reduced = first || x < reduced ? x : reduced; break;
        case EMU_REDUCE_MAX: reduced = first || x > reduced ? x : reduced; break;
        case EMU_REDUCE_AND: reduced = first ? x : reduced & x; break;
        case EMU_REDUCE_OR: reduced |= x; break;
        case EMU_REDUCE_XOR: reduced ^= x; break;
        }
        first = false;
    }
    for (unsigned rest = arrived; rest; rest &= rest - 1) {
        int lane = __builtin_ctz(rest);
        Fiber &f = lanes[lane];
        int segment = lane & ~(f.width - 1), source = lane;
        switch (group.op) {
        case EMU_SHFL: source = segment | (f.argument & (f.width - 1)); break;
        case EMU_SHFL_UP: source = (unsigned)f.argument > (unsigned)(lane - segment) ? lane : lane - f.argument; break;
        case EMU_SHFL_DOWN:
            source = (unsigned)f.argument >= (unsigned)(segment + f.width - lane) ? lane : lane + f.argument;
            break;
        case EMU_SHFL_XOR:
            source = lane ^ f.argument;
            if (source >= segment + f.width || source < 0) source = lane;
            break;
        case EMU_BALLOT: f.result = ballot; continue;
        case EMU_ANY: f.result = ballot != 0; continue;
        case EMU_ALL: f.result = ballot == arrived; continue;
        case EMU_SYNCWARP: continue;
        case EMU_MATCH_ANY:
            f.result = 0;
            for (unsigned r = arrived; r; r &= r - 1)
                if (lanes[__builtin_ctz(r)].value == f.value) f.result |= 1u << __builtin_ctz(r);
            continue;
        default: f.result = reduced; continue;
        }
        // What a lane that takes no part holds is undefined: it reads as all ones, a NaN.
        f.result = arrived >> source & 1 ? lanes[source].value : ~0ull;
    }
    warp.ready |= arrived;
}

bool is_complete(const Warp &warp, const Group &group) { return (group.mask & warp.live & ~group.arrived) == 0; }

unsigned long long warp_op(int op, unsigned mask, unsigned long long value, int argument, int width, int line) {
    Fiber &f = engine.fibers[engine.current];
    Warp &warp = engine.warps[f.warp];
    unsigned bit = 1u << f.lane;
    f.value = value, f.argument = argument, f.width = width, f.op = op, f.line = line;
    if (!(mask & bit)) {
        fprintf(stderr, "cuda emulator: %s at line %d: lane %u is not in its own mask %08x\n", OPS[op], line, f.lane, mask);
        die(f);
    }
    if (width < 1 || width > 32 || (width & (width - 1))) {
        fprintf(stderr, "cuda emulator: %s at line %d: width %d is no power of two up to 32\n", OPS[op], line, width);
        die(f);
    }
    int g = 0;
    while (g < warp.groups && !(warp.group[g].op == op && warp.group[g].mask == mask)) g++;
    if (g == warp.groups) warp.group[warp.groups++] = {op, mask, 0};
    Group &group = warp.group[g];
    group.arrived |= bit;
    if (is_complete(warp, group)) {
        complete(warp, engine.fibers + 32 * f.warp, group);
        warp.ready &= ~bit;
        group = warp.group[--warp.groups];
    } else {
        f.waiting = FOR_WARP;
        yield();
    }
    return f.result;
}

void release_barrier() {
    engine.result = engine.barrier_op == EMU_SYNC_COUNT ? engine.count
                    : engine.barrier_op == EMU_SYNC_AND ? engine.all
                                                        : engine.any;
    for (unsigned w = 0; w * 32 < engine.threads; w++) {
        engine.warps[w].ready |= engine.warps[w].parked;
        engine.warps[w].parked = 0;
    }
    engine.arrived = 0;
}

int block_op(int op, int predicate, int line) {
    Fiber &f = engine.fibers[engine.current];
    Warp &warp = engine.warps[f.warp];
    f.op = op, f.line = line;
    if (engine.arrived == 0) {
        engine.barrier_op = op, engine.barrier_line = line;
        engine.count = 0, engine.all = true, engine.any = false;
    } else if (op != engine.barrier_op || line != engine.barrier_line) {
        fprintf(stderr, "cuda emulator: a thread waits at %s of line %d while others of its block wait at %s of line %d\n",
                BLOCK_OPS[op], line, BLOCK_OPS[engine.barrier_op], engine.barrier_line);
        die(f);
    }
    if (engine.done && engine_options().check) {
        fprintf(stderr, "cuda emulator: %s of line %d is reached after %u threads of the block have returned\n",
                BLOCK_OPS[op], line, engine.done);
        die(f);
    }
    engine.arrived++;
    engine.count += predicate, engine.all &= predicate != 0, engine.any |= predicate != 0;
    warp.parked |= 1u << f.lane;
    if (engine.arrived + engine.done == engine.threads) {
        release_barrier();
        warp.ready &= ~(1u << f.lane);
    } else {
        f.waiting = FOR_BLOCK;
        yield();
    }
    return engine.result;
}

void named_op(unsigned barrier, unsigned count, bool waits, int line) {
    Fiber &f = engine.fibers[engine.current];
    unsigned bit = 1u << f.lane;
    const char *wrong = nullptr;
    if (barrier >= NAMED) wrong = "there are sixteen";
    else if (count == 0 || count % 32 || count > engine.threads) wrong = "its count is not that of whole warps of the block";
    else if (engine.named[barrier].arrived && engine.named[barrier].count != count) wrong = "others came with another count";
    else if (engine.named[barrier].come[f.warp] & bit) wrong = "the thread comes a second time before the others";
    if (wrong) {
        fprintf(stderr, "cuda emulator: barrier %u of %u threads at line %d: %s\n", barrier, count, line, wrong);
        die(f);
    }
    Named &named = engine.named[barrier];
    f.line = line;
    named.count = count;
    named.come[f.warp] |= bit;
    if (++named.arrived == count) {
        for (unsigned w = 0; w * 32 < engine.threads; w++) engine.warps[w].ready |= named.parked[w];
        named = {};
    } else if (waits) {
        named.parked[f.warp] |= bit;
        f.waiting = FOR_NAMED;
        yield();
    }
}

void fail(const char *what, int line) {
    fprintf(stderr, "cuda emulator: %s failed at line %d\n", what, line);
    die(engine.fibers[engine.current]);
}

// A thread has returned from the kernel: those who waited only for it go on.
void finish(Fiber &f) {
    Warp &warp = engine.warps[f.warp];
    f.waiting = DONE;
    engine.done++;
    warp.live &= ~(1u << f.lane);
    for (int g = 0; g < warp.groups;) {
        if (is_complete(warp, warp.group[g])) {
            complete(warp, engine.fibers + 32 * f.warp, warp.group[g]);
            warp.group[g] = warp.group[--warp.groups];
        } else {
            g++;
        }
    }
    if (engine.arrived && engine.arrived + engine.done == engine.threads) {
        if (engine_options().check) {
            fprintf(stderr, "cuda emulator: %u threads wait at %s of line %d, the others of the block have returned\n",
                    engine.arrived, BLOCK_OPS[engine.barrier_op], engine.barrier_line);
            die(f);
        }
        release_barrier();
    }
}

void fiber_main() {
    for (;;) {
        engine.kernel->launch(engine.params);
        finish(engine.fibers[engine.current]);
        yield();
    }
}

void make_fibers(unsigned threads) {
    const size_t step = STACK + PAGE;
    if (!engine.stacks) {
        void *p = mmap(nullptr, step * MAX_THREADS, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) perror("cuda emulator: stacks"), abort();
        engine.stacks = (char *)p;
    }
    for (; engine.made < threads; engine.made++) {
        // Not all at one place of their pages: the caches would hold only a few.
        char *low = engine.stacks + step * engine.made + PAGE, *top = low + STACK - engine.made * 320 % PAGE;
        if (mprotect(low, STACK, PROT_READ | PROT_WRITE)) perror("cuda emulator: stacks"), abort();
        void **frame = (void **)(top - 64);
        memset(frame, 0, 64);
        frame[6] = (void *)fiber_main;
        engine.fibers[engine.made].stack_pointer = frame;
    }
}

[[noreturn]] void stuck() {
    unsigned at_barrier = 0, at_named = 0, in_warp = 0;
    const Fiber *barrier = nullptr, *named = nullptr, *warp = nullptr;
    for (unsigned i = 0; i < engine.threads; i++) {
        const Fiber &f = engine.fibers[i];
        if (f.waiting == FOR_BLOCK) at_barrier++, barrier = barrier ? barrier : &f;
        if (f.waiting == FOR_NAMED) at_named++, named = named ? named : &f;
        if (f.waiting == FOR_WARP) in_warp++, warp = warp ? warp : &f;
    }
    fprintf(stderr, "cuda emulator: a block is stuck: %u of its %u threads have returned\n", engine.done, engine.threads);
    if (barrier) {
        fprintf(stderr, "  %u wait at %s of line %d, the first is\n", at_barrier, BLOCK_OPS[barrier->op], barrier->line);
        print_place(*barrier);
    }
    if (named) {
        fprintf(stderr, "  %u wait at barriers by number, the first at line %d\n", at_named, named->line);
        print_place(*named);
    }
    if (warp) {
        fprintf(stderr, "  %u wait for other lanes of their warp, the first at %s of line %d\n", in_warp, OPS[warp->op],
                warp->line);
        for (unsigned w = 0; w * 32 < engine.threads; w++)
            for (int g = 0; g < engine.warps[w].groups; g++)
                fprintf(stderr, "    warp %u: %s with mask %08x, arrived %08x, alive %08x\n", w,
                        OPS[engine.warps[w].group[g].op], engine.warps[w].group[g].mask, engine.warps[w].group[g].arrived,
                        engine.warps[w].live);
    }
    die(warp ? *warp : barrier ? *barrier : *named);
}

void run_warp(unsigned w) {
    Warp &warp = engine.warps[w];
    while (warp.ready) go_on(&engine.scheduler, 32 * w + draw(warp));
}

void run_block() {
    unsigned warps = (engine.threads + 31) / 32;
    for (unsigned w = 0; w < warps; w++) {
        unsigned count = engine.threads - 32 * w;
        engine.warps[w].live = engine.warps[w].ready = count >= 32 ? ~0u : (1u << count) - 1;
        engine.warps[w].parked = engine.warps[w].groups = 0;
    }
    engine.done = engine.arrived = 0;
    memset(engine.named, 0, sizeof engine.named);
    while (engine.done < engine.threads) {
        bool moved = false;
        for (unsigned i = 0; i < warps; i++) {
            unsigned w = engine.order == EngineOptions::REVERSE ? warps - 1 - i
                         : engine.order == EngineOptions::RANDOM ? next_random() % warps
                                                          : i;
            moved |= engine.warps[w].ready != 0;
            run_warp(w);
        }
        // By chance no warp that is ready may have been drawn.
        for (unsigned w = 0; !moved && w < warps; w++) {
            moved |= engine.warps[w].ready != 0;
            run_warp(w);
        }
        if (!moved) stuck();
    }
}

void poison(unsigned char *begin, unsigned char *end) {
    if (begin < end) memset(begin, 0xff, end - begin);
}

// ---- Faults ----

struct sigaction before[NSIG];

void handle(int signal, siginfo_t *info, void *context) {
    if (engine.running && engine.thread == gettid()) {
        engine.running = false;
        const char *what = signal == SIGFPE   ? "an integer division by zero"
                           : signal == SIGILL ? "an index outside its array, or a misaligned access (a check trapped)"
                           : signal == SIGBUS ? "a bus error"
                                              : "an access to memory that is not there, or misaligned";
        fprintf(stderr, "cuda emulator: %s", what);
        uintptr_t address = (uintptr_t)info->si_addr;
        const Fiber &f = engine.fibers[engine.current];
        if (signal == SIGSEGV || signal == SIGBUS) {
            char words[200];
            char *stack = engine.stacks + (STACK + PAGE) * engine.current;
            if ((char *)address >= stack && (char *)address < stack + PAGE) {
                snprintf(words, sizeof words, "below the thread's stack of %zu bytes", STACK);
            } else if (address >= (uintptr_t)engine.shared_end && address < (uintptr_t)engine.shared_end + PAGE) {
                snprintf(words, sizeof words, "%zu bytes past the end of dynamic shared memory",
                         (size_t)(address - (uintptr_t)engine.shared_end));
            } else {
                describe_address(address, words, sizeof words);
            }
            fprintf(stderr, " at %#zx, %s", (size_t)address, words);
        }
        fprintf(stderr, "\n");
        print_place(f);
        fflush(stderr);
        sigaction(signal, &before[signal], nullptr);
        abort();
    }
    // Not ours: as if this handler were not there.
    struct sigaction &old = before[signal];
    if (old.sa_flags & SA_SIGINFO && old.sa_sigaction) {
        old.sa_sigaction(signal, info, context);
    } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
        old.sa_handler(signal);
    } else {
        sigaction(signal, &old, nullptr);
    }
}

// A fault on a fiber that has used up its stack needs another to be reported on.
void have_signal_stack() {
    static thread_local bool done = false;
    if (done) return;
    done = true;
    stack_t stack;
    const size_t enough = 64 << 10;  // the few pages that a thread of Rust has are not
    if (sigaltstack(nullptr, &stack) == 0 && (stack.ss_flags & SS_DISABLE || stack.ss_size < enough)) {
        stack.ss_size = enough;
        stack.ss_sp = malloc(stack.ss_size);
        stack.ss_flags = 0;
        sigaltstack(&stack, nullptr);
    }
}

}  // namespace

const EmuRuntime engine_runtime = {block_op, warp_op, named_op, fail};

const EngineOptions &engine_options() {
    static const EngineOptions options = [] {
        EngineOptions o{};
        const char *check = getenv("CUDA_EMULATOR_CHECK"), *order = getenv("CUDA_EMULATOR_ORDER");
        o.check = check && *check && strcmp(check, "0") != 0;
        o.order = EngineOptions::FORWARD;
        if (order && strcmp(order, "reverse") == 0) o.order = EngineOptions::REVERSE;
        if (order && strncmp(order, "random", 6) == 0) {
            o.order = EngineOptions::RANDOM;
            o.seed = order[6] == ':' ? strtoull(order + 7, nullptr, 10) : 0;
        }
        return o;
    }();
    return options;
}

void engine_install_signal_handlers() {
    for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
        struct sigaction action {};
        action.sa_sigaction = handle;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        sigaction(signal, &action, &before[signal]);
    }
}

void engine_run(const EmuModule &module, const EmuKernel &kernel, EmuIndex grid, EmuIndex block, unsigned shared,
                void **params) {
    have_signal_stack();
    engine.module = &module, engine.kernel = &kernel, engine.params = params;
    engine.grid = grid, engine.block = block, engine.threads = block.x * block.y * block.z;
    engine.thread = gettid();
    engine.order = engine_options().order;
    engine.random = (engine_options().seed + 1) * 0x9e3779b97f4a7c15ull;
    make_fibers(engine.threads);
    for (unsigned i = 0; i < engine.threads; i++) {
        Fiber &f = engine.fibers[i];
        f.index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
        f.warp = i / 32, f.lane = i % 32;
    }
    const size_t room = 256 << 10;
    if (!engine.shared) {
        void *p = mmap(nullptr, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) perror("cuda emulator: shared memory"), abort();
        engine.shared = (unsigned char *)p;
        engine.shared_end = engine.shared + room;
        mprotect(engine.shared_end, PAGE, PROT_NONE);
    }
    // Its end lies at the guard page, up to the alignment of its begin.
    unsigned char *dynamic = engine.shared_end - ((shared + 15) & ~15u);
    *module.dynamic_shared = dynamic;
    *module.block_dim = block, *module.grid_dim = grid;
    engine.running = true;
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t b = engine.order == EngineOptions::REVERSE ? blocks - 1 - i : i;
        engine.at = {(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
        *module.block = engine.at;
        poison(dynamic, engine.shared_end);
        poison(kernel.shared_begin, kernel.shared_end);
        poison(module.common_begin, module.common_end);
        run_block();
    }
    engine.running = false;
}
