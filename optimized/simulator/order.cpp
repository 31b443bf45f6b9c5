#include "optimized/simulator/order.h"

#include <cstdlib>
#include <cstring>
#include <utility>

#include "optimized/simulator/races.h"
#include "optimized/simulator/trace.h"

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

Order* first_listener() {
    const char* file = std::getenv("DSA_SIMULATOR_TRACE");
    if (file == nullptr) return checks();
    static const std::unique_ptr<Order> trace = trace_to(file, *checks());
    return trace.get();
}

Order*& listener() {
    static Order* it = first_listener();
    return it;
}

}  // namespace

Order& order() { return *listener(); }
Order* listen(Order* to) { return std::exchange(listener(), to == nullptr ? &nobody : to); }

}  // namespace dsa::simulator
