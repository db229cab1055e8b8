// How a convolution's tiles get their operands: which elements every thread copies into the stages of shared memory.
//
// All that follows from a thread's place is computed once. From step to step an address moves by sums that are known, and only
// where a step enters another tap is it made anew. Addresses are 64-bit numbers of bytes: no shape is too large for them.
#pragma once
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
    int active;             // channels of the depth that have weights: all, or the first few
    int step_taps, step_channels; // the depth of one step: so many taps and channels
};
static_assert(sizeof(CorrelateArguments) == 7 * 8 + 16 * 4, "CorrelateArguments is laid out as in Rust");

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
    int active;             // input channels that have weights: all, or the first few
    int unused;
};
static_assert(sizeof(WeightGradientArguments) == 4 * 8 + 12 * 4 + 24 + 2 * 4, "WeightGradientArguments is laid out as in Rust");

// Copies of 16 bytes into a stage, or element by element where channels or addresses do not allow that.
template <class T, bool VECTORS, Cache CACHE = SHARED_CACHE> struct Copier {
    static constexpr int LENGTH = VECTORS ? VectorOf<T>::LENGTH : 1;
    u32 start; // of this thread's copies in the first stage, in bytes of shared memory
    SharedAddress address;
    DEVICE explicit Copier(u32 start) : start(start), address(shared_address(shared_memory() + start)) {}
    // `at`: bytes behind the start. Where `filled` is false, zeros.
    DEVICE void copy(u32 at, u64 from, bool filled) const {
        if constexpr (VECTORS)
            copy_async<CACHE>(address + at, from, filled);
        else
            *reinterpret_cast<T *>(shared_memory() + start + at) =
                filled ? *reinterpret_cast<const T *>(from) : from_float<T>(0.0f);
    }
};

// How a block's threads share an operand's stage: pieces of the inner axis across, and lines of the outer one.
template <class T, class S, bool VECTORS, int ACROSS_, int THREADS> struct Share {
    static constexpr int LENGTH = Copier<T, VECTORS>::LENGTH, ACROSS = ACROSS_, DOWN = THREADS / ACROSS;
    static constexpr int LINES = S::OUTER / DOWN, PIECES = S::INNER_LENGTH / LENGTH / ACROSS;
    static_assert(LINES * DOWN == S::OUTER && PIECES * ACROSS * LENGTH == S::INNER_LENGTH, "every thread copies as much");
    // This thread's first element; the others lie `DOWN` lines and `ACROSS * LENGTH` elements further.
    DEVICE static int outer() {
        const int line = threadIdx.x / ACROSS;
        // Eight threads write at once: two lines of 64 bytes, which the padding to 80 keeps in other banks four lines apart.
        constexpr bool APART = VECTORS && ACROSS == 4 && S::LEADING * sizeof(T) == 80;
        return APART ? line / 8 * 8 + line % 2 * 4 + line / 2 % 4 : line;
    }
    DEVICE static int inner() { return threadIdx.x % ACROSS * LENGTH; }
    DEVICE static u32 start() { return (outer() * S::LEADING + inner()) * u32(sizeof(T)); }
    DEVICE static u32 at(int line, int piece) {
        return (line * DOWN * S::LEADING + piece * ACROSS * LENGTH) * u32(sizeof(T));
    }
};

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

// A row of a correlation: which image, and where along the axes of its class.
struct Pixel {
    u32 image;
    int y, x;
};

struct Correlation {
    const CorrelateArguments &args;
    Axis y, x;
    u32 rows;

    DEVICE Pixel pixel(u32 row) const {
        const u32 line = row / u32(x.length), image = line / u32(y.length);
        return {image, int(line - image * u32(y.length)), int(row - line * u32(x.length))};
    }
    // Number of its pixel in the result.
    DEVICE i64 result(const Pixel &p) const {
        return (i64(p.image) * args.height + y.origin + p.y * y.step) * args.width + x.origin + p.x * x.step;
    }
    // Taps along y; none where there are none along x.
    DEVICE int taps_y() const { return x.taps == 0 ? 0 : y.taps; }
};

// A place in the depth of a correlation: source channels within taps.
struct Depth {
    int channel, x, y;

