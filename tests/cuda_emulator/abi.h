// What a compiled module and the emulator know of each other. Both sides include this file; a change of it must change
// EMU_ABI too.

#define EMU_ABI 2

struct EmuIndex {
    unsigned x, y, z;
};

// What the lanes of a warp do together.
enum EmuWarpOp {
    EMU_SHFL,
    EMU_SHFL_UP,
    EMU_SHFL_DOWN,
    EMU_SHFL_XOR,
    EMU_BALLOT,
    EMU_ANY,
    EMU_ALL,
    EMU_SYNCWARP,
    EMU_MATCH_ANY,
    EMU_REDUCE_ADD,
    EMU_REDUCE_MIN,
    EMU_REDUCE_MAX,
    EMU_REDUCE_AND,
    EMU_REDUCE_OR,
    EMU_REDUCE_XOR,
};

// What the threads of a block do together.
enum EmuBlockOp { EMU_SYNC, EMU_SYNC_COUNT, EMU_SYNC_AND, EMU_SYNC_OR };

// What a kernel calls.
struct EmuRuntime {
    int (*block)(int op, int predicate, int line);
    unsigned long long (*warp)(int op, unsigned mask, unsigned long long value, int argument, int width, int line);
    void (*named)(unsigned barrier, unsigned count, bool waits, int line);
    void (*fail)(const char *what, int line);
};

struct EmuKernel {
    const char *name;
    void (*launch)(void **params);
    const unsigned *sizes;                     // of the parameters, in bytes
    unsigned count;                            // of the parameters
    unsigned max_threads;                      // of __launch_bounds__, or 0
    unsigned char *shared_begin, *shared_end;  // its static shared memory, or both null
};

struct EmuModule {
    unsigned abi, kernel_count;
    const EmuKernel *kernels;
    EmuIndex *thread, *block, *block_dim, *grid_dim;
    unsigned char **dynamic_shared;
    const EmuRuntime **runtime;
    unsigned char *common_begin, *common_end;  // static shared memory that is declared outside kernels
};
