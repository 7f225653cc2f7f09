// Runs CUDA C++ kernels on the CPU: `g++ -include cuda_shim.h -x c++ kernel.cu`. For tests; shim.py builds and launches.
//
// Every thread of a block is a real thread with its own threadIdx; barriers and warp collectives block as the CUDA
// manual says (exited threads no longer count), so a sanitizer sees the kernel's own races and overruns and no others.
// What is checked beyond the values: a lane outside its own mask, two masks that overlap, a barrier that some threads
// never reach (after a time limit). Static __shared__ is one copy per loaded library: blocks that run at the same time
// run in separate copies of it. Atomics are relaxed until their thread has called __threadfence, as on the device.
#pragma once
#include <linux/futex.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <climits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#define CUDA_SHIM 1

// ---- vector types ----------------------------------------------------------------------------------------------------
#define CUDA_SHIM_VECTORS(T, name)                                                                                    \
    struct name##1 { T x; };                                                                                          \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                                                \
    struct name##3 { T x, y, z; };                                                                                    \
    struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; };                                \
    inline name##1 make_##name##1(T x) { return {x}; }                                                                \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                        \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                                \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_SHIM_VECTORS(char, char)
CUDA_SHIM_VECTORS(unsigned char, uchar)
CUDA_SHIM_VECTORS(short, short)
CUDA_SHIM_VECTORS(unsigned short, ushort)
CUDA_SHIM_VECTORS(int, int)
CUDA_SHIM_VECTORS(unsigned int, uint)
CUDA_SHIM_VECTORS(long long, longlong)
CUDA_SHIM_VECTORS(unsigned long long, ulonglong)
CUDA_SHIM_VECTORS(float, float)
CUDA_SHIM_VECTORS(double, double)
#undef CUDA_SHIM_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;
static constexpr int warpSize = 32;

