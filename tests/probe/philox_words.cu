// Shows what kernels/sampling.cu draws, number by number.
#include "../../cuda_probe/kernels/sampling.cu"

extern "C" __global__ void philox_words(const u32* counters, u64 seed, int count, u32* words) {
    for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x) {
        const u32* c = counters + 4 * i;
        const uint4 drawn = philox(c[0], c[1], c[2], c[3], seed);
        words[4 * i] = drawn.x, words[4 * i + 1] = drawn.y, words[4 * i + 2] = drawn.z, words[4 * i + 3] = drawn.w;
    }
}

extern "C" __global__ void uniforms(int count, u32 sequence, u32 step, u64 seed, float* accept, float* race) {
    for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x) {
        const uint4 drawn = philox((u32)i, sequence, step, TOKEN, seed);
        accept[i] = accept_uniform((u32)i, sequence, step, seed);
        race[4 * i] = race_uniform(drawn.x), race[4 * i + 1] = race_uniform(drawn.y);
        race[4 * i + 2] = race_uniform(drawn.z), race[4 * i + 3] = race_uniform(drawn.w);
    }
}

extern "C" __global__ void extreme_uniforms(const u32* words, int count, float* race) {
    for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x) race[i] = race_uniform(words[i]);
}

extern "C" __global__ void halves(const unsigned short* bits, int count, float* values) {
    for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x) values[i] = half_bits(bits[i]);
}
