// A training run in one JSON file: the model, the task, the stages one after the other, and what is measured at the
// end. docs/13-teaching-the-indexer.md describes every entry.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "reference/training/optimizer.h"

namespace dsa {

struct Stage {
    std::string name;
    std::string from;        // the stage whose weights it begins with; empty: random ones
    ForwardOptions forward;  // who selects, who learns
    Schedule schedule;
    double indexer_rate = 0.0;
    double balance_speed = 0.0;
    double embedding_std = 0.0;  // of the token embeddings, where a stage begins with random weights
    nlohmann::json task;         // the recipe's, with the stage's own entries in place of some: a curriculum
    Index length = 0;            // T
    Index batch = 0;
    nlohmann::json json;  // as the recipe has it
};

struct Evaluation {
    std::string name;
    std::string weights;  // a stage's
    ForwardOptions forward;
    Index topk = 0;
};

struct Recipe {
    ModelConfig config;
    nlohmann::json config_json;
    nlohmann::json task;
    std::filesystem::path home;  // where its relative paths begin
    std::uint64_t seed = 0;
    Index length = 0;  // T
    Index batch = 0;
    Index held_out = 0;  // sequences of an evaluation
    std::int64_t save_every = 0;
    std::int64_t measure_every = 0;
    AdamWSettings optimizer;
    std::vector<Stage> stages;
    std::vector<Evaluation> evaluations;
};

// seed: in place of the recipe's own
Recipe read_recipe(const std::filesystem::path& path, std::optional<std::uint64_t> seed = std::nullopt);

}  // namespace dsa
