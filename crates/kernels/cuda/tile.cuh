// The product of one tile: sums[M, N] += A[M, K] B[K, N] from shared memory, into registers and then into a tile of f32 in
// shared memory, where every epilogue finds it. bf16 multiplies on tensor cores, f32 exactly, by fused multiply-adds.
//
// An operand's stage in shared memory is [outer][inner + PAD]. Which of its two axes is the inner one follows from where
// it lies in global memory, so that 16-byte copies run along it. PAD spreads the rows over the banks.
#pragma once
#include "device.cuh"

// Along which axis an operand is contiguous.
enum Inner { ALONG_DEPTH, ALONG_RESULT };

template <class T> constexpr int PAD = 16 / int(sizeof(T));

// Rows and columns of a tile, depth of one step, and steps in flight.
template <int M_, int N_, int K_, int STAGES_, int WARPS_M_, int WARPS_N_> struct TileShape {
    static constexpr int M = M_, N = N_, K = K_, STAGES = STAGES_;
    static constexpr int WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, THREADS = 32 * WARPS_M_ * WARPS_N_;
};

// Where one operand's stage has its elements. SIZE: rows of A or columns of B.
template <class T, int SIZE, int K, Inner INNER> struct Stage {
    static constexpr int OUTER = INNER == ALONG_DEPTH ? SIZE : K;
    static constexpr int INNER_LENGTH = INNER == ALONG_DEPTH ? K : SIZE;
    static constexpr int LEADING = INNER_LENGTH + PAD<T>;
    static constexpr int LENGTH = OUTER * LEADING;
    // Element of result index `i` at depth `k`.
    DEVICE static int at(int i, int k) { return INNER == ALONG_DEPTH ? i * LEADING + k : k * LEADING + i; }
};

// Floats between the rows of the tile of sums.
template <class Shape> constexpr int SUMS_LEADING = Shape::N + 4;

template <class T, class Shape, Inner A, Inner B> struct Product;

// Tensor cores: a warp owns M / WARPS_M rows and N / WARPS_N columns, in pieces of 16 x 8.
template <class Shape, Inner A, Inner B> struct Product<bf16, Shape, A, B> {
    using StageA = Stage<bf16, Shape::M, Shape::K, A>;
    using StageB = Stage<bf16, Shape::N, Shape::K, B>;
    static constexpr int ROWS = Shape::M / Shape::WARPS_M, COLUMNS = Shape::N / Shape::WARPS_N;
    static_assert(ROWS % 16 == 0 && COLUMNS % 16 == 0 && Shape::K % 16 == 0, "whole fragments");

    float sums[ROWS / 16][COLUMNS / 8][4];
    int lane, row0, column0;
    SharedAddress from_a, from_b; // of this lane's line of matrices in the first stage

    DEVICE Product() {
        lane = threadIdx.x % 32;
        const int warp = threadIdx.x / 32, matrix = lane / 8, line = lane % 8;
        row0 = warp / Shape::WARPS_N * ROWS;
        column0 = warp % Shape::WARPS_N * COLUMNS;
        // Matrices of A: rows 0-7 and 8-15 at depths 0-7, then at depths 8-15.
        const int row = row0 + 8 * (matrix % 2), depth = 8 * (matrix / 2);
        const int of_a = A == ALONG_DEPTH ? StageA::at(row + line, depth) : StageA::at(row, depth + line);
        // Of B: columns 0-7 at depths 0-7 and 8-15, then columns 8-15.
        const int column = column0 + 8 * (matrix / 2), across = 8 * (matrix % 2);
        const int of_b = B == ALONG_DEPTH ? StageB::at(column + line, across) : StageB::at(column, across + line);
        bf16 *stages = reinterpret_cast<bf16 *>(shared_memory());
        from_a = shared_address(stages + of_a);
        from_b = shared_address(stages + StageA::LENGTH + of_b);
#pragma unroll
        for (int i = 0; i < ROWS / 16; i++)
#pragma unroll
            for (int j = 0; j < COLUMNS / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;
    }

    // The stage begins `stage` bytes behind the first one.
    DEVICE void step(u32 stage) {
        const SharedAddress a = from_a + stage, b = from_b + stage;
#pragma unroll
        for (int k = 0; k < Shape::K; k += 16) {
            u32 of_a[ROWS / 16][4];
#pragma unroll
            for (int i = 0; i < ROWS / 16; i++)
                load_matrices<A == ALONG_RESULT>(of_a[i], a + StageA::at(16 * i, k) * int(sizeof(bf16)));
#pragma unroll
            for (int j = 0; j < COLUMNS / 16; j++) {
                u32 of_b[4];
                load_matrices<B == ALONG_RESULT>(of_b, b + StageB::at(16 * j, k) * int(sizeof(bf16)));
#pragma unroll
                for (int i = 0; i < ROWS / 16; i++) {
                    multiply_add(sums[i][2 * j], of_a[i], of_b[0], of_b[1]);
                    multiply_add(sums[i][2 * j + 1], of_a[i], of_b[2], of_b[3]);
                }
            }
        }
    }

    DEVICE void store(float *tile) const {
#pragma unroll
        for (int i = 0; i < ROWS / 16; i++)
#pragma unroll
            for (int j = 0; j < COLUMNS / 8; j++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int row = row0 + 16 * i + 8 * half + lane / 4, column = column0 + 8 * j + 2 * (lane % 4);
                    float *to = tile + row * SUMS_LEADING<Shape> + column;
                    to[0] = sums[i][j][2 * half];
                    to[1] = sums[i][j][2 * half + 1];
                }
    }
};

// Four numbers of depth of COUNT rows or columns of a thread, read by 16 bytes; `APART` threads share the axis. Where the
// operand is contiguous along the depth, a thread has every `APART`-th row, so that neighbours' lie in other banks; else fours.
template <class S, Inner INNER, int COUNT, int APART> struct Fragment {
    static_assert(INNER == ALONG_DEPTH || COUNT % 4 == 0, "whole fours");
    float at[COUNT][4];
    DEVICE static int index(int own, int i) {
        return INNER == ALONG_DEPTH ? own + i * APART : i / 4 * 4 * APART + own * 4 + i % 4;
    }
    DEVICE void load(const float *stage, int own, int k) {
        using Four = Pack<float, 4>;
        constexpr int EACH = INNER == ALONG_DEPTH ? COUNT : COUNT / 4, TIMES = INNER == ALONG_DEPTH ? 1 : 4;
#pragma unroll
        for (int time = 0; time < TIMES; time++)
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const int first = INNER == ALONG_DEPTH ? i : 4 * i;
                const Four four = *reinterpret_cast<const Four *>(stage + S::at(index(own, first), k + time));
#pragma unroll
                for (int e = 0; e < 4; e++) (INNER == ALONG_DEPTH ? at[i][e] : at[4 * i + e][time]) = four.at[e];
            }
    }
};

