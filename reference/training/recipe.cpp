#include "reference/training/recipe.h"

#include <algorithm>

#include "reference/files/json_file.h"
#include "reference/files/json_object.h"

namespace dsa {
namespace {

using nlohmann::json;

Selection selection_of(const std::string& name) {
    if (name == "indexer") return Selection::indexer;
    if (name == "random") return Selection::random;
    if (name == "window") return Selection::window;
    if (name == "oracle") return Selection::oracle;
    return Selection::dense;
}

constexpr Index most_sequences = 1 << 16;  // of a step
constexpr double usual_embedding_std = 0.1;
const std::vector<std::string> selections{"dense", "indexer", "random", "window", "oracle"};

// What a stage and an evaluation say alike.
void read_indexer(const JsonObject& in, ForwardOptions& forward) {
    json conventions = json::object({{"preset", "deepseek-v3.2-exp"}});
    if (in.has("conventions")) conventions.update(in.any("conventions"));
    forward.conventions = conventions_from_json(conventions);
    forward.simulates_fp8 = in.flag("simulate_fp8", false);
}

Stage read_stage(const json& in, const Recipe& recipe, double balance_speed) {
    const std::vector<Stage>& before = recipe.stages;
    const JsonObject settings(in, "stages[" + std::to_string(before.size()) + "]");
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
    if (stage.from.empty()) stage.embedding_std = settings.number("embedding_std", usual_embedding_std, 0.0, 1e3);
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
    stage.task = recipe.task;
    if (settings.has("task")) {
        require(settings.any("task").is_object(), "\"task\" in the stage \"", stage.name,
                "\" must be an object {...}");
        stage.task.update(settings.any("task"));
    }
    stage.length = settings.whole("length", recipe.length, 2, recipe.config.rope.max_context);
    stage.batch = settings.whole("batch", recipe.batch, 1, most_sequences);
    settings.remark("published");
    settings.refuse_others();
    return stage;
}

Evaluation read_evaluation(const json& in, std::size_t number, const Recipe& recipe) {
    const JsonObject settings(in, "evaluations[" + std::to_string(number) + "]");
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

Recipe read_recipe(const std::filesystem::path& path, std::optional<std::uint64_t> seed) {
    const json in = read_json(path);
    const JsonObject settings(in, path.filename().string());
    Recipe recipe;
    recipe.home = path.parent_path();
    settings.whole("version", std::nullopt, 1, 1);
    settings.remark("note");
    recipe.config_json = settings.any("config");
    if (recipe.config_json.is_string()) recipe.config_json = read_json(recipe.home / settings.text("config"));
    recipe.config = config_from_json(recipe.config_json, "the recipe's config");
    recipe.task = settings.any("task");
    require(recipe.task.is_object(), "\"task\" must be an object {...}");
    recipe.seed = seed.value_or(static_cast<std::uint64_t>(settings.whole("seed", 1, 0, Index{1} << 53)));
    recipe.length = settings.whole("length", std::nullopt, 2, recipe.config.rope.max_context);
    recipe.batch = settings.whole("batch", std::nullopt, 1, most_sequences);
    recipe.held_out = settings.whole("held_out_sequences", 16, 1, 1 << 20);
    recipe.save_every = settings.whole("save_every", 100, 1, 1 << 30);
    recipe.measure_every = settings.whole("measure_every", 10, 1, 1 << 30);
    if (settings.has("optimizer")) {
        const JsonObject o(settings.any("optimizer"), "optimizer");
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
    for (const json& stage : stages) recipe.stages.push_back(read_stage(stage, recipe, balance_speed));
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
