#include "reference/training/recipe.h"

#include <algorithm>

#include "reference/files/json_file.h"

namespace dsa {
namespace {

using nlohmann::json;

std::string listed(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "\"" : ", \"") + name + "\"";
    return text;
}

Selection selection_of(const std::string& name) {
    if (name == "indexer") return Selection::indexer;
    if (name == "random") return Selection::random;
    if (name == "window") return Selection::window;
    if (name == "oracle") return Selection::oracle;
    return Selection::dense;
}

const std::vector<std::string> selections{"dense", "indexer", "random", "window", "oracle"};

// What a stage and an evaluation say alike.
void read_indexer(const Settings& in, ForwardOptions& forward) {
    json conventions = json::object({{"preset", "deepseek-v3.2-exp"}});
    if (in.has("conventions")) conventions.update(in.any("conventions"));
    forward.conventions = conventions_from_json(conventions);
    forward.simulates_fp8 = in.flag("simulate_fp8", false);
}

Stage read_stage(const json& in, const std::vector<Stage>& before, double balance_speed) {
    const Settings settings(in, "stages[" + std::to_string(before.size()) + "]");
    Stage stage;
    stage.json = in;
    stage.name = settings.text("name");
    require(!stage.name.empty() &&
                stage.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos,
            "a stage's name becomes a folder: it must be of a-z, 0-9 and _; it is \"", quotable(stage.name), "\"");
    std::vector<std::string> names;
    for (const Stage& s : before) names.push_back(s.name);
    require(std::find(names.begin(), names.end(), stage.name) == names.end(), "two stages are named \"", stage.name,
            "\"");
    const std::string kind = settings.text("kind", std::vector<std::string>{"dense", "warmup", "sparse"});
    if (settings.has("from")) {
        stage.from = settings.text("from");
        require(std::find(names.begin(), names.end(), stage.from) != names.end(), "the stage \"", stage.name,
                "\" begins from \"", quotable(stage.from), "\", which is no stage before it: ", listed(names));
    }
    read_indexer(settings, stage.forward);
    stage.forward.main_learns = kind != "warmup";
    stage.forward.indexer_learns = kind != "dense";
    stage.forward.selection = Selection::dense;
    if (kind == "sparse") {
        stage.forward.selection =
            selection_of(settings.text("selection", std::vector<std::string>{"indexer", "random", "window"}, true));
        stage.forward.indexer_learns = stage.forward.selection == Selection::indexer;
        stage.forward.leaks = settings.flag("leak_into_the_main_model", false);
    }
    stage.schedule.steps = settings.whole("steps", std::nullopt, 1, 100'000'000);
    stage.schedule.learning_rate = settings.number("learning_rate", std::nullopt, 0.0, 1.0);
    stage.schedule.warm_up = settings.whole("warm_up", 0, 0, stage.schedule.steps);
    stage.schedule.decay_from = settings.number("decay_from", 1.0, 0.0, 1.0);
    stage.schedule.decay_to = settings.number("decay_to", 0.1, 0.0, 1.0);
    stage.indexer_rate = settings.number("indexer_learning_rate", stage.schedule.learning_rate, 0.0, 1.0);
    stage.balance_speed = stage.forward.main_learns ? settings.number("balance_speed", balance_speed, 0.0, 1.0) : 0.0;
    settings.remark("published");
    settings.refuse_others();
    return stage;
}

Evaluation read_evaluation(const json& in, std::size_t number, const Recipe& recipe) {
    const Settings settings(in, "evaluations[" + std::to_string(number) + "]");
    Evaluation evaluation;
    evaluation.name = settings.text("name");
    evaluation.weights = settings.text("weights");
    std::vector<std::string> names;
    for (const Stage& s : recipe.stages) names.push_back(s.name);
    require(std::find(names.begin(), names.end(), evaluation.weights) != names.end(), "the evaluation \"",
            quotable(evaluation.name), "\" wants the weights of \"", quotable(evaluation.weights),
            "\", which is no stage: ", listed(names));
    read_indexer(settings, evaluation.forward);
    evaluation.forward.selection = selection_of(settings.text("selection", selections));
    evaluation.forward.measures = true;
    evaluation.topk = settings.whole("topk", recipe.config.topk, 1, 1 << 20);
    settings.refuse_others();
    return evaluation;
}

}  // namespace

Settings::Settings(const json& json, std::string place) : json_(json), place_(std::move(place)) {
    require(json_.is_object(), place_, " must be an object {...}");
}

const json* Settings::find(const std::string& key, bool needed) const {
    asked_.insert(key);
    const auto found = json_.find(key);
    require(found != json_.end() || !needed, place_, " needs an entry \"", key, "\"");
    return found == json_.end() ? nullptr : &*found;
}

Index Settings::whole(const std::string& key, std::optional<Index> otherwise, Index least, Index most) const {
    const json* value = find(key, !otherwise);
    if (value == nullptr) return *otherwise;
    require(value->is_number_integer() &&
                (!value->is_number_unsigned() || value->get<std::uint64_t>() < (std::uint64_t{1} << 62)) &&
                value->get<Index>() >= least && value->get<Index>() <= most,
            "\"", key, "\" in ", place_, " must be a whole number from ", least, " to ", most, "; it is ",
            quotable(value->dump()));
    return value->get<Index>();
}

