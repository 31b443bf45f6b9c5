// What a call answers when it cannot do what it was asked: a status of its own, and one sentence that says what was
// expected, what came, and how to mend it.
#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace dsa {

enum class Status : int {
    done = 0,
    bad_argument = 1,        // a shape, dtype, stride, size or parameter
    misaligned = 2,          // a pointer that kernels cannot read 16 bytes at once from
    no_gpu = 3,              // no driver or no device
    wrong_architecture = 4,  // a device that is not sm_90
    out_of_memory = 5,
    launch_failed = 6,     // the driver's or a kernel's own failure
    not_implemented = 77,  // asked of a level, convention or size that does not offer it
};

class Refusal : public std::runtime_error {
   public:
    Refusal(Status status, const std::string& sentence) : std::runtime_error(sentence), status_(status) {}
    Status status() const { return status_; }

   private:
    Status status_;
};

// What a stream would write, without <sstream>: every kernel's source reads this header.
template <class Part>
void append(std::string& text, const Part& part) {
    if constexpr (std::is_floating_point_v<Part>) {
        char digits[32];
        std::snprintf(digits, sizeof digits, "%g", static_cast<double>(part));
        text += digits;
    } else if constexpr (std::is_arithmetic_v<Part> && !std::is_same_v<Part, char>) {
        text += std::to_string(part);
    } else {
        text += part;
    }
}

template <class... Parts>
std::string sentence(const Parts&... parts) {
    std::string text;
    (append(text, parts), ...);
    return text;
}

template <class... Parts>
[[noreturn]] void refuse(Status status, const Parts&... parts) {
    throw Refusal(status, sentence(parts...));
}

template <class... Parts>
void require(bool good, const Parts&... parts) {
    if (!good) refuse(Status::bad_argument, parts...);
}

}  // namespace dsa
