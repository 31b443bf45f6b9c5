// The whole model on the tape, in its three stages: dense, dense with the indexer learning (warm-up), and sparse.
// DeepSeek-V3.2-Exp report, section 2.1; spec section 7. Names are Hugging Face's; the formulas are those of
// reference/model/transformer.h, which the tests hold this against.
#pragma once

#include <map>

#include "reference/model/config.h"
#include "reference/numerics/philox.h"
#include "reference/training/attention.h"
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
    Conventions conventions;
};

template <class P>
struct LayerReport {
    KlNumbers kl;
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
    Var<P> loss;    // [1]: language loss (if the main model learns) + the indexer's (if it does), all layers
    Var<P> logits;  // [T, V]
    double language_loss = 0.0;  // nats a token
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
            made_up(t, s) =
                selection == Selection::window
                    ? static_cast<typename P::Real>(s)
                    : static_cast<typename P::Real>(lot.below(1U << 24, static_cast<std::uint64_t>(t * T + s)));
    return causal_top_k(made_up, k);
}

template <class P>
class Forward {
   public:
    Forward(const Parameters<P>& parameters, const ModelConfig& config, const ForwardOptions& options)
        : parameters_(parameters), config_(config), options_(options) {}

    std::function<void(const LayerView<P>&)> view;  // called for each layer, if there

    // tokens: [T]  targets: [T], what comes next; negative where it does not count
    ForwardResult<P> run(const Array<std::int32_t>& tokens, const Array<std::int32_t>& targets) {
        const Index T = tokens.size();
        Array<std::int32_t> positions({T});
        for (Index t = 0; t < T; ++t) positions[t] = static_cast<std::int32_t>(t);
        turn_ = std::make_shared<const Rope<P>>(config_.rope, config_.d_rope, positions);

        ForwardResult<P> result;
        Var<P> hidden = embedding(tape_, weight("model.embed_tokens.weight"), tokens);
        for (Index layer = 0; layer < config_.layers; ++layer) hidden = block(layer, hidden, result);
        const Var<P> last = rms_norm(tape_, hidden, weight("model.norm.weight"), config_.norm_eps);
        const std::string head = config_.tied_embedding ? "model.embed_tokens.weight" : "lm_head.weight";
        result.logits = linear(tape_, last, weight(head));
        const Var<P> language = cross_entropy(tape_, result.logits, targets);
        result.language_loss = static_cast<double>(language->value()[0]);
        result.loss = language;
        if (!options_.main_learns) result.loss = tape_.leaf(Tensor<P>({1}), false);
        for (const Var<P>& kl : kl_losses_) result.loss = add(tape_, result.loss, kl);
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
        LayerReport<P> report;
        const Var<P> x = rms_norm(tape_, hidden, weight(prefix + "input_layernorm.weight"), config_.norm_eps);
        const Var<P> middle = add(tape_, hidden, dsa_attention(layer, prefix + "self_attn.", x, report));
        const Var<P> z =
            rms_norm(tape_, middle, weight(prefix + "post_attention_layernorm.weight"), config_.norm_eps);
        const auto named = [this](const std::string& name) { return weight(name); };
        const Var<P> y = layer < config_.dense_layers ? feed_forward(tape_, z, prefix + "mlp.", named)
                                                      : experts(prefix + "mlp.", z, report);
        result.layers.push_back(std::move(report));
        return add(tape_, middle, y);
    }

