// The losses of both training stages, and what classifier and contrastive head need beside products. All in f32, as in
// `src/loss` and `src/linear.rs`, which say what is computed; sums over rows, batches and parts in f64, since a loss near
// zero is the logarithm of a sum near one.
//
// A warp has a row, so that any number of classes needs neither shared memory nor barriers. InfoNCE holds its logits
// transposed, [keys, queries]: the gradient of the queries is then a sum over the rows of two dense operands, which
// conv.cu cuts into parts for as many blocks as a GPU has, where the other way around it has a block for each 64 x 64
// results, eight in all.
#include "device.cuh"

constexpr int ROWS = THREADS / 32; // of a block, a warp for each

DEVICE int lane_of() { return threadIdx.x % 32; }
DEVICE int warp_of() { return threadIdx.x / 32; }

// Passes over NaN.
DEVICE float larger(float a, float b) { return b > a ? b : a; }

// Minus infinity.
DEVICE float least() { return bits_to_float(0xff800000u); }

DEVICE float warp_max(float value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) value = larger(value, shuffle_xor(value, mask));
    return value;
}

// A row's largest value, in every lane.
DEVICE float row_max(const float *x, int length) {
    float max = least();
    for (int i = lane_of(); i < length; i += 32) max = larger(max, x[i]);
    return warp_max(max);
}

// Sum of `of(i)` over a row, in every lane: partial sums of few terms in f32, and these in f64.
template <class Of> DEVICE double row_sum(int length, Of of) {
    double total = 0.0;
    float sum = 0.0f;
    int terms = 0;
    for (int i = lane_of(); i < length; i += 32) {
        sum += of(i);
        if (++terms % 32 == 0) {
            total += sum;
            sum = 0.0f;
        }
    }
    return warp_sum(total + sum);
}

struct SoftmaxArguments {
    const float *logits;  // [rows, classes]
    float *probabilities; // [rows, classes]
    int rows, classes;
    float temperature;
    u32 unused;
};
static_assert(sizeof(SoftmaxArguments) == 2 * 8 + 4 * 4, "SoftmaxArguments is laid out as in Rust");

KERNEL(THREADS, 4) softmax(SoftmaxArguments args) {
    const i64 row = i64(blockIdx.x) * ROWS + warp_of();
    if (row >= args.rows) return;
    const float *x = args.logits + row * args.classes;
    float *p = args.probabilities + row * args.classes;
    const float max = row_max(x, args.classes);
    const double total = row_sum(args.classes, [&](int i) { return p[i] = expf((x[i] - max) / args.temperature); });
    const float factor = float(1.0 / total);
    for (int i = lane_of(); i < args.classes; i += 32) p[i] *= factor;
}
EXPORT(softmax)

struct CrossEntropyArguments {
    const float *logits; // [rows, classes]
    const u32 *labels;   // [rows], below `classes`; or null, and then
    const float *target; // [rows, classes]
    float *grad;         // [rows, classes], added to
    float *losses;       // [rows]
    int rows, classes;
    float scale; // of the gradient
    u32 unused;
};
static_assert(sizeof(CrossEntropyArguments) == 5 * 8 + 4 * 4, "CrossEntropyArguments is laid out as in Rust");

KERNEL(THREADS, 4) cross_entropy(CrossEntropyArguments args) {
    const i64 row = i64(blockIdx.x) * ROWS + warp_of();
    if (row >= args.rows) return;
    const float *x = args.logits + row * args.classes;
    float *grad = args.grad + row * args.classes;
    const float max = row_max(x, args.classes);
    const double total = row_sum(args.classes, [&](int i) { return expf(x[i] - max); });
    double loss;
    if (args.labels) {
        const int label = int(args.labels[row]);
        const float factor = float(args.scale / total);
        for (int i = lane_of(); i < args.classes; i += 32) {
            const float sum = grad[i] + expf(x[i] - max) * factor;
            grad[i] = i == label ? sum - args.scale : sum;
        }
        loss = log(total) - (double(x[label]) - double(max));
    } else {
        const float *target = args.target + row * args.classes;
        const double mass = row_sum(args.classes, [&](int i) { return target[i]; });
        // Both terms are sums of numbers of one sign: nothing cancels.
        loss = mass * log(total) + row_sum(args.classes, [&](int i) { return target[i] * (max - x[i]); });
        const float factor = float(args.scale * mass / total);
        for (int i = lane_of(); i < args.classes; i += 32)
            grad[i] += expf(x[i] - max) * factor - args.scale * target[i];
    }
    if (lane_of() == 0) args.losses[row] = float(loss);
}
EXPORT(cross_entropy)

