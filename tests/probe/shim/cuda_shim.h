// Runs CUDA C++ kernels on the CPU: `g++ -include cuda_shim.h -x c++ kernel.cu`. For tests; shim.py builds and launches.
//
// Of CUDA, what the kernels of this project use: warps and their collectives, fences and atomics, grids of two
// dimensions and blocks of one, no memory that threads of a block share. Anything else does not compile.
//
// Every thread of a block is a real thread with its own threadIdx; warp collectives block as the CUDA manual says
// (exited threads no longer count), so a sanitizer sees the kernel's own races and overruns and no others. What is
// checked beyond the values: a lane outside its own mask, two masks that overlap, a collective that some lanes never
// reach (after a time limit). Atomics are relaxed until their thread has called __threadfence, as on the device.
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

// ---- vector types and places -----------------------------------------------------------------------------------------
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct Extent { unsigned x = 1, y = 1; };
inline thread_local Extent threadIdx, blockIdx, blockDim, gridDim;

// ---- the runtime: warps, a pool of threads ---------------------------------------------------------------------------
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

inline std::atomic<long> patience_s{60};  // how long a lane waits for others before the block counts as hung

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
    std::vector<Warp> warps;
    std::mutex failure_lock;
    std::string failure;

    Block(unsigned threads) : warps((threads + 31) / 32) {
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

// Votes of the lanes that took part.
inline uint32_t poll(uint32_t mask, bool vote, const char* place) {
    NoOrdering quiet;
    Warp& warp = block->warps[linear / 32];
    const uint32_t parity = warp.meet(mask, linear % 32, vote, place);
    const Group& group = warp.groups[std::countr_zero(mask)];
    uint32_t votes = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        if (group.members[parity] >> lane & 1)
            votes |= static_cast<uint32_t>(group.slots[parity][lane].load(std::memory_order_relaxed)) << lane;
    return votes;
}

// ---- kernels by name, and their launch -------------------------------------------------------------------------------
using Invoke = void (*)(void* kernel, void** arguments);

// "i4", "f4", "u8" ... of a value, "p" and that of what it points to of a pointer; "x16" of a structure.
template <class T> std::string type_code() {
    if constexpr (std::is_pointer_v<T>) return "p" + type_code<std::remove_cv_t<std::remove_pointer_t<T>>>();
    const char* kind = std::is_floating_point_v<T> ? "f" : !std::is_integral_v<T> ? "x" : std::is_signed_v<T> ? "i" : "u";
    return kind + std::to_string(sizeof(T));
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

inline std::string run_block(const Kernel& kernel, Extent grid, Extent threads, void** arguments, uint64_t number) {
    Block state(threads.x);
    auto work = [&](unsigned index) {
        block = &state;
        linear = index;
        fenced = false;
        blockIdx = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x)};
        blockDim = threads;
        gridDim = grid;
        threadIdx = {index, 0};
        try {
            kernel.invoke(kernel.function, arguments);
        } catch (const std::exception& error) {
            state.fail(error.what());
        }
        state.warps[index / 32].leave(index % 32);
    };
    pool().run(threads.x, work);
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
CUDA_SHIM_API inline int cuda_shim_run(int kernel, const unsigned* grid, unsigned block, void** arguments,
                                       const uint64_t* order, uint64_t count, uint64_t* next, char* message,
                                       size_t message_bytes) {
    for (uint64_t i; (i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < count;) {
        const auto failure =
            cuda_shim::run_block(cuda_shim::kernels()[kernel], {grid[0], grid[1]}, {block}, arguments, order[i]);
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
#define __forceinline__ __attribute__((always_inline)) inline
#define __launch_bounds__(...)

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

template <class T> T __shfl_sync(unsigned mask, T value, int source) {
    return cuda_shim::shuffle(mask, value, source & 31, "__shfl_sync");
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int flip) {
    return cuda_shim::shuffle(mask, value, (cuda_shim::linear ^ static_cast<unsigned>(flip)) & 31, "__shfl_xor_sync");
}
inline unsigned __ballot_sync(unsigned mask, int vote) { return cuda_shim::poll(mask, vote != 0, "__ballot_sync"); }

// ---- atomics ---------------------------------------------------------------------------------------------------------
inline int atomicAdd(int* p, int v) {
    return cuda_shim::fenced ? __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL) : __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
inline int atomicExch(int* p, int v) {
    return cuda_shim::fenced ? __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL) : __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}

// ---- loads, bits, arithmetic -----------------------------------------------------------------------------------------
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __ffs(unsigned x) { return x ? std::countr_zero(x) + 1 : 0; }
inline int min(int a, int b) { return std::min(a, b); }
inline int max(int a, int b) { return std::max(a, b); }
