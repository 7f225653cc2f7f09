// Speculative sampling from logits: exact, sigmoid-approximate and greedy, and the append to a KV cache.
//
// Rows are split into chunks of 2048 tokens (spans of whole groups where a token is drawn), one warp a chunk, so that a
// batch of one fills the device too. The warp that finishes a row last joins its chunks, the one that finishes a
// sequence last decides it: no second launch for it. What a chunk yields depends on its row alone, and chunks are joined
// in a fixed order, so grid, block and span change no bit. Counters are 0 before a launch and 0 after it.
//
// Bytes read, s = bytes of a logit, V = vocabulary, D = sum of the draft lengths, c = ceil(V / 2048):
//   spec_accept    2 D V s             (+ 16 D c written and 16 D c read back from the cache)
//   spec_draw      at most 2 B V s     (V s for a sequence that kept every draft, 2 V s for any other; and a group anew)
//   sigmoid_accept 2 D s (in sectors of 32), sigmoid_draw as spec_draw
//   verify_prefix  (D + B) V s, or D V s where the logits have no row after the last draft
//   kv_append      sum(accepted) H d s read and as much written
// Every logit of rows that matter is read once, but for the one row or two that the next token is drawn from: drawing
// needs the normalisers of both, which stand only when both have been read.
//
// No header is included: NVRTC compiles the file as it stands. Logits are finite or -inf.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define FULL 0xffffffffu
#define MINUS_INFINITY (-__int_as_float(0x7f800000))
static constexpr int CHUNK = 2048;  // tokens; sampling/cuda_backend.py has the same number
static constexpr int GROUP = 256;   // tokens; part of the law: sampling/random.py has the same number

// ---- arithmetic of the device, and its stand-in where the file runs on a CPU ----------------------------------------
#ifdef CUDA_SHIM
__device__ inline float exp2_fast(float x) { return exp2f(x); }
__device__ inline float reciprocal_fast(float x) { return 1.f / x; }
__device__ inline float half_bits(unsigned short h) {
    const u32 sign = (h & 0x8000u) << 16, rest = h & 0x7fffu;
    if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest < 0x400u) return (sign ? -1.f : 1.f) * (float)rest * 5.9604644775390625e-8f;
    return __uint_as_float(sign | ((rest << 13) + 0x38000000u));
}
#else
__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ inline float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ inline float half_bits(unsigned short h) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(h));
    return y;
}
#endif

struct Float32 {
    typedef float Storage;
    static constexpr int PER_VECTOR = 4;
    static constexpr u32 NOTHING = 0xff800000u;  // -inf in every part of a word
    __device__ static float one(Storage x) { return x; }
    __device__ static u32 word(const Storage* row, int at, int end) {
        return at < end ? __float_as_uint(row[at]) : NOTHING;
    }
    __device__ static void unpack(const uint4& v, float* x) {
        x[0] = __uint_as_float(v.x), x[1] = __uint_as_float(v.y), x[2] = __uint_as_float(v.z),
        x[3] = __uint_as_float(v.w);
    }
};
// Logits of 16 bits, two a word; `Half` says how the bits become a number. What lies beyond `end` is -inf.
template <class Half>
struct Packed {
    typedef unsigned short Storage;
    static constexpr int PER_VECTOR = 8;
    __device__ static u32 word(const Storage* row, int at, int end) {
        return (at < end ? (u32)row[at] : Half::NOTHING & 0xffffu) |
               (at + 1 < end ? (u32)row[at + 1] << 16 : Half::NOTHING & 0xffff0000u);
    }
    __device__ static void unpack(const uint4& v, float* x) {
        const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; ++i)
            x[2 * i] = Half::one((Storage)(words[i] & 0xffffu)), x[2 * i + 1] = Half::one((Storage)(words[i] >> 16));
    }
};
struct Float16 : Packed<Float16> {
    static constexpr u32 NOTHING = 0xfc00fc00u;
    __device__ static float one(Storage x) { return half_bits(x); }
};
struct BFloat16 : Packed<BFloat16> {
    static constexpr u32 NOTHING = 0xff80ff80u;
    __device__ static float one(Storage x) { return __uint_as_float((u32)x << 16); }
};

// ---- random numbers: Philox4x32-10, the same words as sampling/random.py --------------------------------------------
enum Purpose { ACCEPT = 0, TOKEN = 1, GROUP_OF_TOKENS = 2 };

__device__ inline uint4 philox(u32 index, u32 sequence, u32 step, u32 purpose, u64 seed) {
    u32 x = index, y = sequence, z = step, w = purpose, k0 = (u32)seed, k1 = (u32)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u64 a = (u64)0xD2511F53u * x, b = (u64)0xCD9E8D57u * z;
        x = (u32)(b >> 32) ^ y ^ k0, y = (u32)b;
        z = (u32)(a >> 32) ^ w ^ k1, w = (u32)a;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return make_uint4(x, y, z, w);
}

// In [0, 1) in steps of 2^-24: exact in fp32, so that the decision `u < ratio` has one meaning everywhere.
__device__ inline float accept_uniform(u32 position, u32 sequence, u32 step, u64 seed) {
    return (float)(philox(position, sequence, step, ACCEPT, seed).x >> 8) * 5.9604644775390625e-8f;
}

