// The whole model on the tape, in its three stages: dense, dense with the indexer learning (warm-up), and sparse.
// DeepSeek-V3.2-Exp report, section 2.1; spec section 7. Names are Hugging Face's; the formulas are those of
// reference/model/transformer.h, which the tests hold this against.
#pragma once

#include <map>

#include "reference/model/config.h"
#include "reference/numerics/philox.h"
#include "reference/training/attention.h"
#include "reference/training/experts.h"
#include "reference/training/layers.h"

namespace dsa {

template <class P>
using Parameters = std::map<std::string, Tensor<P>>;

inline bool belongs_to_indexer(const std::string& name) { return name.find(".indexer.") != std::string::npos; }
// Moved by its own rule (balance.h), never by a gradient.
inline bool is_balance_bias(const std::string& name) { return name.ends_with("e_score_correction_bias"); }

// Who chooses the tokens that a query attends to.
enum class Selection {
    dense,    // nobody: all of them
    indexer,  // the k best by the indexer's scores
    random,   // k of them, by lot
    window,   // the last k
    oracle,   // the k with the most of the dense attention's probability: the best that any indexer could do
};

struct ForwardOptions {
    Selection selection = Selection::dense;
    bool main_learns = false;
    bool indexer_learns = false;
    // KL and recall are measured where this is set; it costs a softmax over everything in sparse attention.
    bool measures = false;
    bool simulates_fp8 = false;  // the indexer's queries and keys through e4m3, straight-through
    std::uint64_t lot = 0;       // the seed of random selections
    bool leaks = false;          // the known mistake: the indexer's inputs are not detached (Megatron-LM#4894)
    KlReduction kl_reduction = KlReduction::mean;  // over queries, whatever the conventions say: lengths differ
    Conventions conventions;
};

template <class P>
struct LayerReport {
    KlNumbers kl;
    Tensor<P> kl_loss;    // [1], as it joins the loss
    double recall = 1.0;  // of the dense attention's probability, by what was (in warm-up: would be) selected
    std::vector<std::int64_t> visits;  // [E], tokens that visited each expert
    double pairs = 0.0;                // (query, position) pairs attended to
};

// What a layer looked at, for pictures.
template <class P>
struct LayerView {
    Index layer;
    const Tensor<P>& scores;  // [T, T], of the indexer
    const Tensor<P>& dense;   // [T, T], empty unless measured
    const Allowed& allowed;
};

template <class P>
struct ForwardResult {
    Var<P> loss;         // [1]: language loss (if the main model learns) + the indexer's (if it does), all layers
    Var<P> logits;       // [T, V]
    Tensor<P> language;  // [1], nats a token
    double language_loss = 0.0;  // the same, for reports
    std::vector<LayerReport<P>> layers;
};

// The k best pairs of each row as indices. scores: [T, T], causal
template <class P>
Array<std::int32_t> causal_top_k(const Tensor<P>& scores, Index k) {
    const auto [start, end] = causal_range(scores.dim(0), scores.dim(0));
    return top_k(scores, start, end, k);
}

// -> [T, k]
template <class P>
Array<std::int32_t> selected_by(Selection selection, const Tensor<P>& scores, const Tensor<P>& dense, Index k,
                                RandomTensor lot) {
    if (selection == Selection::indexer) return causal_top_k(scores, k);
    if (selection == Selection::oracle) return causal_top_k(dense, k);
    const Index T = scores.dim(0);
    Tensor<P> made_up({T, T});
    for (Index t = 0; t < T; ++t)
        for (Index s = 0; s <= t; ++s)
            made_up(t, s) = static_cast<typename P::Real>(static_cast<double>(
                selection == Selection::window ? static_cast<std::uint64_t>(s)
                                               : lot.below(1U << 24, static_cast<std::uint64_t>(t * T + s))));
    return causal_top_k(made_up, k);
}

template <class P>
class Forward {
   public:
    Forward(const Parameters<P>& parameters, const ModelConfig& config, const ForwardOptions& options)
        : parameters_(parameters), config_(config), options_(options) {}
    // Shows every stage as layer_I.NAME, and its gradient as layer_I.d_NAME.
    Forward(const Parameters<P>& parameters, const ModelConfig& config, const ForwardOptions& options, Trace trace)
        : parameters_(parameters), config_(config), options_(options), tape_(std::move(trace)) {}

    std::function<void(const LayerView<P>&)> view;  // called for each layer, if there