// ---- the runtime: barriers, warps, a pool of threads -----------------------------------------------------------------
#if defined(__SANITIZE_THREAD__)
extern "C" {
void AnnotateIgnoreSyncBegin(const char*, int);
void AnnotateIgnoreSyncEnd(const char*, int);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

namespace cuda_shim {

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline std::atomic<long> patience_s{60};  // how long a thread waits at a barrier before the block counts as hung

inline void sleep_until_changed(std::atomic<uint32_t>& word, uint32_t old, const char* place) {
    const time_t start = time(nullptr);
    while (word.load(std::memory_order_acquire) == old) {
        const timespec one_second{1, 0};
        syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, old, &one_second, nullptr, 0);
        if (time(nullptr) - start > patience_s.load(std::memory_order_relaxed))
            throw Failure(std::string("a thread waits for others that never come, at ") + place);
    }
}

inline void bump_and_wake(std::atomic<uint32_t>& word) {
    word.fetch_add(1, std::memory_order_release);
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

// __syncthreads and its counting forms.
struct BlockBarrier {
    std::mutex lock;
    std::atomic<uint32_t> generation{0};
    unsigned alive = 0, arrived = 0, votes = 0;
    unsigned tally[2] = {0, 0}, members[2] = {0, 0};

    void complete() {
        const uint32_t parity = generation.load(std::memory_order_relaxed) & 1;
        tally[parity] = votes;
        members[parity] = arrived;
        arrived = votes = 0;
        bump_and_wake(generation);
    }
    // How many of the arrived threads voted, and how many arrived.
    std::pair<unsigned, unsigned> wait(bool vote) {
        uint32_t mine;
        {
            std::lock_guard guard(lock);
            mine = generation.load(std::memory_order_relaxed);
            votes += vote;
            if (++arrived == alive) complete();
        }
        sleep_until_changed(generation, mine, "__syncthreads");
        return {tally[mine & 1], members[mine & 1]};
    }
    void leave() {
        std::lock_guard guard(lock);
        if (--alive > 0 && arrived == alive) complete();
    }
};

// The lanes of one warp that meet under one mask. Disjoint masks have different lowest lanes, hence groups of their own.
struct Group {
    std::atomic<uint32_t> generation{0};
    uint32_t mask = 0, arrived = 0;
    std::atomic<uint64_t> slots[2][32];
    uint32_t members[2] = {0, 0};

    void complete() {
        members[generation.load(std::memory_order_relaxed) & 1] = arrived;
        arrived = mask = 0;
        bump_and_wake(generation);
    }
};

struct Warp {
    std::mutex lock;
    uint32_t alive = 0;
    Group groups[32];

    // Publishes a value and waits for the lanes of `mask`; returns the parity under which the values then stand.
    uint32_t meet(uint32_t mask, unsigned lane, uint64_t value, const char* place) {
        if (!(mask >> lane & 1)) throw Failure(std::string("a lane calls with a mask that leaves it out: ") + place);
        Group& group = groups[std::countr_zero(mask)];
        uint32_t mine;
        {
            std::lock_guard guard(lock);
            if (group.arrived && group.mask != mask) throw Failure(std::string("lanes disagree on the mask: ") + place);
            mine = group.generation.load(std::memory_order_relaxed);
            group.mask = mask;
            group.arrived |= 1u << lane;
            group.slots[mine & 1][lane].store(value, std::memory_order_relaxed);
            if (group.arrived == (mask & alive)) group.complete();
        }
        sleep_until_changed(group.generation, mine, place);
        return mine & 1;
    }
    void leave(unsigned lane) {
        std::lock_guard guard(lock);
        alive &= ~(1u << lane);
        for (Group& group : groups)
            if (group.arrived && group.arrived == (group.mask & alive)) group.complete();
    }
};

struct Block {
    BlockBarrier barrier;
    std::vector<Warp> warps;
    std::mutex failure_lock;
    std::string failure;
    unsigned char* dynamic_shared = nullptr;

    Block(unsigned threads) : warps((threads + 31) / 32) {
        barrier.alive = threads;
        for (unsigned i = 0; i < threads; ++i) warps[i / 32].alive |= 1u << (i % 32);
    }
    void fail(const std::string& what) {
        std::lock_guard guard(failure_lock);
        if (failure.empty()) failure = what;
    }
};

inline thread_local Block* block = nullptr;
inline thread_local unsigned linear = 0;      // number of this thread in its block
inline thread_local bool fenced = false;      // has this thread called __threadfence?

template <class T> T* dynamic_shared() { return reinterpret_cast<T*>(block->dynamic_shared); }

// A collective exchanges values and waits, yet orders no memory (only __syncwarp does): so is a race sanitizer told.
struct NoOrdering {
#if defined(__SANITIZE_THREAD__)
    NoOrdering() {
        AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    ~NoOrdering() {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
        AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
    }
#else
    NoOrdering() {}
    ~NoOrdering() {}
#endif
};

template <class T> uint64_t pack(T value) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}
template <class T> T unpack(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// The value of lane `source`; a lane that does not take part gives garbage, on purpose.
template <class T> T shuffle(uint32_t mask, T value, unsigned source, const char* place) {
    NoOrdering quiet;
    Warp& warp = block->warps[linear / 32];
    const uint32_t parity = warp.meet(mask, linear % 32, pack(value), place);
    const Group& group = warp.groups[std::countr_zero(mask)];
    const bool present = group.members[parity] >> (source & 31) & 1;
    return unpack<T>(present ? group.slots[parity][source & 31].load(std::memory_order_relaxed) : 0xdeadbeefcafef00dULL);
}

// Votes of the lanes that took part, and which those were.
inline std::pair<uint32_t, uint32_t> poll(uint32_t mask, bool vote, const char* place) {
    NoOrdering quiet;
    Warp& warp = block->warps[linear / 32];
    const uint32_t parity = warp.meet(mask, linear % 32, vote, place);
    const Group& group = warp.groups[std::countr_zero(mask)];
    uint32_t votes = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        if (group.members[parity] >> lane & 1)
            votes |= static_cast<uint32_t>(group.slots[parity][lane].load(std::memory_order_relaxed)) << lane;
    return {votes, group.members[parity]};
}

template <class T, class F> T reduce(uint32_t mask, T value, F combine, const char* place) {
    NoOrdering quiet;
    Warp& warp = block->warps[linear / 32];
    const uint32_t parity = warp.meet(mask, linear % 32, pack(value), place);
    const Group& group = warp.groups[std::countr_zero(mask)];
    bool first = true;
    T result{};
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(group.members[parity] >> lane & 1)) continue;
        const T other = unpack<T>(group.slots[parity][lane].load(std::memory_order_relaxed));
        result = first ? other : combine(result, other);
        first = false;
    }
    return result;
}

// ---- kernels by name, and their launch -------------------------------------------------------------------------------
using Invoke = void (*)(void* kernel, void** arguments);

template <class T> std::string type_code() {
    if constexpr (std::is_pointer_v<T>) {
        using Target = std::remove_cv_t<std::remove_pointer_t<T>>;
        if constexpr (std::is_void_v<Target>) return "p*";
        else return "p" + (std::is_arithmetic_v<Target> ? type_code<Target>() : "x" + std::to_string(sizeof(Target)));
    } else if constexpr (std::is_same_v<T, bool>) {
        return "b1";
    } else if constexpr (std::is_arithmetic_v<T>) {
        return (std::is_floating_point_v<T> ? "f" : std::is_signed_v<T> ? "i" : "u") + std::to_string(sizeof(T));
    } else {
        return "x" + std::to_string(sizeof(T));
    }
}

struct Kernel {
    std::string name, signature;
    void* function;
    Invoke invoke;
};
inline std::vector<Kernel>& kernels() {
    static std::vector<Kernel> all;
    return all;
}

template <class... P, size_t... I> void call(void (*f)(P...), void** arguments, std::index_sequence<I...>) {
    f(*static_cast<std::remove_cv_t<P>*>(arguments[I])...);
}
template <class... P> struct Registration {
    Registration(const char* name, void (*f)(P...)) {
        std::string signature;
        ((signature += type_code<std::remove_cv_t<P>>() + ","), ...);
        kernels().push_back({name, signature, reinterpret_cast<void*>(f), [](void* function, void** arguments) {
            call(reinterpret_cast<void (*)(P...)>(function), arguments, std::index_sequence_for<P...>{});
        }});
    }
};

// Threads that live as long as the process: thread i of the pool is always thread i of a block. Workers never wait for
// one another here, so a start orders a thread after the launch and after nothing else.
class Pool {
  public:
    template <class Work> void run(unsigned threads, Work& work) {
        while (workers.size() < threads) {
            workers.push_back(std::make_unique<Worker>());
            std::thread(&Pool::serve, this, static_cast<unsigned>(workers.size() - 1), workers.back().get()).detach();
        }
        context = &work;
        job = [](void* self, unsigned index) { (*static_cast<Work*>(self))(index); };
        running.store(threads, std::memory_order_relaxed);
        const uint32_t before = finished.load(std::memory_order_relaxed);
        for (unsigned i = 0; i < threads; ++i) bump_and_wake(workers[i]->started);
        wait_for_change(finished, before);
    }

  private:
    struct Worker {
        std::atomic<uint32_t> started{0};
    };
    std::vector<std::unique_ptr<Worker>> workers;
    void* context = nullptr;
    void (*job)(void*, unsigned) = nullptr;
    std::atomic<uint32_t> running{0}, finished{0};

    static void wait_for_change(std::atomic<uint32_t>& word, uint32_t old) {
        while (word.load(std::memory_order_acquire) == old)
            syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
    }
    void serve(unsigned index, Worker* worker) {
        for (uint32_t seen = 0;; ++seen) {
            wait_for_change(worker->started, seen);
            job(context, index);
            if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) bump_and_wake(finished);
        }
    }
};