// In (0, 1), finest near 0, where races are won.
__device__ inline float race_uniform(u32 word) {
    return fminf((float)word * 2.3283064365386963e-10f + 1.1641532182693481e-10f, 0.999999940395355225f);
}

// ---- warps ----------------------------------------------------------------------------------------------------------
__device__ inline int lane_id() { return (int)(threadIdx.x & 31u); }

__device__ inline float warp_max(float x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL, x, step));
    return x;
}
__device__ inline float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(FULL, x, step);
    return x;
}

// The work of this warp: a run of consecutive items, so that what it has finished is announced once a row, not once an
// item.
struct Run {
    i64 begin, end;
};
__device__ inline Run run_of_this_warp(i64 items) {
    const i64 warps = (i64)gridDim.x * (blockDim.x >> 5),
              warp = (i64)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    return {items * warp / warps, items * (warp + 1) / warps};
}

// Where an item lies: items are counted chunk by chunk, row by row, sequence by sequence. Divides once, then counts on.
struct Place {
    i64 flat;  // the row, counted over all sequences
    int chunk, row, sequence;

    __device__ Place(i64 item, int chunks, int rows) {
        flat = item / chunks, chunk = (int)(item - flat * chunks);
        sequence = (int)(flat / rows), row = (int)(flat - (i64)sequence * rows);
    }
    __device__ void advance(int chunks, int rows) {
        if (++chunk < chunks) return;
        chunk = 0, ++flat;
        if (++row == rows) row = 0, ++sequence;
    }
};

// Announces `done` finished parts; true in the whole warp that announces the last of `all`, which then sees the others'
// results (read past L1: with __ldcg) and leaves the counter at 0.
__device__ inline bool is_last(int* counter, int done, int all) {
    int before = 0;
    __syncwarp();
    if (lane_id() == 0) {
        __threadfence();
        before = atomicAdd(counter, done);
    }
    const bool last = __shfl_sync(FULL, before, 0) + done == all;
    if (!last) return false;
    if (lane_id() == 0) atomicExch(counter, 0);
    __threadfence();
    __syncwarp();
    return true;
}

__device__ inline int clamped(i64 value, int most) { return value < 0 ? 0 : value > most ? most : (int)value; }

// How many tokens a sequence drafted; all of them where no lengths are given.
__device__ inline int length_of(const i64* lengths, int sequence, int most) {
    return lengths ? clamped(lengths[sequence], most) : most;
}

// How many of the first `length` stand before the first that `fails(j)`. Called by a whole warp.
template <class Fails>
__device__ inline int leading(int length, Fails fails) {
    int kept = length;
    for (int base = 0; base < length && kept == length; base += 32) {
        const int j = base + lane_id();
        const u32 votes = __ballot_sync(FULL, j < length && fails(j));
        if (votes) kept = base + __ffs((int)votes) - 1;
    }
    return kept;
}

// ---- reading a chunk ------------------------------------------------------------------------------------------------
// Gives every logit of a chunk to `take`, ascending within a lane: 16-byte loads, four in flight a lane, over the
// aligned part of the row; single ones over what is left at either end (rows of an odd vocabulary start anywhere).
// Chunks count aligned vectors; the first has the head besides, the last the tail.
template <class T, class Take>
__device__ inline void each_vector(const typename T::Storage* row, int vocab, int chunk, int chunks, Take& take) {
    constexpr int P = T::PER_VECTOR, PER_CHUNK = CHUNK / P;
    const int misaligned = (int)((u64)row & 15u) / (int)sizeof(*row);
    const int head = misaligned ? min(P - misaligned, vocab) : 0, vectors = (vocab - head) / P, lane = lane_id();
    const uint4* body = reinterpret_cast<const uint4*>(row + head);
    const int begin = chunk * PER_CHUNK, end = min(begin + PER_CHUNK, vectors);
    if (chunk == 0 && lane < head) take.single(T::one(row[lane]), lane);
    for (int base = begin + lane; base < end; base += 128) {
        uint4 raw[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            raw[i] = make_uint4(T::NOTHING, T::NOTHING, T::NOTHING, T::NOTHING);
            if (base + 32 * i < end) raw[i] = __ldg(body + base + 32 * i);
        }
        take.vectors(raw, head + base * P);
    }
    const int tail = head + vectors * P + lane;
    if (chunk == chunks - 1 && tail < vocab) take.single(T::one(row[tail]), tail);
}

// Running maximum and sum of exponentials: the row's weight is sum * 2^ref. One fma a logit makes its distance from ref
// exact, however low the temperature.
template <class T>
struct SumOfExponentials {
    float scale, ref, sum;

