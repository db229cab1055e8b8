// The stem's 3x3 max pool and the head's average pool over dense [batch, height, width, channels] activations of T, and
// conversions between element types. A thread has one vector of channels of one pixel.
#include "device.cuh"


template <class T, bool VECTORS> constexpr int LENGTH = VECTORS ? VectorOf<T>::LENGTH : 1;

// 3x3, stride 2, padding 1.
struct MaxPoolArguments {
    const void *from;      // x [batch, height, width, channels]; backward, y's gradient
    void *to;              // y [batch, out_height, out_width, channels]; backward, x's gradient
    unsigned char *argmax; // as y: position 3 ky + kx in the window; forward may be null
    int height, width, out_height, out_width, channels;
    u32 count;             // vectors of the result
    // The result's number of vectors in a pixel, its width and height.
    FastDivision by_vectors, by_width, by_height;
    int unused;
};
static_assert(sizeof(MaxPoolArguments) == 3 * 8 + 6 * 4 + 3 * 12 + 4, "MaxPoolArguments is laid out as in Rust");

// A thread's place in the result.
struct Place {
    i64 image;
    int y, x, vector;
    DEVICE Place(const MaxPoolArguments &args, u32 i) {
        const u32 pixel = args.by_vectors.quotient(i), row = args.by_width.quotient(pixel);
        image = args.by_height.quotient(row);
        vector = int(i - pixel * args.by_vectors.divisor);
        x = int(pixel - row * args.by_width.divisor);
        y = int(row - u32(image) * args.by_height.divisor);
    }
};

// The first of equal maxima in row order; a NaN wins over every number, and a later NaN over an earlier one.
template <class T, bool VECTORS> DEVICE void max_pool_forward(const MaxPoolArguments &args) {
    constexpr int N = LENGTH<T, VECTORS>;
    const u32 own = thread_number();
    if (own >= args.count) return;
    const Place at(args, own);
    Pack<T, N> values[9];
    bool inside[9];
#pragma unroll
    for (int p = 0; p < 9; p++) {
        const int y = 2 * at.y - 1 + p / 3, x = 2 * at.x - 1 + p % 3;
        inside[p] = u32(y) < u32(args.height) && u32(x) < u32(args.width);
        const i64 pixel = (at.image * args.height + y) * args.width + x;
        const T *from = static_cast<const T *>(args.from) + pixel * args.channels + at.vector * N;
        if (inside[p]) values[p] = *reinterpret_cast<const Pack<T, N> *>(from);
    }
    Pack<T, N> best;
    Pack<unsigned char, N> argmax;
    bool any = false;
#pragma unroll
    for (int p = 0; p < 9; p++) {
        if (!inside[p]) continue;
#pragma unroll
        for (int e = 0; e < N; e++) {
            const float value = to_float(values[p].at[e]);
            if (!any || value > to_float(best.at[e]) || value != value) {
                best.at[e] = values[p].at[e];
                argmax.at[e] = p;
            }
        }
        any = true;
    }
    *reinterpret_cast<Pack<T, N> *>(static_cast<T *>(args.to) + i64(own) * N) = best;
    if (args.argmax) *reinterpret_cast<Pack<unsigned char, N> *>(args.argmax + i64(own) * N) = argmax;
}

