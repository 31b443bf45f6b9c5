#include "reference/training/train.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include "reference/cases/fill.h"
#include "reference/files/json_file.h"
#include "reference/files/safetensors.h"
#include "reference/files/whole_file.h"
#include "reference/model/checkpoint.h"
#include "reference/model/generate.h"
#include "reference/training/tasks.h"

namespace dsa {

template class Forward<Trained>;

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Calls work(i) for each i < count, on some threads. What is computed must not depend on which.
template <class Work>
void in_parallel(Index count, int threads, const Work& work) {
    std::atomic<Index> next{0};
    std::vector<std::exception_ptr> failures(static_cast<std::size_t>(count));
    const auto worker = [&] {
        for (Index i = next++; i < count; i = next++) {
            try {
                work(i);
            } catch (...) {
                failures[static_cast<std::size_t>(i)] = std::current_exception();
            }
        }
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(worker);
    worker();
    for (std::thread& other : others) other.join();
    for (const auto& failure : failures)
        if (failure) std::rethrow_exception(failure);
}

// What a batch of sequences says, mean over sequences and layers.
struct Numbers {
    double loss = 0.0;  // nats a token
    double kl = 0.0;
    double kl_uniform = 0.0;
    double recall = 0.0;
    double pairs = 0.0;  // attended to, as a share of all causal ones
    double right = 0.0;  // answers whose likeliest token was the right one
    double counted = 0.0;
    std::vector<std::vector<std::int64_t>> visits;  // [layers][E]

    double captured() const { return kl_uniform > 0.0 ? 1.0 - kl / kl_uniform : 0.0; }
};

Numbers told_by(const ForwardResult<Trained>& result, const Sequence& sequence) {
    const auto T = static_cast<double>(sequence.tokens.size());
    const double share = 1.0 / static_cast<double>(result.layers.size());
    Numbers all;
    all.loss = result.language_loss;
    for (const LayerReport<Trained>& layer : result.layers) {
        all.kl += layer.kl.kl * share;
        all.kl_uniform += layer.kl.kl_uniform * share;
        all.recall += layer.recall * share;
        all.pairs += layer.pairs / (T * (T + 1) / 2) * share;
        all.visits.push_back(layer.visits);
    }
    for (Index t = 0; t < sequence.targets.size(); ++t) {
        if (sequence.targets[t] < 0) continue;
        all.counted += 1.0;
        all.right += likeliest(result.logits->value().row(t)) == sequence.targets[t] ? 1.0 : 0.0;
    }
    return all;
}

// ---- what lies in files ----

using Stored32 = std::map<std::string, StoredTensor>;

void put(Stored32& into, const std::string& prefix, const Parameters<Trained>& from) {
    for (const auto& [name, tensor] : from) into.emplace(prefix + name, store(tensor, DType::float32));
}

Tensor<Trained> numbers_of(const StoredTensor& stored) {
    Tensor<Trained> tensor(stored.shape);
    for (Index i = 0; i < tensor.size(); ++i) tensor[i] = static_cast<float>(stored.number(i));
    return tensor;
}

Parameters<Trained> read_parameters(const fs::path& path, const ModelConfig& config) {
    const SafetensorsFile file(path);
    Parameters<Trained> all;
    for (const auto& [name, shape] : tensor_shapes(config)) {
        all.emplace(name, numbers_of(file.tensor(name)));
        require(all.at(name).shape() == shape, "the weight ", name, " in ", path.string(), " must have shape ",
                to_string(shape), "; it has ", to_string(all.at(name).shape()), ": train into an empty folder");
    }
    return all;
}

StoredTensor whole_number(std::int64_t x) {
    StoredTensor stored{DType::int64, {1}, std::vector<std::byte>(sizeof x)};
    std::memcpy(stored.bytes.data(), &x, sizeof x);
    return stored;
}

// FNV-1a, 64 bits: tells a recipe from another one, not from a forged one.
std::int64_t fingerprint(const std::string& text) {
    std::uint64_t hash = 0xcbf29ce484222325;
    for (const char c : text) hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001b3;
    return static_cast<std::int64_t>(hash);
}

class Run {
   public:
    Run(const TrainOptions& options, Recipe recipe)
        : recipe_(std::move(recipe)),
          out_(options.out),
          threads_(options.threads > 0 ? options.threads
                                       : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()))),
          task_(checked_task(recipe_.task, recipe_.length)),
          on_terminal_(isatty(STDERR_FILENO) == 1) {
        for (const Stage& stage : recipe_.stages) tasks_.emplace(stage.name, checked_task(stage.task, stage.length));
    }

