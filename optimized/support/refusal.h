// What a call answers when it cannot do what it was asked: a status of its own, and one sentence that says what was
// expected, what came, and how to mend it.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

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

template <class... Parts>
std::string sentence(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    return text.str();
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
