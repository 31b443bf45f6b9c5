// dsa-reference: the reference's front door.
//
//   dsa-reference ops                          lists the ops of the contract
//   dsa-reference op OP IN_DIR OUT_DIR         one op on anybody's inputs (docs/case-format.md)
//   dsa-reference golden IN_DIR OUT_DIR        one case in every tier, with bounds
//   dsa-reference time IN_DIR                  how long one op takes
//   dsa-reference init --config --seed --out   random weights for a config.json
//   dsa-reference model --config --weights --tokens --out   a whole model: prefill, then greedy decoding
//   dsa-reference train RECIPE.json --out      trains a small model: dense, warm-up, sparse
//
// Exit codes: 0 right, 1 wrong, 2 bad usage or input, 77 no such op.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <iostream>
#include <vector>

#include "reference/model/run.h"
#include "reference/ops/golden.h"
#include "reference/training/train.h"

namespace {

constexpr int right = 0;
constexpr int wrong = 1;
constexpr int bad_input = 2;
constexpr int not_implemented = 77;

void add_ops(CLI::App& app) {
    app.add_subcommand("ops", "list the ops of the contract and their outputs")->callback([] {
        for (const dsa::Op& op : dsa::all_ops()) {
            std::cout << op.name << " ->";
            for (const std::string& output : op.outputs) std::cout << ' ' << output;
            std::cout << '\n';
        }
    });
}

void add_op(CLI::App& app, int& status) {
    struct Options {
        std::string op, in_dir, out_dir, tier;
        bool stages = false;
    };
    auto options = std::make_shared<Options>();
    CLI::App* command = app.add_subcommand("op", "run one op on the inputs in a folder");
    command->add_option("OP", options->op, "the op's name, as in case.json")->required();
    command->add_option("IN_DIR", options->in_dir, "case.json and one .npy a tensor")->required();
    command->add_option("OUT_DIR", options->out_dir, "where to write one .npy an output")->required();
    command->add_option("--tier", options->tier, "exact or deployed, instead of what case.json says")
        ->check(CLI::IsMember({"exact", "deployed"}));
    command->add_flag("--stages", options->stages, "write every stage, not the outputs only");
    command->callback([options, &status] {
        const dsa::Op* op = dsa::find_op(options->op);
        if (op == nullptr) {
            std::cerr << "dsa-reference: there is no op named \"" << options->op
                      << "\"; `dsa-reference ops` lists them\n";
            status = not_implemented;
            return;
        }
        const dsa::OpInputs in(options->in_dir);
        dsa::require(in.op() == options->op, "case.json in ", options->in_dir, " is for the op ", in.op(), ", not ",
                     options->op);
        dsa::write_outputs(*op, in, options->tier.empty() ? in.tier() : options->tier, options->out_dir,
                           options->stages);
    });
}

void add_golden(CLI::App& app, int& status) {
    struct Options {
        std::string in_dir, out_dir, follow_dir;
    };
    auto options = std::make_shared<Options>();
    CLI::App* command = app.add_subcommand("golden", "run one case in every tier and write its golden");
    command->add_option("IN_DIR", options->in_dir, "case.json, and .npy files for tensors without a fill")
        ->required();
    command->add_option("OUT_DIR", options->out_dir, "the golden's folder; replaced whole")->required();
    command->add_option("--follow", options->follow_dir, "a folder of stages that later stages are to work on");
    command->callback([options, &status] {
        for (const std::string& name : dsa::write_golden(options->in_dir, options->out_dir, options->follow_dir)) {
            std::cerr << "dsa-reference: " << options->out_dir << ": the deployed tensor " << name
                      << " is beyond the exact one's bound; golden.json has the worst ratio\n";
            status = wrong;
        }
    });
}

// Seconds that an op takes, its inputs being in memory: the median of some runs.
void add_time(CLI::App& app) {
    struct Options {
        std::string in_dir, tier = "deployed";
        int repeat = 5;
    };
    auto options = std::make_shared<Options>();
    CLI::App* command = app.add_subcommand("time", "time one op on the inputs in a folder");
    command->add_option("IN_DIR", options->in_dir, "case.json, and .npy files for tensors without a fill")
        ->required();
    command->add_option("--tier", options->tier, "exact or deployed")->check(CLI::IsMember({"exact", "deployed"}));
    command->add_option("--repeat", options->repeat, "how many runs")->check(CLI::PositiveNumber);
    command->callback([options] {
        const dsa::OpInputs in(options->in_dir);
        const dsa::Op* op = dsa::find_op(in.op());
        dsa::require(op != nullptr, "there is no op named \"", in.op(), "\"; `dsa-reference ops` lists them");
        const dsa::Op::Run run = options->tier == "exact" ? op->exact : op->deployed;
        run(in, {});  // reads or generates the inputs
        std::vector<double> seconds;
        for (int i = 0; i < options->repeat; ++i) {
            const auto begin = std::chrono::steady_clock::now();
            run(in, {});
            seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
        }
        std::sort(seconds.begin(), seconds.end());
        std::cout << seconds[seconds.size() / 2] << '\n';
    });
}

void add_init(CLI::App& app) {
    struct Options {
        std::string config, out;
        std::uint64_t seed = 0;
    };
    auto options = std::make_shared<Options>();
    CLI::App* command = app.add_subcommand("init", "write random weights for a model");
    command->add_option("--config", options->config, "Hugging Face style config.json")->required();
    command->add_option("--seed", options->seed, "which random weights");
    command->add_option("--out", options->out, "the .safetensors file to write")->required();
    command->callback([options] { dsa::write_random_model(options->config, options->seed, options->out); });
}

void add_model(CLI::App& app) {
    auto options = std::make_shared<dsa::ModelRunOptions>();
    CLI::App* command = app.add_subcommand("model", "run a whole model over token ids");
    command->add_option("--config", options->config, "Hugging Face style config.json")->required();
    command->add_option("--weights", options->weights, "model.safetensors, or the folder or index of its shards")
        ->required();
    command->add_option("--tokens", options->tokens, "token ids, int32 [T] or [B, T], .npy")->required();
    command->add_option("--out", options->out, "folder for logits.npy, hidden_N.npy, decode_*.npy and traced stages")
        ->required();
    command->add_option("--tier", options->tier, "exact (float64, the default) or deployed")
        ->check(CLI::IsMember({"exact", "deployed"}));
    command->add_option("--conventions", options->conventions, "a preset's name");
    command->add_option("--decode", options->decode, "tokens to generate greedily after the prompt")
        ->check(CLI::NonNegativeNumber);
    command->add_option("--trace", options->trace,
                        "stages to write for every layer, such as indexer_logits; \"all\" for all");
    command->callback([options] { dsa::run_model(*options); });
}

void add_train(CLI::App& app) {
    auto options = std::make_shared<dsa::TrainOptions>();
    CLI::App* command = app.add_subcommand("train", "train a small model by a recipe, and measure it");
    command->add_option("RECIPE", options->recipe, "such as recipes/text.json")->required();
    command
        ->add_option("--out", options->out, "a folder for weights, logs and the table; a stopped run goes on there")
        ->required();
    command->add_option("--seed", options->seed, "instead of the recipe's");
    command->add_option("--threads", options->threads, "how many; the numbers do not depend on it")
        ->check(CLI::PositiveNumber);
    command->callback([options] { dsa::train(*options); });
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("The whole DeepSeek-V3.2 stack in plain C++: clear, not fast.", "dsa-reference");
    app.require_subcommand(1);
    int status = right;
    add_ops(app);
    add_op(app, status);
    add_golden(app, status);
    add_time(app);
    add_init(app);
    add_model(app);
    add_train(app);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? right : bad_input;
    } catch (const dsa::Refusal& refusal) {
        std::cerr << "dsa-reference: " << refusal.what() << '\n';
        return bad_input;
    } catch (const std::exception& error) {
        std::cerr << "dsa-reference: " << error.what() << '\n';
        return bad_input;
    }
    return status;
}