    __device__ void raise(float most) {
        const float now = most * scale;
        if (now > ref) {
            sum *= exp2_fast(ref - now);  // 2^-inf = 0 the first time
            ref = now;
        }
    }
    __device__ void single(float x, int) {
        raise(x);
        if (ref > MINUS_INFINITY) sum += exp2_fast(fmaf(x, scale, -ref));
    }
    __device__ void vectors(const uint4* raw, int) {
        float most = MINUS_INFINITY, x[T::PER_VECTOR];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            T::unpack(raw[i], x);
#pragma unroll
            for (int k = 0; k < T::PER_VECTOR; ++k) most = fmaxf(most, x[k]);
        }
        raise(most);
        if (!(ref > MINUS_INFINITY)) return;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float part = 0.f;
            T::unpack(raw[i], x);
#pragma unroll
            for (int k = 0; k < T::PER_VECTOR; ++k) part += exp2_fast(fmaf(x[k], scale, -ref));
            sum += part;
        }
    }
};

// The joint maximum and sum of all lanes, in every lane.
__device__ inline float2 joined(float ref, float sum) {
    const float most = warp_max(ref);
    return make_float2(most, warp_sum(most > MINUS_INFINITY ? sum * exp2_fast(ref - most) : 0.f));
}

// ---- exact acceptance -----------------------------------------------------------------------------------------------
struct Decision {  // what the acceptance kernels take beside the logits
    const i64 *ids, *lengths;
    int drafts;
    u32 step;
    u64 seed;
    i64* accepted;
};

// How many drafts stand before the first rejection; `ratio(j)` is p / q at the j-th. Called by a whole warp.
template <class Ratio>
__device__ inline void decide(const Decision& d, int sequence, int length, Ratio ratio) {
    // Not `u >= ratio`: a ratio that is no number (0 / 0) rejects.
    const int kept = leading(
        length, [&](int j) { return !(accept_uniform((u32)j, (u32)sequence, d.step, d.seed) < ratio(j)); });
    if (lane_id() == 0) d.accepted[sequence] = kept;
}

// Row 2j of a sequence is the target's j-th, row 2j + 1 the draft's. `laws` [B, 2K]: (ref, log2 sum, log2 of the
// drafted token's probability, unused).
template <class T>
__device__ inline void spec_accept(const typename T::Storage* target, const typename T::Storage* draft,
                                   i64 target_batch, i64 target_row, i64 draft_batch, i64 draft_row, const Decision& d,
                                   int batch, int vocab, float scale, float2* partials, float4* laws, int* counters) {
    const int chunks = (vocab + CHUNK - 1) / CHUNK, rows = max(2 * d.drafts, 1), lane = lane_id();
    int *row_counters = counters, *sequence_counters = counters + (i64)batch * rows;

    const auto row_of = [&](int sequence, int row) {
        const i64 j = row >> 1;
        return row & 1 ? draft + sequence * draft_batch + j * draft_row
                       : target + sequence * target_batch + j * target_row;
    };
    const auto announce = [&](i64 flat, int done) {
        if (!is_last(row_counters + flat, done, chunks)) return;
        const int sequence = (int)(flat / rows), row = (int)(flat % rows),
                  length = length_of(d.lengths, sequence, d.drafts);
        float ref = MINUS_INFINITY, sum = 0.f;
        for (int c = lane; c < chunks; c += 32) {
            const float2 part = __ldcg(partials + flat * chunks + c);
            const float most = fmaxf(ref, part.x);
            if (most > MINUS_INFINITY) sum = sum * exp2_fast(ref - most) + part.y * exp2_fast(part.x - most);
            ref = most;
        }
        float2 law = joined(ref, sum);
        law =
            law.x > MINUS_INFINITY ? make_float2(law.x, log2f(law.y)) : make_float2(0.f, 0.f);  // no token: all have 0
        if (lane == 0) {
            const i64 id = d.ids[(i64)sequence * d.drafts + (row >> 1)];
            const bool known = id >= 0 && id < vocab;
            const float x = known ? T::one(row_of(sequence, row)[id]) : MINUS_INFINITY;
            laws[flat] = make_float4(law.x, law.y, fmaf(x, scale, -law.x) - law.y, 0.f);
        }
        if (!is_last(sequence_counters + sequence, 1, 2 * length)) return;
        decide(d, sequence, length, [&](int j) {
            const float4* both = laws + (i64)sequence * rows + 2 * j;
            return exp2f(__ldcg(both).z - __ldcg(both + 1).z);
        });
    };

    const Run run = run_of_this_warp((i64)batch * rows * chunks);
    int done = 0;
    Place at(run.begin, chunks, rows);
    for (i64 item = run.begin; item < run.end; ++item, at.advance(chunks, rows)) {
        const int chunk = at.chunk, sequence = at.sequence, row = at.row;
        const int length = length_of(d.lengths, sequence, d.drafts);
        if (row >= 2 * length) {
            if (row == 0 && chunk == 0 && lane == 0) d.accepted[sequence] = 0;  // no draft at all
            continue;
        }
        SumOfExponentials<T> weight = {scale, MINUS_INFINITY, 0.f};
        each_vector<T>(row_of(sequence, row), vocab, chunk, chunks, weight);
        const float2 part = joined(weight.ref, weight.sum);
        if (lane == 0) partials[item] = part;
        ++done;
        if (chunk + 1 == chunks || item + 1 == run.end) announce(at.flat, done), done = 0;
    }
}