inline Pool& pool() {
    static Pool* forever = new Pool;
    return *forever;
}

struct LaunchPlan {
    const Kernel* kernel;
    dim3 grid, block;
    void** arguments;
    size_t shared_bytes;
};

inline std::string run_block(const LaunchPlan& plan, uint64_t number) {
    const unsigned threads = plan.block.x * plan.block.y * plan.block.z;
    Block state(threads);
    void* memory = nullptr;
    if (plan.shared_bytes && posix_memalign(&memory, 256, plan.shared_bytes)) return "no memory for shared_bytes";
    if (memory) memset(memory, 0xCD, plan.shared_bytes);
    state.dynamic_shared = static_cast<unsigned char*>(memory);
    const uint3 here{static_cast<unsigned>(number % plan.grid.x),
                     static_cast<unsigned>(number / plan.grid.x % plan.grid.y),
                     static_cast<unsigned>(number / plan.grid.x / plan.grid.y)};
    auto work = [&](unsigned index) {
        block = &state;
        linear = index;
        fenced = false;
        blockIdx = here;
        blockDim = plan.block;
        gridDim = plan.grid;
        threadIdx = {index % plan.block.x, index / plan.block.x % plan.block.y, index / plan.block.x / plan.block.y};
        try {
            plan.kernel->invoke(plan.kernel->function, plan.arguments);
        } catch (const std::exception& error) {
            state.fail(error.what());
        }
        state.warps[index / 32].leave(index % 32);
        state.barrier.leave();
    };
    pool().run(threads, work);
    free(memory);
    return state.failure;
}
}  // namespace cuda_shim

