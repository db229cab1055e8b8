// The block scheduler of emulator.h: fibers by ucontext, announced to AddressSanitizer.
#include "emulator.h"
#include <cstdio>
#include <cstdlib>
#include <sanitizer/common_interface_defs.h>
#include <ucontext.h>
#include <vector>

emulator::Index threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr unsigned WARP = 32;
constexpr size_t STACK = 64 * 1024;

[[noreturn]] void fail(const char *what) {
    fprintf(stderr, "emulator: %s (block %u, thread %u)\n", what, blockIdx.x, threadIdx.x);
    abort();
}

struct Copy {
    void *shared;
    unsigned char bytes[16];
};

// A fiber, and what the hardware keeps for a thread.
struct Thread {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(STACK);
    void *fake_stack = nullptr;
    bool done = false, at_barrier = false;
    std::vector<std::vector<Copy>> groups; // committed copies, oldest first
    std::vector<Copy> open;                // copies of the group that is not committed yet
    // A warp-wide instruction in progress: which, and this lane's operands.
    int instruction = 0;
    const void *operands = nullptr;
    unsigned steps = 0; // warp-wide instructions completed
};

struct Warp {
    unsigned waiting = 0;
    unsigned steps = 0;
};

ucontext_t scheduler;
const void *scheduler_stack;
size_t scheduler_stack_size;
std::vector<Thread> threads;
std::vector<Warp> warps;
unsigned current;
unsigned char *shared_start;
void (*body)(const void *);
const void *arguments;
bool backwards;

void yield() {
    Thread &self = threads[current];
    __sanitizer_start_switch_fiber(self.done ? nullptr : &self.fake_stack, scheduler_stack, scheduler_stack_size);
    swapcontext(&self.context, &scheduler);
    __sanitizer_finish_switch_fiber(self.fake_stack, &scheduler_stack, &scheduler_stack_size);
}

void enter() {
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
    body(arguments);
    if (!threads[current].groups.empty() || !threads[current].open.empty()) fail("copies that nobody waited for");
    threads[current].done = true;
    yield();
}

void resume(unsigned thread) {
    current = thread;
    threadIdx = {thread, 0, 0};
    void *fake_stack;
    Thread &next = threads[thread];
    __sanitizer_start_switch_fiber(&fake_stack, next.stack.data(), STACK);
    swapcontext(&scheduler, &next.context);
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}

bool ready(unsigned thread) {
    const Thread &t = threads[thread];
    return !t.done && !t.at_barrier && !(t.instruction && warps[thread / WARP].steps == t.steps);
}

void run_block() {
    const unsigned n = threads.size();
    for (unsigned i = 0; i < n; i++) {
        Thread &t = threads[i];
        t.done = t.at_barrier = false;
        t.instruction = 0;
        t.steps = 0;
        t.groups.clear();
        t.open.clear();
        getcontext(&t.context);
        t.context.uc_stack.ss_sp = t.stack.data();
        t.context.uc_stack.ss_size = STACK;
        t.context.uc_link = nullptr;
        makecontext(&t.context, enter, 0);
    }
    for (Warp &w : warps) w = Warp();
    for (;;) {
        bool progress = false;
        unsigned done = 0, waiting = 0;
        for (unsigned i = 0; i < n; i++) {
            const unsigned thread = backwards ? n - 1 - i : i;
            if (ready(thread)) {
                resume(thread);
                progress = true;
            }
        }
        for (const Thread &t : threads) {
            done += t.done;
            waiting += t.at_barrier;
        }
        if (done == n) return;
        if (waiting == n) {
            for (Thread &t : threads) t.at_barrier = false;
        } else if (!progress) {
            fail(waiting ? "a barrier that some threads do not reach" : "a warp-wide instruction that some lanes do not reach");
        }
    }
}

// Waits until all lanes of the warp are at this instruction; the last one does it for all.
template <class Operands> void together(int instruction, Operands &own, void (*all)(Operands *(&)[WARP])) {
    Thread &self = threads[current];
    Warp &warp = warps[current / WARP];
    self.instruction = instruction;
    self.operands = &own;
    self.steps = warp.steps;
    if (++warp.waiting < WARP) {
        yield();
    } else {
        Operands *lanes[WARP];
        for (unsigned lane = 0; lane < WARP; lane++) {
            Thread &other = threads[current / WARP * WARP + lane];
            if (other.instruction != instruction) fail("lanes of a warp at different instructions");
            lanes[lane] = static_cast<Operands *>(const_cast<void *>(other.operands));
        }
        all(lanes);
        warp.waiting = 0;
        warp.steps++;
    }
    self.instruction = 0;
}

