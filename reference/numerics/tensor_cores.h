// How far off is a dot product that Hopper's FP8 tensor cores accumulate? They do not add in float32. One instruction
// adds 32 products and the accumulator in fixed point: every addend is shifted right until all have the largest
// one's exponent E, and what lies below 2^(E - 13) is cut off; of the sum 13 bits behind the leading one are kept.
// (DeepSeek-V3 report, section 3.5.2, says 14 bits; deepseek-ai/DeepGEMM#50; SageAttention2, arXiv 2411.10958,
// measures 13 bits of mantissa.) docs/08-precision-and-bounds.md has the derivation.
#pragma once

#include <algorithm>

#include "reference/numerics/array.h"
#include "reference/numerics/bounded.h"

namespace dsa {

inline constexpr Index fp8_addends = 32;    // products of one instruction: PTX ISA, wgmma, K of e4m3
inline constexpr double fp8_cut = 0x1p-13;  // of the largest addend, a whole step: cut off, not rounded

// Adds to the error of each c(i, j) = sum_k a(i, k) b(k, j) what such sums may lose, k going upwards.
//   lost in an instruction <= (32 + 1) 2^-13 max(|accumulator|, |a_k b_k|) + 2^-13 |sum|
template <class A, class B>
void lose_in_fp8_sums(Matrix<Bounded>& c, const A& a, const B& b) {
    // Of the two errors: `of` says which, and what is cut off.
    const auto lose = [&](double Errors::*of, double cut) {
        const auto size_of = [of](Bounded x) { return std::fabs(x.value) + x.error.*of; };
        for (Index i = 0; i < c.rows(); ++i)
            for (Index j = 0; j < c.cols(); ++j) {
                double sum = 0.0;
                double given = 0.0;  // how far the sum may be off through its operands
                double lost = 0.0;
                for (Index first = 0; first < a.cols(); first += fp8_addends) {
                    double largest = std::fabs(sum) + given + lost;
                    for (Index k = first; k < std::min<Index>(first + fp8_addends, a.cols()); ++k) {
                        const double product = size_of(a(i, k)) * size_of(b(k, j));
                        largest = std::max(largest, product);
                        given += product - std::fabs(a(i, k).value * b(k, j).value);
                        sum += a(i, k).value * b(k, j).value;
                    }
                    lost += static_cast<double>(fp8_addends + 1) * cut * largest;
                    lost += cut * (std::fabs(sum) + given + lost);
                }
                c(i, j).error.*of += lost;
            }
    };
    lose(&Errors::exact, fp8_cut);
    lose(&Errors::deployed, 2 * fp8_cut);  // two results may err in opposite directions
}

}  // namespace dsa