double Settings::number(const std::string& key, std::optional<double> otherwise, double least, double most) const {
    const json* value = find(key, !otherwise);
    if (value == nullptr) return *otherwise;
    require(value->is_number() && value->get<double>() >= least && value->get<double>() <= most, "\"", key, "\" in ",
            place_, " must be a number from ", least, " to ", most, "; it is ", quotable(value->dump()));
    return value->get<double>();
}

bool Settings::flag(const std::string& key, bool otherwise) const {
    const json* value = find(key, false);
    if (value == nullptr) return otherwise;
    require(value->is_boolean(), "\"", key, "\" in ", place_, " must be true or false; it is ",
            quotable(value->dump()));
    return value->get<bool>();
}

std::string Settings::text(const std::string& key, std::optional<std::string> otherwise) const {
    const json* value = find(key, !otherwise);
    if (value == nullptr) return *otherwise;
    require(value->is_string(), "\"", key, "\" in ", place_, " must be a text; it is ", quotable(value->dump()));
    return value->get<std::string>();
}

std::string Settings::text(const std::string& key, const std::vector<std::string>& choices,
                           bool may_be_left_out) const {
    const std::string value = may_be_left_out ? text(key, choices.front()) : text(key);
    require(std::find(choices.begin(), choices.end(), value) != choices.end(), "\"", key, "\" in ", place_,
            " must be one of ", listed(choices), "; it is \"", quotable(value), "\"");
    return value;
}

std::vector<std::string> Settings::texts(const std::string& key) const {
    const json* value = find(key, true);
    require(value->is_array() && !value->empty(), "\"", key, "\" in ", place_, " must be a list of texts");
    std::vector<std::string> all;
    for (const json& one : *value) {
        require(one.is_string(), "\"", key, "\" in ", place_, " must be a list of texts; one is ",
                quotable(one.dump()));
        all.push_back(one.get<std::string>());
    }
    return all;
}

const json& Settings::any(const std::string& key) const { return *find(key, true); }

void Settings::refuse_others() const {
    for (const auto& [key, value] : json_.items())
        require(asked_.contains(key), place_, " has an entry \"", quotable(key),
                "\" that means nothing there; it may have ", listed({asked_.begin(), asked_.end()}));
}

Recipe read_recipe(const std::filesystem::path& path, std::optional<std::uint64_t> seed) {
    const json in = read_json(path);
    const Settings settings(in, path.filename().string());
    Recipe recipe;
    recipe.home = path.parent_path();
    settings.whole("version", std::nullopt, 1, 1);
    settings.remark("note");
    recipe.config_json = settings.any("config");
    if (recipe.config_json.is_string()) recipe.config_json = read_json(recipe.home / settings.text("config"));
    recipe.config = config_from_json(recipe.config_json, "the recipe's config");
    recipe.task = settings.any("task");
    recipe.seed = seed.value_or(static_cast<std::uint64_t>(settings.whole("seed", 1, 0, Index{1} << 53)));
    recipe.length = settings.whole("length", std::nullopt, 2, recipe.config.rope.max_context);
    recipe.batch = settings.whole("batch", std::nullopt, 1, 1 << 16);
    recipe.held_out = settings.whole("held_out_sequences", 16, 1, 1 << 20);
    recipe.save_every = settings.whole("save_every", 100, 1, 1 << 30);
    recipe.measure_every = settings.whole("measure_every", 10, 1, 1 << 30);
    if (settings.has("optimizer")) {
        const Settings o(settings.any("optimizer"), "optimizer");
        recipe.optimizer.beta_1 = o.number("beta_1", recipe.optimizer.beta_1, 0.0, 1.0);
        recipe.optimizer.beta_2 = o.number("beta_2", recipe.optimizer.beta_2, 0.0, 1.0);
        recipe.optimizer.epsilon = o.number("epsilon", recipe.optimizer.epsilon, 0.0, 1.0);
        recipe.optimizer.weight_decay = o.number("weight_decay", recipe.optimizer.weight_decay, 0.0, 10.0);
        recipe.optimizer.clip = o.number("clip", recipe.optimizer.clip, 0.0, 1e30);
        o.refuse_others();
    }
    const double balance_speed = settings.number("balance_speed", 0.001, 0.0, 1.0);
    const json& stages = settings.any("stages");
    require(stages.is_array() && !stages.empty(), "\"stages\" must be a list of at least one stage");
    for (const json& stage : stages) recipe.stages.push_back(read_stage(stage, recipe.stages, balance_speed));
    if (settings.has("evaluations")) {
        const json& evaluations = settings.any("evaluations");
        require(evaluations.is_array(), "\"evaluations\" must be a list");
        for (const json& e : evaluations)
            recipe.evaluations.push_back(read_evaluation(e, recipe.evaluations.size(), recipe));
    }
    settings.refuse_others();
    return recipe;
}

}  // namespace dsa