float widen(unsigned pair, int which) {
    const unsigned bits = which ? pair & 0xffff0000u : pair << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

struct Matrices {
    const unsigned char *row;
    unsigned (*values)[4];
    bool transposed;
};

void do_load_matrices(Matrices *(&lanes)[WARP]) {
    for (int m = 0; m < 4; m++) {
        unsigned short matrix[8][8];
        for (int r = 0; r < 8; r++) memcpy(matrix[r], lanes[8 * m + r]->row, 16);
        for (unsigned lane = 0; lane < WARP; lane++) {
            const int i = lane / 4, j = 2 * (lane % 4);
            const bool t = lanes[lane]->transposed;
            const unsigned low = t ? matrix[j][i] : matrix[i][j], high = t ? matrix[j + 1][i] : matrix[i][j + 1];
            (*lanes[lane]->values)[m] = low | high << 16;
        }
    }
}

struct Multiplication {
    float (*sums)[4];
    const unsigned (*a)[4];
    unsigned b[2];
};

void do_multiply_add(Multiplication *(&lanes)[WARP]) {
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const int g = lane / 4, t = 2 * (lane % 4);
        const Multiplication &own = *lanes[lane];
        for (int half = 0; half < 2; half++) {
            a[g][t + half] = widen((*own.a)[0], half);
            a[g + 8][t + half] = widen((*own.a)[1], half);
            a[g][t + 8 + half] = widen((*own.a)[2], half);
            a[g + 8][t + 8 + half] = widen((*own.a)[3], half);
            b[t + half][g] = widen(own.b[0], half);
            b[t + 8 + half][g] = widen(own.b[1], half);
        }
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        const int g = lane / 4, t = 2 * (lane % 4);
        for (int i = 0; i < 4; i++) {
            const int row = g + 8 * (i / 2), column = t + i % 2;
            float sum = (*lanes[lane]->sums)[i];
            for (int k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            (*lanes[lane]->sums)[i] = sum;
        }
    }
}

struct Shuffle {
    float given, got;
    int mask;
};

void do_shuffle(Shuffle *(&lanes)[WARP]) {
    for (unsigned lane = 0; lane < WARP; lane++) lanes[lane]->got = lanes[lane ^ lanes[lane]->mask]->given;
}

} // namespace

namespace emulator {

void barrier() {
    threads[current].at_barrier = true;
    yield();
}

unsigned char *shared_memory() { return shared_start; }

void copy_async(void *shared, uint64_t global, bool filled) {
    if (reinterpret_cast<uintptr_t>(shared) % 16 || (filled && global % 16))
        fail("an asynchronous copy of an address that is no multiple of 16");
    Copy copy = {shared, {}};
    if (filled) memcpy(copy.bytes, reinterpret_cast<const void *>(global), 16);
    threads[current].open.push_back(copy);
}

void copies_commit() {
    Thread &self = threads[current];
    self.groups.push_back(std::move(self.open));
    self.open.clear();
}

void copies_wait(int pending) {
    Thread &self = threads[current];
    while (self.groups.size() > size_t(pending)) {
        for (const Copy &copy : self.groups.front()) memcpy(copy.shared, copy.bytes, 16);
        self.groups.erase(self.groups.begin());
    }
}

void load_matrices(bool transposed, unsigned (&values)[4], const void *row) {
    if (reinterpret_cast<uintptr_t>(row) % 16) fail("a matrix row at an address that is no multiple of 16");
    Matrices own = {static_cast<const unsigned char *>(row), &values, transposed};
    together(1, own, do_load_matrices);
}

void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    Multiplication own = {&sums, &a, {b0, b1}};
    together(2, own, do_multiply_add);
}

float shuffle_xor(float value, int mask) {
    Shuffle own = {value, 0, mask};
    together(3, own, do_shuffle);
    return own.got;
}

void run(const unsigned *grid, unsigned block, size_t shared_bytes, void (*kernel)(const void *), const void *given) {
    if (block == 0 || block % WARP) fail("a block that is not whole warps");
    threads.resize(block);
    warps.resize(block / WARP);
    body = kernel;
    arguments = given;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block, 1, 1};
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                // 0xff: NaN as bf16 and f32.
                shared_start = static_cast<unsigned char *>(malloc(shared_bytes));
                memset(shared_start, 0xff, shared_bytes);
                run_block();
                free(shared_start);
            }
}

} // namespace emulator

// Device memory: the sanitizer's heap, poisoned.
extern "C" void *emulator_allocate(size_t bytes) {
    void *memory = malloc(bytes);
    if (memory) memset(memory, 0xff, bytes);
    return memory;
}
extern "C" void emulator_free(void *memory) { free(memory); }
extern "C" void emulator_order(int reversed) { backwards = reversed != 0; }