    // tokens: [T]  targets: [T], what comes next; negative where it does not count
    ForwardResult<P> run(const Array<std::int32_t>& tokens, const Array<std::int32_t>& targets) {
        const Index T = tokens.size();
        Array<std::int32_t> positions({T});
        for (Index t = 0; t < T; ++t) positions[t] = static_cast<std::int32_t>(t);
        turn_ = std::make_shared<const Rope<P>>(config_.rope, config_.d_rope, positions);

        ForwardResult<P> result;
        Var<P> hidden = tape_.stage("", "embedding", embedding(tape_, weight("model.embed_tokens.weight"), tokens));
        for (Index layer = 0; layer < config_.layers; ++layer) hidden = block(layer, hidden, result);
        const Var<P> last =
            tape_.stage("", "final_norm", rms_norm(tape_, hidden, weight("model.norm.weight"), config_.norm_eps));
        const std::string head = config_.tied_embedding ? "model.embed_tokens.weight" : "lm_head.weight";
        result.logits = tape_.stage("", "logits", linear(tape_, last, weight(head), Stored::float32), DType::float32);
        const Var<P> language = cross_entropy(tape_, result.logits, targets);
        result.language_loss = static_cast<double>(value_of(language->value()[0]));
        result.language = language->value();
        result.loss = language;
        if (!options_.main_learns) result.loss = tape_.leaf(Tensor<P>({1}), false);
        for (const Var<P>& kl : kl_losses_) result.loss = add(tape_, result.loss, kl, Stored::float32);
        return result;
    }

    // d_loss / d_parameter of everything that learns, by name.
    Parameters<P> gradients(const Var<P>& loss) {
        tape_.backward(loss);
        Parameters<P> all;
        for (auto& [name, node] : leaves_)
            if (node->learns()) all.emplace(name, std::move(node->gradient()));
        return all;
    }

   private:
    Var<P> weight(const std::string& name) {
        auto [place, is_new] = leaves_.try_emplace(name);
        if (is_new) {
            const bool learns = belongs_to_indexer(name) ? options_.indexer_learns : options_.main_learns;
            place->second = tape_.leaf(parameters_.at(name), learns && !is_balance_bias(name));
        }
        return place->second;
    }

    Var<P> block(Index layer, const Var<P>& hidden, ForwardResult<P>& result) {
        const std::string prefix = "model.layers." + std::to_string(layer) + ".";
        scope_ = "layer_" + std::to_string(layer);
        LayerReport<P> report;
        const Var<P> x = stage("attention_input",
                               rms_norm(tape_, hidden, weight(prefix + "input_layernorm.weight"), config_.norm_eps));
        const Var<P> middle =
            stage("after_attention", add(tape_, hidden, dsa_attention(layer, prefix + "self_attn.", x, report)));
        const Var<P> z =
            stage("ffn_input",
                  rms_norm(tape_, middle, weight(prefix + "post_attention_layernorm.weight"), config_.norm_eps));
        const auto named = [this](const std::string& name) { return weight(name); };
        const Var<P> y = stage("ffn_y", layer < config_.dense_layers ? feed_forward(tape_, z, prefix + "mlp.", named)
                                                                     : experts(prefix + "mlp.", z, report));
        result.layers.push_back(std::move(report));
        return stage("after_ffn", add(tape_, middle, y));
    }

    Var<P> stage(const std::string& name, const Var<P>& x, DType dtype = DType::bfloat16) const {
        return tape_.stage(scope_, name, x, dtype);
    }

    Var<P> dsa_attention(Index layer, const std::string& prefix, const Var<P>& x, LayerReport<P>& report) {
        const ModelConfig& c = config_;
        const HeadSizes sizes{c.heads, c.d_nope, c.d_rope, c.d_v};
        const Var<P> q_latent = stage("q_latent", linear(tape_, x, weight(prefix + "q_a_proj.weight")));
        const Var<P> c_q =
            stage("c_q", rms_norm(tape_, q_latent, weight(prefix + "q_a_layernorm.weight"), c.norm_eps));
        const Var<P> q = stage("q_heads", rope(tape_, linear(tape_, c_q, weight(prefix + "q_b_proj.weight")), turn_,
                                               sizes.d_q(), c.d_nope, c.d_rope, RopeLayout::interleaved));
        const Var<P> latent = stage("kv_latent", linear(tape_, x, weight(prefix + "kv_a_proj_with_mqa.weight")));
        const Var<P> c_kv = stage("c_kv", rms_norm(tape_, columns(tape_, latent, 0, c.R_kv),
                                                   weight(prefix + "kv_a_layernorm.weight"), c.norm_eps));
        const Var<P> k_rope = stage("k_rope", rope(tape_, columns(tape_, latent, c.R_kv, c.d_rope), turn_, c.d_rope,
                                                   0, c.d_rope, RopeLayout::interleaved));
        const Var<P> kv = stage("kv_heads", linear(tape_, c_kv, weight(prefix + "kv_b_proj.weight")));

        const bool needs_scores =
            options_.selection == Selection::indexer || options_.indexer_learns || options_.measures || view;
        // Detached: the indexer's loss trains the indexer only.
        const Var<P> scores = needs_scores ? options_.leaks ? indexer(prefix + "indexer.", x, c_q)
                                                            : indexer(prefix + "indexer.", detached(x), detached(c_q))
                                           : tape_.leaf(Tensor<P>({x->value().dim(0), x->value().dim(0)}), false);
        Allowed allowed;
        Tensor<P> dense;
        const bool renormalises =
            options_.indexer_learns && options_.conventions.sparse_kl_target == SparseKlTarget::renormalised;
        const bool wants_dense = options_.measures || renormalises;
        if (options_.selection == Selection::oracle) {
            Tape<P> aside;
            dense = attention(aside, detached(q), detached(kv), detached(k_rope), sizes, c.scale(), {}, true).dense;
        }
        if (options_.selection != Selection::dense)
            allowed = allowed_pairs(tape_.choice(scope_, "topk_indices",
                                                 selected_by(options_.selection, scores->value(), dense, c.topk,
                                                             {options_.lot, static_cast<std::uint32_t>(layer)})));
        Attended<P> attended = attention(tape_, q, kv, k_rope, sizes, c.scale(), allowed, wants_dense);
        attended.out = stage("attention_out", attended.out);

        if (options_.indexer_learns || options_.measures) {
            const Tensor<P> target = tape_.shown(
                scope_, "attention_target", renormalises ? renormalised(attended.dense, allowed) : attended.target);
            Tape<P> aside;
            const double queries =
                options_.kl_reduction == KlReduction::mean ? static_cast<double>(x->value().dim(0)) : 1.0;
            const KlLoss<P> kl = indexer_kl(options_.indexer_learns ? tape_ : aside, scores, target, allowed,
                                            options_.conventions.kl_coefficient / queries);
            report.kl = kl.numbers;
            report.kl_loss = kl.loss->value();
            if (options_.indexer_learns) kl_losses_.push_back(kl.loss);
        }
        // In warm-up nothing is selected yet: what the indexer would select is measured.
        const bool would = options_.indexer_learns && options_.selection == Selection::dense;
        if (options_.measures)
            report.recall = recall_of_mass(attended.dense,
                                           would ? allowed_pairs(causal_top_k(scores->value(), c.topk)) : allowed);
        const auto T = static_cast<double>(x->value().dim(0));
        report.pairs = allowed.size() == 0 ? T * (T + 1) / 2 : allowed.template cast<double>().sum();
        if (view) view({layer, scores->value(), attended.dense, allowed});
        return stage("attention_y", linear(tape_, attended.out, weight(prefix + "o_proj.weight")));
    }

