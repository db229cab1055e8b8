// Batch normalisation over dense [rows, channels] activations of T, fused with the residual and the ReLU that follow it;
// statistics, parameters and their gradients are f32.
//
// A block takes a chunk of rows, and a thread of it one vector of channels in some of these rows: what depends on the
// channel only is computed once. Sums run in f32 over a thread's few rows, then in f64 over the threads and the chunks,
// in an order that follows from the shape.
#include "device.cuh"

// Rows that a thread has on their way at once, so that memory is kept busy.
constexpr int AT_ONCE = 4;

// How blocks share [rows, channels]; made by `Walk::new` in Rust.
struct Walk {
    i64 rows;
    int channels;
    int across; // vectors of channels of a block, at most THREADS
    int tiles;  // blocks that share a row
    int steps;  // rows of a thread, at most
};
static_assert(sizeof(Walk) == 8 + 4 * 4, "Walk is laid out as in Rust");

// What one thread has of it: elements start + i * stride, for i < count.
template <class T, bool VECTORS> struct Rows {
    static constexpr int LENGTH = VECTORS ? VectorOf<T>::LENGTH : 1;
    using V = Vector<T, LENGTH>;
    const Walk &walk;
    int down;    // threads that share a channel
    int channel; // the first one of the vector
    int count;   // rows
    i64 chunk, start, stride;

    DEVICE Rows(const Walk &walk) : walk(walk) {
        down = THREADS / walk.across;
        chunk = blockIdx.x / walk.tiles;
        const int tile = int(blockIdx.x % walk.tiles), line = threadIdx.x / walk.across;
        channel = (tile * walk.across + threadIdx.x % walk.across) * LENGTH;
        count = line < down && channel < walk.channels ? rows_of(line) : 0;
        start = (first() + line) * walk.channels + channel;
        stride = i64(down) * walk.channels;
    }
    DEVICE i64 first() const { return chunk * walk.steps * down; }
    // Rows of the whole chunk, and of its threads number `line` along the rows.
    DEVICE int rows() const { return int(min_of(i64(walk.steps) * down, walk.rows - first())); }
    DEVICE int rows_of(int line) const { return (rows() - line + down - 1) / down; }

    DEVICE void load(V (&values)[AT_ONCE], const void *from, int i) const {
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++)
            if (i + u < count) values[u] = *reinterpret_cast<const V *>(at(from, i + u));
    }
    DEVICE const T *at(const void *base, int i) const { return static_cast<const T *>(base) + start + i * stride; }
    DEVICE void store(void *base, int i, const V &values) const {
        *reinterpret_cast<V *>(static_cast<T *>(base) + start + i * stride) = values;
    }
};

// Calls `merge(column, position)` for every channel of the block: channel number `column` of the tensor, whose number that
// thread `line` along the rows left is at `position + line * walk.across`. Threads leave number e of their vector at
// [e][thread] of shared memory.
template <class R, class Merge> DEVICE void every_channel(const R &rows, Merge merge) {
    __syncthreads();
    const int across = rows.walk.across, tile = int(blockIdx.x % rows.walk.tiles);
    for (int i = threadIdx.x; i < across * R::LENGTH; i += THREADS) {
        const int e = i / across, lane = i % across;
        const int column = (tile * across + lane) * R::LENGTH + e;
        if (column < rows.walk.channels) merge(column, e * THREADS + lane);
    }
}

// A vector's values of something per channel. Leading parts of shared parameters may start anywhere.
template <int N> DEVICE Pack<float, N> of_channels(const float *base, int channel) {
    const float *from = base + channel;
    if (reinterpret_cast<u64>(from) % 16 == 0) return *reinterpret_cast<const Pack<float, N> *>(from);
    Pack<float, N> values;
#pragma unroll
    for (int e = 0; e < N; e++) values.at[e] = from[e];
    return values;
}
template <> DEVICE Pack<float, 1> of_channels<1>(const float *base, int channel) { return {{base[channel]}}; }

struct Parameters {
    const float *mean, *var, *gamma, *beta; // [channels]
};