// ---- the next token -------------------------------------------------------------------------------------------------
// An exponential race: what has weight w arrives at E / w, E = -log(1 - u); the first one is a draw from the weights,
// whatever their sum, however they are split. Groups of 256 tokens race first, then the tokens of the group that won:
// the same law, for one random number a group instead of one a token. Scores are log2(w) - log2(E), the highest wins.
template <bool RESIDUAL>
struct Softmax {  // p, known but for its normaliser: weights are relative to the largest at hand
    static constexpr bool IS_RESIDUAL = false;
    float scale;

    __device__ float reference(float most) const { return most * scale; }
    __device__ float weight(float x, float, float ref) const { return exp2_fast(fmaf(x, scale, -ref)); }
    __device__ double log2_weight(float x, float) const { return (double)x * (double)scale; }
};
template <>
struct Softmax<true> {  // max(0, p - q)
    static constexpr bool IS_RESIDUAL = true;
    float scale, p_ref, p_log, q_ref, q_log;

    __device__ float reference(float) const { return 0.f; }
    __device__ float weight(float xp, float xq, float) const {
        return fmaxf(exp2_fast(fmaf(xp, scale, -p_ref) - p_log) - exp2_fast(fmaf(xq, scale, -q_ref) - q_log), 0.f);
    }
    __device__ double log2_weight(float xp, float xq) const { return (double)log2f(weight(xp, xq, 0.f)); }
};

// sigmoid of (x / T + s) / 2s, 0 below -s and 1 above s; `gain` is 1 / (2 s T).
template <bool RESIDUAL>
struct Sigmoid {
    static constexpr bool IS_RESIDUAL = RESIDUAL;
    float gain;

    __device__ static float of(float z) {
        return z < 0.f ? 0.f : z > 1.f ? 1.f : reciprocal_fast(1.f + exp2_fast(-1.44269504f * z));
    }
    __device__ float of_logit(float x) const { return of(fmaf(x, gain, 0.5f)); }
    __device__ float reference(float) const { return 0.f; }
    __device__ float weight(float xp, float xq, float) const {
        const float p = of_logit(xp);
        if (!RESIDUAL) return p;
        const float zp = fmaf(xp, gain, 0.5f), zq = fmaf(xq, gain, 0.5f), q = of(zq);
        if (zp < 0.f || zp > 1.f || zq < 0.f || zq > 1.f) return fmaxf(p - q, 0.f);
        return fmaxf(p * (1.f - q) * -expm1f((xq - xp) * gain), 0.f);  // p - q, without the cancellation
    }
    __device__ double log2_weight(float xp, float xq) const { return (double)log2f(weight(xp, xq, 0.f)); }
};

// What a sequence draws from: behind its last draft p, after a rejection the residual.
struct Softmaxes {
    float scale;
    const float4* laws;
    int drafts;

    __device__ Softmax<false> bonus() const { return {scale}; }
    __device__ Softmax<true> residual(int sequence, int kept) const {
        const float4* both = laws + ((i64)sequence * drafts + kept) * 2;
        const float4 p = both[0], q = both[1];
        return {scale, p.x, p.y, q.x, q.y};
    }
};
struct Sigmoids {
    float gain;

    __device__ Sigmoid<false> bonus() const { return {gain}; }
    __device__ Sigmoid<true> residual(int, int) const { return {gain}; }
};

static constexpr int NOBODY = 0x7fffffff;
struct Arrival {
    double score;
    int id;
};
__device__ inline Arrival no_arrival() { return {(double)MINUS_INFINITY, NOBODY}; }
__device__ inline bool is_before(const Arrival& a, const Arrival& b) {
    return a.score > b.score || (a.score == b.score && a.id < b.id);
}
__device__ inline Arrival first_of_warp(Arrival mine) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) {
        const Arrival other = {__shfl_xor_sync(FULL, mine.score, step), __shfl_xor_sync(FULL, mine.id, step)};
        if (is_before(other, mine)) mine = other;
    }
    return mine;
}

// Row p, and row q where the law is a residual.
template <class T>
struct Pair {
    const typename T::Storage *p, *q;
    int vocab;
};
struct Stream {
    u32 sequence, step;
    u64 seed;

    __device__ uint4 words(int index, Purpose purpose) const {  // for 4 racers from `index` on, a multiple of 4
        return philox((u32)index >> 2, sequence, step, (u32)purpose, seed);
    }
};
__device__ inline Arrival arrival(double log2_weight, u32 word, int id) {
    const double score = log2_weight - (double)log2f(-log1pf(-race_uniform(word)));
    return score > (double)MINUS_INFINITY ? Arrival{score, id} : no_arrival();
}

