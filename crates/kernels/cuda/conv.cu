// Slimmable convolution as an implicit matrix product. Activations are [batch, height, width, channels] of T, dense with the
// active channels; weights [kernel, kernel, full_in, full_out] of T, of which every tap's leading block is active.
//
// - correlate: a map gathered through taps. Rows are the pixels of the result, columns its channels, and the depth runs
//   over taps and the source's channels. Forward, the source is the input; for the data gradient it is the output's
//   gradient, and at stride s the result's pixels fall into s x s classes with taps of their own, so that no product with
//   a hole of the dilated gradient is made. The dense layer is a correlation of 1x1 maps.
// - weight_gradient: rows are taps and input channels, columns output channels, the depth runs over pixels, cut into parts
//   that are added in order afterwards: the same bits on every run.
#include "tile.cuh"

struct CorrelateArguments {
    const void *source;     // [batch, source_height, source_width, depth]
    const void *weight;     // [kernel, kernel, full_in, full_out]
    void *result;           // [batch, height, width, columns]
    const float *scale;     // [columns] or null: 1; forward only, as residual, moments and relu
    const float *shift;     // [columns] or null: 0
    const void *residual;   // as the result, or null
    float *moments;         // [tiles of rows][2][columns], or null: means and sums of squared deviations
    int batch, height, width, source_height, source_width;
    int depth, columns, full_in, full_out;
    int kernel, stride;
    int relu;               // max(., 0) at the end
    int accumulate;         // add to the result instead of overwriting; data gradient only
};
static_assert(sizeof(CorrelateArguments) == 7 * 8 + 13 * 4 + 4, "CorrelateArguments is laid out as in Rust");

struct WeightGradientArguments {
    const void *input;      // [batch, height, width, in_channels]
    const void *gradient;   // [batch, out_height, out_width, out_channels], of the output
    float *weight;          // [kernel, kernel, full_in, full_out], added to; when `parts` is 1
    float *partial;         // [parts][kernel, kernel, in_channels, out_channels], when it is more
    int batch, height, width, out_height, out_width;
    int in_channels, out_channels, full_in, full_out;
    int kernel, stride;
    int parts;
    FastDivision by_out_width, by_out_pixels;
};
static_assert(sizeof(WeightGradientArguments) == 4 * 8 + 12 * 4 + 24, "WeightGradientArguments is laid out as in Rust");

struct SumPartsArguments {
    const float *partial;   // [parts][taps, in_channels, out_channels]
    float *weight;          // [taps, full_in, full_out], added to
    int parts, taps, in_channels, out_channels, full_in, full_out;
};
static_assert(sizeof(SumPartsArguments) == 2 * 8 + 6 * 4, "SumPartsArguments is laid out as in Rust");

// One spatial axis of a correlation: result index i of this class lies at origin + step * i, and its tap number t reads
// source index i * source_step + offset + t * direction through weight tap first + t * tap_step.
struct Axis {
    int origin, step, length;
    int source_step, offset, direction;
    int first, tap_step, taps;
};

// Forward: one class. `result` is the length of the result's axis.
DEVICE Axis forward_axis(int kernel, int stride, int result) {
    return {0, 1, result, stride, -(kernel / 2), 1, 0, 1, kernel};
}

// Data gradient, class c of `stride`: the input's pixels c, c + stride, ...; those taps reach them from an output that
// are congruent to c + padding.
DEVICE Axis backward_axis(int kernel, int stride, int result, int c) {
    const int from = c + kernel / 2, first = from % stride;
    const int taps = first < kernel ? (kernel - first + stride - 1) / stride : 0;
    const int length = c < result ? (result - c + stride - 1) / stride : 0;
    return {c, stride, length, 1, (from - first) / stride, -1, first, stride, taps};
}

// A place in the depth of a correlation: source channel and tap.
struct Depth {
    int channel, y, x;
    DEVICE void advance(int by, int channels, int taps_x) {
        channel += by;
        while (channel >= channels) {
            channel -= channels;
            if (++x == taps_x) {
                x = 0;
                y++;
            }
        }
    }
};

// Where a result pixel of the class reads from and goes to.
struct Pixel {
    i64 image; // number of the source image's first pixel
    int y, x;  // of the source at tap 0
    i64 result;
};

struct Correlation {
    const CorrelateArguments &args;
    Axis y, x;
    i64 rows;

