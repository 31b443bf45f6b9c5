#include "optimized/support/rotary.h"

#include <algorithm>
#include <cmath>

namespace dsa {

RopeTable rope_table(const RopeParameters& p, std::int64_t d_rope) {
    require(d_rope > 0 && d_rope % 2 == 0 && d_rope <= 2 * RopeTable::most_pairs,
            "rope turns pairs: the rotated size must be even and at most ", 2 * RopeTable::most_pairs, "; it is ",
            d_rope);
    constexpr double pi = 3.14159265358979323846;
    RopeTable table{};
    table.pairs = static_cast<int>(d_rope / 2);
    const auto d = static_cast<double>(d_rope);
    // The pair that turns `rotations` times over the original context.
    const auto correction = [&](double rotations) {
        return d * std::log(p.original_context / (2.0 * pi * rotations)) / (2.0 * std::log(p.theta));
    };
    const double low = std::clamp(std::floor(correction(p.beta_fast)), 0.0, d - 1.0);
    double high = std::clamp(std::ceil(correction(p.beta_slow)), 0.0, d - 1.0);
    if (high == low) high += 0.001;
    for (int i = 0; i < table.pairs; ++i) {
        double f = std::pow(p.theta, -2.0 * i / d);
        const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
        if (p.uses_yarn()) f = f / p.factor * ramp + f * (1.0 - ramp);
        table.frequency[i] = static_cast<float>(f);
    }
    return table;
}

}  // namespace dsa
