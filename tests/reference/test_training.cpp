// Is each gradient the derivative of its loss? Is the trained model the reference's model? Float64, differences, and
// the reference's other formulas say so.
#include <doctest/doctest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "reference/files/safetensors.h"
#include "reference/model/checkpoint.h"
#include "reference/training/attention_target.h"
#include "reference/training/indexer_kl_loss.h"
#include "reference/training/optimizer.h"
#include "reference/training/train.h"

namespace {

using namespace dsa;

constexpr Index T = 14;

ModelConfig tiny() {
    ModelConfig c;
    c.vocabulary = 11;
    c.D = 16;
    c.layers = 2;
    c.heads = 2;
    c.R_q = 8;
    c.R_kv = 8;
    c.d_nope = 4;
    c.d_rope = 4;
    c.d_v = 6;
    c.H_I = 2;
    c.D_I = 8;
    c.topk = 5;
    c.dense_layers = 1;
    c.dense_width = 12;
    c.experts = 4;
    c.expert_width = 6;
    c.shared_experts = 1;
    c.gate = {2, 1, 2, 1.7, true};
    c.rope.max_context = 64;
    c.rope.original_context = 16;
    c.rope.factor = 4.0;
    return c;
}

struct Question {
    ModelConfig config = tiny();
    Parameters<Exact> parameters = initial_parameters<Exact>(config, 5);
    Array<std::int32_t> tokens{{T}};
    Array<std::int32_t> targets{{T}};

    Question() {
        // Norms of 1 and biases of 0 would hide a mistake in their gradients.
        for (auto& [name, tensor] : parameters)
            if (tensor.rank() == 1) {
                const RandomTensor random{9, static_cast<std::uint32_t>(name.size())};
                for (Index i = 0; i < tensor.size(); ++i)
                    tensor[i] += bell_sample(random, bell_constant(0.2), static_cast<std::uint64_t>(i));
            }
        const RandomTensor random{3, 1};
        for (Index t = 0; t < T; ++t) {
            tokens[t] = static_cast<std::int32_t>(random.below(11, static_cast<std::uint64_t>(t)));
            targets[t] =
                t % 5 == 3 ? -1 : static_cast<std::int32_t>(random.below(11, static_cast<std::uint64_t>(t), 1));
        }
    }
    ForwardResult<Exact> run(const ForwardOptions& options) const {
        return Forward<Exact>(parameters, config, options).run(tokens, targets);
    }
};

ForwardOptions learning(Selection selection, bool main, bool indexer) {
    ForwardOptions options;
    options.selection = selection;
    options.main_learns = main;
    options.indexer_learns = indexer;
    return options;
}

double summed_kl(const ForwardResult<Exact>& result) {
    double kl = 0.0;
    for (const auto& layer : result.layers) kl += layer.kl.kl;
    return kl;
}

// Central differences of f at three elements of every parameter that has a gradient. The truncation is h^2 f'''/6 and
// the rounding 2^-52 f / h: at h = 1e-5 both are near 1e-10, and derivatives of order 1 keep 6 digits with room to
// spare.
template <class Loss>
void check_gradients(Question& question, const Parameters<Exact>& gradients, const Loss& loss) {
    constexpr double h = 1e-5;
    for (const auto& [name, gradient] : gradients) {
        Tensor<Exact>& tensor = question.parameters.at(name);
        REQUIRE(gradient.shape() == tensor.shape());
        for (const Index i : {Index{0}, tensor.size() / 2, tensor.size() - 1}) {
            const double x = tensor[i];
            tensor[i] = x + h;
            const double up = loss();
            tensor[i] = x - h;
            const double down = loss();
            tensor[i] = x;
            const double difference = (up - down) / (2 * h);
            INFO(name, "[", i, "]: gradient ", gradient[i], ", difference ", difference);
            CHECK(std::fabs(gradient[i] - difference) <= 1e-8 + 1e-6 * std::fabs(difference));
        }
    }
}

Parameters<Exact> gradients_of(const Question& question, const ForwardOptions& options) {
    Forward<Exact> model(question.parameters, question.config, options);
    return model.gradients(model.run(question.tokens, question.targets).loss);
}

Parameters<Exact> part(const Parameters<Exact>& all, bool indexer) {
    Parameters<Exact> some;
    for (const auto& [name, tensor] : all)
        if (belongs_to_indexer(name) == indexer) some.emplace(name, tensor);
    return some;
}

}  // namespace

