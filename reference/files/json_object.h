// One object of a JSON file, read with distrust: an entry that is missing, of the wrong kind or beyond its limits is
// refused by its name, and so is one that nobody asked for, where it matters.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "reference/numerics/array.h"

namespace dsa {

// "a", "b", "c"
std::string listed(const std::vector<std::string>& names);

class JsonObject {
   public:
    // place: what the object is called in sentences. The JSON must outlive this.
    JsonObject(const nlohmann::json& json, std::string place);

    // Whether the entry is there; null counts as missing, here and below.
    bool has(const std::string& key) const;
    // Without `otherwise` an entry must be there.
    Index whole(const std::string& key, std::optional<Index> otherwise, Index least, Index most) const;
    double number(const std::string& key, std::optional<double> otherwise, double least, double most) const;
    double positive(const std::string& key, double otherwise) const;
    bool flag(const std::string& key, bool otherwise) const;
    std::string text(const std::string& key, std::optional<std::string> otherwise = std::nullopt) const;
    // One of `choices`; the first where there is none, if it may be left out.
    std::string text(const std::string& key, const std::vector<std::string>& choices,
                     bool may_be_left_out = false) const;
    std::vector<std::string> texts(const std::string& key) const;
    const nlohmann::json& any(const std::string& key) const;
    JsonObject inside(const std::string& key) const;

    // A remark for the reader, such as a published run's figures.
    void remark(const std::string& key) const { asked_.insert(key); }
    void refuse_others() const;

   private:
    const nlohmann::json* find(const std::string& key, bool needed) const;
    std::string named(const std::string& key) const { return "\"" + key + "\" in " + place_; }

    const nlohmann::json& json_;
    std::string place_;
    mutable std::set<std::string> asked_;
};

}  // namespace dsa