    void all() {
        for (const Stage& stage : recipe_.stages) run_stage(stage);
        json table = json::array();
        for (const Evaluation& evaluation : recipe_.evaluations) table.push_back(evaluated(evaluation));
        if (!table.empty()) write_json(out_ / "evaluation.json", {{"seed", recipe_.seed}, {"rows", table}});
    }

   private:
    std::unique_ptr<Task> checked_task(const json& task, Index T) const {
        std::unique_ptr<Task> made = task_from_json(task, recipe_.home, T);
        require(made->vocabulary() <= recipe_.config.vocabulary,
                "\"vocab_size\" in the recipe's config must be at least ", made->vocabulary(),
                ", the task's number of tokens; it is ", recipe_.config.vocabulary);
        return made;
    }

    // Everything that the weights of a stage follow from.
    std::int64_t fingerprint_of(const Stage& stage) const {
        json all{{"config", recipe_.config_json},
                 {"task", stage.task},
                 {"seed", recipe_.seed},
                 {"length", stage.length},
                 {"batch", stage.batch},
                 {"stage", stage.json},
                 {"balance_speed", stage.balance_speed},
                 {"optimizer",
                  {recipe_.optimizer.beta_1, recipe_.optimizer.beta_2, recipe_.optimizer.epsilon,
                   recipe_.optimizer.weight_decay, recipe_.optimizer.clip}}};
        if (!stage.from.empty()) all["from"] = fingerprint_of(stage_named(stage.from));
        return fingerprint(all.dump());
    }

    const Stage& stage_named(const std::string& name) const {
        return *std::find_if(recipe_.stages.begin(), recipe_.stages.end(),
                             [&](const Stage& s) { return s.name == name; });
    }

    void run_stage(const Stage& stage) {
        const fs::path home = out_ / stage.name;
        const fs::path finished = home / "model.safetensors";
        const fs::path state = home / "state.safetensors";
        const std::int64_t print = fingerprint_of(stage);
        if (fs::exists(finished)) {
            require_own(home / "recipe.json", stage, print);
            say(stage.name + ": trained already", true);
            return;
        }
        fs::create_directories(home);
        AdamW<Trained> optimizer(recipe_.optimizer);
        Parameters<Trained> parameters;
        std::vector<std::string> log;
        if (fs::exists(state)) {
            require_own(home / "recipe.json", stage, print);
            read_state(state, parameters, optimizer);
            log = first_lines(home / "log.jsonl", optimizer.steps);
        } else {
            parameters = stage.from.empty()
                             ? initial_parameters<Trained>(recipe_.config, recipe_.seed, stage.embedding_std)
                             : read_parameters(out_ / stage.from / "model.safetensors", recipe_.config);
            write_json(home / "recipe.json", {{"fingerprint", print}, {"stage", stage.json}, {"seed", recipe_.seed}});
        }

        const auto begin = std::chrono::steady_clock::now();
        const std::int64_t first = optimizer.steps;
        while (optimizer.steps < stage.schedule.steps) {
            const std::int64_t step = optimizer.steps;
            const json line = one_step(stage, step, parameters, optimizer);
            log.push_back(line.dump());
            const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
            const double rate = static_cast<double>((step + 1 - first) * stage.batch * stage.length) / seconds;
            progress(stage, line, rate);
            if (optimizer.steps % recipe_.save_every == 0 && optimizer.steps < stage.schedule.steps) {
                write_lines(home / "log.jsonl", log);
                write_state(state, parameters, optimizer);
            }
        }
        write_lines(home / "log.jsonl", log);
        write_json(home / "config.json", recipe_.config_json);
        Stored32 weights;
        put(weights, "", parameters);
        write_safetensors(finished, weights,
                          {{"format", "pt"}, {"made_by", "dsa-reference train, stage " + stage.name}});
        fs::remove(state);
    }