// ---- what shim.py calls ----------------------------------------------------------------------------------------------
#define CUDA_SHIM_API extern "C" __attribute__((visibility("default"), used))

// "name:code,code,...;" for every kernel of the source.
CUDA_SHIM_API inline const char* cuda_shim_kernels() {
    static std::string* text = [] {
        auto* all = new std::string;
        for (const auto& kernel : cuda_shim::kernels()) *all += kernel.name + ":" + kernel.signature + ";";
        return all;
    }();
    return text->c_str();
}

CUDA_SHIM_API inline void* cuda_shim_allocate(size_t bytes) {
    void* memory = nullptr;
    return posix_memalign(&memory, 256, bytes) ? nullptr : memory;
}
CUDA_SHIM_API inline void cuda_shim_release(void* memory) { free(memory); }
CUDA_SHIM_API inline void cuda_shim_patience(long seconds) { cuda_shim::patience_s = seconds; }

// Runs blocks from `order` until none is left; `next` is shared with the other copies that work on the same launch.
// Returns 0, or 1 with the reason in `message`.
CUDA_SHIM_API inline int cuda_shim_run(int kernel, const unsigned* grid, const unsigned* block, void** arguments,
                                       size_t shared_bytes, const uint64_t* order, uint64_t count, uint64_t* next,
                                       char* message, size_t message_bytes) {
    const cuda_shim::LaunchPlan plan{&cuda_shim::kernels()[kernel], dim3(grid[0], grid[1], grid[2]),
                                     dim3(block[0], block[1], block[2]), arguments, shared_bytes};
    for (uint64_t i; (i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < count;) {
        const std::string failure = cuda_shim::run_block(plan, order[i]);
        if (failure.empty()) continue;
        __atomic_store_n(next, count, __ATOMIC_RELAXED);
        snprintf(message, message_bytes, "block %llu: %s", static_cast<unsigned long long>(order[i]), failure.c_str());
        return 1;
    }
    return 0;
}

// ---- the CUDA C++ surface --------------------------------------------------------------------------------------------
#define __global__ __attribute__((used))
#define __device__
#define __host__
#define __constant__
#define __shared__ static
#define __forceinline__ __attribute__((always_inline)) inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __grid_constant__
#define CUDA_SHIM_DYNAMIC_SHARED(type, name) type* const name = cuda_shim::dynamic_shared<type>()

inline void __syncthreads() { cuda_shim::block->barrier.wait(false); }
inline int __syncthreads_count(int vote) { return cuda_shim::block->barrier.wait(vote != 0).first; }
inline int __syncthreads_or(int vote) { return __syncthreads_count(vote) != 0; }
inline int __syncthreads_and(int vote) {
    const auto [votes, members] = cuda_shim::block->barrier.wait(vote != 0);
    return votes == members;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    cuda_shim::block->warps[cuda_shim::linear / 32].meet(mask, cuda_shim::linear % 32, 0, "__syncwarp");
}

// Fences: real ones for a plain build; for the race sanitizer they make the thread's later atomics release and acquire.
#if defined(__SANITIZE_THREAD__)
inline void __threadfence() { cuda_shim::fenced = true; }
#else
inline void __threadfence() {
    cuda_shim::fenced = true;
    std::atomic_thread_fence(std::memory_order_seq_cst);
}
#endif
inline void __threadfence_block() { __threadfence(); }
inline void __threadfence_system() { __threadfence(); }

#define CUDA_SHIM_SEGMENT(width)                                                                                      \
    const unsigned lane = cuda_shim::linear % 32, base = lane & ~(static_cast<unsigned>(width) - 1), at = lane - base
template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    CUDA_SHIM_SEGMENT(width);
    (void)at;
    return cuda_shim::shuffle(mask, value, base + (source & (width - 1)), "__shfl_sync");
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    CUDA_SHIM_SEGMENT(width);
    (void)base;
    return cuda_shim::shuffle(mask, value, at < delta ? lane : lane - delta, "__shfl_up_sync");
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    CUDA_SHIM_SEGMENT(width);
    (void)base;
    return cuda_shim::shuffle(mask, value, at + delta >= static_cast<unsigned>(width) ? lane : lane + delta,
                              "__shfl_down_sync");
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32) {
    CUDA_SHIM_SEGMENT(width);
    const unsigned other = at ^ static_cast<unsigned>(flip);
    // A source in an earlier segment may be read; one in a later segment gives the lane's own value.
    const unsigned source = lane ^ static_cast<unsigned>(flip);
    return cuda_shim::shuffle(mask, value, other < static_cast<unsigned>(width) || source < base ? source : lane,
                              "__shfl_xor_sync");
}
#undef CUDA_SHIM_SEGMENT

