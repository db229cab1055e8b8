// Rows on their way to where other kernels read them: images to pixels of whole 16-byte accesses, rows to another order.
#include "device.cuh"

struct StoreImagesArguments {
    const float *from;      // [pixels, channels]
    void *to;               // [pixels, pieces of 16 bytes], channels beyond the last one zero
    u32 count;              // pieces of all pixels
    int channels;
    FastDivision by_pieces; // of one pixel
    int unused;
};
static_assert(sizeof(StoreImagesArguments) == 2 * 8 + 2 * 4 + 12 + 4, "StoreImagesArguments is laid out as in Rust");

template <class T> DEVICE void store_images(const StoreImagesArguments &args) {
    constexpr int LENGTH = VectorOf<T>::LENGTH;
    const u32 own = thread_number();
    if (own >= args.count) return;
    const u32 pixel = args.by_pieces.quotient(own);
    const int first = int(own - pixel * args.by_pieces.divisor) * LENGTH;
    const float *from = args.from + i64(pixel) * args.channels + first;
    float values[LENGTH];
#pragma unroll
    for (int e = 0; e < LENGTH; e++) values[e] = first + e < args.channels ? from[e] : 0.0f;
    *reinterpret_cast<Vector<T, LENGTH> *>(static_cast<T *>(args.to) + i64(own) * LENGTH) = Vector<T, LENGTH>::of(values);
}

KERNEL(THREADS, 4) store_images_f32(StoreImagesArguments args) { store_images<float>(args); }
EXPORT(store_images_f32)
KERNEL(THREADS, 4) store_images_bf16(StoreImagesArguments args) { store_images<bf16>(args); }
EXPORT(store_images_bf16)

struct PermuteRowsArguments {
    const void *from;       // [rows, units]
    void *to;               // likewise
    const u32 *order;       // [rows], a permutation
    u32 count;              // units of all rows
    int inverse;            // row number i goes to order[i]; otherwise it comes from there
    FastDivision by_units;  // of one row
    int unused;
};
static_assert(sizeof(PermuteRowsArguments) == 3 * 8 + 2 * 4 + 12 + 4, "PermuteRowsArguments is laid out as in Rust");

template <class Unit> DEVICE void permute_rows(const PermuteRowsArguments &args) {
    const u32 own = thread_number();
    if (own >= args.count) return;
    const u32 row = args.by_units.quotient(own), at = own - row * args.by_units.divisor;
    const u32 other = args.order[row] * args.by_units.divisor + at;
    static_cast<Unit *>(args.to)[args.inverse ? other : own] =
        static_cast<const Unit *>(args.from)[args.inverse ? own : other];
}

using Sixteen = Pack<u32, 4>;
KERNEL(THREADS, 4) permute_rows_16(PermuteRowsArguments args) { permute_rows<Sixteen>(args); }
EXPORT(permute_rows_16)
KERNEL(THREADS, 4) permute_rows_4(PermuteRowsArguments args) { permute_rows<u32>(args); }
EXPORT(permute_rows_4)
KERNEL(THREADS, 4) permute_rows_2(PermuteRowsArguments args) { permute_rows<unsigned short>(args); }
EXPORT(permute_rows_2)
