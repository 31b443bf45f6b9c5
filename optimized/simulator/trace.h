// DSA_SIMULATOR_TRACE=FILE writes down who did what when, in the JSON of Chrome's trace events, which its tracing
// page and Perfetto show. A block is a process, a thread a thread, and a turn a microsecond: the order is true, the
// durations mean nothing.
#pragma once

#include <memory>
#include <string>

#include "optimized/simulator/order.h"

namespace dsa::simulator {

// Writes what it hears to a file, and passes it on.
std::unique_ptr<Order> trace_to(const std::string& file, Order& next);

}  // namespace dsa::simulator