inline unsigned __ballot_sync(unsigned mask, int vote) { return cuda_shim::poll(mask, vote != 0, "__ballot_sync").first; }
inline int __any_sync(unsigned mask, int vote) { return cuda_shim::poll(mask, vote != 0, "__any_sync").first != 0; }
inline int __all_sync(unsigned mask, int vote) {
    const auto [votes, members] = cuda_shim::poll(mask, vote != 0, "__all_sync");
    return votes == members;
}
template <class T> T __reduce_add_sync(unsigned mask, T value) {
    return cuda_shim::reduce(mask, value, [](T a, T b) { return static_cast<T>(a + b); }, "__reduce_add_sync");
}
template <class T> T __reduce_min_sync(unsigned mask, T value) {
    return cuda_shim::reduce(mask, value, [](T a, T b) { return std::min(a, b); }, "__reduce_min_sync");
}
template <class T> T __reduce_max_sync(unsigned mask, T value) {
    return cuda_shim::reduce(mask, value, [](T a, T b) { return std::max(a, b); }, "__reduce_max_sync");
}

// ---- atomics ---------------------------------------------------------------------------------------------------------
namespace cuda_shim {
template <int Bytes> struct Bits;
template <> struct Bits<4> { using type = uint32_t; };
template <> struct Bits<8> { using type = uint64_t; };

// Replaces *address by change(*address); returns what stood there.
template <class T, class F> T atomic_update(T* address, F change) {
    using Word = typename Bits<sizeof(T)>::type;
    Word* word = reinterpret_cast<Word*>(address);
    Word old = __atomic_load_n(word, __ATOMIC_RELAXED);
    for (;;) {
        const Word next = std::bit_cast<Word>(static_cast<T>(change(std::bit_cast<T>(old))));
        const bool done = fenced
            ? __atomic_compare_exchange_n(word, &old, next, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)
            : __atomic_compare_exchange_n(word, &old, next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
        if (done) return std::bit_cast<T>(old);
    }
}
template <class T> using Same = std::type_identity_t<T>;
template <class T> T wrapping_add(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
        using U = std::make_unsigned_t<T>;
        return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    } else {
        return a + b;
    }
}
}  // namespace cuda_shim