// As `norm::EPSILON` in Rust.
constexpr float EPSILON = 1e-5f;

DEVICE float inverse_deviation(float var) { return 1.0f / sqrtf(var + EPSILON); }

// A vector's norm. The backward pass recomputes the ReLU's mask with this very `value`, whose rounding is spelled out, so
// that no kernel is compiled to another one. Subtracting the mean first keeps the digits that x * scale + shift would cancel
// when the mean is far from zero.
template <int N> struct Affine {
    Pack<float, N> mean, scale, beta;
    DEVICE Affine(const Parameters &of, int channel) {
        mean = of_channels<N>(of.mean, channel);
        beta = of_channels<N>(of.beta, channel);
        scale = of_channels<N>(of.gamma, channel);
        const Pack<float, N> var = of_channels<N>(of.var, channel);
#pragma unroll
        for (int e = 0; e < N; e++) scale.at[e] *= inverse_deviation(var.at[e]);
    }
    DEVICE float value(int e, float x) const { return fmaf(x - mean.at[e], scale.at[e], beta.at[e]); }
};

struct NormForwardArguments {
    Parameters norm;
    const void *x;        // [rows, channels]
    const void *residual; // likewise, or null
    void *y;              // likewise
    Walk walk;
    int relu;
    int unused;
};
static_assert(sizeof(NormForwardArguments) == 7 * 8 + 24 + 2 * 4, "NormForwardArguments is laid out as in Rust");

template <class T, bool VECTORS> DEVICE void norm_forward(const NormForwardArguments &args) {
    using R = Rows<T, VECTORS>;
    using V = typename R::V;
    const R rows(args.walk);
    if (rows.count == 0) return;
    const Affine<R::LENGTH> affine(args.norm, rows.channel);
    for (int i = 0; i < rows.count; i += AT_ONCE) {
        V x[AT_ONCE], residual[AT_ONCE];
        rows.load(x, args.x, i);
        if (args.residual) rows.load(residual, args.residual, i);
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            if (i + u >= rows.count) break;
            float y[R::LENGTH];
#pragma unroll
            for (int e = 0; e < R::LENGTH; e++) {
                float value = affine.value(e, x[u].at(e));
                if (args.residual) value += residual[u].at(e);
                // Written so that NaN stays NaN.
                if (args.relu && value < 0.0f) value = 0.0f;
                y[e] = value;
            }
            rows.store(args.y, i + u, V::of(y));
        }
    }
}

struct MomentsArguments {
    const void *x;  // [rows, channels]
    float *partial; // [chunks][2][channels]: means and sums of squared deviations
    Walk walk;
};
static_assert(sizeof(MomentsArguments) == 2 * 8 + 24, "MomentsArguments is laid out as in Rust");

// Each thread sums x - s and its square, s being the mean of its first rows. As these are a share f of its rows,
// (mean - s)^2 <= variance / f: what is subtracted at the end is within a small factor of what remains, however far from
// zero the mean is. The threads' sums are then brought to the first one's s, in f64, where f may be small.
template <class T, bool VECTORS> DEVICE void moments(const MomentsArguments &args) {
    using R = Rows<T, VECTORS>;
    const R rows(args.walk);
    float shift[R::LENGTH], sum[R::LENGTH], square[R::LENGTH];
#pragma unroll
    for (int e = 0; e < R::LENGTH; e++) shift[e] = sum[e] = square[e] = 0.0f;
    for (int i = 0; i < rows.count; i += AT_ONCE) {
        typename R::V x[AT_ONCE];
        rows.load(x, args.x, i);
        if (i == 0) {
#pragma unroll
            for (int e = 0; e < R::LENGTH; e++) {
                auto value = [&](int u) { return x[u].at(e); };
                static_assert(AT_ONCE == 4, "the first rows; added up so that equal ones have exactly their mean");
                shift[e] = value(0);
                if (rows.count >= AT_ONCE) shift[e] = ((value(0) + value(1)) + (value(2) + value(3))) * 0.25f;
            }
        }
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            if (i + u >= rows.count) break;
#pragma unroll
            for (int e = 0; e < R::LENGTH; e++) {
                const float d = x[u].at(e) - shift[e];
                sum[e] += d;
                square[e] += d * d;
            }
        }
    }
    float *shared = reinterpret_cast<float *>(shared_memory()); // [3][LENGTH][THREADS]
    constexpr int EACH = R::LENGTH * THREADS;
