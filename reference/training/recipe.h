// A training run in one JSON file: the model, the task, the stages one after the other, and what is measured at the
// end. docs/13-teaching-the-indexer.md describes every entry.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "reference/training/optimizer.h"

namespace dsa {

// An object of a recipe, read with distrust: an entry of the wrong kind or beyond its limits is refused by its name,
// and so is one that nobody asked for.
class Settings {
   public:
    Settings(const nlohmann::json& json, std::string place);

    bool has(const std::string& key) const { return json_.contains(key); }
    Index whole(const std::string& key, std::optional<Index> otherwise, Index least, Index most) const;
    double number(const std::string& key, std::optional<double> otherwise, double least, double most) const;
    bool flag(const std::string& key, bool otherwise) const;
    std::string text(const std::string& key, std::optional<std::string> otherwise = std::nullopt) const;
    // One of `choices`; the first where there is none, if it may be left out.
    std::string text(const std::string& key, const std::vector<std::string>& choices,
                     bool may_be_left_out = false) const;
    std::vector<std::string> texts(const std::string& key) const;
    const nlohmann::json& any(const std::string& key) const;
    // A remark for the reader, such as the published run's figures.
    void remark(const std::string& key) const { asked_.insert(key); }
    void refuse_others() const;

   private:
    const nlohmann::json* find(const std::string& key, bool needed) const;
    const nlohmann::json& json_;
    std::string place_;
    mutable std::set<std::string> asked_;
};

struct Stage {
    std::string name;
    std::string from;        // the stage whose weights it begins with; empty: random ones
    ForwardOptions forward;  // who selects, who learns
    Schedule schedule;
    double indexer_rate = 0.0;
    double balance_speed = 0.0;
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
