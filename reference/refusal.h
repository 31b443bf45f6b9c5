// One clear sentence for bad input: what was expected, what came, how to mend it.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace dsa {

// Thrown for input that cannot be used. `what()` is a sentence for the person who made the input,
// never for the person who wrote this program. The executable prints it and exits with status 2.
class Refusal : public std::runtime_error {
   public:
    using std::runtime_error::runtime_error;
};

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
    std::ostringstream sentence;
    (sentence << ... << parts);
    throw Refusal(sentence.str());
}

// A precondition and its sentence.
template <class... Parts>
void require(bool holds, const Parts&... parts) {
    if (!holds) refuse(parts...);
}

}  // namespace dsa