    DEVICE Depth(const Correlation &map, int start) {
        const int tap = start / map.args.depth, taps = map.x.taps > 1 ? map.x.taps : 1;
        channel = start - tap * map.args.depth;
        y = tap / taps;
        x = tap - y * taps;
    }
    // A step further. Whether that is another tap.
    DEVICE bool advance(const Correlation &map) {
        channel += map.args.step_channels;
        const bool carried = channel >= map.args.depth;
        if (!carried && map.args.step_taps == 0) return false;
        if (carried) channel -= map.args.depth;
        x += map.args.step_taps + carried;
        while (x >= map.x.taps && y < map.y.taps) {
            x -= map.x.taps;
            y++;
        }
        return true;
    }
};

// The pixels of a correlation's rows: [M][K], along the depth.
template <class T, class Shape, bool VECTORS> struct LoadPixels {
    using S = Stage<T, Shape::M, Shape::K, ALONG_DEPTH>;
    using Own = Share<T, S, VECTORS, Shape::K / Copier<T, VECTORS>::LENGTH, Shape::THREADS>;
    const Correlation &map;
    // Nine taps read nearly the same pixels, and soon after each other; the weights would only displace them (measured).
    const Copier<T, VECTORS, ALL_CACHES> to;
    u64 base[Own::LINES];               // address of each row's pixel at the first tap
    int y[Own::LINES], x[Own::LINES];   // where that is
    bool inside[Own::LINES];            // whether the pixel of this tap is
    i64 offset;                         // bytes from the base to this tap and channel

    DEVICE LoadPixels(const Correlation &map, u32 row0, const Depth &depth) : map(map), to(Own::start()) {
        const CorrelateArguments &args = map.args;
#pragma unroll
        for (int i = 0; i < Own::LINES; i++) {
            const u32 row = row0 + Own::outer() + i * Own::DOWN;
            const Pixel p = map.pixel(row < map.rows ? row : 0);
            y[i] = p.y * map.y.source_step + map.y.offset;
            x[i] = p.x * map.x.source_step + map.x.offset;
            const i64 pixel = (i64(p.image) * args.source_height + y[i]) * args.source_width + x[i];
            base[i] = reinterpret_cast<u64>(args.source) + u64(pixel * args.depth * i64(sizeof(T)));
            if (row >= map.rows) y[i] = -(1 << 30); // padding at every tap
        }
        tap(depth);
    }
    DEVICE void tap(const Depth &depth) {
        const CorrelateArguments &args = map.args;
        const int dy = depth.y * map.y.direction, dx = depth.x * map.x.direction;
        offset = ((i64(dy) * args.source_width + dx) * args.depth + depth.channel) * i64(sizeof(T));
        const bool valid = depth.y < map.taps_y();
#pragma unroll
        for (int i = 0; i < Own::LINES; i++)
            inside[i] = valid && u32(y[i] + dy) < u32(args.source_height) && u32(x[i] + dx) < u32(args.source_width);
    }
    DEVICE void load(u32 stage) const {
#pragma unroll
        for (int i = 0; i < Own::LINES; i++) to.copy(stage + Own::at(i, 0), base[i] + u64(offset), inside[i]);
    }
};

// The weights of a forward pass, contiguous along the result's channels: [K][N]. A thread has one line of a step.
template <class T, class Shape, bool VECTORS, u32 START> struct LoadWeights {
    using S = Stage<T, Shape::N, Shape::K, ALONG_RESULT>;
    using Own = Share<T, S, VECTORS, Shape::THREADS / Shape::K, Shape::THREADS>;
    static_assert(Own::LINES == 1, "one place in the depth for every thread");
    const CorrelateArguments &args;
    const Copier<T, VECTORS> to;
    u64 address;
    i64 step, beyond;   // bytes from line to line of a step, and more where a tap ends
    int channel, left;  // of the line; and depth from there on
    int columns;        // active ones from this thread's first on

    DEVICE LoadWeights(const Correlation &map, int column0) : args(map.args), to(START + Own::start()) {
        const int line = Own::outer(), tap = line / args.depth;
        channel = line - tap * args.depth;
        left = map.y.taps * map.x.taps * args.depth - line;
        columns = args.columns - column0 - Own::inner();
        const i64 row = i64(args.full_out) * i64(sizeof(T)), of_tap = row * args.full_in;
        step = of_tap * args.step_taps + row * args.step_channels;
        beyond = of_tap - row * args.depth;
        address = reinterpret_cast<u64>(args.weight) +
                  u64(of_tap * tap + row * channel + (column0 + Own::inner()) * i64(sizeof(T)));
    }
    DEVICE void load(u32 stage) {
        // A source may have more channels than the weight: zeros, which meet zeros.
        const bool valid = left > 0 && channel < args.active;
#pragma unroll
        for (int i = 0; i < Own::PIECES; i++) {
            const int piece = i * Own::ACROSS * Own::LENGTH;
            to.copy(stage + Own::at(0, i), address + piece * sizeof(T), valid && piece < columns);
        }
        left -= Shape::K;
        address += u64(step);
        channel += args.step_channels;
        if (channel >= args.depth) {
            channel -= args.depth;
            address += u64(beyond);
        }
    }
};