// Four vectors of a lane from token `first` on, 32 vectors apart; -inf from `end` on. One load each where all of the
// warp's are inside and 16-byte aligned.
template <class T>
__device__ inline void load_tile(const typename T::Storage* row, int first, int end, bool whole, uint4* raw) {
    constexpr int STEP = 32 * T::PER_VECTOR, PER_WORD = T::PER_VECTOR / 4;
    if (whole && ((u64)row & 15u) == 0) {
#pragma unroll
        for (int i = 0; i < 4; ++i) raw[i] = __ldg(reinterpret_cast<const uint4*>(row + first + i * STEP));
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int at = first + i * STEP;
        raw[i] = make_uint4(T::word(row, at, end), T::word(row, at + PER_WORD, end),
                            T::word(row, at + 2 * PER_WORD, end), T::word(row, at + 3 * PER_WORD, end));
    }
}
template <class T>
__device__ inline float largest_of_tile(const uint4* raw) {
    float most = MINUS_INFINITY, x[T::PER_VECTOR];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        T::unpack(raw[i], x);
#pragma unroll
        for (int k = 0; k < T::PER_VECTOR; ++k) most = fmaxf(most, x[k]);
    }
    return warp_max(most);
}

// The first group to arrive of those that begin in [begin, end), at most 32: lane i holds the weight of the i-th, as
// sum * 2^ref. `begin` is a multiple of GROUP.
template <class T, class Law>
__device__ inline Arrival race_groups(const Pair<T>& rows, const Law& law, const Stream& stream, int begin, int end) {
    constexpr int P = T::PER_VECTOR, TILE = 4 * 32 * P, PER_GROUP = GROUP / (32 * P), GROUPS = 4 / PER_GROUP;
    const int lane = lane_id();
    float ref = 0.f, sum = 0.f;
    end = min(end, rows.vocab);
#pragma unroll 1
    for (int base = begin, group = 0; base < end; base += TILE, group += GROUPS) {
        uint4 p[4], q[4];
        load_tile<T>(rows.p, base + lane * P, end, base + TILE <= end, p);
        if (Law::IS_RESIDUAL) load_tile<T>(rows.q, base + lane * P, end, base + TILE <= end, q);
        const float tile_ref = law.reference(Law::IS_RESIDUAL ? 0.f : largest_of_tile<T>(p));
        if (!(tile_ref > MINUS_INFINITY)) continue;
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            float part = 0.f;
#pragma unroll
            for (int i = 0; i < PER_GROUP; ++i) {
                float xp[P], xq[P];
                T::unpack(p[g * PER_GROUP + i], xp);
                if (Law::IS_RESIDUAL) T::unpack(q[g * PER_GROUP + i], xq);
#pragma unroll
                for (int k = 0; k < P; ++k) part += law.weight(xp[k], Law::IS_RESIDUAL ? xq[k] : 0.f, tile_ref);
            }
            part = warp_sum(part);
            if (lane == group + g) ref = tile_ref, sum = part;
        }
    }
    const int mine = begin / GROUP + lane;
    const uint4 words = stream.words(mine, GROUP_OF_TOKENS);
    const u32 low = mine & 1 ? words.y : words.x, high = mine & 1 ? words.w : words.z;
    return first_of_warp(sum > 0.f ? arrival((double)ref + (double)log2f(sum), mine & 2 ? high : low, mine)
                                   : no_arrival());
}

// The first token to arrive of one group.
template <class T, class Law>
__device__ inline Arrival race_tokens(const Pair<T>& rows, const Law& law, const Stream& stream, int group) {
    Arrival best = no_arrival();
#pragma unroll
    for (int i = 0; i < GROUP / 128; ++i) {
        const int first = group * GROUP + (32 * i + lane_id()) * 4;
        const uint4 words = stream.words(first, TOKEN);
        const u32 word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int token = first + k;
            if (token >= rows.vocab) continue;
            const float p = T::one(rows.p[token]), q = Law::IS_RESIDUAL ? T::one(rows.q[token]) : 0.f;
            const Arrival here = arrival(law.log2_weight(p, q), word[k], token);
            if (is_before(here, best)) best = here;
        }
    }
    return first_of_warp(best);
}

struct Draw {  // what the drawing kernels take beside the logits
    const i64 *ids, *lengths, *accepted;
    int drafts;
    u32 step;
    u64 seed;
    i64 *token, *out_ids;
};

// Token, and the row [accepted drafts, token, -1, ...] that a sequence goes on with. Called by a whole warp.
__device__ inline void commit(const Draw& d, int sequence, int kept, i64 token) {
    if (lane_id() == 0) d.token[sequence] = token;
    for (int j = lane_id(); j <= d.drafts; j += 32)
        d.out_ids[(i64)sequence * (d.drafts + 1) + j] = j < kept    ? d.ids[(i64)sequence * d.drafts + j]
                                                        : j == kept ? token
                                                                    : -1;
}