    // One batch: gradients sequence by sequence, added up in the sequences' order whoever computed them.
    json one_step(const Stage& stage, std::int64_t step, Parameters<Trained>& parameters,
                  AdamW<Trained>& optimizer) const {
        ForwardOptions forward = stage.forward;
        const bool measured = forward.indexer_learns && step % recipe_.measure_every == 0;
        forward.measures = measured;
        forward.lot = recipe_.seed + static_cast<std::uint64_t>(step);
        const std::uint64_t stream = recipe_.seed ^ static_cast<std::uint64_t>(fingerprint(stage.name));
        std::vector<Parameters<Trained>> gradients(static_cast<std::size_t>(stage.batch));
        std::vector<Numbers> numbers(gradients.size());
        const Task& task = *tasks_.at(stage.name);
        in_parallel(stage.batch, threads_, [&](Index b) {
            const Sequence sequence =
                task.train(stream, static_cast<std::uint64_t>(step * stage.batch + b), stage.length);
            Forward<Trained> model(parameters, recipe_.config, forward);
            const ForwardResult<Trained> result = model.run(sequence.tokens, sequence.targets);
            numbers[static_cast<std::size_t>(b)] = told_by(result, sequence);
            gradients[static_cast<std::size_t>(b)] = model.gradients(result.loss);
        });
        // An expert that no token of a sequence visited has no gradient from it.
        Parameters<Trained> total;
        for (const auto& one : gradients)
            for (const auto& [name, g] : one) {
                const auto [place, is_new] = total.try_emplace(name, g);
                if (!is_new) place->second.matrix() += g.matrix();
            }
        for (auto& [name, g] : total) g.matrix() /= static_cast<float>(stage.batch);
        const Numbers n = mean(numbers);
        const double rate = stage.schedule.at(step);
        const double indexer_rate = stage.schedule.learning_rate > 0.0
                                        ? rate / stage.schedule.learning_rate * stage.indexer_rate
                                        : stage.indexer_rate;
        const auto [main_norm, indexer_norm] = optimizer.step(parameters, total, rate, indexer_rate);
        require(std::isfinite(n.loss) && std::isfinite(main_norm) && std::isfinite(indexer_norm),
                "the training of \"", stage.name, "\" left the finite numbers at step ", step,
                ": lower its learning rate");
        double most = 0.0;  // the fullest expert's share over an even one
        for (Index layer = recipe_.config.dense_layers; layer < recipe_.config.layers; ++layer) {
            const auto& visits = n.visits[static_cast<std::size_t>(layer)];
            Tensor<Trained>& bias =
                parameters.at("model.layers." + std::to_string(layer) + ".mlp.gate.e_score_correction_bias");
            if (stage.forward.main_learns) balance(bias, visits, stage.balance_speed);
            std::int64_t sum = 0;
            for (const auto v : visits) sum += v;
            for (const auto v : visits)
                most = std::max(
                    most, static_cast<double>(v) * static_cast<double>(visits.size()) / static_cast<double>(sum));
        }
        json line{{"step", step}, {"loss", n.loss}, {"rate", rate}, {"fullest_expert", most}};
        if (forward.main_learns) line["gradient_norm"] = main_norm;
        if (forward.indexer_learns) {
            line["kl"] = n.kl;
            line["captured"] = n.captured();
            line["indexer_gradient_norm"] = indexer_norm;
            line["pairs"] = n.pairs;
        }
        if (measured) line["recall"] = n.recall;
        return line;
    }