#pragma unroll
    for (int e = 0; e < R::LENGTH; e++) {
        float *to = shared + e * THREADS + threadIdx.x;
        to[0] = shift[e];
        to[EACH] = sum[e];
        to[2 * EACH] = square[e];
    }
    float *partial = args.partial + rows.chunk * 2 * args.walk.channels;
    every_channel(rows, [&](int column, int position) {
        const double origin = shared[position], n = rows.rows();
        double total = 0.0, squares = 0.0;
        for (int line = 0; line < min_of(rows.down, rows.rows()); line++) {
            const float *own = shared + position + line * args.walk.across;
            const double m = rows.rows_of(line), s = own[EACH], d = double(own[0]) - origin;
            total += s + m * d;
            squares += own[2 * EACH] + d * (2.0 * s + m * d);
        }
        const double rest = squares - total * total / n;
        partial[column] = float(origin + total / n);
        // Rounding may leave a constant channel a hair below zero. NaN stays NaN.
        partial[args.walk.channels + column] = rest < 0.0 ? 0.0f : float(rest);
    });
}

// Parts merge in blocks of a few channels each, as many as a sector of memory holds of them.
constexpr int MERGED = 8, MERGE_THREADS = 1024, SHARERS = MERGE_THREADS / MERGED;

// Adds up the numbers of a channel's threads, first by groups; the sums are those of the first, number 0 of SHARERS.
DEVICE void add_up(double &a, double &b) {
    constexpr int GROUPS = 8;
    double *own = reinterpret_cast<double *>(shared_memory()) + threadIdx.x; // of [2][SHARERS][MERGED]
    own[0] = a;
    own[MERGE_THREADS] = b;
    auto add = [&](int others, int distance) {
        for (int i = 1; i < others; i++) {
            a += own[i * distance];
            b += own[MERGE_THREADS + i * distance];
        }
    };
    const int share = threadIdx.x / MERGED;
    __syncthreads();
    if (share < GROUPS) {
        add(SHARERS / GROUPS, GROUPS * MERGED);
        own[0] = a;
        own[MERGE_THREADS] = b;
    }
    __syncthreads();
    if (share == 0) add(GROUPS, MERGED);
}

// Where parts of moments are so many that a few blocks would be long at them, groups of parts merge first.
struct MergePartsArguments {
    const float *partial; // [parts][2][channels]: means and sums of squared deviations
    double *merged;       // [groups][2][channels], likewise
    i64 rows, rows_per_part;
    int parts, channels, group, unused;
};
static_assert(sizeof(MergePartsArguments) == 4 * 8 + 4 * 4, "MergePartsArguments is laid out as in Rust");

// A block takes a group of parts and 32 channels, a warp of it every eighth part. Chan, Golub & LeVeque's formula for all
// of them at once: deviations of the means are taken from the first part's, in f64.
KERNEL(THREADS, 4) merge_parts(MergePartsArguments args) {
    const int lane = threadIdx.x % 32, share = threadIdx.x / 32, channel = blockIdx.x * 32 + lane;
    const bool inside = channel < args.channels;
    const int first = blockIdx.y * args.group, end = min_of(first + args.group, args.parts);
    const float *partial = args.partial + (inside ? channel : 0);
    const double whole = args.rows_per_part, last = args.rows - (args.parts - 1) * args.rows_per_part;
    const double origin = partial[i64(first) * 2 * args.channels];
    double sum = 0.0, square = 0.0;
#pragma unroll 4
    for (int part = first + share; part < end; part += THREADS / 32) {
        const float *own = partial + i64(part) * 2 * args.channels;
        const double n = part == args.parts - 1 ? last : whole, d = double(own[0]) - origin;
        sum += n * d;
        square += own[args.channels] + n * d * d;
    }
    double *sums = reinterpret_cast<double *>(shared_memory()); // [2][THREADS]
    sums[threadIdx.x] = sum;
    sums[THREADS + threadIdx.x] = square;
    __syncthreads();
    if (share > 0 || !inside) return;
    for (int i = 1; i < THREADS / 32; i++) {
        sum += sums[i * 32 + lane];
        square += sums[THREADS + i * 32 + lane];
    }
    const double n = (end - first - 1) * whole + (end == args.parts ? last : whole), rest = square - sum * sum / n;
    double *to = args.merged + i64(blockIdx.y) * 2 * args.channels + channel;
    to[0] = origin + sum / n;
    to[args.channels] = rest;
}
EXPORT(merge_parts)

