// Slimmable convolution as an implicit matrix product. Activations are [batch, height, width, channels] of T, dense with the
// active channels; weights [kernel, kernel, full_in, full_out] of T, of which every tap's leading block is active.
//
// - correlate: a map gathered through taps. Rows are the pixels of the result, columns its channels, and the depth runs
//   over taps and the source's channels. Forward, the source is the input; for the data gradient it is the output's
//   gradient, and at stride s the result's pixels fall into s x s classes with taps of their own, so that no product with
//   a hole of the dilated gradient is made. The dense layer is a correlation of 1x1 maps.
// - weight_gradient: rows are taps and input channels, columns output channels, the depth runs over pixels, cut into parts
//   that are added in order afterwards: the same bits on every run.
//
// An input may be stored with more channels than are active, zeros: images of 3 channels with 8, so that they are copied by
// 16 bytes.
#include "load.cuh"

struct SumPartsArguments {
    const float *partial;   // [parts][taps, in_channels, out_channels]
    float *weight;          // [taps, full_in, full_out], added to
    int parts, taps, in_channels, out_channels, full_in, full_out;
    int active, unused;     // as in WeightGradientArguments
};
static_assert(sizeof(SumPartsArguments) == 2 * 8 + 8 * 4, "SumPartsArguments is laid out as in Rust");

// Mean and sum of squared deviations of every column of the tile over its `rows` rows, for `columns` of them. The values
// are those that the result holds. Two passes: nothing cancels, however far from zero the mean is.
template <class Shape> DEVICE void tile_moments(const float *tile, int rows, int columns, float *mean, float *squares) {
    // The threads of one column share its rows.
    constexpr int SHARERS = Shape::THREADS / Shape::N;
    static_assert(SHARERS >= 1, "a thread for every column");
    const int column = threadIdx.x % Shape::N, share = threadIdx.x / Shape::N;
    float *sums = reinterpret_cast<float *>(shared_memory()) + Shape::M * SUMS_LEADING<Shape>; // [SHARERS][N]
    auto total = [&](float own) {
        sums[share * Shape::N + column] = own;
        __syncthreads();
        float sum = 0.0f;
        for (int s = 0; s < SHARERS; s++) sum += sums[s * Shape::N + column];
        __syncthreads();
        return sum;
    };
    // In four sums a thread: fewer roundings one upon the other, and none waits for the last.
    auto over_rows = [&](float center, bool squared) {
        float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int first = share; first < rows; first += 4 * SHARERS) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = first + i * SHARERS;
                const float d = row < rows ? tile[row * SUMS_LEADING<Shape> + column] - center : 0.0f;
                sums[i] += squared ? d * d : d;
            }
        }
        return total((sums[0] + sums[1]) + (sums[2] + sums[3]));
    };
    const float average = over_rows(0.0f, false) / rows;
    const float sum = over_rows(average, true);
    if (share == 0 && column < columns) {
        mean[column] = average;
        squares[column] = sum;
    }
}