// A pixel gathers from the (at most four) windows that it lies in, in row order.
template <class T, bool VECTORS> DEVICE void max_pool_backward(const MaxPoolArguments &args) {
    constexpr int N = LENGTH<T, VECTORS>;
    const u32 own = thread_number();
    if (own >= args.count) return;
    const Place at(args, own);
    Vector<T, N> grad[4];
    Pack<unsigned char, N> argmax[4];
    int position[4];
#pragma unroll
    for (int w = 0; w < 4; w++) {
        // Window o covers 2 o - 1 .. 2 o + 1: an even coordinate is the centre of one window, an odd one the end of a
        // window and the start of the next, which may lie beyond the edge.
        const int oy = at.y / 2 + w / 2, ox = at.x / 2 + w % 2;
        const int ky = at.y + 1 - 2 * oy, kx = at.x + 1 - 2 * ox;
        const bool inside = oy < args.out_height && ox < args.out_width && ky >= 0 && kx >= 0;
        position[w] = inside ? 3 * ky + kx : -1;
        const i64 pixel = (at.image * args.out_height + oy) * args.out_width + ox;
        const i64 index = pixel * args.channels + at.vector * N;
        if (!inside) continue;
        grad[w] = *reinterpret_cast<const Vector<T, N> *>(static_cast<const T *>(args.from) + index);
        argmax[w] = *reinterpret_cast<const Pack<unsigned char, N> *>(args.argmax + index);
    }
    float sum[N];
#pragma unroll
    for (int e = 0; e < N; e++) sum[e] = 0.0f;
#pragma unroll
    for (int w = 0; w < 4; w++) {
        if (position[w] < 0) continue;
#pragma unroll
        for (int e = 0; e < N; e++)
            if (argmax[w].at[e] == position[w]) sum[e] += grad[w].at(e);
    }
    *reinterpret_cast<Vector<T, N> *>(static_cast<T *>(args.to) + i64(own) * N) = Vector<T, N>::of(sum);
}

struct AveragePoolForwardArguments {
    const void *x; // [batch, pixels, channels]
    float *y;      // [batch, channels]
    int pixels, channels;
    int across;    // vectors of channels of a block, at most THREADS
    int tiles;     // blocks that share an image
};
static_assert(sizeof(AveragePoolForwardArguments) == 2 * 8 + 4 * 4, "AveragePoolForwardArguments is laid out as in Rust");

// A block has some channels of one image; its threads share the pixels. Sums of few values in f32, of these in f64.
template <class T, bool VECTORS> DEVICE void average_pool_forward(const AveragePoolForwardArguments &args) {
    constexpr int N = LENGTH<T, VECTORS>, AT_ONCE = 4;
    const int across = args.across, down = THREADS / across;
    const int line = threadIdx.x / across, lane = threadIdx.x % across;
    const i64 image = blockIdx.x / args.tiles;
    const int first = int(blockIdx.x % args.tiles) * across * N, channel = first + lane * N;
    const T *x = static_cast<const T *>(args.x) + image * args.pixels * args.channels + channel;
    double sums[N];
#pragma unroll
    for (int e = 0; e < N; e++) sums[e] = 0.0;
    const int end = line < down && channel < args.channels ? args.pixels : 0;
    for (int pixel = line; pixel < end; pixel += AT_ONCE * down) {
        Vector<T, N> values[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++)
            if (pixel + u * down < end)
                values[u] = *reinterpret_cast<const Vector<T, N> *>(x + i64(pixel + u * down) * args.channels);
#pragma unroll
        for (int e = 0; e < N; e++) {
            float sum = 0.0f;
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++)
                if (pixel + u * down < end) sum += values[u].at(e);
            sums[e] += sum;
        }
    }
    double *shared = reinterpret_cast<double *>(shared_memory()); // [N][THREADS]
#pragma unroll
    for (int e = 0; e < N; e++) shared[e * THREADS + threadIdx.x] = sums[e];
    __syncthreads();
    for (int i = threadIdx.x; i < across * N && first + i < args.channels; i += THREADS) {
        double sum = 0.0;
        for (int l = 0; l < down; l++) sum += shared[i % N * THREADS + l * across + i / N];
        args.y[image * args.channels + first + i] = float(sum / args.pixels);
    }
}