    static Numbers mean(const std::vector<Numbers>& all) {
        Numbers total;
        const double share = 1.0 / static_cast<double>(all.size());
        for (const Numbers& one : all) {
            total.loss += one.loss * share;
            total.kl += one.kl * share;
            total.kl_uniform += one.kl_uniform * share;
            total.recall += one.recall * share;
            total.pairs += one.pairs * share;
            total.right += one.right;
            total.counted += one.counted;
            total.visits.resize(one.visits.size());
            for (std::size_t l = 0; l < one.visits.size(); ++l) {
                total.visits[l].resize(one.visits[l].size());
                for (std::size_t e = 0; e < one.visits[l].size(); ++e) total.visits[l][e] += one.visits[l][e];
            }
        }
        return total;
    }

    json evaluated(const Evaluation& evaluation) const {
        const Parameters<Trained> parameters =
            read_parameters(out_ / evaluation.weights / "model.safetensors", recipe_.config);
        ModelConfig config = recipe_.config;
        config.topk = evaluation.topk;
        std::vector<Numbers> numbers(static_cast<std::size_t>(recipe_.held_out));
        in_parallel(recipe_.held_out, threads_, [&](Index i) {
            const Sequence sequence = task_->held_out(static_cast<std::uint64_t>(i), recipe_.length);
            ForwardOptions forward = evaluation.forward;
            forward.lot = static_cast<std::uint64_t>(i);
            Forward<Trained> model(parameters, config, forward);
            numbers[static_cast<std::size_t>(i)] = told_by(model.run(sequence.tokens, sequence.targets), sequence);
        });
        const Numbers n = mean(numbers);
        // The spread is over sequences; over seeds it takes several runs.
        double square = 0.0;
        for (const Numbers& one : numbers) square += (one.loss - n.loss) * (one.loss - n.loss);
        const auto count = static_cast<double>(numbers.size());
        json row{{"name", evaluation.name},
                 {"weights", evaluation.weights},
                 {"topk", evaluation.topk},
                 {"loss", n.loss},
                 {"loss_standard_error", count > 1 ? std::sqrt(square / (count - 1) / count) : 0.0},
                 {"accuracy", n.right / n.counted},
                 {"answers", n.counted},
                 {"recall", n.recall},
                 {"pairs", n.pairs},
                 {"kl", n.kl},
                 {"captured", n.captured()}};
        std::ostringstream text;
        text << evaluation.name << ": loss " << n.loss << ", accuracy " << n.right / n.counted << ", recall "
             << n.recall << ", pairs " << n.pairs;
        say(text.str(), true);
        return row;
    }

    // ---- files of a stage ----

    static void require_own(const fs::path& path, const Stage& stage, std::int64_t print) {
        require(fs::exists(path), "the folder ", path.parent_path().string(),
                " holds weights but no recipe.json: train into an empty folder");
        const json own = read_json(path);
        require(own.is_object() && own.value("fingerprint", json()) == json(print), "the folder ",
                path.parent_path().string(), " holds the stage \"", stage.name,
                "\" of another recipe or seed: train into another folder, or remove it");
    }

    void read_state(const fs::path& path, Parameters<Trained>& parameters, AdamW<Trained>& optimizer) const {
        parameters = read_parameters(path, recipe_.config);
        const SafetensorsFile file(path);
        for (const std::string& name : file.names()) {
            if (name.starts_with("first.")) optimizer.first.emplace(name.substr(6), numbers_of(file.tensor(name)));
            if (name.starts_with("second.")) optimizer.second.emplace(name.substr(7), numbers_of(file.tensor(name)));
        }
        optimizer.steps = file.tensor("steps").raw<std::int64_t>(0);
    }

    static void write_state(const fs::path& path, const Parameters<Trained>& parameters,
                            const AdamW<Trained>& optimizer) {
        Stored32 all;
        put(all, "", parameters);
        put(all, "first.", optimizer.first);
        put(all, "second.", optimizer.second);
        all.emplace("steps", whole_number(optimizer.steps));
        write_safetensors(path, all);
    }