template <class T> T atomicAdd(T* p, cuda_shim::Same<T> v) {
    return cuda_shim::atomic_update(p, [v](T old) { return cuda_shim::wrapping_add<T>(old, v); });
}
template <class T> T atomicSub(T* p, cuda_shim::Same<T> v) {
    return cuda_shim::atomic_update(p, [v](T old) { return cuda_shim::wrapping_add<T>(old, static_cast<T>(0u - v)); });
}
template <class T> T atomicMax(T* p, cuda_shim::Same<T> v) {
    static_assert(std::is_integral_v<T>, "CUDA has no atomicMax on floats");
    return cuda_shim::atomic_update(p, [v](T old) { return std::max(old, v); });
}
template <class T> T atomicMin(T* p, cuda_shim::Same<T> v) {
    static_assert(std::is_integral_v<T>, "CUDA has no atomicMin on floats");
    return cuda_shim::atomic_update(p, [v](T old) { return std::min(old, v); });
}
template <class T> T atomicOr(T* p, cuda_shim::Same<T> v) {
    return cuda_shim::atomic_update(p, [v](T old) { return old | v; });
}
template <class T> T atomicAnd(T* p, cuda_shim::Same<T> v) {
    return cuda_shim::atomic_update(p, [v](T old) { return old & v; });
}
template <class T> T atomicXor(T* p, cuda_shim::Same<T> v) {
    return cuda_shim::atomic_update(p, [v](T old) { return old ^ v; });
}
template <class T> T atomicExch(T* p, cuda_shim::Same<T> v) {
    return cuda_shim::atomic_update(p, [v](T) { return v; });
}
template <class T> T atomicCAS(T* p, cuda_shim::Same<T> compare, cuda_shim::Same<T> v) {
    static_assert(std::is_integral_v<T>, "CUDA compares integers");
    return cuda_shim::atomic_update(p, [=](T old) { return old == compare ? v : old; });
}
inline unsigned atomicInc(unsigned* p, unsigned limit) {
    return cuda_shim::atomic_update(p, [limit](unsigned old) { return old >= limit ? 0u : old + 1; });
}

// ---- loads, stores, bits ---------------------------------------------------------------------------------------------
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> T __ldca(const T* p) { return *p; }
template <class T> void __stcg(T* p, cuda_shim::Same<T> v) { *p = v; }
template <class T> void __stcs(T* p, cuda_shim::Same<T> v) { *p = v; }
template <class T> void __stwb(T* p, cuda_shim::Same<T> v) { *p = v; }

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<int64_t>(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(unsigned x) { return std::countl_zero(x); }
inline int __clzll(unsigned long long x) { return std::countl_zero(x); }
inline int __ffs(unsigned x) { return x ? std::countr_zero(x) + 1 : 0; }
inline int __ffsll(unsigned long long x) { return x ? std::countr_zero(x) + 1 : 0; }
inline unsigned __brev(unsigned x) {
    unsigned result = 0;
    for (int i = 0; i < 32; ++i) result |= (x >> i & 1) << (31 - i);
    return result;
}
inline long long clock64() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}
inline void __nanosleep(unsigned) { sched_yield(); }
[[noreturn]] inline void __trap() { throw cuda_shim::Failure("__trap"); }

