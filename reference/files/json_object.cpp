#include "reference/files/json_object.h"

#include <algorithm>

#include "reference/files/json_file.h"
#include "reference/refusal.h"

namespace dsa {

using nlohmann::json;

std::string listed(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "\"" : ", \"") + name + "\"";
    return text;
}

JsonObject::JsonObject(const json& object, std::string place) : json_(object), place_(std::move(place)) {
    require(json_.is_object(), place_, " must be an object {...}; it is ", quotable(json_.dump()));
}

bool JsonObject::has(const std::string& key) const {
    asked_.insert(key);
    return json_.contains(key) && !json_[key].is_null();
}

const json* JsonObject::find(const std::string& key, bool needed) const {
    require(has(key) || !needed, place_, " must have \"", key, "\"; it has none");
    return has(key) ? &json_[key] : nullptr;
}

Index JsonObject::whole(const std::string& key, std::optional<Index> otherwise, Index least, Index most) const {
    const json* value = find(key, !otherwise);
    if (value == nullptr) return *otherwise;
    require(value->is_number_integer() &&
                (!value->is_number_unsigned() || value->get<std::uint64_t>() < (std::uint64_t{1} << 62)) &&
                value->get<Index>() >= least && value->get<Index>() <= most,
            named(key), " must be a whole number from ", least, " to ", most, "; it is ", quotable(value->dump()));
    return value->get<Index>();
}

double JsonObject::number(const std::string& key, std::optional<double> otherwise, double least, double most) const {
    const json* value = find(key, !otherwise);
    if (value == nullptr) return *otherwise;
    require(value->is_number() && value->get<double>() >= least && value->get<double>() <= most, named(key),
            " must be a number from ", least, " to ", most, "; it is ", quotable(value->dump()));
    return value->get<double>();
}

double JsonObject::positive(const std::string& key, double otherwise) const {
    const json* value = find(key, false);
    if (value == nullptr) return otherwise;
    require(value->is_number() && value->get<double>() > 0.0, named(key), " must be a number above 0; it is ",
            quotable(value->dump()));
    return value->get<double>();
}

bool JsonObject::flag(const std::string& key, bool otherwise) const {
    const json* value = find(key, false);
    if (value == nullptr) return otherwise;
    require(value->is_boolean(), named(key), " must be true or false; it is ", quotable(value->dump()));
    return value->get<bool>();
}

std::string JsonObject::text(const std::string& key, std::optional<std::string> otherwise) const {
    const json* value = find(key, !otherwise);
    if (value == nullptr) return *otherwise;
    require(value->is_string(), named(key), " must be a text; it is ", quotable(value->dump()));
    return value->get<std::string>();
}

std::string JsonObject::text(const std::string& key, const std::vector<std::string>& choices,
                             bool may_be_left_out) const {
    const std::string value = may_be_left_out ? text(key, choices.front()) : text(key);
    require(std::find(choices.begin(), choices.end(), value) != choices.end(), named(key), " must be one of ",
            listed(choices), "; it is \"", quotable(value), "\"");
    return value;
}

std::vector<std::string> JsonObject::texts(const std::string& key) const {
    const json* value = find(key, true);
    require(value->is_array() && !value->empty() &&
                std::all_of(value->begin(), value->end(), [](const json& one) { return one.is_string(); }),
            named(key), " must be a list of texts; it is ", quotable(value->dump()));
    return value->get<std::vector<std::string>>();
}

const json& JsonObject::any(const std::string& key) const { return *find(key, true); }

JsonObject JsonObject::inside(const std::string& key) const { return {any(key), named(key)}; }

void JsonObject::refuse_others() const {
    for (const auto& [key, value] : json_.items())
        require(asked_.contains(key), place_, " has an entry \"", quotable(key),
                "\" that means nothing there; it may have ", listed({asked_.begin(), asked_.end()}));
}

}  // namespace dsa
