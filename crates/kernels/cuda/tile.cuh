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

    DEVICE Product() {
        lane = threadIdx.x % 32;
        const int warp = threadIdx.x / 32;
        row0 = warp / Shape::WARPS_N * ROWS;
        column0 = warp % Shape::WARPS_N * COLUMNS;
#pragma unroll
        for (int i = 0; i < ROWS / 16; i++)
#pragma unroll
            for (int j = 0; j < COLUMNS / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;
    }

    DEVICE void step(const bf16 *a, const bf16 *b) {
        const int matrix = lane / 8, line = lane % 8;
#pragma unroll
        for (int k = 0; k < Shape::K; k += 16) {
            u32 of_a[ROWS / 16][4];
#pragma unroll
            for (int i = 0; i < ROWS / 16; i++) {
                // Matrices: rows 0-7 and 8-15 at depths 0-7, then at depths 8-15.
                const int row = row0 + 16 * i + 8 * (matrix % 2), depth = k + 8 * (matrix / 2);
                const int at = A == ALONG_DEPTH ? StageA::at(row + line, depth) : StageA::at(row, depth + line);
                load_matrices<A == ALONG_RESULT>(of_a[i], a + at);
            }
#pragma unroll
            for (int j = 0; j < COLUMNS / 16; j++) {
                // Matrices: columns 0-7 at depths 0-7 and 8-15, then columns 8-15.
                u32 of_b[4];
                const int column = column0 + 16 * j + 8 * (matrix / 2), depth = k + 8 * (matrix % 2);
                const int at = B == ALONG_DEPTH ? StageB::at(column + line, depth) : StageB::at(column, depth + line);
                load_matrices<B == ALONG_RESULT>(of_b, b + at);
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

// f32: a thread owns rows and columns 16 apart, so that neighbours read neighbours.
template <class Shape, Inner A, Inner B> struct Product<float, Shape, A, B> {
    using StageA = Stage<float, Shape::M, Shape::K, A>;
    using StageB = Stage<float, Shape::N, Shape::K, B>;
    static constexpr int ACROSS = 16, DOWN = Shape::THREADS / ACROSS;
    static constexpr int ROWS = Shape::M / DOWN, COLUMNS = Shape::N / ACROSS;

    float sums[ROWS][COLUMNS];
    int row0, column0;

    DEVICE Product() {
        row0 = threadIdx.x / ACROSS;
        column0 = threadIdx.x % ACROSS;
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) sums[i][j] = 0.0f;
    }

    DEVICE void step(const float *a, const float *b) {
#pragma unroll
        for (int k = 0; k < Shape::K; k++) {
            float of_a[ROWS], of_b[COLUMNS];
#pragma unroll
            for (int i = 0; i < ROWS; i++) of_a[i] = a[StageA::at(row0 + DOWN * i, k)];
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) of_b[j] = b[StageB::at(column0 + ACROSS * j, k)];
#pragma unroll
            for (int i = 0; i < ROWS; i++)
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) sums[i][j] = fmaf(of_a[i], of_b[j], sums[i][j]);
        }
    }

    DEVICE void store(float *tile) const {
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < COLUMNS; j++)
                tile[(row0 + DOWN * i) * SUMS_LEADING<Shape> + column0 + ACROSS * j] = sums[i][j];
    }
};

template <int A, int B> constexpr int LARGER = A > B ? A : B;

// What one product needs of shared memory: the stages, whose place the tile of sums takes over, and what an epilogue keeps
// beside that. Rust asks for as much (`gpu/conv.rs`).
template <class T, class Shape, Inner A, Inner B> struct Memory {
    using P = Product<T, Shape, A, B>;
    static constexpr int STAGE = P::StageA::LENGTH + P::StageB::LENGTH;
    static constexpr int STAGES_BYTES = STAGE * int(sizeof(T)) * Shape::STAGES;
    static constexpr int SUMS_BYTES = Shape::M * SUMS_LEADING<Shape> * 4;
    static constexpr int BYTES = LARGER<STAGES_BYTES, SUMS_BYTES>;
};

// Multiplies `steps` stages of depth that `a` and `b` bring, one after the other, and leaves the sums in the returned tile
// [M][SUMS_LEADING], visible to the whole block.
template <class T, class Shape, Inner A, Inner B, class LoadA, class LoadB>
DEVICE float *multiply_tile(LoadA &a, LoadB &b, int steps) {
    using P = Product<T, Shape, A, B>;
    using M = Memory<T, Shape, A, B>;
    T *stages = reinterpret_cast<T *>(shared_memory());
    P product;
    auto load = [&](int step) {
        T *stage = stages + step % Shape::STAGES * M::STAGE;
        a.load(stage);
        b.load(stage + P::StageA::LENGTH);
    };
    for (int step = 0; step < Shape::STAGES - 1; step++) {
        if (step < steps) load(step);
        copies_commit();
    }
    for (int step = 0; step < steps; step++) {
        copies_wait<Shape::STAGES - 2>();
        // The stage of this step is there, and everybody is done with that of the last one.
        __syncthreads();
        if (step + Shape::STAGES - 1 < steps) load(step + Shape::STAGES - 1);
        copies_commit();
        const T *stage = stages + step % Shape::STAGES * M::STAGE;
        product.step(stage, stage + P::StageA::LENGTH);
    }
    copies_wait<0>();
    __syncthreads();
    float *tile = reinterpret_cast<float *>(shared_memory());
    product.store(tile);
    __syncthreads();
    return tile;
}
