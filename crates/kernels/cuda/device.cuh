// What the kernels need of the machine they run on. NVRTC compiles these sources for a GPU; a host compiler with
// host/emulator.h compiles the very same ones for tests, where a block's threads are fibers.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
// One kernel: `threads` per block, and at least `blocks` of them on a multiprocessor, which bounds registers.
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define EXPORT(name)
#define HOST_ONLY(...)
extern __shared__ uint4 shared_memory_start[];
// The block's shared memory, 16-byte aligned. All of it is dynamic, so that the emulator can poison and guard it.
DEVICE unsigned char *shared_memory() { return reinterpret_cast<unsigned char *>(shared_memory_start); }
#else
#include "host/emulator.h"
#define DEVICE inline
#define KERNEL(threads, blocks) extern "C" void
#endif

// Threads of a block of every kernel but the convolutions; `arguments::THREADS` in Rust.
constexpr int THREADS = 256;

// bfloat16: the upper half of an f32. Ours rather than cuda_bf16.h's, so that NVRTC needs no headers.
struct bf16 {
    unsigned short bits;
};

DEVICE float bits_to_float(u32 bits) {
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    float value;
    memcpy(&value, &bits, 4);
    return value;
#endif
}

DEVICE u32 float_to_bits(float value) {
#ifdef __CUDACC__
    return __float_as_uint(value);
#else
    u32 bits;
    memcpy(&bits, &value, 4);
    return bits;
#endif
}

DEVICE float to_float(float value) { return value; }
DEVICE float to_float(bf16 value) { return bits_to_float(u32(value.bits) << 16); }

template <class T> DEVICE T from_float(float value);
template <> DEVICE float from_float<float>(float value) { return value; }
// To the nearest, ties to even; NaN stays a NaN.
template <> DEVICE bf16 from_float<bf16>(float value) {
    bf16 result;
#ifdef __CUDACC__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    const u32 bits = float_to_bits(value);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    result.bits = nan ? 0x7fff : (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
    return result;
}

// The elements of one 16-byte access.
template <class T> struct VectorOf {
    static constexpr int LENGTH = 16 / sizeof(T);
};

template <class T, int N> struct alignas(N * sizeof(T) >= 16 ? 16 : N * sizeof(T)) Pack {
    T at[N];
};

// As many elements that stay packed in registers until one is asked for as a float.
template <class T, int N> struct Vector {
    Pack<T, N> values;
    DEVICE float at(int e) const { return to_float(values.at[e]); }
    DEVICE static Vector of(const float (&from)[N]) {
        Vector result;
#pragma unroll
        for (int e = 0; e < N; e++) result.values.at[e] = from_float<T>(from[e]);
        return result;
    }
};
template <> struct alignas(16) Vector<bf16, 8> {
    u32 words[4];
    DEVICE float at(int e) const { return bits_to_float(e % 2 ? words[e / 2] & 0xffff0000u : words[e / 2] << 16); }
    DEVICE static Vector of(const float (&from)[8]) {
        Vector result;
#pragma unroll
        for (int i = 0; i < 4; i++) {
#ifdef __CUDACC__
            asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result.words[i]) : "f"(from[2 * i + 1]), "f"(from[2 * i]));
#else
            result.words[i] = from_float<bf16>(from[2 * i]).bits | u32(from_float<bf16>(from[2 * i + 1]).bits) << 16;
#endif
        }
        return result;
    }
};

template <bool FIRST, class A, class B> struct Choose {
    using Type = A;
};
template <class A, class B> struct Choose<false, A, B> {
    using Type = B;
};

// Of kernels with a thread for every piece of work.
DEVICE u32 thread_number() { return blockIdx.x * THREADS + threadIdx.x; }

DEVICE int min_of(int a, int b) { return a < b ? a : b; }
DEVICE i64 min_of(i64 a, i64 b) { return a < b ? a : b; }

// n / divisor for n < 2^31 by a multiplication (Granlund & Montgomery 1994); made by `FastDivision::new` in Rust.
struct FastDivision {
    u32 divisor;
    u32 multiplier;
    u32 shift;
    DEVICE u32 quotient(u32 n) const { return (__umulhi(n, multiplier) + n) >> shift; }
};
static_assert(sizeof(FastDivision) == 12, "FastDivision is laid out as in Rust");

// Which caches a copy from global memory goes through: all, or only the one that all multiprocessors share.
enum Cache { ALL_CACHES, SHARED_CACHE };

#ifdef __CUDACC__
// An address in shared memory, as instructions take it.
typedef u32 SharedAddress;
DEVICE SharedAddress shared_address(void *shared) {
    SharedAddress address = static_cast<u32>(__cvta_generic_to_shared(shared));
    // Out of the compiler's sight: it would rather compute the start of shared memory anew in every round of a loop.
    asm volatile("" : "+r"(address));
    return address;
}

// 16 bytes from global to shared memory, or zeros where `filled` is false: the source is then not read, and any number.
// Complete for this thread after `copies_wait`, for the block after the barrier that follows.
template <Cache CACHE> DEVICE void copy_async(SharedAddress to, u64 global, bool filled) {
    const int bytes = filled ? 16 : 0;
    if constexpr (CACHE == ALL_CACHES)
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `PENDING` of this thread's groups are on their way.
template <int PENDING> DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// Four 8x8 matrices of bf16; lane l gives the address of row l % 8 of matrix l / 8, and gets elements (l / 4, 2 (l % 4))
// and its right neighbour of each matrix. TRANSPOSED: of each one's transpose.
template <bool TRANSPOSED> DEVICE void load_matrices(u32 (&values)[4], SharedAddress from) {
    if constexpr (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
                     : "r"(from)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
                     : "r"(from)
                     : "memory");
}

// sums[16, 8] += a[16, 16] b[16, 8] by a warp. Lane l holds, with g = l / 4 and t = 2 (l % 4): of a rows g and g + 8 at
// columns t, t + 1 (a[0], a[1]) and t + 8, t + 9 (a[2], a[3]); of b column g at rows t, t + 1 (b0) and t + 8, t + 9 (b1);
// of the sums row g (sums[0], sums[1]) and row g + 8 at columns t, t + 1.
DEVICE void multiply_add(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
#endif

DEVICE double shuffle_xor(double value, int mask) {
#ifdef __CUDACC__
    return __shfl_xor_sync(0xffffffffu, value, mask);
#else
    float halves[2];
    memcpy(halves, &value, 8);
    for (float &half : halves) half = shuffle_xor(half, mask);
    memcpy(&value, halves, 8);
    return value;
#endif
}

// The sum over a warp, the same bits in every lane.
template <class T> DEVICE T warp_sum(T value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

// The sum over a block of `THREADS`, in thread 0, through its first THREADS / 32 doubles of shared memory.
template <int THREADS> DEVICE double block_sum(double value) {
    double *sums = reinterpret_cast<double *>(shared_memory());
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
    __syncthreads();
    double total = 0.0;
    if (threadIdx.x == 0)
        for (int warp = 0; warp < THREADS / 32; warp++) total += sums[warp];
    return total;
}