    DEVICE Pixel pixel(i64 row) const {
        const i64 line = row / x.length;
        const int j = int(row - line * x.length);
        const int n = int(line / y.length), i = int(line - i64(n) * y.length);
        Pixel p;
        p.image = i64(n) * args.source_height * args.source_width;
        p.y = i * y.source_step + y.offset;
        p.x = j * x.source_step + x.offset;
        p.result = (i64(n) * args.height + y.origin + i * y.step) * args.width + x.origin + j * x.step;
        return p;
    }
    // Index of the source element, or -1 for padding.
    DEVICE i64 source(const Pixel &p, const Depth &d) const {
        const int sy = p.y + d.y * y.direction, sx = p.x + d.x * x.direction;
        const bool inside =
            d.y < y.taps && u32(sy) < u32(args.source_height) && u32(sx) < u32(args.source_width);
        return inside ? (p.image + i64(sy) * args.source_width + sx) * args.depth + d.channel : -1;
    }
    // The first weight of the tap.
    DEVICE i64 tap(const Depth &d) const {
        const int ky = y.first + d.y * y.tap_step, kx = x.first + d.x * x.tap_step;
        return i64(ky * args.kernel + kx) * args.full_in * args.full_out;
    }
    // Index of the weight between the source's channel and result channel `column`, or -1 beyond the active ones.
    template <bool BACKWARD> DEVICE i64 weight(const Depth &d, int column) const {
        if (d.y >= y.taps || column >= args.columns) return -1;
        const i64 in = BACKWARD ? column : d.channel, out = BACKWARD ? d.channel : column;
        return tap(d) + in * args.full_out + out;
    }
};

// Copies of 16 bytes into a stage, or element by element where channels or addresses do not allow that.
template <class T, bool VECTORS> struct Copier {
    static constexpr int LENGTH = VECTORS ? VectorOf<T>::LENGTH : 1;
    DEVICE static void copy(T *to, const T *base, i64 index) {
        const bool filled = index >= 0;
        if constexpr (VECTORS)
            copy_async(to, base + (filled ? index : 0), filled);
        else
            *to = filled ? base[index] : from_float<T>(0.0f);
    }
};

// The pixels of a correlation's rows: [M][K], along the depth.
template <class T, class Shape, bool VECTORS> struct LoadPixels {
    using C = Copier<T, VECTORS>;
    using S = Stage<T, Shape::M, Shape::K, ALONG_DEPTH>;
    static constexpr int ACROSS = Shape::K / C::LENGTH, DOWN = Shape::THREADS / ACROSS, COUNT = Shape::M / DOWN;
    static_assert(Shape::THREADS % ACROSS == 0 && Shape::M % DOWN == 0, "every thread copies as much");
    const Correlation &map;
    Pixel pixels[COUNT];
    Depth depth;
    int row, k;

    DEVICE LoadPixels(const Correlation &map, i64 first) : map(map) {
        row = threadIdx.x / ACROSS;
        k = threadIdx.x % ACROSS * C::LENGTH;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const i64 own = first + row + i * DOWN;
            pixels[i] = map.pixel(own < map.rows ? own : 0);
            if (own >= map.rows) pixels[i].y = -(1 << 30); // padding at every tap
        }
        depth = {0, 0, 0};
        depth.advance(k, map.args.depth, map.x.taps);
    }
    DEVICE void load(T *stage) {
        const T *source = static_cast<const T *>(map.args.source);
#pragma unroll
        for (int i = 0; i < COUNT; i++) C::copy(stage + S::at(row + i * DOWN, k), source, map.source(pixels[i], depth));
        depth.advance(Shape::K, map.args.depth, map.x.taps);
    }
};