    Var<P> dsa_attention(Index layer, const std::string& prefix, const Var<P>& x, LayerReport<P>& report) {
        const ModelConfig& c = config_;
        const HeadSizes sizes{c.heads, c.d_nope, c.d_rope, c.d_v};
        const Var<P> c_q = rms_norm(tape_, linear(tape_, x, weight(prefix + "q_a_proj.weight")),
                                    weight(prefix + "q_a_layernorm.weight"), c.norm_eps);
        const Var<P> q = rope(tape_, linear(tape_, c_q, weight(prefix + "q_b_proj.weight")), turn_, sizes.d_q(),
                              c.d_nope, c.d_rope, RopeLayout::interleaved);
        const Var<P> latent = linear(tape_, x, weight(prefix + "kv_a_proj_with_mqa.weight"));
        const Var<P> c_kv =
            rms_norm(tape_, columns(tape_, latent, 0, c.R_kv), weight(prefix + "kv_a_layernorm.weight"), c.norm_eps);
        const Var<P> k_rope = rope(tape_, columns(tape_, latent, c.R_kv, c.d_rope), turn_, c.d_rope, 0, c.d_rope,
                                   RopeLayout::interleaved);
        const Var<P> kv = linear(tape_, c_kv, weight(prefix + "kv_b_proj.weight"));

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
            allowed = allowed_pairs(selected_by(options_.selection, scores->value(), dense, c.topk,
                                                {options_.lot, static_cast<std::uint32_t>(layer)}));
        const Attended<P> attended = attention(tape_, q, kv, k_rope, sizes, c.scale(), allowed, wants_dense);

        if (options_.indexer_learns || options_.measures) {
            const Tensor<P> target = renormalises ? renormalised(attended.dense, allowed) : attended.target;
            Tape<P> aside;
            const KlLoss<P> kl = indexer_kl(options_.indexer_learns ? tape_ : aside, scores, target, allowed,
                                            options_.conventions.kl_coefficient);
            report.kl = kl.numbers;
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
        return linear(tape_, attended.out, weight(prefix + "o_proj.weight"));
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
        const double factor = 1.0 / std::sqrt(static_cast<double>(c.H_I) * static_cast<double>(c.D_I));
        return indexer_scores(tape_, q, k,
                              scaled(tape_, linear(tape_, x, weight(prefix + "weights_proj.weight")), factor));
    }

    Var<P> experts(const std::string& prefix, const Var<P>& z, LayerReport<P>& report) {
        const Tensor<P>& stored = parameters_.at(prefix + "gate.e_score_correction_bias");
        Array<float> bias({stored.size()});
        for (Index e = 0; e < bias.size(); ++e) bias[e] = static_cast<float>(stored[e]);
        const Var<P> scores = sigmoid(tape_, linear(tape_, z, weight(prefix + "gate.weight")));
        const Array<std::int32_t> chosen = chosen_experts(scores->value(), bias, config_.gate, options_.conventions);
        const Var<P> weights = expert_weights(tape_, scores, chosen, config_.gate, options_.conventions);

        std::vector<std::vector<Visit>> visits(static_cast<std::size_t>(config_.experts));
        for (Index t = 0; t < chosen.dim(0); ++t)
            for (Index i = 0; i < chosen.dim(1); ++i)
                visits[static_cast<std::size_t>(chosen(t, i))].push_back({t, i});
        const auto named = [this](const std::string& name) { return weight(name); };
        std::vector<Var<P>> outs(visits.size());
        for (std::size_t e = 0; e < visits.size(); ++e) {
            report.visits.push_back(static_cast<std::int64_t>(visits[e].size()));
            if (!visits[e].empty())
                outs[e] = feed_forward(tape_, visiting_rows(tape_, z, visits[e]),
                                       prefix + "experts." + std::to_string(e) + ".", named);
        }
        const Var<P> routed = weighted_experts(tape_, outs, visits, weights, z->value().dim(1));
        if (config_.shared_experts == 0) return routed;
        return add(tape_, routed, feed_forward(tape_, z, prefix + "shared_experts.", named));
    }

    const Parameters<P>& parameters_;
    const ModelConfig& config_;
    const ForwardOptions& options_;
    Tape<P> tape_;
    std::shared_ptr<const Rope<P>> turn_;
    std::map<std::string, Var<P>> leaves_;
    std::vector<Var<P>> kl_losses_;
};

}  // namespace dsa