    static std::vector<std::string> first_lines(const fs::path& path, std::int64_t count) {
        std::ifstream in(path);
        std::vector<std::string> lines;
        std::string line;
        while (static_cast<std::int64_t>(lines.size()) < count && std::getline(in, line)) lines.push_back(line);
        require(static_cast<std::int64_t>(lines.size()) == count, path.string(), " must have ", count,
                " lines, one a step that was done; it has ", lines.size(), ": train into an empty folder");
        return lines;
    }

    static void write_lines(const fs::path& path, const std::vector<std::string>& lines) {
        std::string text;
        for (const std::string& line : lines) text += line + "\n";
        write_whole_file(path, [&](std::ostream& out) { out << text; });
    }

    // ---- what is told on the way ----

    void progress(const Stage& stage, const json& line, double tokens_per_second) {
        const std::int64_t step = line["step"];
        const auto now = std::chrono::steady_clock::now();
        const bool last = step + 1 == stage.schedule.steps;
        if (line.contains("recall")) recall_ = line["recall"];
        if (!last && now - told_ < std::chrono::seconds(on_terminal_ ? 1 : 15)) return;
        told_ = now;
        std::ostringstream text;
        text.precision(4);
        text << stage.name << ": " << step + 1 << " of " << stage.schedule.steps << ", loss "
             << line["loss"].get<double>();
        if (line.contains("kl"))
            text << ", KL " << line["kl"].get<double>() << ", captured " << line["captured"].get<double>()
                 << ", recall " << recall_;
        text << ", " << static_cast<std::int64_t>(tokens_per_second) << " tokens/s";
        say(text.str(), last);
    }

    void say(const std::string& text, bool stays) const {
        if (on_terminal_)
            std::cerr << "\r\033[K" << text << (stays ? "\n" : "") << std::flush;
        else
            std::cerr << text << '\n';
    }

    Recipe recipe_;
    fs::path out_;
    int threads_;
    std::unique_ptr<Task> task_;                          // of the evaluations
    std::map<std::string, std::unique_ptr<Task>> tasks_;  // of each stage
    bool on_terminal_;
    std::chrono::steady_clock::time_point told_{};
    double recall_ = 0.0;
};

}  // namespace

template <class P>
Parameters<P> initial_parameters(const ModelConfig& config, std::uint64_t seed, double embedding_std) {
    Parameters<P> all;
    const double depth = std::sqrt(2.0 * static_cast<double>(config.layers));
    for (const auto& [name, shape] : tensor_shapes(config)) {
        Tensor<P> tensor(shape);
        if (shape.size() == 1) {
            for (Index i = 0; i < tensor.size() && name.ends_with("norm.weight"); ++i)
                tensor[i] = typename P::Real(1.0);
        } else {
            double std = 1.0 / std::sqrt(static_cast<double>(shape.back()));
            if (name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight")) std /= depth;
            if (name.ends_with("embed_tokens.weight")) std = embedding_std;
            const RandomTensor random{seed, tensor_id(name)};
            const float constant = bell_constant(std);
            for (Index i = 0; i < tensor.size(); ++i)
                tensor[i] = bell_sample(random, constant, static_cast<std::uint64_t>(i));
        }
        all.emplace(name, std::move(tensor));
    }
    return all;
}

template Parameters<Trained> initial_parameters<Trained>(const ModelConfig&, std::uint64_t, double);
template Parameters<Exact> initial_parameters<Exact>(const ModelConfig&, std::uint64_t, double);

void train(const TrainOptions& options) {
    // Products cut their operands by the caches' sizes, and so add in an order that follows from them: fixed here, so
    // that it is the same on machines with the same vector units.
    Eigen::setCpuCacheSizes(32 << 10, 512 << 10, 8 << 20);
    Run(options, read_recipe(options.recipe, options.seed)).all();
}

}  // namespace dsa