// The weights of a correlation. Forward they are contiguous along the result's channels: [K][N]; the data gradient's
// along the depth: [N][K].
template <class T, class Shape, bool VECTORS, bool BACKWARD> struct LoadWeights {
    using C = Copier<T, VECTORS>;
    using S = Stage<T, Shape::N, Shape::K, BACKWARD ? ALONG_DEPTH : ALONG_RESULT>;
    static constexpr int ACROSS = S::INNER_LENGTH / C::LENGTH, DOWN = Shape::THREADS / ACROSS;
    static constexpr int COUNT = S::OUTER / DOWN;
    static_assert(Shape::THREADS % ACROSS == 0 && S::OUTER % DOWN == 0, "every thread copies as much");
    const Correlation &map;
    Depth depths[BACKWARD ? 1 : COUNT];
    int outer, inner, column0;

    DEVICE LoadWeights(const Correlation &map, int column0) : map(map), column0(column0) {
        outer = threadIdx.x / ACROSS;
        inner = threadIdx.x % ACROSS * C::LENGTH;
#pragma unroll
        for (int i = 0; i < (BACKWARD ? 1 : COUNT); i++) {
            depths[i] = {0, 0, 0};
            depths[i].advance(BACKWARD ? inner : outer + i * DOWN, map.args.depth, map.x.taps);
        }
    }
    DEVICE void load(T *stage) {
        const T *weight = static_cast<const T *>(map.args.weight);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int column = column0 + (BACKWARD ? outer + i * DOWN : inner);
            const i64 index = map.template weight<BACKWARD>(depths[BACKWARD ? 0 : i], column);
            C::copy(stage + (outer + i * DOWN) * S::LEADING + inner, weight, index);
        }
#pragma unroll
        for (int i = 0; i < (BACKWARD ? 1 : COUNT); i++) depths[i].advance(Shape::K, map.args.depth, map.x.taps);
    }
};

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
    float sum = 0.0f;
    for (int row = share; row < rows; row += SHARERS) sum += tile[row * SUMS_LEADING<Shape> + column];
    const float average = total(sum) / rows;
    sum = 0.0f;
    for (int row = share; row < rows; row += SHARERS) {
        const float d = tile[row * SUMS_LEADING<Shape> + column] - average;
        sum += d * d;
    }
    sum = total(sum);
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
    map.rows = i64(args.batch) * map.y.length * map.x.length;
    // Tiles of the same rows are neighbours, so that the cache serves their pixels.
    const int tiles = (args.columns + Shape::N - 1) / Shape::N;
    const i64 row_tile = blockIdx.x / tiles;
    const i64 row0 = row_tile * Shape::M;
    const int column0 = int(blockIdx.x % tiles) * Shape::N;
    if (row0 >= map.rows) return; // a smaller class than the largest

    const int depth = map.y.taps * map.x.taps * args.depth;
    LoadPixels<T, Shape, VECTORS> pixels(map, row0);
    LoadWeights<T, Shape, VECTORS, BACKWARD> weights(map, column0);
    float *tile = multiply_tile<T, Shape, ALONG_DEPTH, OF_B>(pixels, weights, (depth + Shape::K - 1) / Shape::K);

    const int rows = int(min_of(i64(Shape::M), map.rows - row0)), columns = min_of(Shape::N, args.columns - column0);
    T *result = static_cast<T *>(args.result);
    const T *residual = static_cast<const T *>(args.residual);
    for (int i = threadIdx.x; i < Shape::M * Shape::N / LENGTH; i += Shape::THREADS) {
        const int row = i / (Shape::N / LENGTH), column = i % (Shape::N / LENGTH) * LENGTH;
        if (row >= rows || column >= columns) continue;
        // Only classes of pixels have holes between their rows; a test for a single class costs registers that are not
        // there. What the data gradient is never asked for costs it none, either: of the rest it has the shift, for a
        // dense layer's bias.
        const i64 to = BACKWARD ? map.pixel(row0 + row).result : row0 + row;
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
        float *moments = args.moments + row_tile * 2 * args.columns + column0;
        tile_moments<Shape>(tile, rows, columns, moments, moments + args.columns);
    }
}

// The input's values that each pixel of the output's gradient meets at the taps and channels of the tile: [K][M].
template <class T, class Shape, bool VECTORS> struct LoadTaps {
    using C = Copier<T, VECTORS>;
    using S = Stage<T, Shape::M, Shape::K, ALONG_RESULT>;
    static constexpr int ACROSS = Shape::M / C::LENGTH, DOWN = Shape::THREADS / ACROSS, COUNT = Shape::K / DOWN;
    static_assert(Shape::THREADS % ACROSS == 0 && Shape::K % DOWN == 0, "every thread copies as much");
    const WeightGradientArguments &args;
    int outer, inner, channel, dy, dx;
    u32 pixel, end;

    DEVICE LoadTaps(const WeightGradientArguments &args, int row0, u32 first, u32 end)
        : args(args), pixel(first), end(end) {
        outer = threadIdx.x / ACROSS;
        inner = threadIdx.x % ACROSS * C::LENGTH;
        const int row = row0 + inner, tap = row / args.in_channels;
        channel = row - tap * args.in_channels;
        dy = tap / args.kernel - args.kernel / 2;
        dx = tap % args.kernel - args.kernel / 2;
        if (tap >= args.kernel * args.kernel) dy = -(1 << 30); // padding at every pixel
    }
    DEVICE void load(T *stage) {
        const T *input = static_cast<const T *>(args.input);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const u32 p = pixel + outer + i * DOWN;
            const u32 n = args.by_out_pixels.quotient(p), of_image = p - n * args.by_out_pixels.divisor;
            const u32 oy = args.by_out_width.quotient(of_image), ox = of_image - oy * args.by_out_width.divisor;
            const int y = int(oy) * args.stride + dy, x = int(ox) * args.stride + dx;
            const bool inside = p < end && u32(y) < u32(args.height) && u32(x) < u32(args.width);
            const i64 at = ((i64(n) * args.height + y) * args.width + x) * args.in_channels + channel;
            C::copy(stage + (outer + i * DOWN) * S::LEADING + inner, input, inside ? at : -1);
        }
        pixel += Shape::K;
    }
};