struct AveragePoolBackwardArguments {
    const float *grad_y; // [batch, channels]
    void *grad_x;        // [batch, pixels, channels]
    u32 count;           // vectors of that
    int channels;
    float share;         // 1 / pixels
    FastDivision by_vectors, by_pixels;
    int unused;
};
static_assert(sizeof(AveragePoolBackwardArguments) == 2 * 8 + 3 * 4 + 2 * 12 + 4,
              "AveragePoolBackwardArguments is laid out as in Rust");

template <class T, bool VECTORS> DEVICE void average_pool_backward(const AveragePoolBackwardArguments &args) {
    constexpr int N = LENGTH<T, VECTORS>;
    const u32 own = thread_number();
    if (own >= args.count) return;
    const u32 pixel = args.by_vectors.quotient(own), image = args.by_pixels.quotient(pixel);
    const int channel = int(own - pixel * args.by_vectors.divisor) * N;
    const float *from = args.grad_y + i64(image) * args.channels + channel;
    float values[N];
#pragma unroll
    for (int e = 0; e < N; e++) values[e] = from[e] * args.share;
    *reinterpret_cast<Vector<T, N> *>(static_cast<T *>(args.grad_x) + i64(own) * N) = Vector<T, N>::of(values);
}

struct ConvertArguments {
    const void *from;
    void *to;
    i64 count;
    int vectors; // both addresses are multiples of 16
    int unused;
};
static_assert(sizeof(ConvertArguments) == 3 * 8 + 2 * 4, "ConvertArguments is laid out as in Rust");

// Elements of a thread.
constexpr int CONVERTED = 8;

template <class From, class To> DEVICE void convert(const ConvertArguments &args) {
    const i64 first = i64(thread_number()) * CONVERTED;
    const From *from = static_cast<const From *>(args.from) + first;
    To *to = static_cast<To *>(args.to) + first;
    if (args.vectors && first + CONVERTED <= args.count) {
        const Vector<From, CONVERTED> values = *reinterpret_cast<const Vector<From, CONVERTED> *>(from);
        float own[CONVERTED];
#pragma unroll
        for (int e = 0; e < CONVERTED; e++) own[e] = values.at(e);
        *reinterpret_cast<Vector<To, CONVERTED> *>(to) = Vector<To, CONVERTED>::of(own);
    } else {
        for (int e = 0; e < CONVERTED && first + e < args.count; e++) to[e] = from_float<To>(to_float(from[e]));
    }
}

KERNEL(THREADS, 4) convert_f32_bf16(ConvertArguments args) { convert<float, bf16>(args); }
EXPORT(convert_f32_bf16)
KERNEL(THREADS, 4) convert_bf16_f32(ConvertArguments args) { convert<bf16, float>(args); }
EXPORT(convert_bf16_f32)

#define POOLS(T, VECTORS, SUFFIX)                                                                                      \
    KERNEL(THREADS, 3) max_pool_forward_##SUFFIX(MaxPoolArguments args) { max_pool_forward<T, VECTORS>(args); }        \
    EXPORT(max_pool_forward_##SUFFIX)                                                                                  \
    KERNEL(THREADS, 3) max_pool_backward_##SUFFIX(MaxPoolArguments args) { max_pool_backward<T, VECTORS>(args); }      \
    EXPORT(max_pool_backward_##SUFFIX)                                                                                 \
    KERNEL(THREADS, 4) average_pool_forward_##SUFFIX(AveragePoolForwardArguments args) {                               \
        average_pool_forward<T, VECTORS>(args);                                                                        \
    }                                                                                                                  \
    EXPORT(average_pool_forward_##SUFFIX)                                                                              \
    KERNEL(THREADS, 4) average_pool_backward_##SUFFIX(AveragePoolBackwardArguments args) {                             \
        average_pool_backward<T, VECTORS>(args);                                                                       \
    }                                                                                                                  \
    EXPORT(average_pool_backward_##SUFFIX)

POOLS(float, true, f32_vectors)
POOLS(float, false, f32_any)
POOLS(bf16, true, bf16_vectors)
POOLS(bf16, false, bf16_any)