struct MergeMomentsArguments {
    const void *partial;               // [parts][2][channels], of f32, or of f64 as merge_parts leaves them
    float *mean, *var;                 // [channels]; the variance is the biased one
    float *running_mean, *running_var; // [channels], moved towards the new ones; or null
    i64 rows, rows_per_part;           // the last part has what is left
    int parts, channels;
    float momentum;
    float unbiased; // rows / (rows - 1)
};
static_assert(sizeof(MergeMomentsArguments) == 7 * 8 + 4 * 4, "MergeMomentsArguments is laid out as in Rust");

// As merge_parts. The first part's mean is as near to the whole's as f64 needs by far, even where it is one of 10^5 parts.
template <class Number> DEVICE void merge_moments(const MergeMomentsArguments &args) {
    const int channel = blockIdx.x * MERGED + threadIdx.x % MERGED, share = threadIdx.x / MERGED;
    const bool inside = channel < args.channels;
    const Number *partial = static_cast<const Number *>(args.partial) + (inside ? channel : 0);
    const double origin = partial[0];
    const double whole = args.rows_per_part, last = args.rows - (args.parts - 1) * args.rows_per_part;
    double sum = 0.0, square = 0.0;
#pragma unroll 8
    for (int part = share; part < args.parts; part += SHARERS) {
        const Number *own = partial + i64(part) * 2 * args.channels;
        const double n = part == args.parts - 1 ? last : whole, d = double(own[0]) - origin;
        sum += n * d;
        square += double(own[args.channels]) + n * d * d;
    }
    add_up(sum, square);
    if (share > 0 || !inside) return;
    const double n = double(args.rows), rest = square - sum * sum / n;
    const float mean = float(origin + sum / n), var = rest < 0.0 ? 0.0f : float(rest / n);
    args.mean[channel] = mean;
    args.var[channel] = var;
    if (args.running_mean) {
        // Not `running += momentum * (batch - running)`: at a momentum of 1 nothing may be left of the old value.
        const float kept = 1.0f - args.momentum;
        float *running_mean = args.running_mean + channel, *running_var = args.running_var + channel;
        *running_mean = kept * *running_mean + args.momentum * mean;
        *running_var = kept * *running_var + args.momentum * (var * args.unbiased);
    }
}

KERNEL(MERGE_THREADS, 1) merge_moments_f32(MergeMomentsArguments args) { merge_moments<float>(args); }
EXPORT(merge_moments_f32)
KERNEL(MERGE_THREADS, 1) merge_moments_f64(MergeMomentsArguments args) { merge_moments<double>(args); }
EXPORT(merge_moments_f64)

// Where the ReLU's mask comes from; numbered as in Rust. FROM_INPUT is recomputed: cheaper than reading the output, but
// blind to a residual. With FROM_OUTPUT the masked gradient, being that of the residual, is written back.
enum Mask { NO_RELU, FROM_INPUT, FROM_OUTPUT };