template <class T, class Laws>
__device__ inline void draw(const typename T::Storage* target, const typename T::Storage* draft, i64 target_batch,
                            i64 target_row, i64 draft_batch, i64 draft_row, const Draw& d, int batch, int vocab,
                            int span, double* scores, int* groups, int* counters, const Laws& laws) {
    const int spans = (vocab + span - 1) / span, lane = lane_id();
    const auto rows_of = [&](int sequence, int kept) {
        return Pair<T>{target + sequence * target_batch + kept * target_row,
                       draft + sequence * draft_batch + kept * draft_row, vocab};  // there is no q behind the last draft
    };
    const auto announce = [&](int sequence, int done) {
        if (!is_last(counters + sequence, done, spans)) return;
        const int length = length_of(d.lengths, sequence, d.drafts), kept = clamped(d.accepted[sequence], length);
        const Pair<T> rows = rows_of(sequence, kept);
        const Stream stream = {(u32)sequence, d.step, d.seed};
        Arrival group = no_arrival(), token = no_arrival();
        for (int c = lane; c < spans; c += 32) {
            const i64 at = (i64)sequence * spans + c;
            const Arrival other = {__ldcg(scores + at), __ldcg(groups + at)};
            if (is_before(other, group)) group = other;
        }
        group = first_of_warp(group);
        if (kept < length) {
            if (group.id != NOBODY) token = race_tokens<T>(rows, laws.residual(sequence, kept), stream, group.id);
            group = no_arrival();
            if (token.id == NOBODY)  // rounding left nothing of p - q: they are equal, and p it is
#pragma unroll 1
                for (int begin = 0; begin < vocab; begin += 32 * GROUP) {
                    const Arrival other = race_groups<T>(rows, laws.bonus(), stream, begin, begin + 32 * GROUP);
                    if (is_before(other, group)) group = other;
                }
        }
        if (group.id != NOBODY) token = race_tokens<T>(rows, laws.bonus(), stream, group.id);
        commit(d, sequence, kept, token.id == NOBODY ? -1 : token.id);
    };

    const Run run = run_of_this_warp((i64)batch * spans);
    int done = 0;
    Place at(run.begin, spans, 1);
    for (i64 item = run.begin; item < run.end; ++item, at.advance(spans, 1)) {
        const int sequence = at.sequence, begin = at.chunk * span;
        const int length = length_of(d.lengths, sequence, d.drafts), kept = clamped(d.accepted[sequence], length);
        const Pair<T> rows = rows_of(sequence, kept);
        const Stream stream = {(u32)sequence, d.step, d.seed};
        const Arrival best = kept < length
                                 ? race_groups<T>(rows, laws.residual(sequence, kept), stream, begin, begin + span)
                                 : race_groups<T>(rows, laws.bonus(), stream, begin, begin + span);
        if (lane == 0) scores[item] = best.score, groups[item] = best.id;
        ++done;
        if (at.chunk + 1 == spans || item + 1 == run.end) announce(sequence, done), done = 0;
    }
}

// One warp a sequence; gain = 1 / (2 s T). No normaliser: it reads the drafted entries alone.
template <class T>
__device__ inline void sigmoid_accept(const typename T::Storage* target, const typename T::Storage* draft,
                                      i64 target_batch, i64 target_row, i64 draft_batch, i64 draft_row,
                                      const Decision& d, int batch, int vocab, float gain) {
    const Run run = run_of_this_warp(batch);
    for (int sequence = (int)run.begin; sequence < (int)run.end; ++sequence) {
        decide(d, sequence, length_of(d.lengths, sequence, d.drafts), [&](int j) {
            const i64 id = d.ids[(i64)sequence * d.drafts + j];
            if (id < 0 || id >= vocab) return 0.f;
            const Sigmoid<false> law = {gain};
            return law.of_logit(T::one(target[sequence * target_batch + j * target_row + id])) *
                   reciprocal_fast(law.of_logit(T::one(draft[sequence * draft_batch + j * draft_row + id])));
        });
    }
}

// ---- greedy ---------------------------------------------------------------------------------------------------------
// Larger for the larger logit, then for the lower token.
__device__ inline u64 rank_of(float x, int token) {
    const u32 bits = __float_as_uint(x + 0.f);  // -0 ties with 0
    return (u64)(bits & 0x80000000u ? ~bits : bits | 0x80000000u) << 32 | (u32)~token;
}
__device__ inline u64 warp_max(u64 x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) {
        const u64 other = __shfl_xor_sync(FULL, x, step);
        x = other > x ? other : x;
    }
    return x;
}

template <class T>
struct Largest {
    float most;
    int token;  // the first of its value in this lane: tokens come ascending

    __device__ void single(float x, int at) {
        if (token < 0 || x > most) most = x, token = at;
    }
    __device__ void vectors(const uint4* raw, int first) {
        float x[T::PER_VECTOR];
        if (token < 0) token = first;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            T::unpack(raw[i], x);
#pragma unroll
            for (int k = 0; k < T::PER_VECTOR; ++k)
                if (x[k] > most) most = x[k], token = first + 32 * T::PER_VECTOR * i + k;
        }
    }
};

