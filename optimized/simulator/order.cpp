#include "optimized/simulator/order.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "optimized/simulator/races.h"

namespace dsa::simulator {
namespace {

Order nobody;

// Races are looked for unless DSA_SIMULATOR_CHECKS=off says otherwise, where plain accesses are seen at all.
Order* checks() {
#if defined(DSA_SIMULATOR_SEES_ACCESSES)
    const char* text = std::getenv("DSA_SIMULATOR_CHECKS");
    if (text == nullptr || std::strcmp(text, "off") != 0) return &races();
#endif
    return &nobody;
}

Order*& listener() {
    static Order* it = checks();
    return it;
}

}  // namespace

Order& order() { return *listener(); }
Order* listen(Order* to) { return std::exchange(listener(), to == nullptr ? &nobody : to); }

}  // namespace dsa::simulator
