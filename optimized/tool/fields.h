// What dsa.h's structs hold, as a table: so that a program can fill any of them by name. Made from the contract, as
// dsa.h is (`touchstone header --fields`).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "golden/dsa.h"

namespace dsa {

// updated: read and written, as a cache is.
enum class FieldKind { input, updated, output, whole, real };

struct Field {
    FieldKind kind;
    std::string name;    // of the tensor or parameter, in the contract
    std::size_t offset;  // in the struct
    std::string axes;    // "T,H,d"; of outputs possibly expressions
    std::string dtype;   // of outputs; "quantised" follows the conventions
    bool optional = false;
};

struct OpFields {
    std::string name;
    std::size_t bytes;                                          // of the struct
    std::size_t case_json, workspace, workspace_bytes, stream;  // offsets
    std::vector<Field> fields;
    bool is_here;
    int (*run)(const void* args);
    std::int64_t (*workspace_of)(const void* args);

    // A layer of many stages, of which it must show its choices.
    bool is_staged() const { return name == "dsa_attention" || name == "transformer_block"; }
};

// Of every op of the contract, here or not.
const std::vector<OpFields>& all_fields();
// Of the serving steps, which are no ops of the contract (serving/dsa_serving.h).
const std::vector<OpFields>& serving_fields();
// Null if there is no op of that name here.
const OpFields* fields_of(const std::string& op);
std::vector<std::string> op_names();

// The size of every axis and whole-number parameter: `sizes` has those of the inputs and parameters already; defaults
// are the contract's. Returns an output's shape.
std::vector<std::int64_t> output_shape(const Field& output, const std::map<std::string, std::int64_t>& sizes);

}  // namespace dsa
