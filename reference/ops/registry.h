// All ops of the contract by name, each runnable in every tier. spec section 11.
#pragma once

#include <string>
#include <vector>

#include "reference/ops/inputs.h"
#include "reference/trace.h"

namespace dsa {

struct Op {
    using Run = void (*)(const OpInputs& in, const Trace& out);

    std::string name;
    std::vector<std::string> outputs;  // what the contract promises; anything else shown is a stage on the way
    Run exact = nullptr;
    Run deployed = nullptr;
    Run bounds = nullptr;  // exact values, each with how far a deployed result, and two of them, may be off
    // Many stages, each shown: in a golden, each is judged on the inputs that it had in the deployed tier.
    bool staged = false;
};

// `Formula::run<P>` for every tier.
template <class Formula>
Op make_op(std::string name, std::vector<std::string> outputs, bool staged = false) {
    return {std::move(name),
            std::move(outputs),
            &Formula::template run<Exact>,
            &Formula::template run<Deployed>,
            &Formula::template run<Bounds>,
            staged};
}

// One function a file of ops.
std::vector<Op> elementwise_ops();
std::vector<Op> projection_ops();
std::vector<Op> indexer_ops();
std::vector<Op> attention_ops();
std::vector<Op> page_ops();
std::vector<Op> moe_ops();
std::vector<Op> training_ops();
std::vector<Op> gradient_ops();
std::vector<Op> training_step_ops();
std::vector<Op> layer_ops();

const std::vector<Op>& all_ops();
// nullptr: there is no op of this name.
const Op* find_op(const std::string& name);

}  // namespace dsa