struct HitsArguments {
    const float *logits; // [rows, classes]
    const u32 *labels;   // [rows]
    float *hits;         // [rows]: 1 where the label has the largest logit, else 0
    int rows, classes;
};
static_assert(sizeof(HitsArguments) == 3 * 8 + 2 * 4, "HitsArguments is laid out as in Rust");

// A candidate for the largest of a row, -1: none.
struct Candidate {
    float value;
    int at;
};

// Numbers beat NaN, then the larger wins, then the first. A row of nothing but NaN gives its last.
DEVICE Candidate better(Candidate a, Candidate b) {
    if (a.at < 0 || b.at < 0) return a.at < 0 ? b : a;
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan && b_nan) return a.at > b.at ? a : b;
    if (a_nan || b_nan) return a_nan ? b : a;
    if (a.value != b.value) return a.value > b.value ? a : b;
    return a.at < b.at ? a : b;
}

KERNEL(THREADS, 4) top1_hits(HitsArguments args) {
    const i64 row = i64(blockIdx.x) * ROWS + warp_of();
    if (row >= args.rows) return;
    const float *x = args.logits + row * args.classes;
    Candidate best = {0.0f, -1};
    for (int i = lane_of(); i < args.classes; i += 32) best = better(best, {x[i], i});
    for (int mask = 16; mask > 0; mask /= 2) {
        Candidate other;
        other.value = shuffle_xor(best.value, mask);
        other.at = int(float_to_bits(shuffle_xor(bits_to_float(u32(best.at)), mask)));
        best = better(best, other);
    }
    if (lane_of() == 0) args.hits[row] = best.at == int(args.labels[row]) ? 1.0f : 0.0f;
}
EXPORT(top1_hits)

struct SumArguments {
    const float *values; // [length]
    float *sum;          // one number, overwritten
    i64 length;
    double factor; // of the sum
};
static_assert(sizeof(SumArguments) == 4 * 8, "SumArguments is laid out as in Rust");

constexpr int SUM_THREADS = 512;

// One block: there are as many values as rows.
KERNEL(SUM_THREADS, 1) sum_values(SumArguments args) {
    double own = 0.0;
    for (i64 i = threadIdx.x; i < args.length; i += SUM_THREADS) own += args.values[i];
    const double total = block_sum<SUM_THREADS>(own);
    if (threadIdx.x == 0) *args.sum = float(total * args.factor);
}
EXPORT(sum_values)

struct ColumnSumsArguments {
    const float *x; // [rows, columns]
    float *sums;    // [columns], added to
    int rows, columns;
};
static_assert(sizeof(ColumnSumsArguments) == 2 * 8 + 2 * 4, "ColumnSumsArguments is laid out as in Rust");

// A block has 32 columns; its warps share the rows.
KERNEL(THREADS, 4) column_sums(ColumnSumsArguments args) {
    double *shared = reinterpret_cast<double *>(shared_memory()); // [warps][32]
    const int column = blockIdx.x * 32 + lane_of();
    double sum = 0.0;
    if (column < args.columns)
        for (int row = warp_of(); row < args.rows; row += ROWS) sum += args.x[i64(row) * args.columns + column];
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (warp_of() > 0 || column >= args.columns) return;
    for (int warp = 1; warp < ROWS; warp++) sum += shared[warp * 32 + lane_of()];
    args.sums[column] += float(sum);
}
EXPORT(column_sums)