template <class T>
__device__ inline void verify_prefix(const typename T::Storage* logits, i64 stride_batch, i64 stride_row,
                                     const i64* ids, const i64* lengths, int batch, int drafts, int rows, int vocab,
                                     u64* partials, int* counters, i64* accepted, i64* tokens) {
    const int chunks = (vocab + CHUNK - 1) / CHUNK, lane = lane_id();
    int *row_counters = counters, *sequence_counters = counters + (i64)batch * rows;

    const auto announce = [&](i64 flat, int done) {
        if (!is_last(row_counters + flat, done, chunks)) return;
        const int sequence = (int)(flat / rows), length = length_of(lengths, sequence, drafts);
        u64 best = 0;
        for (int c = lane; c < chunks; c += 32) {
            const u64 other = __ldcg(partials + flat * chunks + c);
            best = other > best ? other : best;
        }
        best = warp_max(best);
        if (lane == 0) tokens[flat] = (i64) ~(u32)best;
        if (!is_last(sequence_counters + sequence, 1, min(length + 1, rows))) return;
        const int kept = leading(length, [&](int j) {
            return __ldcg(tokens + (i64)sequence * rows + j) != ids[(i64)sequence * drafts + j];
        });
        if (lane == 0) accepted[sequence] = kept;
    };

    const Run run = run_of_this_warp((i64)batch * rows * chunks);
    int done = 0;
    Place at(run.begin, chunks, rows);
    for (i64 item = run.begin; item < run.end; ++item, at.advance(chunks, rows)) {
        const int chunk = at.chunk, sequence = at.sequence, row = at.row;
        if (row > length_of(lengths, sequence, drafts)) {
            if (chunk == 0 && lane == 0) tokens[at.flat] = -1;  // beyond what was drafted
            continue;
        }
        Largest<T> largest = {MINUS_INFINITY, -1};
        each_vector<T>(logits + sequence * stride_batch + row * stride_row, vocab, chunk, chunks, largest);
        const u64 best = warp_max(largest.token < 0 ? 0 : rank_of(largest.most, largest.token));
        if (lane == 0) partials[item] = best;
        ++done;
        if (chunk + 1 == chunks || item + 1 == run.end) announce(at.flat, done), done = 0;
    }
}

// ---- KV cache -------------------------------------------------------------------------------------------------------
// cache[b, h, lengths[b] + j] = fresh[b, h, j] for j < accepted[b]; nothing else is touched. Strides and `units` count
// units of sizeof(Unit) bytes. What would not fit is left out, and `grown` stops at the capacity.
template <class Unit>
__device__ inline void kv_append(Unit* cache, const Unit* fresh, const i64* lengths, const i64* accepted, i64* grown,
                                 int batch, int heads, int positions, int capacity, int units, i64 cache_batch,
                                 i64 cache_head, i64 cache_position, i64 fresh_batch, i64 fresh_head,
                                 i64 fresh_position) {
    for (int b = (int)blockIdx.y; b < batch; b += (int)gridDim.y) {
        const int length = clamped(lengths[b], capacity),
                  count = min(clamped(accepted[b], positions), capacity - length);
        if (blockIdx.x == 0 && threadIdx.x == 0) grown[b] = length + count;
        Unit* to = cache + b * cache_batch + length * cache_position;
        const Unit* from = fresh + b * fresh_batch;
        const u32 row = (u32)count * (u32)units, all = row * (u32)heads;
        for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < all; i += gridDim.x * blockDim.x) {
            const u32 head = i / row, rest = i - head * row, position = rest / (u32)units,
                      unit = rest - position * (u32)units;
            to[head * cache_head + position * cache_position + unit] =
                from[head * fresh_head + position * fresh_position + unit];
        }
    }
}

// ---- the kernels ----------------------------------------------------------------------------------------------------
// Strides are in logits. Blocks are whole warps, at most 4; any grid.
#define RESIDENT_4 __launch_bounds__(128, 4)
#define RESIDENT_6 __launch_bounds__(128, 6)
#define LOGITS(T)                                                                                                  \
    const T::Storage *__restrict__ target, const T::Storage *__restrict__ draft, i64 target_batch, i64 target_row, \
        i64 draft_batch, i64 draft_row
#define STRIDES target_batch, target_row, draft_batch, draft_row
#define SEQUENCES const i64 *__restrict__ ids, const i64 *__restrict__ lengths, int batch, int drafts, int vocab
#define NUMBERS u64 seed, u32 step, const i64 *__restrict__ step_at
#define NUMBER step_at ? (u32) * step_at : step, seed  // a step on the device is read when the kernel runs

// partials [B, 2K, c] of 2 floats; laws [B, 2K] of 4 floats; counters [B * max(2K, 1) + B], all 0; accepted [B].
#define SPEC_ACCEPT(T) \
    LOGITS(T), SEQUENCES, float scale, NUMBERS, float *partials, float *laws, int *counters, i64 *accepted
#define SPEC_ACCEPT_BODY(T)                                                                                           \
    spec_accept<T>(target, draft, STRIDES, Decision{ids, lengths, drafts, NUMBER, accepted}, batch, vocab, scale, \
                   reinterpret_cast<float2*>(partials), reinterpret_cast<float4*>(laws), counters)

// `span` is tokens of a warp, a multiple of GROUP, at most 32 of them; c = ceil(V / span).
// scores [B, c], groups [B, c]; counters [B], all 0; token [B]; out_ids [B, K + 1].
#define DRAW_RESULTS int span, double *scores, int *groups, int *counters, i64 *token, i64 *out_ids
#define DRAW_BODY(T, LAWS)                                                                                         \
    draw<T>(target, draft, STRIDES, Draw{ids, lengths, accepted, drafts, NUMBER, token, out_ids}, batch, vocab,     \
            span, scores, groups, counters, LAWS)