TEST_CASE("the language loss has these derivatives, in dense and in sparse attention") {
    for (const Selection selection : {Selection::dense, Selection::indexer, Selection::window}) {
        Question question;
        const ForwardOptions options = learning(selection, true, false);
        const Parameters<Exact> gradients = gradients_of(question, options);
        for (const auto& [name, shape] : tensor_shapes(question.config))
            if (name.find(".experts.") == std::string::npos)  // an expert that nobody visited has none
                CHECK(gradients.contains(name) == (!belongs_to_indexer(name) && !is_balance_bias(name)));
        check_gradients(question, gradients, [&] { return question.run(options).language_loss; });
    }
}

TEST_CASE("the indexer's loss has these derivatives, over all positions and over the selected ones") {
    for (const bool hadamard : {true, false})
        for (const Selection selection : {Selection::dense, Selection::indexer})
            for (const SparseKlTarget target : {SparseKlTarget::softmax_on_set, SparseKlTarget::renormalised}) {
                Question question;
                ForwardOptions options = learning(selection, false, true);
                options.conventions.hadamard = hadamard;
                options.conventions.sparse_kl_target = target;
                const Parameters<Exact> gradients = gradients_of(question, options);
                CHECK(gradients.size() == 5 * 2);  // wq_b, wk, k_norm's weight and bias, weights_proj, of two layers
                check_gradients(question, gradients, [&] { return summed_kl(question.run(options)); });
            }
}

TEST_CASE("nothing of the indexer's loss reaches the main model, and with the known leak it does") {
    const Question question;
    const Parameters<Exact> language = gradients_of(question, learning(Selection::indexer, true, false));
    ForwardOptions both = learning(Selection::indexer, true, true);
    const Parameters<Exact> main = part(gradients_of(question, both), false);
    REQUIRE(main.size() == language.size());
    for (const auto& [name, g] : main) CHECK(g.matrix() == language.at(name).matrix());
    const Parameters<Exact> indexer = part(gradients_of(question, both), true);
    const Parameters<Exact> alone = gradients_of(question, learning(Selection::indexer, false, true));
    for (const auto& [name, g] : indexer) CHECK(g.matrix() == alone.at(name).matrix());

    both.leaks = true;
    const Parameters<Exact> leaked = gradients_of(question, both);
    CHECK(leaked.at("model.embed_tokens.weight").matrix() != language.at("model.embed_tokens.weight").matrix());
    CHECK(leaked.at("model.layers.1.self_attn.q_a_proj.weight").matrix() !=
          language.at("model.layers.1.self_attn.q_a_proj.weight").matrix());
    // What comes after the last indexer is not reached even so.
    CHECK(leaked.at("lm_head.weight").matrix() == language.at("lm_head.weight").matrix());
}

TEST_CASE("the model on the tape is the reference's model") {
    Question question;
    std::map<std::string, StoredTensor> stored;
    for (auto& [name, tensor] : question.parameters) {
        for (Index i = 0; i < tensor.size(); ++i) tensor[i] = static_cast<float>(tensor[i]);
        stored.emplace(name, store(tensor, DType::float32));
    }
    const std::filesystem::path path =
        std::filesystem::temp_directory_path() / "touchstone_test_training.safetensors";
    write_safetensors(path, stored);
    const ModelWeights weights = load_model(std::make_shared<const Checkpoint>(path), question.config);
    Conventions conventions = preset("deepseek-v3.2-exp");
    ModelCache<Exact> cache;
    const ModelOutput<Exact> reference =
        transformer<Exact>(question.tokens, cache, weights, question.config, conventions, {});
    std::filesystem::remove(path);

    ForwardOptions options = learning(Selection::indexer, true, true);
    options.conventions = conventions;
    const ForwardResult<Exact> own = question.run(options);
    // Two orders of the same sums in float64, through two layers.
    const double error = (own.logits->value().matrix() - reference.logits.matrix()).cwiseAbs().maxCoeff();
    CHECK(error <= 1e-12 * reference.logits.matrix().cwiseAbs().maxCoeff());
    CHECK(own.layers[0].pairs == 5 * T - 10);  // 1 + 2 + 3 + 4 + 5 (T - 4)
}

