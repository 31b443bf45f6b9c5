// dsa_attention, transformer_block, model: whole layers, every stage traced.
#include "reference/files/json_file.h"
#include "reference/model/checkpoint.h"
#include "reference/ops/registry.h"
#include "reference/ops/weights.h"

namespace dsa {

template Transformer<Exact> transformer<Exact>;
template Transformer<Deployed> transformer<Deployed>;

namespace {

Array<std::int32_t> start_of(const OpInputs& in, Index T, Index before) {
    if (!in.has("start")) return Array<std::int32_t>({T}, 0);
    return in.integers("start", {"T"}, 0, before + T);
}

struct DsaAttention {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto x = in.tensor<P>("x", {"T", "D"});
        const AttentionWeights w{mla_weights(in), indexer_weights(in)};
        LayerCache<P> cache = layer_cache<P>(in);
        const Index before = cache.kv.shape().empty() ? 0 : cache.kv.dim(0);
        const auto y = dsa_attention(x, in.integers("positions", {"T"}), start_of(in, x.dim(0), before), cache, w,
                                     attention_settings(in, w.mla), out);
        out.show("y", y, DType::bfloat16);
    }
};

struct TransformerBlock {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto hidden = in.tensor<P>("hidden", {"T", "D"});
        BlockWeights w;
        w.attention_norm = in.vector("attention_norm", {"D"});
        w.attention = {mla_weights(in), indexer_weights(in)};
        w.ffn_norm = in.vector("ffn_norm", {"D"});
        if (in.has("W_g"))
            w.moe = moe_weights(in);
        else
            w.dense = feed_forward_weights(in, "", "F");
        LayerCache<P> cache = layer_cache<P>(in);
        const Index before = cache.kv.shape().empty() ? 0 : cache.kv.dim(0);
        const auto y = transformer_block(hidden, in.integers("positions", {"T"}), start_of(in, hidden.dim(0), before),
                                         cache, w, attention_settings(in, w.attention.mla), out);
        out.show("y", y, DType::bfloat16);
    }
};

// The folder also holds model.safetensors (or shards); parameters.config is the model's config.json.
struct Model {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto tokens = in.integers("tokens", {"T"});
        require(in.has_parameter("config"),
                "the op model needs the parameter config: the content of the model's config.json");
        in.mark_used("config");
        const ModelConfig config = config_from_json(in.description()["parameters"]["config"], "the parameter config");
        const ModelWeights weights = load_model(std::make_shared<const Checkpoint>(in.folder()), config);
        ModelCache<P> cache;
        const auto result = transformer(tokens, cache, weights, config, in.conventions(), out);
        for (std::size_t i = 0; i < result.hidden.size(); ++i)
            out.show("hidden_" + std::to_string(i), result.hidden[i], DType::bfloat16);
        out.show("logits", result.logits, DType::float32);
    }
};

}  // namespace

std::vector<Op> layer_ops() {
    return {make_op<DsaAttention>("dsa_attention", {"y"}, true),
            make_op<TransformerBlock>("transformer_block", {"y"}, true), make_op<Model>("model", {"logits"}, true)};
}

}  // namespace dsa
