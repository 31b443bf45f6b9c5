// For ops that are composed of others: level N of the whole runs its parts at level N, or at the highest below it
// that takes the part.
#pragma once

#include <string>

namespace dsa {

template <class Call>
void up_to(int level, const Call& call, void (*level_1)(const Call&), void (*level_2)(const Call&),
           std::string (*level_2_declines)(const Call&)) {
    if (level >= 2 && level_2_declines(call).empty())
        level_2(call);
    else
        level_1(call);
}

}  // namespace dsa