template <class T, class Shape, bool VECTORS, bool BACKWARD> DEVICE void correlate(const CorrelateArguments &args) {
    constexpr Inner OF_B = BACKWARD ? ALONG_DEPTH : ALONG_RESULT;
    constexpr int LENGTH = Copier<T, VECTORS>::LENGTH;
    using V = Vector<T, LENGTH>;
    // The classes of the data gradient: blockIdx.y.
    const int class_y = blockIdx.y / args.stride, class_x = blockIdx.y % args.stride;
    Correlation map = {args, BACKWARD ? backward_axis(args.kernel, args.stride, args.height, class_y)
                                      : forward_axis(args.kernel, args.stride, args.height),
                       BACKWARD ? backward_axis(args.kernel, args.stride, args.width, class_x)
                                : forward_axis(args.kernel, args.stride, args.width),
                       0};
    map.rows = u32(args.batch) * map.y.length * map.x.length;
    // Tiles of the same rows are neighbours, so that the cache serves their pixels.
    const u32 tiles = (args.columns + Shape::N - 1) / Shape::N;
    const u32 row_tile = blockIdx.x / tiles, row0 = row_tile * Shape::M;
    const int column0 = int(blockIdx.x - row_tile * tiles) * Shape::N;
    if (row0 >= map.rows) return; // a smaller class than the largest

    constexpr u32 START = Memory<T, Shape, ALONG_DEPTH, OF_B>::B_BYTES;
    typename Choose<BACKWARD, LoadBackward<T, Shape, VECTORS, START>, LoadForward<T, Shape, VECTORS, START>>::Type
        loader(map, row0, column0);
    const int depth = map.y.taps * map.x.taps * args.depth;
    float *tile = multiply_tile<T, Shape, ALONG_DEPTH, OF_B>(loader, (depth + Shape::K - 1) / Shape::K);

    const int rows = min_of(Shape::M, int(map.rows - row0)), columns = min_of(Shape::N, args.columns - column0);
    T *result = static_cast<T *>(args.result);
    const T *residual = static_cast<const T *>(args.residual);
    for (int i = threadIdx.x; i < Shape::M * Shape::N / LENGTH; i += Shape::THREADS) {
        const int row = i / (Shape::N / LENGTH), column = i % (Shape::N / LENGTH) * LENGTH;
        if (row >= rows || column >= columns) continue;
        // Only classes of pixels have holes between their rows. What the data gradient is never asked for costs it no
        // registers, either: of the rest it has the shift, for a dense layer's bias.
        const i64 to = BACKWARD ? map.result(map.pixel(row0 + row)) : i64(row0 + row);
        const i64 at = to * args.columns + column0 + column;
        float *own = tile + row * SUMS_LEADING<Shape> + column;
        Pack<float, LENGTH> sums = *reinterpret_cast<Pack<float, LENGTH> *>(own);
        V added;
        if (BACKWARD && args.accumulate) added = *reinterpret_cast<const V *>(result + at);
        if (!BACKWARD && residual) added = *reinterpret_cast<const V *>(residual + at);
#pragma unroll
        for (int e = 0; e < LENGTH; e++) {
            float value = sums.at[e];
            if (!BACKWARD && args.scale) value *= args.scale[column0 + column + e];
            if (args.shift) value += args.shift[column0 + column + e];
            if (BACKWARD ? args.accumulate : residual != nullptr) value += added.at(e);
            // Written so that NaN stays NaN.
            if (!BACKWARD && args.relu && value < 0.0f) value = 0.0f;
            sums.at[e] = value;
        }
        const V values = V::of(sums.at);
        *reinterpret_cast<V *>(result + at) = values;
        if (!BACKWARD && args.moments) {
#pragma unroll
            for (int e = 0; e < LENGTH; e++) own[e] = values.at(e);
        }
    }
    if (!BACKWARD && args.moments) {
        __syncthreads();
        float *moments = args.moments + i64(row_tile) * 2 * args.columns + column0;
        tile_moments<Shape>(tile, rows, columns, moments, moments + args.columns);
    }
}