// The weights of a data gradient, contiguous along the depth: [N][K].
template <class T, class Shape, bool VECTORS, u32 START> struct LoadTransposedWeights {
    using S = Stage<T, Shape::N, Shape::K, ALONG_DEPTH>;
    using Own = Share<T, S, VECTORS, Shape::K / Copier<T, VECTORS>::LENGTH, Shape::THREADS>;
    const Correlation &map;
    const Copier<T, VECTORS> to;
    u64 address;    // of this thread's first weight at this tap and channel
    bool valid;     // whether there is such a tap
    int columns;    // active ones from this thread's first on

    DEVICE LoadTransposedWeights(const Correlation &map, int column0, const Depth &depth)
        : map(map), to(START + Own::start()), columns(map.args.columns - column0 - Own::outer()) {
        tap(depth);
    }
    DEVICE void tap(const Depth &depth) {
        const CorrelateArguments &args = map.args;
        const int y = map.y.first + depth.y * map.y.tap_step, x = map.x.first + depth.x * map.x.tap_step;
        const i64 row = i64(y * args.kernel + x) * args.full_in + (args.columns - columns);
        valid = depth.y < map.taps_y();
        address = reinterpret_cast<u64>(args.weight) + u64((row * args.full_out + depth.channel) * i64(sizeof(T)));
    }
    DEVICE void load(u32 stage) const {
        const i64 line = i64(Own::DOWN) * map.args.full_out * i64(sizeof(T));
#pragma unroll
        for (int i = 0; i < Own::LINES; i++)
            to.copy(stage + Own::at(i, 0), address + u64(i * line), valid && i * Own::DOWN < columns);
    }
};

// Both operands of a correlation.
template <class T, class Shape, bool VECTORS, u32 START> struct LoadForward {
    using Pixels = LoadPixels<T, Shape, VECTORS>;
    const Correlation &map;
    Depth depth;
    Pixels pixels;
    LoadWeights<T, Shape, VECTORS, START> weights;
    DEVICE LoadForward(const Correlation &map, u32 row0, int column0)
        : map(map), depth(map, Pixels::Own::inner()), pixels(map, row0, depth), weights(map, column0) {}
    DEVICE void load(u32 stage) {
        pixels.load(stage);
        weights.load(stage);
        if (depth.advance(map))
            pixels.tap(depth);
        else
            pixels.offset += Shape::K * sizeof(T);
    }
};

template <class T, class Shape, bool VECTORS, u32 START> struct LoadBackward {
    using Pixels = LoadPixels<T, Shape, VECTORS>;
    const Correlation &map;
    Depth depth;
    Pixels pixels;
    LoadTransposedWeights<T, Shape, VECTORS, START> weights;
    DEVICE LoadBackward(const Correlation &map, u32 row0, int column0)
        : map(map), depth(map, Pixels::Own::inner()), pixels(map, row0, depth), weights(map, column0, depth) {}
    DEVICE void load(u32 stage) {
        pixels.load(stage);
        weights.load(stage);
        if (depth.advance(map)) {
            pixels.tap(depth);
            weights.tap(depth);
        } else {
            pixels.offset += Shape::K * sizeof(T);
            weights.address += Shape::K * sizeof(T);
        }
    }
};