TEST_CASE("float32 gradients are those of float64, nearly") {
    const Question question;
    Parameters<Trained> narrow;
    for (const auto& [name, tensor] : question.parameters) {
        Tensor<Trained> n(tensor.shape());
        n.matrix() = tensor.matrix().cast<float>();
        narrow.emplace(name, std::move(n));
    }
    const ForwardOptions options = learning(Selection::dense, true, true);
    Forward<Trained> model(narrow, question.config, options);
    const Parameters<Trained> gradients = model.gradients(model.run(question.tokens, question.targets).loss);
    const Parameters<Exact> exact = gradients_of(question, options);
    for (const auto& [name, g] : gradients) {
        const double largest = exact.at(name).matrix().cwiseAbs().maxCoeff();
        const double error = (g.matrix().cast<double>() - exact.at(name).matrix()).cwiseAbs().maxCoeff();
        // Some hundred roundings of 2^-24 each, of numbers that cancel to a tenth of their size: 100 * 10 * 2^-24.
        INFO(name, ": ", error, " of ", largest);
        CHECK(error <= 1000 * 0x1p-24 * largest);
    }
}

TEST_CASE("the KL on the tape is the op indexer_kl_loss, gradients and all") {
    using Real = double;
    const Index H_I = 3;
    const Index D_I = 8;
    const auto random = [](Shape shape, std::uint32_t id) {
        Tensor<Exact> x(std::move(shape));
        for (Index i = 0; i < x.size(); ++i)
            x[i] = bell_sample({7, id}, bell_constant(1.0), static_cast<std::uint64_t>(i));
        return x;
    };
    const Tensor<Exact> q_attention = random({T, 2, 6}, 1);
    const Tensor<Exact> kv = random({T, 6}, 2);
    Tensor<Exact> q = random({T, H_I, D_I}, 3);
    const Tensor<Exact> k = random({T, D_I}, 4);
    const Tensor<Exact> w = random({T, H_I}, 5);
    const Tensor<Exact> target = attention_target(q_attention, kv, 0.3);
    Conventions conventions;
    conventions.kl_reduction = KlReduction::mean;
    conventions.kl_coefficient = 0.7;

    const auto compare = [&](const Tensor<Exact>& on_tape_target, const Allowed& allowed,
                             const std::vector<KlCandidates<Exact>>& candidates) {
        const IndexerKl<Exact> op = indexer_kl_loss(q, k, w, candidates, conventions);
        Tape<Exact> tape;
        Tensor<Exact> flat = q;
        flat.reshape({T, H_I * D_I});
        const Var<Exact> tq = tape.leaf(flat, true);
        const Var<Exact> tk = tape.leaf(k, true);
        const Var<Exact> tw = tape.leaf(w, true);
        const KlLoss<Exact> kl = indexer_kl(tape, indexer_scores(tape, tq, tk, tw), on_tape_target, allowed, 0.7 / T);
        tape.backward(kl.loss);
        const Real bound = 1e-12;
        CHECK(std::fabs(kl.loss->value()[0] - op.loss[0]) <= bound);
        CHECK((tq->gradient().matrix() - ConstMatrixView<Real>(op.dq.data(), T, H_I * D_I)).cwiseAbs().maxCoeff() <=
              bound);
        CHECK((tk->gradient().matrix() - op.dk.matrix()).cwiseAbs().maxCoeff() <= bound);
        CHECK((tw->gradient().matrix() - op.dweights.matrix()).cwiseAbs().maxCoeff() <= bound);
    };
    compare(target, {}, causal_candidates(target));

    const Array<std::int32_t> indices = causal_top_k(random({T, T}, 6), 5);
    const Tensor<Exact> of_set = attention_target(q_attention, kv, indices, 0.3, SparseKlTarget::renormalised);
    compare(renormalised(target, allowed_pairs(indices)), allowed_pairs(indices),
            selected_candidates(of_set, indices, T));
}

