// What happens to 8 vectors of D_I bf16 numbers before their transform. Lane 4 g + t has of vector g the pieces
// 32 r + 8 t ..., 8 neighbours each: words[r][j] holds numbers 32 r + 8 t + 2 j and the next
// (hadamard/on_tensor_cores.cuh). Rounded to bf16 wherever they would be stored.
#pragma once

#include "optimized/hopper/pairs.h"
#include "optimized/support/rotary.cuh"

namespace dsa {

struct alignas(16) Piece {
    std::uint32_t words[4];
};

// vector: [32 pieces]
template <int pieces>
__device__ void load_pieces(std::uint32_t (&words)[pieces][4], const bf16* vector) {
#pragma unroll
    for (int r = 0; r < pieces; ++r) {
        const Piece piece = reinterpret_cast<const Piece*>(vector)[4 * r + lane_id() % 4];
#pragma unroll
        for (int j = 0; j < 4; ++j) words[r][j] = piece.words[j];
    }
}

// weight, bias: [32 pieces]. The variance is that of the centred numbers.
template <int pieces>
__device__ void normalise(std::uint32_t (&words)[pieces][4], const float* weight, const float* bias, float eps) {
    constexpr int own = 8 * pieces;
    constexpr auto n = static_cast<float>(32 * pieces);
    const auto over_vector = [](float sum) {
        sum += __shfl_xor_sync(all_lanes, sum, 1);
        return sum + __shfl_xor_sync(all_lanes, sum, 2);
    };
    float x[own];
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < own; ++i) {
        const std::uint32_t word = words[i / 8][i % 8 / 2];
        x[i] = i % 2 == 0 ? first_of_pair(word) : second_of_pair(word);
        sum += x[i];
    }
    const float mean = over_vector(sum) / n;
    float square_sum = 0.0F;
#pragma unroll
    for (int i = 0; i < own; ++i) {
        x[i] -= mean;
        square_sum += x[i] * x[i];
    }
    const float inverse_deviation = rsqrtf(over_vector(square_sum) / n + eps);
#pragma unroll
    for (int i = 0; i < own; i += 2) {
        const int at = i / 8 * 32 + lane_id() % 4 * 8 + i % 8;
        words[i / 8][i % 8 / 2] = to_bf16_pair(x[i] * inverse_deviation * weight[at] + bias[at],
                                               x[i + 1] * inverse_deviation * weight[at + 1] + bias[at + 1]);
    }
}

// The first 2 pairs numbers, turned. turns: [pairs], of vector g's position; pairs: 8, 16 or 32
template <int pieces>
__device__ void turn(std::uint32_t (&words)[pieces][4], const Turn* turns, int pairs, RopeLayout layout) {
    const int t = lane_id() % 4;
    if (layout == RopeLayout::interleaved) {  // both numbers of a pair are in one word
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int i = 16 * r + 4 * t + j;
                if (i >= pairs) continue;
                const float a = first_of_pair(words[r][j]), b = second_of_pair(words[r][j]);
                words[r][j] =
                    to_bf16_pair(a * turns[i].cosine - b * turns[i].sine, a * turns[i].sine + b * turns[i].cosine);
            }
    } else if (pairs == 32) {  // both are the lane's own
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const Turn* by = turns + 8 * t + 2 * j;
            const float a[2] = {first_of_pair(words[0][j]), second_of_pair(words[0][j])};
            const float b[2] = {first_of_pair(words[1][j]), second_of_pair(words[1][j])};
            words[0][j] = to_bf16_pair(a[0] * by[0].cosine - b[0] * by[0].sine,  //
                                       a[1] * by[1].cosine - b[1] * by[1].sine);
            words[1][j] =
                to_bf16_pair(a[0] * by[0].sine + b[0] * by[0].cosine, a[1] * by[1].sine + b[1] * by[1].cosine);
        }
    } else {  // the other one is pairs / 8 lanes away
        const int away = pairs / 8;
        const bool is_first = (t & away) == 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const std::uint32_t mine = words[0][j], other = __shfl_xor_sync(all_lanes, mine, away);
            if (t >= 2 * away) continue;
            const Turn* by = turns + 8 * (t & (away - 1)) + 2 * j;
            const std::uint32_t first = is_first ? mine : other, second = is_first ? other : mine;
            float y[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float a = i == 0 ? first_of_pair(first) : second_of_pair(first);
                const float b = i == 0 ? first_of_pair(second) : second_of_pair(second);
                y[i] = is_first ? a * by[i].cosine - b * by[i].sine : a * by[i].sine + b * by[i].cosine;
            }
            words[0][j] = to_bf16_pair(y[0], y[1]);
        }
    }
}

}  // namespace dsa