struct ElementsArguments {
    const float *a, *b; // [length]; b may be null
    float *result;      // [length]
    i64 length;
};
static_assert(sizeof(ElementsArguments) == 4 * 8, "ElementsArguments is laid out as in Rust");

// max(a, 0); NaN passes.
KERNEL(THREADS, 4) relu_forward(ElementsArguments args) {
    const i64 i = i64(blockIdx.x) * THREADS + threadIdx.x;
    if (i < args.length) args.result[i] = args.a[i] < 0.0f ? 0.0f : args.a[i];
}
EXPORT(relu_forward)

// The gradient b where the output a is positive (or NaN), else 0.
KERNEL(THREADS, 4) relu_backward(ElementsArguments args) {
    const i64 i = i64(blockIdx.x) * THREADS + threadIdx.x;
    if (i < args.length) args.result[i] = args.a[i] <= 0.0f ? 0.0f : args.b[i];
}
EXPORT(relu_backward)

struct NormalizeArguments {
    const float *x; // forward [rows, dim]; backward the gradient of y
    float *y;       // [rows, dim]: forward the result; backward what that was
    float *norms;   // [rows], likewise
    float *grad_x;  // [rows, dim], backward only
    int rows, dim;
};
static_assert(sizeof(NormalizeArguments) == 4 * 8 + 2 * 4, "NormalizeArguments is laid out as in Rust");

constexpr float SMALLEST_NORM = 1e-12f;

// Sum of a[i] b[i] over a row, in every lane. In f64: squares of tiny or huge numbers leave the range of f32.
DEVICE double row_dot(const float *a, const float *b, int length) {
    double sum = 0.0;
    for (int i = lane_of(); i < length; i += 32) sum += double(a[i]) * double(b[i]);
    return warp_sum(sum);
}

KERNEL(THREADS, 4) l2_normalize(NormalizeArguments args) {
    const i64 row = i64(blockIdx.x) * ROWS + warp_of();
    if (row >= args.rows) return;
    const float *x = args.x + row * args.dim;
    const float length = float(sqrt(row_dot(x, x, args.dim)));
    const float norm = length < SMALLEST_NORM ? SMALLEST_NORM : length;
    if (lane_of() == 0) args.norms[row] = norm;
    for (int i = lane_of(); i < args.dim; i += 32) args.y[row * args.dim + i] = x[i] / norm;
}
EXPORT(l2_normalize)

KERNEL(THREADS, 4) l2_normalize_backward(NormalizeArguments args) {
    const i64 row = i64(blockIdx.x) * ROWS + warp_of();
    if (row >= args.rows) return;
    const float *y = args.y + row * args.dim, *grad_y = args.x + row * args.dim;
    const float norm = args.norms[row];
    const float dot = float(row_dot(y, grad_y, args.dim));
    const float along = norm <= SMALLEST_NORM ? 0.0f : dot; // that was a constant divisor
    for (int i = lane_of(); i < args.dim; i += 32)
        args.grad_x[row * args.dim + i] = (grad_y[i] - y[i] * along) / norm;
}
EXPORT(l2_normalize_backward)

// A block of the kernels over the logits [keys, queries] has 32 queries and the keys of one part, shared by its warps.
constexpr int PART = 256;

struct PartsArguments {
    const float *logits; // [keys, queries], to be multiplied by `factor`
    float *parts;        // [parts][2][queries]: largest logit, and the sum of exp(logit - largest)
    int keys, queries;
    float factor;
    u32 unused;
};
static_assert(sizeof(PartsArguments) == 2 * 8 + 4 * 4, "PartsArguments is laid out as in Rust");

