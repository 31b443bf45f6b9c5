// A golden: one case's inputs, and every stage's answer in each tier with its bounds. docs/case-format.md.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "reference/ops/registry.h"

namespace dsa {

// What a run showed, in order.
using Record = std::vector<Shown>;
const Shown* find(const Record& record, const std::string& name);

// How far a deployed tensor is from the exact one.
struct Comparison {
    double worst_ratio = 0.0;  // of error to bound; infinite where the bound is 0 and the error is not
    Index beyond = 0;          // elements whose error is not within the bound
    Index not_numbers = 0;     // elements that are NaN in the deployed tier: some conventions make them
    Index unbounded = 0;       // elements for which nothing can be promised
    double value_rms = 0.0;    // root mean square of the exact values, over finite ones
    double error_rms = 0.0;    // ... of the errors
    double bound_rms = 0.0;    // ... of the bounds
};
// `exact` may lack bounds: then only the root mean squares are filled in.
Comparison compare(const Shown& deployed, const Shown& exact, const Record& all_deployed);

// Runs the case in `in_dir` in every tier and writes the golden to `out_dir`, whole or not at all. Returns the
// names of tensors with an element beyond its bound: an error of the bounds, to be reported.
//
// The exact tier follows the deployed one's choices; in ops of many stages it follows every stage, and what
// errors add up to end to end is measured beside (golden.json, "end_to_end_rms"). With `follow_dir`, every tier
// follows the stages that lie there as .npy files: what each stage should be, given somebody else's earlier ones.
std::vector<std::string> write_golden(const std::filesystem::path& in_dir, const std::filesystem::path& out_dir,
                                      const std::filesystem::path& follow_dir = {});

// Runs the case in one tier and writes NAME.npy for each output of the contract.
void write_outputs(const Op& op, const OpInputs& in, const std::string& tier, const std::filesystem::path& out_dir,
                   bool stages = false);

}  // namespace dsa