// The output's gradient: [K][N].
template <class T, class Shape, bool VECTORS> struct LoadGradient {
    using C = Copier<T, VECTORS>;
    using S = Stage<T, Shape::N, Shape::K, ALONG_RESULT>;
    static constexpr int ACROSS = Shape::N / C::LENGTH, DOWN = Shape::THREADS / ACROSS, COUNT = Shape::K / DOWN;
    static_assert(Shape::THREADS % ACROSS == 0 && Shape::K % DOWN == 0, "every thread copies as much");
    const WeightGradientArguments &args;
    int outer, inner, column;
    u32 pixel, end;

    DEVICE LoadGradient(const WeightGradientArguments &args, int column0, u32 first, u32 end)
        : args(args), pixel(first), end(end) {
        outer = threadIdx.x / ACROSS;
        inner = threadIdx.x % ACROSS * C::LENGTH;
        column = column0 + inner;
    }
    DEVICE void load(T *stage) {
        const T *gradient = static_cast<const T *>(args.gradient);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const u32 p = pixel + outer + i * DOWN;
            const bool inside = p < end && column < args.out_channels;
            const i64 at = inside ? i64(p) * args.out_channels + column : -1;
            C::copy(stage + (outer + i * DOWN) * S::LEADING + inner, gradient, at);
        }
        pixel += Shape::K;
    }
};

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

    LoadTaps<T, Shape, VECTORS> taps(args, row0, first, end);
    LoadGradient<T, Shape, VECTORS> gradient(args, column0, first, end);
    const int own = int((end - first + Shape::K - 1) / Shape::K);
    const float *tile = multiply_tile<T, Shape, ALONG_RESULT, ALONG_RESULT>(taps, gradient, own);

    for (int i = threadIdx.x; i < Shape::M * Shape::N; i += Shape::THREADS) {
        const int row = row0 + i / Shape::N, column = column0 + i % Shape::N;
        if (row >= rows || column >= args.out_channels) continue;
        const float sum = tile[i / Shape::N * SUMS_LEADING<Shape> + i % Shape::N];
        if (args.parts > 1) {
            args.partial[(i64(blockIdx.y) * rows + row) * args.out_channels + column] = sum;
        } else {
            const int tap = row / args.in_channels, channel = row - tap * args.in_channels;
            args.weight[(i64(tap) * args.full_in + channel) * args.full_out + column] += sum;
        }
    }
}

KERNEL(THREADS, 4) sum_parts(SumPartsArguments args) {
    const i64 length = i64(args.taps) * args.in_channels * args.out_channels;
    const i64 at = i64(blockIdx.x) * THREADS + threadIdx.x;
    if (at >= length) return;
    float sum = 0.0f;
    for (int part = 0; part < args.parts; part++) sum += args.partial[part * length + at];
    const i64 row = at / args.out_channels, tap = row / args.in_channels;
    const i64 in = row - tap * args.in_channels, out = at - row * args.out_channels;
    args.weight[(tap * args.full_in + in) * args.full_out + out] += sum;
}
EXPORT(sum_parts)

// Tiles, named by their columns. Widths of 48 to 64 fill the narrow one; `gpu/conv.rs` chooses.
using Wide = TileShape<128, 128, 32, 3, 2, 4>;
using Narrow = TileShape<128, 64, 32, 3, 4, 2>;
using Exact = TileShape<64, 64, 16, 2, 4, 2>;
// Where channels or addresses are no multiples of 16 bytes: images, and narrow spaces.
using Any = TileShape<64, 64, 16, 2, 2, 2>;

#define CONVOLUTIONS(T, SHAPE, VECTORS, BLOCKS, SUFFIX)                                                                \
    KERNEL(SHAPE::THREADS, BLOCKS) conv_forward_##SUFFIX(CorrelateArguments args) {                                    \
        correlate<T, SHAPE, VECTORS, false>(args);                                                                     \
    }                                                                                                                  \
    EXPORT(conv_forward_##SUFFIX)                                                                                      \
    KERNEL(SHAPE::THREADS, BLOCKS) conv_backward_input_##SUFFIX(CorrelateArguments args) {                             \
        correlate<T, SHAPE, VECTORS, true>(args);                                                                      \
    }                                                                                                                  \
    EXPORT(conv_backward_input_##SUFFIX)                                                                               \
    KERNEL(SHAPE::THREADS, BLOCKS) conv_backward_weight_##SUFFIX(WeightGradientArguments args) {                       \
        weight_gradient<T, SHAPE, VECTORS>(args);                                                                      \
    }                                                                                                                  \
    EXPORT(conv_backward_weight_##SUFFIX)

CONVOLUTIONS(bf16, Wide, true, 2, bf16_wide)
CONVOLUTIONS(bf16, Narrow, true, 2, bf16_narrow)
CONVOLUTIONS(bf16, Any, false, 4, bf16_any)
CONVOLUTIONS(float, Exact, true, 2, f32_exact)
CONVOLUTIONS(float, Any, false, 3, f32_any)
