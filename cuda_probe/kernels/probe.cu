// Probe kernels: what a launch, an iteration of arithmetic and a pass over memory cost, alone and as the steps of
// speculative decoding. NVRTC compiles this file for a device, g++ with a shim for the CPU (tests/probe/shim).
//
// Launch: a one-dimensional grid of blocks of a multiple of 32 threads, at most 256. T is the number of
// threads of the grid. Everything is deterministic; cuda_probe/reference.py says the same in NumPy, to the last bit.
//
// What keeps the compiler from deleting the work: each thread stores its burn result if it exceeds `threshold`, an
// argument (the largest float to store nothing, minus that to store all), so that the result has to be known; what is
// written to `memory` and to the streams' outputs is visible after the launch.

// A block has at most 256 threads and four of them fit a multiprocessor of any architecture, whatever their registers:
// a grid of four blocks a multiprocessor is resident as a whole, and eight warps a scheduler hide an FMA's latency.
#define FILLS_DEVICE __launch_bounds__(256, 4)

namespace {

constexpr int BATCH = 8;  // floats that a thread has under way at a time
constexpr unsigned EVERY_LANE = 0xffffffffu;
constexpr unsigned MULTIPLIER = 1103515245u, INCREMENT = 12345u;

__device__ __forceinline__ long long thread_number() {
    return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ long long thread_count() { return static_cast<long long>(gridDim.x) * blockDim.x; }

// ---- tokens ---------------------------------------------------------------------------------------------------------

// State of the target at a position; that of the next position is this one plus MULTIPLIER.
__device__ __forceinline__ unsigned truth(long long position) {
    return MULTIPLIER * static_cast<unsigned>(position) + INCREMENT;
}
__device__ __forceinline__ int token_of(unsigned state, int vocab) {
    return static_cast<int>(state % static_cast<unsigned>(vocab));
}

__device__ __forceinline__ unsigned long long mix(unsigned long long z) {  // the finaliser of splitmix64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}
// 0..999999, the same for a seed and a position for ever: a draft that errs at a position errs there again.
__device__ __forceinline__ int noise(long long seed, long long position) {
    constexpr unsigned long long golden = 0x9E3779B97F4A7C15ULL;
    const unsigned long long key = mix(static_cast<unsigned long long>(seed) + golden);
    const unsigned long long z = mix(key + static_cast<unsigned long long>(position) * golden);
    return static_cast<int>(((z >> 32) * 1000000ULL) >> 32);
}

// ---- work -----------------------------------------------------------------------------------------------------------

// The quadratic map, chaotic on [-1.5, 0.75]: its orbit never settles, so that the result tells how often it was applied.
__device__ __forceinline__ float advance(float x) { return fmaf(x, x, -1.5f); }

__device__ __forceinline__ float start_value(unsigned word) {  // in [-0.5, 0.5)
    const unsigned scrambled = (static_cast<unsigned>(thread_number()) + word) * 2654435761u;
    return static_cast<float>(scrambled >> 8) * 5.9604644775390625e-08f - 0.5f;
}

// `iterations` workflops units of one thread: three FMAs each, every one waiting for the one before.
__device__ __forceinline__ float burn(float x, long long iterations) {
#pragma unroll 16
    for (long long i = 0; i < iterations; ++i) x = advance(advance(advance(x)));
    return x;
}

// `passes` workmem units beside `iterations` workflops units. Thread t owns memory[t], memory[t + T], ...; pass p
// advances the p-th of them, counted round and round. So no two threads meet, neighbours touch neighbouring floats,
// and a launch that begins at the pass where the last one ended walks on through the whole buffer. The arithmetic is
// spread over the loads under way.
__device__ __forceinline__ float work(float x, long long iterations, float* memory, long long mem_len,
                                      long long first_pass, long long passes) {
    const long long own = thread_number(), stride = thread_count();
    if (own >= mem_len) passes = 0;
    const long long batches = (passes + BATCH - 1) / BATCH;
    const long long share = batches ? iterations / batches : 0;
    long long at = own + first_pass * stride;
    if (at >= mem_len && passes) at = own + first_pass % ((mem_len - own + stride - 1) / stride) * stride;
    while (passes > 0) {
        float value[BATCH];
        long long count = 0;  // floats of this batch: it ends where the buffer does
#pragma unroll
        for (int j = 0; j < BATCH; ++j) {
            value[j] = 0.0f;
            if (j < passes && at + j * stride < mem_len) {
                value[j] = memory[at + j * stride];
                count = j + 1;
            }
        }
        const long long part = share < iterations ? share : iterations;
        x = burn(x, part);
        iterations -= part;
#pragma unroll
        for (int j = 0; j < BATCH; ++j)
            if (j < count) memory[at + j * stride] = advance(value[j]);
        passes -= count;
        at += count * stride;
        if (at >= mem_len) at = own;
    }
    return burn(x, iterations);
}

__device__ __forceinline__ void keep(float x, float* sink, float threshold) {
    if (x > threshold) sink[thread_number()] = x;
}

}  // namespace

extern "C" {

// FLOP 0, bytes 0: the price of a launch.
__global__ void empty() {}

// FLOP 6 * T * work_flops, bytes 0 (4 * T when the threshold lets the results be stored).
__global__ void FILLS_DEVICE burn_flops(long long work_flops, float* sink, float threshold) {
    keep(burn(start_value(0u), work_flops), sink, threshold);
}

// FLOP 2 * T * work_mem, bytes 8 * T * work_mem (half read, half written); needs mem_len >= T. Between its loads and its
// stores a thread has nothing under way: a stream with as many threads reaches more of the memory's bandwidth.
__global__ void FILLS_DEVICE burn_memory(float* memory, long long mem_len, long long first_pass,
                                                    long long work_mem) {
    work(0.0f, 0, memory, mem_len, first_pass, work_mem);
}

// One drafted token, from the one before it: every thread begins from chain[step], which the launch before this one
// wrote; thread 0 writes chain[step + 1] and proposed[step]. `position` is that of the drafted token.
// FLOP T * (6 * work_flops + 2 * work_mem), bytes 8 * T * work_mem.
__global__ void FILLS_DEVICE draft(unsigned* chain, int step, int* proposed, long long position, int vocab,
                                              long long seed, int noise_ppm, float* memory, long long mem_len,
                                              long long first_pass, long long work_flops, long long work_mem,
                                              float* sink, float threshold) {
    const unsigned previous = chain[step];
    if (thread_number() == 0) {
        const unsigned state = previous + MULTIPLIER;
        const int token = token_of(state, vocab);
        const bool errs = noise(seed, position) < noise_ppm;
        proposed[step] = errs ? (token + 1 == vocab ? 0 : token + 1) : token;
        chain[step + 1] = state;
    }
    keep(work(start_value(previous), work_flops, memory, mem_len, first_pass, work_mem), sink, threshold);
}

// One pass of the target over draft_n + 1 tokens: arithmetic for each of them, memory once. `position` is that of
// proposed[0]. result[0] is the number of accepted tokens, result[1] the token of the target that follows them; its
// state goes to chain[0], where the next round of drafts begins. Every thread begins from chain[draft_n] (draft_n >= 1).
// FLOP T * (6 * work_flops * (draft_n + 1) + 2 * work_mem), bytes 8 * T * work_mem.
__global__ void FILLS_DEVICE verify(unsigned* chain, int draft_n, const int* proposed, long long position,
                                               int vocab, int* result, float* memory, long long mem_len,
                                               long long first_pass, long long work_flops, long long work_mem,
                                               float* sink, float threshold) {
    const unsigned previous = chain[draft_n];
    if (thread_number() < 32) {
        const int lane = static_cast<int>(threadIdx.x);
        int accepted = 0;
        unsigned matches = EVERY_LANE;
        for (int base = 0; base < draft_n && matches == EVERY_LANE; base += 32) {
            const int i = base + lane;
            const bool match = i < draft_n && proposed[i] == token_of(truth(position + i), vocab);
            matches = __ballot_sync(EVERY_LANE, match);
            accepted += matches == EVERY_LANE ? 32 : __ffs(~matches) - 1;
        }
        if (lane == 0) {
            const unsigned state = truth(position + accepted);
            result[0] = accepted;
            result[1] = token_of(state, vocab);
            chain[0] = state;
        }
    }
    const long long iterations = work_flops * (draft_n + 1);
    keep(work(start_value(previous), iterations, memory, mem_len, first_pass, work_mem), sink, threshold);
}

// One token of the target, without speculation: every thread begins from chain[from], thread 0 writes chain[to] and
// tokens[to] (from != to).
// FLOP T * (6 * work_flops + 2 * work_mem), bytes 8 * T * work_mem.
__global__ void FILLS_DEVICE baseline(unsigned* chain, int from, int to, int* tokens, int vocab,
                                                 float* memory, long long mem_len, long long first_pass,
                                                 long long work_flops, long long work_mem, float* sink,
                                                 float threshold) {
    const unsigned previous = chain[from];
    if (thread_number() == 0) {
        const unsigned state = previous + MULTIPLIER;
        tokens[to] = token_of(state, vocab);
        chain[to] = state;
    }
    keep(work(start_value(previous), work_flops, memory, mem_len, first_pass, work_mem), sink, threshold);
}

// ---- streams: 16 bytes an access, arrays aligned to 16 bytes, n floats; the n % 4 last ones singly ------------------

// Bytes 4 * n; the n additions that keep the reads alive are not counted. Thread t sums the vectors t, t + T, ... part by part, then its share of the tail.
__global__ void FILLS_DEVICE stream_read(const float* __restrict__ x, long long n, float* sink,
                                                    float threshold) {
    const long long own = thread_number(), stride = thread_count(), vectors = n / 4;
    const float4* wide = reinterpret_cast<const float4*>(x);
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
    for (long long i = own; i < vectors; i += stride) {
        const float4 v = wide[i];
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    float total = (sum.x + sum.y) + (sum.z + sum.w);
    for (long long i = 4 * vectors + own; i < n; i += stride) total += x[i];
    keep(total, sink, threshold);
}

// FLOP 0, bytes 4 * n.
__global__ void FILLS_DEVICE stream_write(float* __restrict__ y, long long n, float value) {
    const long long own = thread_number(), stride = thread_count(), vectors = n / 4;
    float4* wide = reinterpret_cast<float4*>(y);
#pragma unroll 4
    for (long long i = own; i < vectors; i += stride) wide[i] = make_float4(value, value, value, value);
    for (long long i = 4 * vectors + own; i < n; i += stride) y[i] = value;
}

// FLOP 0, bytes 8 * n.
__global__ void FILLS_DEVICE stream_copy(const float* __restrict__ x, float* __restrict__ y, long long n) {
    const long long own = thread_number(), stride = thread_count(), vectors = n / 4;
    const float4* from = reinterpret_cast<const float4*>(x);
    float4* to = reinterpret_cast<float4*>(y);
#pragma unroll 4
    for (long long i = own; i < vectors; i += stride) to[i] = from[i];
    for (long long i = 4 * vectors + own; i < n; i += stride) y[i] = x[i];
}

// z = x + scale * y, one rounding. FLOP 2 * n, bytes 12 * n.
__global__ void FILLS_DEVICE stream_triad(const float* __restrict__ x, const float* __restrict__ y,
                                                     float* __restrict__ z, long long n, float scale) {
    const long long own = thread_number(), stride = thread_count(), vectors = n / 4;
    const float4* first = reinterpret_cast<const float4*>(x);
    const float4* second = reinterpret_cast<const float4*>(y);
    float4* to = reinterpret_cast<float4*>(z);
#pragma unroll 4
    for (long long i = own; i < vectors; i += stride) {
        const float4 a = first[i], b = second[i];
        to[i] = make_float4(fmaf(scale, b.x, a.x), fmaf(scale, b.y, a.y), fmaf(scale, b.z, a.z), fmaf(scale, b.w, a.w));
    }
    for (long long i = 4 * vectors + own; i < n; i += stride) z[i] = fmaf(scale, y[i], x[i]);
}

}  // extern "C"