#define SPEC_DRAW(T) LOGITS(T), SEQUENCES, float scale, NUMBERS, const float *laws, const i64 *accepted, DRAW_RESULTS
#define SPEC_DRAW_BODY(T) DRAW_BODY(T, (Softmaxes{scale, reinterpret_cast<const float4*>(laws), drafts}))

#define SIGMOID_ACCEPT(T) LOGITS(T), SEQUENCES, float gain, NUMBERS, i64 *accepted
#define SIGMOID_ACCEPT_BODY(T) \
    sigmoid_accept<T>(target, draft, STRIDES, Decision{ids, lengths, drafts, NUMBER, accepted}, batch, vocab, gain)

#define SIGMOID_DRAW(T) LOGITS(T), SEQUENCES, float gain, NUMBERS, const i64 *accepted, DRAW_RESULTS
#define SIGMOID_DRAW_BODY(T) DRAW_BODY(T, Sigmoids{gain})

// partials [B, R, c]; counters [B * R + B], all 0; accepted [B]; tokens [B, R].
#define VERIFY(T)                                                                                                  \
    const T::Storage *__restrict__ logits, i64 stride_batch, i64 stride_row, const i64 *__restrict__ ids,          \
        const i64 *__restrict__ lengths, int batch, int drafts, int rows, int vocab, u64 *partials, int *counters, \
        i64 *accepted, i64 *tokens
#define VERIFY_BODY(T)                                                                                               \
    verify_prefix<T>(logits, stride_batch, stride_row, ids, lengths, batch, drafts, rows, vocab, partials, counters, \
                     accepted, tokens)

// A unit is as wide as addresses and strides allow.
#define APPEND(Unit)                                                                                                  \
    Unit *cache, const Unit *fresh, const i64 *lengths, const i64 *accepted, i64 *grown, int batch, int heads,        \
        int positions, int capacity, int units, i64 cache_batch, i64 cache_head, i64 cache_position, i64 fresh_batch, \
        i64 fresh_head, i64 fresh_position
#define APPEND_BODY                                                                                          \
    kv_append(cache, fresh, lengths, accepted, grown, batch, heads, positions, capacity, units, cache_batch, \
              cache_head, cache_position, fresh_batch, fresh_head, fresh_position)

extern "C" {

__global__ void RESIDENT_6 spec_accept_f32(SPEC_ACCEPT(Float32)) { SPEC_ACCEPT_BODY(Float32); }
__global__ void RESIDENT_6 spec_accept_f16(SPEC_ACCEPT(Float16)) { SPEC_ACCEPT_BODY(Float16); }
__global__ void RESIDENT_6 spec_accept_bf16(SPEC_ACCEPT(BFloat16)) { SPEC_ACCEPT_BODY(BFloat16); }
__global__ void RESIDENT_4 spec_draw_f32(SPEC_DRAW(Float32)) { SPEC_DRAW_BODY(Float32); }
__global__ void RESIDENT_4 spec_draw_f16(SPEC_DRAW(Float16)) { SPEC_DRAW_BODY(Float16); }
__global__ void RESIDENT_4 spec_draw_bf16(SPEC_DRAW(BFloat16)) { SPEC_DRAW_BODY(BFloat16); }
__global__ void RESIDENT_6 sigmoid_accept_f32(SIGMOID_ACCEPT(Float32)) { SIGMOID_ACCEPT_BODY(Float32); }
__global__ void RESIDENT_6 sigmoid_accept_f16(SIGMOID_ACCEPT(Float16)) { SIGMOID_ACCEPT_BODY(Float16); }
__global__ void RESIDENT_6 sigmoid_accept_bf16(SIGMOID_ACCEPT(BFloat16)) { SIGMOID_ACCEPT_BODY(BFloat16); }
__global__ void RESIDENT_4 sigmoid_draw_f32(SIGMOID_DRAW(Float32)) { SIGMOID_DRAW_BODY(Float32); }
__global__ void RESIDENT_4 sigmoid_draw_f16(SIGMOID_DRAW(Float16)) { SIGMOID_DRAW_BODY(Float16); }
__global__ void RESIDENT_4 sigmoid_draw_bf16(SIGMOID_DRAW(BFloat16)) { SIGMOID_DRAW_BODY(BFloat16); }
__global__ void RESIDENT_6 verify_prefix_f32(VERIFY(Float32)) { VERIFY_BODY(Float32); }
__global__ void RESIDENT_6 verify_prefix_f16(VERIFY(Float16)) { VERIFY_BODY(Float16); }
__global__ void RESIDENT_6 verify_prefix_bf16(VERIFY(BFloat16)) { VERIFY_BODY(BFloat16); }
__global__ void __launch_bounds__(256) kv_append_16(APPEND(uint4)) { APPEND_BODY; }
__global__ void __launch_bounds__(256) kv_append_8(APPEND(uint2)) { APPEND_BODY; }
__global__ void __launch_bounds__(256) kv_append_4(APPEND(u32)) { APPEND_BODY; }
__global__ void __launch_bounds__(256) kv_append_2(APPEND(unsigned short)) { APPEND_BODY; }
__global__ void __launch_bounds__(256) kv_append_1(APPEND(unsigned char)) { APPEND_BODY; }

}  // extern "C"
