#include "reference/model/run.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "reference/files/json_file.h"
#include "reference/files/npy.h"
#include "reference/model/checkpoint.h"
#include "reference/model/generate.h"

namespace dsa {
namespace {

namespace fs = std::filesystem;

// What is written of each sequence, by file name; sequences are stacked at the end.
class Stacks {
   public:
    void add(const std::string& name, const StoredTensor& tensor) {
        StoredTensor& stack = stacks_[name];
        if (stack.shape.empty()) {
            stack.dtype = tensor.dtype;
            stack.shape = tensor.shape;
            stack.shape.insert(stack.shape.begin(), 0);
        }
        ++stack.shape.front();
        stack.bytes.insert(stack.bytes.end(), tensor.bytes.begin(), tensor.bytes.end());
    }
    void write(const fs::path& folder) const {
        fs::create_directories(folder);
        for (const auto& [name, tensor] : stacks_) write_npy(folder / (name + ".npy"), tensor);
    }

   private:
    std::map<std::string, StoredTensor> stacks_;
};

// Numbers as float64 (exact) or float32 (deployed): every bf16 and e4m3 number is one.
template <class P>
StoredTensor as_numbers(const Tensor<P>& x) {
    return store(x, std::is_same_v<P, Exact> ? DType::float64 : DType::float32);
}

StoredTensor as_numbers(const StoredTensor& x) {
    if (x.dtype != DType::bfloat16 && x.dtype != DType::float8_e4m3) return x;
    Array<float> numbers(x.shape);
    for (Index i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(x.number(i));
    return store(numbers, DType::float32);
}

// "layer_2.indexer_logits" -> "indexer_logits"
std::string stage_of(const std::string& name) { return name.substr(name.rfind('.') + 1); }

template <class P>
void run_tier(const ModelRunOptions& options, const ModelConfig& config, const ModelWeights& weights,
              const Array<std::int32_t>& tokens) {
    const Conventions conventions = preset(options.conventions);
    const bool trace_all = std::find(options.trace.begin(), options.trace.end(), "all") != options.trace.end();
    std::vector<std::string> stages;
    Stacks stacks;
    const Trace trace([&](const Shown& shown) {
        const std::string stage = stage_of(shown.name);
        stages.push_back(stage);
        if (trace_all || std::find(options.trace.begin(), options.trace.end(), stage) != options.trace.end())
            stacks.add(shown.name, as_numbers(shown.tensor));
    });
    const Index T = tokens.dim(1);
    for (Index b = 0; b < tokens.dim(0); ++b) {
        Array<std::int32_t> sequence({T});
        for (Index t = 0; t < T; ++t) sequence[t] = tokens(b, t);
        ModelCache<P> cache;
        const ModelOutput<P> prefill = transformer(sequence, cache, weights, config, conventions, trace);
        stacks.add("logits", as_numbers(prefill.logits));
        for (std::size_t i = 0; i < prefill.hidden.size(); ++i)
            stacks.add("hidden_" + std::to_string(i), as_numbers(prefill.hidden[i]));
        if (options.decode > 0) {
            const Generated<P> generated =
                generate(prefill.logits.row(T - 1), options.decode, cache, weights, config, conventions);
            stacks.add("decode_tokens", store(generated.tokens));
            stacks.add("decode_logits", as_numbers(generated.logits));
        }
    }
    std::sort(stages.begin(), stages.end());
    stages.erase(std::unique(stages.begin(), stages.end()), stages.end());
    for (const std::string& wanted : options.trace) {
        std::string listed;
        for (const std::string& stage : stages) listed += (listed.empty() ? "" : ", ") + stage;
        require(wanted == "all" || std::binary_search(stages.begin(), stages.end(), wanted),
                "there is no stage named \"", wanted, "\" to trace; this model has ", listed);
    }
    stacks.write(options.out);
}

}  // namespace

void run_model(const ModelRunOptions& options) {
    const ModelConfig config = config_from_json(read_json(options.config), options.config.string());
    const ModelWeights weights = load_model(std::make_shared<const Checkpoint>(options.weights), config);
    const StoredTensor stored = read_npy(options.tokens, DType::int32);
    require((stored.shape.size() == 1 || stored.shape.size() == 2) && stored.size() > 0, options.tokens.string(),
            " must hold token ids of shape [T] or [B, T], at least one; it has shape ", to_string(stored.shape));
    require(stored.dtype == DType::int32, options.tokens.string(), " must hold int32; it holds ",
            name_of(stored.dtype), ": save it as tokens.astype('int32')");
    Array<std::int32_t> tokens({stored.shape.size() == 2 ? stored.shape[0] : 1, stored.shape.back()});
    for (Index i = 0; i < tokens.size(); ++i) tokens[i] = stored.raw<std::int32_t>(i);
    if (options.tier == "exact")
        run_tier<Exact>(options, config, weights, tokens);
    else
        run_tier<Deployed>(options, config, weights, tokens);
}

void write_random_model(const fs::path& config, std::uint64_t seed, const fs::path& out) {
    write_safetensors(out, random_weights(config_from_json(read_json(config), config.string()), seed),
                      {{"format", "pt"}, {"made_by", "dsa-reference init, seed " + std::to_string(seed)}});
}

}  // namespace dsa