TEST_CASE("selections: none sees the future, each has k, the oracle's is the best") {
    const Question question;
    double best = 0.0;
    for (const Selection selection : {Selection::oracle, Selection::indexer, Selection::random, Selection::window}) {
        ForwardOptions options = learning(selection, false, false);
        options.measures = true;
        Forward<Exact> model(question.parameters, question.config, options);
        double recall_of_first = 0.0;
        model.view = [&](const LayerView<Exact>& view) {
            for (Index t = 0; t < T; ++t) {
                CHECK(view.allowed.row(t).cast<Index>().sum() == std::min<Index>(t + 1, 5));
                CHECK(view.allowed.row(t).tail(T - t - 1).cast<Index>().sum() == 0);
                if (selection == Selection::window) CHECK(view.allowed(t, t) == 1);
            }
            if (view.layer == 0) recall_of_first = recall_of_mass(view.dense, view.allowed);
        };
        model.run(question.tokens, question.targets);
        // Of the first layer, whose input is the same for all.
        if (selection == Selection::oracle) best = recall_of_first;
        CHECK(recall_of_first <= best);
        CHECK(recall_of_first > 0.0);
    }
}

TEST_CASE("AdamW by hand: two steps of one number") {
    Parameters<Exact> parameters;
    parameters.emplace("a", Tensor<Exact>({1, 1}, 2.0));
    Parameters<Exact> gradients;
    gradients.emplace("a", Tensor<Exact>({1, 1}, 0.5));
    AdamW<Exact> optimizer({0.9, 0.95, 1e-8, 0.1, 1.0});
    optimizer.step(parameters, gradients, 0.01, 0.5);
    // m^ = g, v^ = g^2: the first step is the rate's, and the decay's.
    CHECK(parameters.at("a")[0] == doctest::Approx(2.0 - 0.01 * (0.5 / (0.5 + 1e-8) + 0.1 * 2.0)).epsilon(1e-14));
    const double w = parameters.at("a")[0];
    gradients.at("a")[0] = -3.0;  // clipped to -1
    optimizer.step(parameters, gradients, 0.01, 0.5);
    const double m = (0.9 * 0.1 * 0.5 + 0.1 * -1.0) / (1 - 0.81);
    const double v = (0.95 * 0.05 * 0.25 + 0.05 * 1.0) / (1 - 0.9025);
    CHECK(parameters.at("a")[0] == doctest::Approx(w - 0.01 * (m / (std::sqrt(v) + 1e-8) + 0.1 * w)).epsilon(1e-14));
}

TEST_CASE("the schedule grows, stays, and falls along a cosine") {
    const Schedule s{1.0, 100, 10, 0.5, 0.1};
    CHECK(s.at(0) == doctest::Approx(0.1));
    CHECK(s.at(9) == 1.0);
    CHECK(s.at(50) == 1.0);
    CHECK(s.at(75) == doctest::Approx(0.55));
    CHECK(s.at(100) == doctest::Approx(0.1));
    CHECK(Schedule{1.0, 100, 0, 1.0, 0.1}.at(99) == 1.0);
}

TEST_CASE("an expert with more than its share loses bias, one with less gains") {
    Tensor<Exact> bias({4});
    balance(bias, {5, 1, 2, 0}, 0.25);
    CHECK(bias[0] == -0.25);
    CHECK(bias[1] == 0.25);
    CHECK(bias[2] == 0.0);
    CHECK(bias[3] == 0.25);
}