// f32: enough rows and columns for a thread that arithmetic, not shared memory, is what takes time.
template <class Shape, Inner A, Inner B> struct Product<float, Shape, A, B> {
    using StageA = Stage<float, Shape::M, Shape::K, A>;
    using StageB = Stage<float, Shape::N, Shape::K, B>;
    static constexpr int ACROSS = 8, DOWN = Shape::THREADS / ACROSS;
    static constexpr int ROWS = Shape::M / DOWN, COLUMNS = Shape::N / ACROSS;
    using Rows = Fragment<StageA, A, ROWS, DOWN>;
    using Columns = Fragment<StageB, B, COLUMNS, ACROSS>;

    float sums[ROWS][COLUMNS];
    int row, column;

    DEVICE Product() {
        row = threadIdx.x / ACROSS;
        column = threadIdx.x % ACROSS;
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) sums[i][j] = 0.0f;
    }

    DEVICE void step(u32 stage) {
        const float *a = reinterpret_cast<const float *>(shared_memory() + stage), *b = a + StageA::LENGTH;
#pragma unroll
        for (int k = 0; k < Shape::K; k += 4) {
            Rows of_a;
            Columns of_b;
            of_a.load(a, row, k);
            of_b.load(b, column, k);
#pragma unroll
            for (int depth = 0; depth < 4; depth++)
#pragma unroll
                for (int i = 0; i < ROWS; i++)
#pragma unroll
                    for (int j = 0; j < COLUMNS; j++)
                        sums[i][j] = fmaf(of_a.at[i][depth], of_b.at[j][depth], sums[i][j]);
        }
    }

    DEVICE void store(float *tile) const {
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < COLUMNS; j++)
                tile[Rows::index(row, i) * SUMS_LEADING<Shape> + Columns::index(column, j)] = sums[i][j];
    }
};

template <int A, int B> constexpr int LARGER = A > B ? A : B;

// What one product needs of shared memory: the stages, whose place the tile of sums takes over, and what an epilogue keeps
// beside that. Rust asks for as much (`gpu/conv.rs`).
template <class T, class Shape, Inner A, Inner B> struct Memory {
    using P = Product<T, Shape, A, B>;
    static constexpr int B_BYTES = P::StageA::LENGTH * int(sizeof(T)); // where a stage of B begins
    static constexpr int STAGE_BYTES = B_BYTES + P::StageB::LENGTH * int(sizeof(T));
    static constexpr int STAGES_BYTES = STAGE_BYTES * Shape::STAGES;
    static constexpr int SUMS_BYTES = Shape::M * SUMS_LEADING<Shape> * 4;
    static constexpr int BYTES = LARGER<STAGES_BYTES, SUMS_BYTES>;
};

// Multiplies `steps` stages of depth, which `loader` brings one after the other, and zeros beyond the last, and leaves the
// sums in the returned tile [M][SUMS_LEADING], visible to the whole block.
template <class T, class Shape, Inner A, Inner B, class Loader> DEVICE float *multiply_tile(Loader &loader, int steps) {
    using M = Memory<T, Shape, A, B>;
    Product<T, Shape, A, B> product;
    u32 filled = 0, read = 0; // stages, as bytes from the first one
    auto next = [](u32 stage) { return stage == M::STAGES_BYTES - M::STAGE_BYTES ? 0 : stage + M::STAGE_BYTES; };
    auto load = [&] {
        loader.load(filled);
        copies_commit();
        filled = next(filled);
    };
#pragma unroll
    for (int step = 0; step < Shape::STAGES - 1; step++) load();
    for (int step = 0; step < steps; step++) {
        copies_wait<Shape::STAGES - 2>();
        // The stage of this step is there, and everybody is done with that of the last one.
        __syncthreads();
        load();
        product.step(read);
        read = next(read);
    }
    copies_wait<0>();
    __syncthreads();
    float *tile = reinterpret_cast<float *>(shared_memory());
    product.store(tile);
    __syncthreads();
    return tile;
}