    // x: [T, D]  c_q: [T, R_q]  -> scores [T, T]
    Var<P> indexer(const std::string& prefix, const Var<P>& x, const Var<P>& c_q) {
        const ModelConfig& c = config_;
        Var<P> q = linear(tape_, c_q, weight(prefix + "wq_b.weight"));
        Var<P> k = layer_norm(tape_, linear(tape_, x, weight(prefix + "wk.weight")), weight(prefix + "k_norm.weight"),
                              weight(prefix + "k_norm.bias"), c.norm_eps);
        q = rope(tape_, q, turn_, c.D_I, 0, c.d_rope, options_.conventions.indexer_rope);
        k = rope(tape_, k, turn_, c.D_I, 0, c.d_rope, options_.conventions.indexer_rope);
        if (options_.conventions.hadamard) {
            q = hadamard(tape_, q, c.D_I);
            k = hadamard(tape_, k, c.D_I);
        }
        if (options_.simulates_fp8) {
            q = through_e4m3(tape_, q, c.D_I, options_.conventions);
            k = through_e4m3(tape_, k, c.D_I, options_.conventions);
        }
        // e4m3 times a linear scale is no bf16 number.
        const DType dtype = options_.simulates_fp8 ? DType::float32 : DType::bfloat16;
        q = stage("indexer_q", q, dtype);
        k = stage("indexer_k", k, dtype);
        const double factor = 1.0 / std::sqrt(static_cast<double>(c.H_I) * static_cast<double>(c.D_I));
        const Var<P> w = stage(
            "indexer_weights",
            scaled(tape_, linear(tape_, x, weight(prefix + "weights_proj.weight"), options_.conventions.weights_proj),
                   factor),
            DType::float32);
        return stage("indexer_logits", indexer_scores(tape_, q, k, w), DType::float32);
    }

    Var<P> experts(const std::string& prefix, const Var<P>& z, LayerReport<P>& report) {
        const Tensor<P>& stored = parameters_.at(prefix + "gate.e_score_correction_bias");
        Array<float> bias({stored.size()});
        for (Index e = 0; e < bias.size(); ++e) bias[e] = static_cast<float>(value_of(stored[e]));
        const auto named = [this, &prefix](const std::string& name) { return weight(prefix + name); };
        return mixture_of_experts(tape_, scope_, z, bias, config_.shared_experts > 0, config_.gate,
                                  options_.conventions, named, &report.visits);
    }

    const Parameters<P>& parameters_;
    const ModelConfig& config_;
    const ForwardOptions& options_;
    Tape<P> tape_;
    std::string scope_;  // of the layer that is at work
    std::shared_ptr<const Rope<P>> turn_;
    std::map<std::string, Var<P>> leaves_;
    std::vector<Var<P>> kl_losses_;
};

// Much to compile, and compiled once: by ops/training_step.cpp and by train.cpp.
extern template class Forward<Exact>;
extern template class Forward<Trained>;

}  // namespace dsa