template <class T, class Shape, bool VECTORS> DEVICE void weight_gradient(const WeightGradientArguments &args) {
    const int rows = args.kernel * args.kernel * args.in_channels;
    const int tiles = (args.out_channels + Shape::N - 1) / Shape::N;
    const int row0 = int(blockIdx.x / tiles) * Shape::M, column0 = int(blockIdx.x % tiles) * Shape::N;
    // Parts are whole steps, all but the last equally long.
    const u32 pixels = u32(args.batch) * args.by_out_pixels.divisor;
    const u32 steps = (pixels + Shape::K - 1) / Shape::K;
    const u32 each = (steps + args.parts - 1) / args.parts;
    const u32 first = min_of(i64(blockIdx.y) * each * Shape::K, i64(pixels));
    const u32 end = min_of(i64(first) + i64(each) * Shape::K, i64(pixels));

    constexpr u32 START = Memory<T, Shape, ALONG_RESULT, ALONG_RESULT>::B_BYTES;
    LoadWeightGradient<T, Shape, VECTORS, START> loader(args, row0, column0, first, end);
    const int own = int((end - first + Shape::K - 1) / Shape::K);
    const float *tile = multiply_tile<T, Shape, ALONG_RESULT, ALONG_RESULT>(loader, own);

    for (int i = threadIdx.x; i < Shape::M * Shape::N; i += Shape::THREADS) {
        const int row = row0 + i / Shape::N, column = column0 + i % Shape::N;
        if (row >= rows || column >= args.out_channels) continue;
        const float sum = tile[i / Shape::N * SUMS_LEADING<Shape> + i % Shape::N];
        if (args.parts > 1) {
            args.partial[(i64(blockIdx.y) * rows + row) * args.out_channels + column] = sum;
        } else {
            const int tap = row / args.in_channels, channel = row - tap * args.in_channels;
            if (channel < args.active) args.weight[(i64(tap) * args.full_in + channel) * args.full_out + column] += sum;
        }
    }
}

KERNEL(THREADS, 4) sum_parts(SumPartsArguments args) {
    const i64 length = i64(args.taps) * args.in_channels * args.out_channels;
    const i64 at = i64(blockIdx.x) * THREADS + threadIdx.x;
    if (at >= length) return;
    const i64 row = at / args.out_channels, tap = row / args.in_channels;
    const i64 in = row - tap * args.in_channels, out = at - row * args.out_channels;
    if (in >= args.active) return;
    float sum = 0.0f;
    for (int part = 0; part < args.parts; part++) sum += args.partial[part * length + at];
    args.weight[(tap * args.full_in + in) * args.full_out + out] += sum;
}
EXPORT(sum_parts)

// Tiles, named by their columns. Widths of 48 to 64 fill the narrow one; `gpu/conv.rs` chooses.
using Wide = TileShape<128, 128, 32, 3, 2, 4>;
using Narrow = TileShape<128, 64, 32, 3, 4, 2>;
using Exact = TileShape<64, 64, 16, 2, 2, 1>;
// Where channels or addresses are no multiples of 16 bytes, as in narrow spaces.
using Any = TileShape<64, 64, 16, 2, 2, 2>;

// At least so many blocks on a multiprocessor, for the data gradient and the others.
#define CONVOLUTIONS(T, SHAPE, VECTORS, BLOCKS, OF_INPUT, SUFFIX)                                                      \
    KERNEL(SHAPE::THREADS, BLOCKS) conv_forward_##SUFFIX(CorrelateArguments args) {                                    \
        correlate<T, SHAPE, VECTORS, false>(args);                                                                     \
    }                                                                                                                  \
    EXPORT(conv_forward_##SUFFIX)                                                                                      \
    KERNEL(SHAPE::THREADS, OF_INPUT) conv_backward_input_##SUFFIX(CorrelateArguments args) {                           \
        correlate<T, SHAPE, VECTORS, true>(args);                                                                      \
    }                                                                                                                  \
    EXPORT(conv_backward_input_##SUFFIX)                                                                               \
    KERNEL(SHAPE::THREADS, BLOCKS) conv_backward_weight_##SUFFIX(WeightGradientArguments args) {                       \
        weight_gradient<T, SHAPE, VECTORS>(args);                                                                      \
    }                                                                                                                  \
    EXPORT(conv_backward_weight_##SUFFIX)

CONVOLUTIONS(bf16, Wide, true, 2, 2, bf16_wide)
CONVOLUTIONS(bf16, Narrow, true, 2, 2, bf16_narrow)
CONVOLUTIONS(bf16, Any, false, 4, 4, bf16_any)
CONVOLUTIONS(float, Exact, true, 6, 4, f32_exact)
CONVOLUTIONS(float, Any, false, 3, 3, f32_any)
