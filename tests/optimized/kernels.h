// What tests of small kernels share: a launch whose refusal is a sentence to look at.
#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "optimized/simulator/order.h"
#include "optimized/support/launch.h"

namespace dsa::testing {

// The sentence of the refusal that a launch ends with; empty if it does not.
template <class Kernel, class... Arguments>
std::string refusal_of(Kernel kernel, const Launch& how, Arguments... args) {
    try {
        launch("kernel", kernel, how, args...);
    } catch (const Refusal& refusal) {
        return refusal.what();
    }
    return {};
}

inline bool holds(const std::string& text, const std::string& part) {
    if (text.find(part) != std::string::npos) return true;
    MESSAGE("the sentence is: " << text);
    return false;
}

// Nobody looks for races while this is there: for what a kernel gets that does not wait.
class Unchecked {
   public:
    Unchecked() : before_(simulator::listen(nullptr)) {}
    ~Unchecked() { simulator::listen(before_); }
    Unchecked(const Unchecked&) = delete;
    Unchecked& operator=(const Unchecked&) = delete;

   private:
    simulator::Order* before_;
};

// Runs with another order of turns, and of asynchronous operations, each time.
template <class Run>
void with_seeds(int count, Run run) {
    for (int seed = 1; seed <= count; ++seed) {
        setenv("DSA_SIMULATOR_SEED", std::to_string(seed).c_str(), 1);
        run();
    }
    unsetenv("DSA_SIMULATOR_SEED");
}

}  // namespace dsa::testing