// Both operands of a weight gradient, a pixel of the output for every thread and step: the input's values [K][M] that it meets
// at the taps and channels of the tile, and its gradient [K][N].
template <class T, class Shape, bool VECTORS, u32 START> struct LoadWeightGradient {
    using A = Stage<T, Shape::M, Shape::K, ALONG_RESULT>;
    using B = Stage<T, Shape::N, Shape::K, ALONG_RESULT>;
    static constexpr int ACROSS = Shape::THREADS / Shape::K;
    using OwnA = Share<T, A, VECTORS, ACROSS, Shape::THREADS>;
    using OwnB = Share<T, B, VECTORS, ACROSS, Shape::THREADS>;
    static_assert(OwnA::LINES == 1 && OwnB::LINES == 1, "one pixel for every thread");
    const WeightGradientArguments &args;
    // Both: taps are rows of other blocks, which run beside this one (measured).
    const Copier<T, VECTORS, ALL_CACHES> to_a, to_b;
    u64 input;                  // address of the pixel's first channel at the tap in the middle
    int y, x;                   // where that is
    int dy[OwnA::PIECES], dx[OwnA::PIECES];
    i64 offset[OwnA::PIECES];   // bytes from there to each piece's tap and channel
    u64 gradient;               // address of the pixel's gradient in the first column
    int columns;                // active ones from this thread's first on
    int left;                   // pixels from this one on
    // What K pixels amount to, in the input's coordinates and bytes; and what the end of a row or an image adds.
    int by_y, by_x;
    i64 by, row_end, image_end;

    DEVICE LoadWeightGradient(const WeightGradientArguments &args, int row0, int column0, u32 first, u32 end)
        : args(args), to_a(OwnA::start()), to_b(START + OwnB::start()) {
        constexpr i64 SIZE = sizeof(T);
        const i64 pixel_bytes = args.in_channels * SIZE, row_bytes = pixel_bytes * args.width;
        auto bytes = [&](u32 image, int y, int x) {
            return (i64(image) * args.height + y) * row_bytes + x * pixel_bytes;
        };
        const u32 p = first + OwnA::outer();
        const u32 n = args.by_out_pixels.quotient(p), of_image = p - n * args.by_out_pixels.divisor;
        const u32 oy = args.by_out_width.quotient(of_image), ox = of_image - oy * args.by_out_width.divisor;
        left = int(end) - int(p);
        y = int(oy) * args.stride;
        x = int(ox) * args.stride;
        input = reinterpret_cast<u64>(args.input) + u64(bytes(n, y, x));
#pragma unroll
        for (int i = 0; i < OwnA::PIECES; i++) {
            const int row = row0 + OwnA::inner() + i * ACROSS * OwnA::LENGTH, tap = row / args.in_channels;
            dy[i] = tap / args.kernel - args.kernel / 2;
            dx[i] = tap % args.kernel - args.kernel / 2;
            offset[i] = dy[i] * row_bytes + dx[i] * pixel_bytes + (row - tap * args.in_channels) * SIZE;
            if (tap >= args.kernel * args.kernel) dy[i] = -(1 << 30); // padding at every pixel
        }
        columns = args.out_channels - column0 - OwnB::inner();
        gradient = reinterpret_cast<u64>(args.gradient) +
                   u64((i64(p) * args.out_channels + column0 + OwnB::inner()) * SIZE);
        const int of_x = Shape::K % args.out_width, lines = Shape::K / args.out_width;
        const int of_y = lines % args.out_height, images = lines / args.out_height;
        by_x = of_x * args.stride;
        by_y = of_y * args.stride;
        by = bytes(images, by_y, by_x);
        row_end = bytes(0, args.stride, -args.out_width * args.stride);
        image_end = bytes(1, -args.out_height * args.stride, 0);
    }
    DEVICE void load(u32 stage) {
        const bool valid = left > 0;
#pragma unroll
        for (int i = 0; i < OwnA::PIECES; i++) {
            const bool inside = u32(y + dy[i]) < u32(args.height) && u32(x + dx[i]) < u32(args.width);
            to_a.copy(stage + OwnA::at(0, i), input + u64(offset[i]), valid && inside);
        }
#pragma unroll
        for (int i = 0; i < OwnB::PIECES; i++) {
            const int piece = i * ACROSS * OwnB::LENGTH;
            to_b.copy(stage + OwnB::at(0, i), gradient + piece * sizeof(T), valid && piece < columns);
        }
        left -= Shape::K;
        gradient += u64(i64(Shape::K) * args.out_channels * i64(sizeof(T)));
        x += by_x;
        y += by_y;
        input += u64(by);
        if (x >= args.out_width * args.stride) {
            x -= args.out_width * args.stride;
            y += args.stride;
            input += u64(row_end);
        }
        if (y >= args.out_height * args.stride) {
            y -= args.out_height * args.stride;
            input += u64(image_end);
        }
    }
};
