// Passes over flat parameters: memory-bound, so each does all that is to be done with the values that it reads. In f32
// with every operation rounded by itself, so that the results are those of `slimtau-train` on the CPU to the last bit.
//
// A thread has quads, four values whose index is a multiple of four: 16-byte accesses, except at the ends of a range or
// where a buffer does not start at a multiple of 16 bytes.
#include "device.cuh"

// Products and sums that no compiler fuses.
DEVICE float times(float a, float b) {
#ifdef __CUDACC__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}
DEVICE float plus(float a, float b) {
#ifdef __CUDACC__
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
}

using Quad = Pack<float, 4>;

// Elements [start, end) of one quad: `whole` if that is all of it and its addresses are aligned.
struct Piece {
    i64 at;
    int start, end;
    bool whole;

    DEVICE Piece(i64 quad, i64 first, i64 last, bool aligned) : at(quad * 4) {
        start = at < first ? int(first - at) : 0;
        end = at + 4 > last ? int(last - at) : 4;
        whole = aligned && start == 0 && end == 4;
    }
    template <class T> DEVICE Pack<T, 4> load(const T *from) const {
        Pack<T, 4> quad;
        if (whole) return *reinterpret_cast<const Pack<T, 4> *>(from + at);
#pragma unroll
        for (int e = 0; e < 4; e++) quad.at[e] = start <= e && e < end ? from[at + e] : T();
        return quad;
    }
    template <class T> DEVICE void store(T *to, const Pack<T, 4> &quad) const {
        if (whole) {
            *reinterpret_cast<Pack<T, 4> *>(to + at) = quad;
            return;
        }
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (start <= e && e < end) to[at + e] = quad.at[e];
    }
    DEVICE void store_copy(bf16 *to, const Quad &quad) const {
        if (!to) return;
        Pack<bf16, 4> copy;
#pragma unroll
        for (int e = 0; e < 4; e++) copy.at[e] = from_float<bf16>(quad.at[e]);
        store(to, copy);
    }
};

// Values of one block's work; between multiples of as many.
struct Work {
    u32 start, length;
    u32 decays; // whether weight decay acts on them
    u32 unused;
};

struct SgdArguments {
    const Work *work; // a block each
    float *params, *grads, *velocity;
    bf16 *copy; // of the parameters, or null
    float lr, momentum, weight_decay;
    int nesterov;
    int aligned; // all buffers
    u32 unused;
};
static_assert(sizeof(SgdArguments) == 5 * 8 + 6 * 4, "SgdArguments is laid out as in Rust");

KERNEL(THREADS, 4) sgd_step(SgdArguments args) {
    const Work work = args.work[blockIdx.x];
    const i64 first = work.start, last = first + work.length;
    const float weight_decay = work.decays ? args.weight_decay : 0.0f;
    for (i64 quad = first / 4 + threadIdx.x; quad * 4 < last; quad += THREADS) {
        const Piece piece(quad, first, last, args.aligned);
        Quad w = piece.load(args.params), v = piece.load(args.velocity);
        const Quad g = piece.load(args.grads);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float decayed = plus(g.at[e], times(weight_decay, w.at[e]));
            v.at[e] = plus(times(args.momentum, v.at[e]), decayed);
            const float step = args.nesterov ? plus(decayed, times(args.momentum, v.at[e])) : v.at[e];
            w.at[e] = plus(w.at[e], -times(args.lr, step));
        }
        piece.store(args.params, w);
        piece.store(args.velocity, v);
        piece.store(args.grads, Quad{});
        piece.store_copy(args.copy, w);
    }
}
EXPORT(sgd_step)

struct EmaArguments {
    float *average;
    const float *current;
    bf16 *copy; // of the average, or null
    i64 length;
    float kept, added; // shares of the average and of the current values
    int aligned;
    u32 unused;
};
static_assert(sizeof(EmaArguments) == 4 * 8 + 4 * 4, "EmaArguments is laid out as in Rust");

KERNEL(THREADS, 4) ema_update(EmaArguments args) {
    const i64 quad = i64(blockIdx.x) * THREADS + threadIdx.x;
    if (quad * 4 >= args.length) return;
    const Piece piece(quad, 0, args.length, args.aligned);
    Quad average = piece.load(args.average);
    const Quad current = piece.load(args.current);
#pragma unroll
    for (int e = 0; e < 4; e++)
        average.at[e] = plus(times(args.kept, average.at[e]), times(args.added, current.at[e]));
    piece.store(args.average, average);
    piece.store_copy(args.copy, average);
}
EXPORT(ema_update)

struct DrainArguments {
    float *total, *grads;
    double *partial; // [blocks]: sums of the gradients' squares
    i64 length;
    int each; // quads of a block
    int aligned;
};
static_assert(sizeof(DrainArguments) == 4 * 8 + 2 * 4, "DrainArguments is laid out as in Rust");

KERNEL(THREADS, 4) drain_into(DrainArguments args) {
    double squares = 0.0;
    const i64 first = i64(blockIdx.x) * args.each, end = first + args.each;
    for (i64 quad = first + threadIdx.x; quad < end && quad * 4 < args.length; quad += THREADS) {
        const Piece piece(quad, 0, args.length, args.aligned);
        Quad total = piece.load(args.total);
        const Quad grads = piece.load(args.grads);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            // In f64, where no f32 square overflows.
            squares += double(grads.at[e]) * double(grads.at[e]);
            total.at[e] = plus(total.at[e], grads.at[e]);
        }
        piece.store(args.total, total);
        piece.store(args.grads, Quad{});
    }
    squares = block_sum<THREADS>(squares);
    if (threadIdx.x == 0) args.partial[blockIdx.x] = squares;
}
EXPORT(drain_into)

struct NormArguments {
    const double *partial; // [count]
    float *norm;           // one number: the square root of their sum
    i64 count;
};
static_assert(sizeof(NormArguments) == 3 * 8, "NormArguments is laid out as in Rust");

KERNEL(THREADS, 1) drained_norm(NormArguments args) {
    double own = 0.0;
    for (i64 i = threadIdx.x; i < args.count; i += THREADS) own += args.partial[i];
    const double total = block_sum<THREADS>(own);
    if (threadIdx.x == 0) *args.norm = float(sqrt(total));
}
EXPORT(drained_norm)