struct NormSumsArguments {
    Parameters norm;
    const void *x;      // [rows, channels]
    const void *output; // likewise; for FROM_OUTPUT
    void *grad;         // likewise, of y
    float *partial;     // [chunks][2][channels]: sums of the masked gradient g and of g (x - mean)
    Walk walk;
    int mask;
    int unused;
};
static_assert(sizeof(NormSumsArguments) == 8 * 8 + 24 + 2 * 4, "NormSumsArguments is laid out as in Rust");

template <class T, bool VECTORS> DEVICE void norm_sums(const NormSumsArguments &args) {
    using R = Rows<T, VECTORS>;
    using V = typename R::V;
    const R rows(args.walk);
    float sum[R::LENGTH], product[R::LENGTH];
#pragma unroll
    for (int e = 0; e < R::LENGTH; e++) sum[e] = product[e] = 0.0f;
    if (rows.count > 0) {
        const Affine<R::LENGTH> affine(args.norm, rows.channel);
        for (int i = 0; i < rows.count; i += AT_ONCE) {
            V x[AT_ONCE], grad[AT_ONCE], output[AT_ONCE];
            rows.load(x, args.x, i);
            rows.load(grad, args.grad, i);
            if (args.mask == FROM_OUTPUT) rows.load(output, args.output, i);
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++) {
                if (i + u >= rows.count) break;
                float masked[R::LENGTH];
#pragma unroll
                for (int e = 0; e < R::LENGTH; e++) {
                    const float own = x[u].at(e);
                    float value = 1.0f;
                    if (args.mask == FROM_INPUT) value = affine.value(e, own);
                    if (args.mask == FROM_OUTPUT) value = output[u].at(e);
                    const float g = value <= 0.0f ? 0.0f : grad[u].at(e);
                    sum[e] += g;
                    product[e] += g * (own - affine.mean.at[e]);
                    masked[e] = g;
                }
                if (args.mask == FROM_OUTPUT) rows.store(args.grad, i + u, V::of(masked));
            }
        }
    }
    float *shared = reinterpret_cast<float *>(shared_memory()); // [2][LENGTH][THREADS]
    constexpr int EACH = R::LENGTH * THREADS;
#pragma unroll
    for (int e = 0; e < R::LENGTH; e++) {
        shared[e * THREADS + threadIdx.x] = sum[e];
        shared[EACH + e * THREADS + threadIdx.x] = product[e];
    }
    float *partial = args.partial + rows.chunk * 2 * args.walk.channels;
    every_channel(rows, [&](int column, int position) {
        double sums = 0.0, products = 0.0;
        for (int line = 0; line < rows.down; line++) {
            sums += shared[position + line * args.walk.across];
            products += shared[EACH + position + line * args.walk.across];
        }
        partial[column] = float(sums);
        partial[args.walk.channels + column] = float(products);
    });
}

struct MergeSumsArguments {
    const float *partial;           // [parts][2][channels], as left by norm_sums
    const float *var;               // [channels]
    float *grad_gamma, *grad_beta;  // [channels], added to
    float *means;                   // [2][channels]: the mean of g, and that of g (x - mean) over the variance; or null
    i64 rows;
    int parts, channels;
};
static_assert(sizeof(MergeSumsArguments) == 6 * 8 + 2 * 4, "MergeSumsArguments is laid out as in Rust");

KERNEL(MERGE_THREADS, 1) norm_merge_sums(MergeSumsArguments args) {
    const int channel = blockIdx.x * MERGED + threadIdx.x % MERGED, share = threadIdx.x / MERGED;
    const bool inside = channel < args.channels;
    const float *partial = args.partial + (inside ? channel : 0);
    double sum = 0.0, product = 0.0;
#pragma unroll 8
    for (int part = share; part < args.parts; part += SHARERS) {
        const float *own = partial + i64(part) * 2 * args.channels;
        sum += own[0];
        product += own[args.channels];
    }
    add_up(sum, product);
    if (share > 0 || !inside) return;
    const double inverse = inverse_deviation(args.var[channel]);
    args.grad_beta[channel] += float(sum);
    args.grad_gamma[channel] += float(product * inverse);
    if (!args.means) return;
    args.means[channel] = float(sum / args.rows);
    args.means[args.channels + channel] = float(product * inverse * inverse / args.rows);
}
EXPORT(norm_merge_sums)