KERNEL(THREADS, 4) info_nce_parts(PartsArguments args) {
    float *shared = reinterpret_cast<float *>(shared_memory()); // [2][warps][32]
    float *sums = shared + THREADS;
    const int query = blockIdx.x * 32 + lane_of();
    const bool active = query < args.queries;
    const int first = blockIdx.y * PART, end = min_of(first + PART, args.keys);
    const float *logits = args.logits + query;
    float max = least();
    if (active)
        for (int key = first + warp_of(); key < end; key += ROWS)
            max = larger(max, logits[i64(key) * args.queries] * args.factor);
    shared[threadIdx.x] = max;
    __syncthreads();
    for (int warp = 0; warp < ROWS; warp++) max = larger(max, shared[warp * 32 + lane_of()]);
    float sum = 0.0f;
    if (active)
        for (int key = first + warp_of(); key < end; key += ROWS)
            sum += expf(logits[i64(key) * args.queries] * args.factor - max);
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (warp_of() > 0 || !active) return;
    for (int warp = 1; warp < ROWS; warp++) sum += sums[warp * 32 + lane_of()];
    float *part = args.parts + i64(blockIdx.y) * 2 * args.queries + query;
    part[0] = max;
    part[args.queries] = sum;
}
EXPORT(info_nce_parts)

struct QueriesArguments {
    const float *q;     // [queries, dim]
    const float *k;     // [queries, dim], the positives
    const float *parts; // [parts][2][queries]
    float *losses;      // [queries]
    float *hits;        // [queries]: 1 where the positive scores highest, else 0
    float *shifts;      // [queries]: the largest logit of the queue
    float *weights;     // [queries]: exp(logit - shift) times this is the weight of a key in the gradient
    float *grad_q;      // [queries, dim]: becomes the share of the positive
    int queries, dim, parts_count;
    float temperature;
};
static_assert(sizeof(QueriesArguments) == 8 * 8 + 4 * 4, "QueriesArguments is laid out as in Rust");

// A query's loss from its positive and the parts of the queue.
KERNEL(THREADS, 4) info_nce_queries(QueriesArguments args) {
    const i64 row = i64(blockIdx.x) * ROWS + warp_of();
    if (row >= args.queries) return;
    const float *k = args.k + row * args.dim;
    const double positive = row_dot(args.q + row * args.dim, k, args.dim) / double(args.temperature);
    const float *parts = args.parts + row;
    const i64 leading = 2 * i64(args.queries);
    float largest = least();
    for (int part = lane_of(); part < args.parts_count; part += 32) largest = larger(largest, parts[part * leading]);
    largest = warp_max(largest);
    const double max = positive > double(largest) ? positive : double(largest);
    double total = 0.0;
    for (int part = lane_of(); part < args.parts_count; part += 32)
        total += double(parts[part * leading + args.queries]) * exp(double(parts[part * leading]) - max);
    const double own = exp(positive - max);
    total = warp_sum(total) + own;
    const double step = 1.0 / (double(args.temperature) * args.queries);
    const float pull = float(step * (own / total - 1.0));
    for (int i = lane_of(); i < args.dim; i += 32) args.grad_q[row * args.dim + i] = pull * k[i];
    if (lane_of() > 0) return;
    args.losses[row] = float(log(total) + (max - positive));
    args.hits[row] = positive >= double(largest) ? 1.0f : 0.0f;
    args.shifts[row] = largest;
    args.weights[row] = float(step * exp(double(largest) - max) / total);
}
EXPORT(info_nce_queries)

struct KeyWeightsArguments {
    float *logits;        // [keys, queries]: becomes weight exp(factor logit - shift)
    const float *shifts;  // [queries]
    const float *weights; // [queries]
    int keys, queries;
    float factor;
    u32 unused;
};
static_assert(sizeof(KeyWeightsArguments) == 3 * 8 + 4 * 4, "KeyWeightsArguments is laid out as in Rust");

KERNEL(THREADS, 4) info_nce_weights(KeyWeightsArguments args) {
    const int query = blockIdx.x * 32 + lane_of();
    if (query >= args.queries) return;
    const float shift = args.shifts[query], weight = args.weights[query];
    const int first = blockIdx.y * PART, end = min_of(first + PART, args.keys);
    for (int key = first + warp_of(); key < end; key += ROWS) {
        float *logit = args.logits + i64(key) * args.queries + query;
        *logit = weight * expf(*logit * args.factor - shift);
    }
}
EXPORT(info_nce_weights)