// ---- arithmetic ------------------------------------------------------------------------------------------------------
template <class A, class B> constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return fmin(static_cast<T>(a), static_cast<T>(b));
    else return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
}
template <class A, class B> constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return fmax(static_cast<T>(a), static_cast<T>(b));
    else return static_cast<T>(a) > static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
}
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
inline int __float2int_rn(float x) { return static_cast<int>(rintf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline int __float2int_ru(float x) { return static_cast<int>(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return static_cast<unsigned>(rintf(x)); }
inline unsigned __float2uint_rz(float x) { return static_cast<unsigned>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __ull2float_rn(unsigned long long x) { return static_cast<float>(x); }
inline double __ull2double_rn(unsigned long long x) { return static_cast<double>(x); }

// ---- 16-bit floats: storage, conversions with rounding to nearest even, arithmetic through float ---------------------
namespace cuda_shim {
inline uint16_t half_bits(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(0x7fffu);          // NaN
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
    if (magnitude < 0x38800000u) {                                               // subnormal: let the addition round
        const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
        return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f)));
    }
    const uint32_t rounded = magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u);
    return static_cast<uint16_t>(sign | rounded >> 13);
}
inline float half_value(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, fraction = bits & 1023u;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * static_cast<float>(fraction) * 0x1p-24f;
    return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}
inline uint16_t bfloat16_bits(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline float bfloat16_value(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
}  // namespace cuda_shim

#define CUDA_SHIM_FLOAT16(name, pair, encode, decode)                                                                 \
    struct name {                                                                                                     \
        uint16_t bits;                                                                                                \
        name() = default;                                                                                             \
        template <class T> requires std::is_arithmetic_v<T>                                                           \
        name(T value) : bits(cuda_shim::encode(static_cast<float>(value))) {}                                         \
        operator float() const { return cuda_shim::decode(bits); }                                                    \
    };                                                                                                                \
    struct alignas(4) pair { name x, y; };                                                                            \
    inline name operator+(name a, name b) { return name(static_cast<float>(a) + static_cast<float>(b)); }             \
    inline name operator-(name a, name b) { return name(static_cast<float>(a) - static_cast<float>(b)); }             \
    inline name operator*(name a, name b) { return name(static_cast<float>(a) * static_cast<float>(b)); }             \
    inline name operator/(name a, name b) { return name(static_cast<float>(a) / static_cast<float>(b)); }             \
    inline name operator-(name a) { return name(-static_cast<float>(a)); }                                            \
    inline bool __hisnan(name a) { return static_cast<float>(a) != static_cast<float>(a); }                           \
    inline bool __hgt(name a, name b) { return static_cast<float>(a) > static_cast<float>(b); }                       \
    inline bool __hlt(name a, name b) { return static_cast<float>(a) < static_cast<float>(b); }                       \
    inline bool __heq(name a, name b) { return static_cast<float>(a) == static_cast<float>(b); }                      \
    inline name __hadd(name a, name b) { return a + b; }                                                              \
    inline name __hmul(name a, name b) { return a * b; }                                                              \
    inline float2 cuda_shim_unpack(pair v) { return {static_cast<float>(v.x), static_cast<float>(v.y)}; }
CUDA_SHIM_FLOAT16(__half, __half2, half_bits, half_value)
CUDA_SHIM_FLOAT16(__nv_bfloat16, __nv_bfloat162, bfloat16_bits, bfloat16_value)
#undef CUDA_SHIM_FLOAT16
using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline float2 __half22float2(__half2 x) { return cuda_shim_unpack(x); }
inline __half2 __float22half2_rn(float2 x) { return {__half(x.x), __half(x.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline float __low2float(__half2 v) { return v.x; }
inline float __high2float(__half2 v) { return v.y; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short x) { return std::bit_cast<__half>(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline float2 __bfloat1622float2(__nv_bfloat162 x) { return cuda_shim_unpack(x); }
inline __nv_bfloat162 __float22bfloat162_rn(float2 x) { return {__nv_bfloat16(x.x), __nv_bfloat16(x.y)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
inline float __low2float(__nv_bfloat162 v) { return v.x; }
inline float __high2float(__nv_bfloat162 v) { return v.y; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return std::bit_cast<__nv_bfloat16>(x); }