struct NormInputGradientArguments {
    Parameters norm;
    void *x;            // [rows, channels], becomes its gradient
    const void *grad;   // likewise, of y
    const float *means; // [2][channels], or null: the statistics are constants, and all of these are 0
    Walk walk;
    int masked; // take the ReLU's mask from x
    int unused;
};
static_assert(sizeof(NormInputGradientArguments) == 7 * 8 + 24 + 2 * 4,
              "NormInputGradientArguments is laid out as in Rust");

// x = scale * (g - mean of g - (x - mean) * mean of g (x - mean) / var)
template <class T, bool VECTORS> DEVICE void norm_input_gradient(const NormInputGradientArguments &args) {
    using R = Rows<T, VECTORS>;
    using V = typename R::V;
    const R rows(args.walk);
    if (rows.count == 0) return;
    const Affine<R::LENGTH> affine(args.norm, rows.channel);
    Pack<float, R::LENGTH> sum, product;
    if (args.means) {
        sum = of_channels<R::LENGTH>(args.means, rows.channel);
        product = of_channels<R::LENGTH>(args.means + args.walk.channels, rows.channel);
    }
    for (int i = 0; i < rows.count; i += AT_ONCE) {
        V x[AT_ONCE], grad[AT_ONCE];
        rows.load(x, args.x, i);
        rows.load(grad, args.grad, i);
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            if (i + u >= rows.count) break;
            float of_x[R::LENGTH];
#pragma unroll
            for (int e = 0; e < R::LENGTH; e++) {
                const float own = x[u].at(e);
                float g = grad[u].at(e);
                if (args.masked && affine.value(e, own) <= 0.0f) g = 0.0f;
                if (args.means) g = g - sum.at[e] - (own - affine.mean.at[e]) * product.at[e];
                of_x[e] = affine.scale.at[e] * g;
            }
            rows.store(args.x, i + u, V::of(of_x));
        }
    }
}

#define NORMS(T, VECTORS, SUFFIX)                                                                                      \
    KERNEL(THREADS, 3) norm_forward_##SUFFIX(NormForwardArguments args) { norm_forward<T, VECTORS>(args); }            \
    EXPORT(norm_forward_##SUFFIX)                                                                                      \
    KERNEL(THREADS, 3) norm_moments_##SUFFIX(MomentsArguments args) { moments<T, VECTORS>(args); }                     \
    EXPORT(norm_moments_##SUFFIX)                                                                                      \
    KERNEL(THREADS, 2) norm_sums_##SUFFIX(NormSumsArguments args) { norm_sums<T, VECTORS>(args); }                     \
    EXPORT(norm_sums_##SUFFIX)                                                                                         \
    KERNEL(THREADS, 2) norm_input_gradient_##SUFFIX(NormInputGradientArguments args) {                                 \
        norm_input_gradient<T, VECTORS>(args);                                                                         \
    }                                                                                                                  \
    EXPORT(norm_input_gradient_##SUFFIX)

NORMS(float, true, f32_vectors)
NORMS(float, false, f32_any)
NORMS(bf16, true, bf16_vectors)
NORMS(bf16, false, bf16_any)

struct FoldArguments {
    Parameters norm;
    float *scale, *shift; // [channels]
    int channels;
    int unused;
};
static_assert(sizeof(FoldArguments) == 6 * 8 + 2 * 4, "FoldArguments is laid out as in Rust");

// The norm as one factor and one term per channel, in f64 as on the CPU.
KERNEL(THREADS, 4) fold(FoldArguments args) {
    const int c = blockIdx.x * THREADS + threadIdx.x;
    if (c >= args.channels) return;
    const double scale = double(args.norm.gamma[c]) / sqrt(double(args.norm.var[c]) + double(EPSILON));
    args.scale[c] = float(scale);
    args.shift[c] = float(double(args.norm.beta[c]) - double(args.norm.mean[c]) * scale);
}
EXPORT(fold)
