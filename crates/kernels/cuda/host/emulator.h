// Just enough of CUDA to run a kernel's source on a CPU, one block at a time. The threads of a block are fibers that run
// in turn from one barrier (or warp-wide instruction) to the next, so results do not depend on timing; `emulator_order`
// turns their order around, by which a missing barrier shows. Shared memory is poisoned, asynchronous copies arrive as
// late as they may, and AddressSanitizer guards both kinds of memory. Included by device.cuh.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulator {

struct Index {
    unsigned x, y, z;
};

// All threads of the block reach this before any goes on.
void barrier();
unsigned char *shared_memory();
void copy_async(void *shared, uint64_t global, bool filled);
void copies_commit();
void copies_wait(int pending);
void load_matrices(bool transposed, unsigned (&values)[4], const void *row);
void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
float shuffle_xor(float value, int mask);

// Runs `body(arguments)` as every thread of every block.
void run(const unsigned *grid, unsigned threads, size_t shared_bytes, void (*body)(const void *), const void *arguments);

template <class Arguments> constexpr size_t size_of(void (*)(Arguments)) { return sizeof(Arguments); }

} // namespace emulator

extern emulator::Index threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { emulator::barrier(); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline unsigned char *shared_memory() { return emulator::shared_memory(); }
typedef unsigned char *SharedAddress;
inline SharedAddress shared_address(void *shared) { return static_cast<SharedAddress>(shared); }
template <int CACHE> void copy_async(SharedAddress to, uint64_t global, bool filled) {
    emulator::copy_async(to, global, filled);
}
inline void copies_commit() { emulator::copies_commit(); }
template <int PENDING> void copies_wait() { emulator::copies_wait(PENDING); }
template <bool TRANSPOSED> void load_matrices(unsigned (&values)[4], SharedAddress row) {
    emulator::load_matrices(TRANSPOSED, values, row);
}
inline void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    emulator::multiply_add(sums, a, b0, b1);
}
inline float shuffle_xor(float value, int mask) { return emulator::shuffle_xor(value, mask); }

// The entry that Rust looks up for kernel `name`: 0, or 1 when the arguments are not of the size that the kernel takes.
#define EXPORT(name)                                                                                                   \
    extern "C" int emulate_##name(const unsigned *grid, unsigned threads, size_t shared_bytes, const void *arguments,  \
                                  size_t size) {                                                                       \
        if (size != emulator::size_of(name)) return 1;                                                                 \
        emulator::run(                                                                                                 \
            grid, threads, shared_bytes,                                                                               \
            [](const void *given) { emulator::call(name, given); }, arguments);                                        \
        return 0;                                                                                                      \
    }

namespace emulator {
template <class Arguments> void call(void (*kernel)(Arguments), const void *given) {
    Arguments arguments;
    memcpy(&arguments, given, sizeof arguments);
    kernel(arguments);
}
} // namespace emulator
