#include "reference/cases/fill.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "reference/attention/kv_cache.h"
#include "reference/conventions.h"
#include "reference/numerics/philox.h"
#include "reference/refusal.h"

namespace dsa {

using nlohmann::json;

namespace {

enum class Kind {
    normal,
    outliers,
    uniform,
    levels,
    constant,
    integers,
    arange,  // element i depends on i alone
    values,
    permutation,
    selection,
    crowded,
    kv_pages,
    key_pages  // made as a whole
};

// low + width * u, u in [0, 1) a multiple of 2^-24.
struct Interval {
    float low = 0.0F;
    float width = 0.0F;
    float at(std::uint32_t word) const { return low + width * (static_cast<float>(word >> 8) * 0x1p-24F); }
};

// `count` elements from `first`, each set to `value` after the fill.
struct Patch {
    Index first = 0;
    Index count = 0;
    double value = 0.0;
};

constexpr double float32_max = std::numeric_limits<float>::max();
constexpr Index largest_exact_whole = Index{1} << 53;  // float64 holds every whole number up to it

}  // namespace

struct FillRecipe {
    std::string name;
    DType dtype = DType::float32;
    Shape shape;
    Index size = 0;
    Kind kind = Kind::constant;
    RandomTensor random;
    std::vector<Patch> patches;

    float deviation = 0.0F;      // normal, outliers and pages: bell_constant(std)
    float mean = 0.0F;           // normal
    float factor = 1.0F;         // outliers
    std::uint64_t count = 1;     // outliers: one in; levels, integers, permutation: how many; crowded: columns
    Interval interval;           // uniform; crowded: the chosen columns
    Interval rest;               // crowded: the other columns
    double start = 0.0;          // integers: the lowest; arange
    double step = 1.0;           // arange
    std::vector<double> values;  // values, levels; constant: one
    Index context = 0;           // selection: S
    Index at_most = 0;
    bool causal = true;
    bool drawn_order = false;
    KvTokenLayout kv;   // kv_pages
    KeyPageLayout key;  // key_pages
    Quantizer quantizer = Quantizer::none;
    ScaleFormat scale_format = ScaleFormat::float32;

    Index cols() const { return shape.empty() ? 1 : shape.back(); }
    Index rows() const { return cols() == 0 ? 0 : size / cols(); }
};

std::uint32_t tensor_id(std::string_view name) {
    std::uint32_t hash = 2166136261U;
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
    return hash;
}

namespace {

// ---------------------------------------------------------------------------------------------------------------
// Making elements

// What float32 becomes when it is stored as e4m3 and read back: to_float(to_e4m3(x)) without branches, so
// that a loop over it runs on vectors.
inline float through_e4m3(float x) {
    const float magnitude = std::fabs(x);
    // Normal numbers keep 3 mantissa bits: drop 20, rounding to nearest, ties to even.
    const auto bits = std::bit_cast<std::uint32_t>(magnitude);
    const float normal = std::bit_cast<float>((bits + 0x7ffff + ((bits >> 20) & 1)) & 0xfff00000U);
    // Subnormal ones are multiples of 2^-9, the spacing of float32 between 2^14 and 2^15.
    const float subnormal = (magnitude + 0x1.8p14F) - 0x1.8p14F;
    const float rounded = magnitude < 0x1p-6F ? subnormal : normal;
    const float saturated = magnitude < e4m3_max ? rounded : e4m3_max;
    return x != x ? x : std::copysign(saturated, x);
}

void round_into(DType dtype, Index count, float* x) {
    if (dtype == DType::bfloat16)
        for (Index i = 0; i < count; ++i) x[i] = through_bfloat16(x[i]);
    if (dtype == DType::float8_e4m3)
        for (Index i = 0; i < count; ++i) x[i] = through_e4m3(x[i]);
}

// The four words of `lanes` consecutive Philox blocks, side by side: philox() of philox.h in vectors.
template <int lanes>
struct Words {
    alignas(64) std::uint32_t word[4][lanes];

    Words(const RandomTensor& random, Index first, std::uint32_t stream) {
        for (int j = 0; j < lanes; ++j) {
            const auto element = static_cast<std::uint64_t>(first + j);
            word[0][j] = static_cast<std::uint32_t>(element);
            word[1][j] = static_cast<std::uint32_t>(element >> 32);
            word[2][j] = random.tensor;
            word[3][j] = stream;
        }
        auto key_low = static_cast<std::uint32_t>(random.seed);
        auto key_high = static_cast<std::uint32_t>(random.seed >> 32);
        for (int round = 0; round < 10; ++round) {
            for (int j = 0; j < lanes; ++j) {
                const std::uint64_t product_0 = std::uint64_t{0xD2511F53} * word[0][j];
                const std::uint64_t product_1 = std::uint64_t{0xCD9E8D57} * word[2][j];
                word[0][j] = static_cast<std::uint32_t>(product_1 >> 32) ^ word[1][j] ^ key_low;
                word[1][j] = static_cast<std::uint32_t>(product_1);
                word[2][j] = static_cast<std::uint32_t>(product_0 >> 32) ^ word[3][j] ^ key_high;
                word[3][j] = static_cast<std::uint32_t>(product_0);
            }
            key_low += 0x9E3779B9;
            key_high += 0xBB67AE85;
        }
    }

    // bell() of philox.h
    float bell(int j) const {
        std::int32_t sum = -262140;
        for (const auto& w : word)
            sum += static_cast<std::int32_t>(w[j] & 0xffff) + static_cast<std::int32_t>(w[j] >> 16);
        return static_cast<float>(sum);
    }
    // A whole number from 0 to count - 1; count may be 2^32.
    std::uint64_t below(int j, std::uint64_t count) const { return (word[0][j] * count) >> 32; }
};

// Elements first ... first + lanes - 1, before they are rounded into the dtype.
template <int lanes, class T>
void make(const FillRecipe& r, Index first, T* out) {
    if (r.kind == Kind::constant) {
        for (int j = 0; j < lanes; ++j) out[j] = static_cast<T>(r.values[0]);
        return;
    }
    if (r.kind == Kind::arange) {
        for (int j = 0; j < lanes; ++j) out[j] = static_cast<T>(r.start + r.step * static_cast<double>(first + j));
        return;
    }
    const Words<lanes> words(r.random, first, 0);
    switch (r.kind) {
        case Kind::normal:
            for (int j = 0; j < lanes; ++j) out[j] = static_cast<T>(words.bell(j) * r.deviation);
            if (r.mean != 0.0F)
                for (int j = 0; j < lanes; ++j) out[j] = static_cast<T>(static_cast<float>(out[j]) + r.mean);
            break;
        case Kind::outliers: {
            const Words<lanes> chance(r.random, first, 1);
            for (int j = 0; j < lanes; ++j) {
                const float x = words.bell(j) * r.deviation;
                out[j] = static_cast<T>(chance.below(j, r.count) == 0 ? x * r.factor : x);
            }
            break;
        }
        case Kind::uniform:
            for (int j = 0; j < lanes; ++j) out[j] = static_cast<T>(r.interval.at(words.word[0][j]));
            break;
        case Kind::levels:
            for (int j = 0; j < lanes; ++j) out[j] = static_cast<T>(r.values[words.below(j, r.count)]);
            break;
        case Kind::integers:
            for (int j = 0; j < lanes; ++j)
                out[j] = static_cast<T>(r.start + static_cast<double>(words.below(j, r.count)));
            break;
        default: refuse("tensor ", r.name, ": this fill does not make its elements one by one");
    }
}

// Many at once where there are many: one read is a row's segment, or a single element of a transposed weight.
template <class T>
void make_segment(const FillRecipe& r, Index first, Index count, T* out) {
    constexpr int lanes = 16;
    Index i = 0;
    for (; i + lanes <= count; i += lanes) make<lanes>(r, first + i, out + i);
    if (count - i < 4) {
        for (; i < count; ++i) make<1>(r, first + i, out + i);
    } else {
        std::array<T, lanes> tail;
        make<lanes>(r, first + i, tail.data());
        std::copy_n(tail.data(), count - i, out + i);
    }
}

// The `count` numbers j of 0 ... from - 1 with the smallest (w0 of element base + j, j), in that order.
std::vector<Index> draw(const RandomTensor& random, Index base, Index from, Index count, std::uint32_t stream) {
    std::vector<std::pair<std::uint32_t, Index>> ranks(static_cast<std::size_t>(from));
    for (Index j = 0; j < from; ++j)
        ranks[static_cast<std::size_t>(j)] = {random.block(static_cast<std::uint64_t>(base + j), stream)[0], j};
    std::partial_sort(ranks.begin(), ranks.begin() + count, ranks.end());
    std::vector<Index> drawn(static_cast<std::size_t>(count));
    std::transform(ranks.begin(), ranks.begin() + count, drawn.begin(), [](const auto& rank) { return rank.second; });
    return drawn;
}

Array<double> make_permutation(const FillRecipe& r) {
    const std::vector<Index> drawn = draw(r.random, 0, static_cast<Index>(r.count), r.size, 0);
    return Array<double>(r.shape, std::vector<double>(drawn.begin(), drawn.end()));
}

Array<double> make_selection(const FillRecipe& r) {
    Array<double> indices(r.shape, -1.0);
    for (Index row = 0; row < r.rows(); ++row) {
        const Index candidates = r.causal ? r.context - r.rows() + row + 1 : r.context;
        const Index chosen = std::min({r.cols(), r.at_most, candidates});
        std::vector<Index> drawn = draw(r.random, row * r.context, candidates, chosen, 2);
        if (!r.drawn_order) std::sort(drawn.begin(), drawn.end());
        for (std::size_t j = 0; j < drawn.size(); ++j)
            indices.row(row)(static_cast<Index>(j)) = static_cast<double>(drawn[j]);
    }
    return indices;
}

Array<double> make_crowded(const FillRecipe& r) {
    Array<double> x(r.shape);
    for (Index row = 0; row < r.rows(); ++row) {
        const Index first = row * r.cols();
        std::vector<bool> in_the_crowd(static_cast<std::size_t>(r.cols()));
        for (const Index col : draw(r.random, first, r.cols(), static_cast<Index>(r.count), 2))
            in_the_crowd[static_cast<std::size_t>(col)] = true;
        for (Index col = 0; col < r.cols(); ++col) {
            const Interval& interval = in_the_crowd[static_cast<std::size_t>(col)] ? r.interval : r.rest;
            x[first + col] =
                static_cast<double>(interval.at(r.random.block(static_cast<std::uint64_t>(first + col))[0]));
        }
    }
    return x;
}

// [64, cols]: the normal, bf16 tokens of one page.
Tensor<Deployed> page_of_tokens(const FillRecipe& r, Index page, Index cols) {
    Tensor<Deployed> tokens({page_tokens, cols});
    const Index first = page * tokens.size();
    for (Index i = 0; i < tokens.size(); ++i)
        tokens[i] = through_bfloat16(bell_sample(r.random, r.deviation, static_cast<std::uint64_t>(first + i)));
    return tokens;
}

Array<std::uint8_t> make_page(const FillRecipe& r, Index page) {
    if (r.kind == Kind::kv_pages)
        return pack_kv_pages(page_of_tokens(r, page, r.kv.R_kv + r.kv.d_rope), r.kv, r.quantizer, r.scale_format);
    const Tensor<Deployed> keys = page_of_tokens(r, page, r.key.D_I);
    const Quantized<Deployed> quantized = quantize(keys, r.quantizer, r.scale_format, r.key.D_I);
    return pack_key_pages(quantized.values, quantized.scale);
}

// ---------------------------------------------------------------------------------------------------------------
// Reading declarations

bool is_floating(DType dtype) {
    return dtype == DType::float64 || dtype == DType::float32 || dtype == DType::bfloat16 ||
           dtype == DType::float8_e4m3;
}

// The lowest and highest whole number of an integer dtype that a case may write.
std::pair<double, double> range_of(DType dtype) {
    switch (dtype) {
        case DType::boolean: return {0.0, 1.0};
        case DType::uint8: return {0.0, 255.0};
        case DType::int32: return {-2147483648.0, 2147483647.0};
        default: return {-static_cast<double>(largest_exact_whole), static_cast<double>(largest_exact_whole)};
    }
}

// `x` can be an element of the tensor.
void require_fits(double x, DType dtype, const std::string& who) {
    if (is_floating(dtype)) {
        const bool fits = dtype == DType::float64 || !std::isfinite(x) || std::fabs(x) <= float32_max;
        require(fits, who, ": ", x, " is beyond what ", name_of(dtype), " is made from, float32");
        return;
    }
    const auto [lowest, highest] = range_of(dtype);
    require(x >= lowest && x <= highest && x == std::trunc(x), who, ": ", x, " cannot be an element of a ",
            name_of(dtype), " tensor; it holds whole numbers from ", static_cast<Index>(lowest), " to ",
            static_cast<Index>(highest));
}

// A number, or "nan", "inf", "-inf", that can be an element of the tensor.
double element_value(const json& value, DType dtype, const std::string& who) {
    double x = std::numeric_limits<double>::quiet_NaN();
    if (value.is_number())
        x = value.get<double>();
    else if (value == "inf")
        x = std::numeric_limits<double>::infinity();
    else if (value == "-inf")
        x = -std::numeric_limits<double>::infinity();
    else
        require(value == "nan", who, ": a value must be a number, \"nan\", \"inf\" or \"-inf\"; it is ",
                value.dump());
    require_fits(x, dtype, who);
    return x;
}

// The whole numbers or values of a list, with its nesting checked: flat, or nested as the shape is.
void flatten(const json& list, const Shape& shape, std::size_t axis, DType dtype, const std::string& who,
             std::vector<double>& out) {
    if (axis == shape.size()) {
        out.push_back(element_value(list, dtype, who));
        return;
    }
    require(list.is_array() && static_cast<Index>(list.size()) == shape[axis], who,
            ": \"values\" must be a flat list, or nested as the shape ", to_string(shape), " is; axis ", axis,
            " has ", list.is_array() ? std::to_string(list.size()) + " entries" : list.dump());
    for (const json& entry : list) flatten(entry, shape, axis + 1, dtype, who, out);
}

// The parameters of one fill. Every one is asked for by name; `finish` refuses those that nobody asked for.
class Parameters {
   public:
    Parameters(const json& object, std::string who) : object_(object), who_(std::move(who)) {
        require(object.is_object(), who_, " must be an object of parameters; it is ", object.dump());
    }

    double number(const char* key) {
        const json& value = find(key);
        require(value.is_number() && std::fabs(value.get<double>()) <= float32_max, who_, ": \"", key,
                "\" must be a number within float32; it is ", value.dump());
        return value.get<double>();
    }
    double number(const char* key, double otherwise) { return has(key) ? number(key) : otherwise; }

    Index whole(const char* key, Index lowest, Index highest) {
        const json& value = find(key);
        // An unsigned number past 2^63 would turn negative as an Index.
        require(value.is_number_integer() && value.get<double>() <= static_cast<double>(largest_exact_whole) &&
                    value.get<Index>() >= lowest && value.get<Index>() <= highest,
                who_, ": \"", key, "\" must be a whole number from ", lowest, " to ", highest, "; it is ",
                value.dump());
        return value.get<Index>();
    }
    Index whole(const char* key, Index lowest, Index highest, Index otherwise) {
        return has(key) ? whole(key, lowest, highest) : otherwise;
    }

    bool flag(const char* key, bool otherwise) {
        if (!has(key)) return otherwise;
        const json& value = find(key);
        require(value.is_boolean(), who_, ": \"", key, "\" must be true or false; it is ", value.dump());
        return value.get<bool>();
    }

    template <class Enum>
    Enum choice(const char* key, std::initializer_list<std::pair<const char*, Enum>> choices) {
        const json& value = find(key);
        std::string known;
        for (const auto& [word, meaning] : choices) {
            if (value == word) return meaning;
            known += (known.empty() ? "\"" : ", \"") + std::string(word) + "\"";
        }
        refuse(who_, ": \"", key, "\" must be one of ", known, "; it is ", value.dump());
    }

    bool has(const char* key) {
        asked_ += (asked_.empty() ? "" : ", ") + std::string(key);
        keys_.emplace_back(key);
        return object_.contains(key);
    }
    const json& find(const char* key) {
        require(has(key), who_, " needs \"", key, "\"");
        return object_.at(key);
    }
    const std::string& who() const { return who_; }

    void finish() const {
        for (const auto& [key, value] : object_.items())
            require(std::find(keys_.begin(), keys_.end(), key) != keys_.end(), who_, " has no parameter \"", key,
                    "\"; it has ", asked_);
    }

   private:
    const json& object_;
    std::string who_;
    std::string asked_;
    std::vector<std::string> keys_;
};

Interval read_interval(Parameters& p, const char* low_key, const char* high_key) {
    const double low = p.number(low_key);
    const double high = p.number(high_key);
    require(low <= high, p.who(), ": \"", low_key, "\" must not be above \"", high_key, "\"; they are ", low, " and ",
            high);
    require(high - low <= float32_max, p.who(), ": \"", high_key, "\" - \"", low_key,
            "\" must be within float32; it is ", high - low);
    return {static_cast<float>(low), static_cast<float>(high - low)};
}

float read_deviation(Parameters& p) {
    const double std = p.number("std");
    require(std >= 0.0 && std <= 1e37, p.who(),
            ": \"std\" must be from 0 to 1e37, so that 5 of it are within float32; it is ", std);
    return bell_constant(std);
}

void read_quantizer(Parameters& p, FillRecipe& r) {
    r.quantizer = p.choice<Quantizer>("quantizer", {{"deepseek", Quantizer::deepseek},
                                                    {"flashmla", Quantizer::flashmla},
                                                    {"vllm", Quantizer::vllm},
                                                    {"no_floor", Quantizer::no_floor},
                                                    {"none", Quantizer::none}});
    r.scale_format =
        p.choice<ScaleFormat>("scale_format", {{"float32", ScaleFormat::float32}, {"ue8m0", ScaleFormat::ue8m0}});
    // A block of zeros would be 0 / 0, and the sign of that NaN differs between machines.
    require(r.quantizer != Quantizer::no_floor || p.number("std") >= 1e-25, p.who(),
            ": the quantizer \"no_floor\" needs a \"std\" of at least 1e-25; smaller ones can give blocks of zeros");
}

void require_page_shape(const FillRecipe& r, const Shape& page, const std::string& who) {
    Shape expected = page;
    expected.insert(expected.begin(), r.shape.empty() ? 1 : r.shape.front());
    require(r.dtype == DType::uint8 && r.shape == expected, who, " makes uint8 [pages",
            to_string(page).replace(0, 1, ", "), "; the tensor is ", name_of(r.dtype), " ", to_string(r.shape));
}

void require_floating(const FillRecipe& r, const std::string& who) {
    require(is_floating(r.dtype), who, " makes numbers that are not whole; the tensor is ", name_of(r.dtype),
            ". Use a floating dtype, or \"integers\"");
}

void read_fill(FillRecipe& r, const std::string& kind, const json& given, const std::string& who) {
    constexpr Index words = Index{1} << 32;
    if (kind == "constant") {
        r.kind = Kind::constant;
        r.values = {element_value(given, r.dtype, who)};
        return;
    }
    if (kind == "values") {
        r.kind = Kind::values;
        require(given.is_array(), who, " must be a list; it is ", given.dump());
        const bool nested = !given.empty() && given[0].is_array();
        flatten(given, nested ? r.shape : Shape{static_cast<Index>(given.size())}, 0, r.dtype, who, r.values);
        require(static_cast<Index>(r.values.size()) == r.size, who, ": the shape ", to_string(r.shape), " needs ",
                r.size, " values; there are ", r.values.size());
        return;
    }
    require(kind != "stored", who, " is a file that no recipe makes: put ", r.name,
            ".npy beside case.json, as `touchstone cases` does");
    Parameters p(given, who);
    if (kind == "normal") {
        r.kind = Kind::normal;
        require_floating(r, who);
        r.deviation = read_deviation(p);
        r.mean = static_cast<float>(p.number("mean", 0.0));
    } else if (kind == "outliers") {
        r.kind = Kind::outliers;
        require_floating(r, who);
        r.deviation = read_deviation(p);
        r.factor = static_cast<float>(p.number("factor"));
        r.count = static_cast<std::uint64_t>(p.whole("one_in", 1, words));
    } else if (kind == "uniform") {
        r.kind = Kind::uniform;
        require_floating(r, who);
        r.interval = read_interval(p, "low", "high");
    } else if (kind == "levels") {
        r.kind = Kind::levels;
        const json& list = p.find("values");
        require(list.is_array() && !list.empty(), who, ": \"values\" must be a list of at least one; it is ",
                list.dump());
        for (const json& value : list) r.values.push_back(element_value(value, r.dtype, who));
        r.count = r.values.size();
    } else if (kind == "integers") {
        r.kind = Kind::integers;
        const Index low = p.whole("low", -largest_exact_whole, largest_exact_whole);
        const Index high = p.whole("high", -largest_exact_whole, largest_exact_whole);
        require(low <= high && high - low < words, who,
                ": \"low\" must not be above \"high\", nor 2^32 or more below it; they are ", low, " and ", high);
        require_fits(static_cast<double>(low), r.dtype, who);
        require_fits(static_cast<double>(high), r.dtype, who);
        r.start = static_cast<double>(low);
        r.count = static_cast<std::uint64_t>(high - low + 1);
    } else if (kind == "arange") {
        r.kind = Kind::arange;
        r.start = p.number("start", 0.0);
        r.step = p.number("step", 1.0);
        const double last = r.start + r.step * static_cast<double>(std::max<Index>(r.size - 1, 0));
        require_fits(r.start, r.dtype, who);
        require_fits(last, r.dtype, who);
        require(is_floating(r.dtype) || r.step == std::trunc(r.step), who, ": \"step\" must be whole for a ",
                name_of(r.dtype), " tensor; it is ", r.step);
    } else if (kind == "permutation") {
        r.kind = Kind::permutation;
        r.count = static_cast<std::uint64_t>(p.whole("count", 0, Index{1} << 28));
        require(static_cast<Index>(r.count) >= r.size, who, ": \"count\" must be at least the tensor's ", r.size,
                " elements; it is ", r.count);
        if (r.count > 0) require_fits(static_cast<double>(r.count - 1), r.dtype, who);
    } else if (kind == "selection") {
        r.kind = Kind::selection;
        require((r.dtype == DType::int32 || r.dtype == DType::int64) && !r.shape.empty(), who,
                " makes positions and -1, int32 or int64 [..., k]; the tensor is ", name_of(r.dtype), " ",
                to_string(r.shape));
        r.context = p.whole("context", 0, Index{1} << 31);
        r.causal = p.flag("causal", true);
        r.at_most = p.whole("at_most", 0, largest_exact_whole, r.cols());
        if (p.has("order")) r.drawn_order = p.choice<bool>("order", {{"ascending", false}, {"drawn", true}});
        require(!r.causal || r.context >= r.rows(), who, ": a causal \"context\" must be at least the tensor's ",
                r.rows(), " rows; it is ", r.context);
    } else if (kind == "crowded") {
        r.kind = Kind::crowded;
        require_floating(r, who);
        require(!r.shape.empty(), who, " needs a tensor with at least one axis; the shape is []");
        r.count = static_cast<std::uint64_t>(p.whole("count", 0, largest_exact_whole));
        require(static_cast<Index>(r.count) <= r.cols(), who, ": \"count\" must be at most the last axis, ", r.cols(),
                "; it is ", r.count);
        r.interval = read_interval(p, "low", "high");
        r.rest = read_interval(p, "rest_low", "rest_high");
    } else if (kind == "kv_pages") {
        r.kind = Kind::kv_pages;
        r.kv.R_kv = p.whole("R_kv", 1, words, r.kv.R_kv);
        r.kv.d_rope = p.whole("d_rope", 0, words, r.kv.d_rope);
        require(r.kv.R_kv % r.kv.block() == 0, who, ": \"R_kv\" must be below 128, or a multiple of it; it is ",
                r.kv.R_kv);
        r.deviation = read_deviation(p);
        read_quantizer(p, r);
        require_page_shape(r, {page_tokens, r.kv.bytes()}, who);
    } else if (kind == "key_pages") {
        r.kind = Kind::key_pages;
        r.key.D_I = p.whole("D_I", 1, words, r.key.D_I);
        r.deviation = read_deviation(p);
        read_quantizer(p, r);
        require_page_shape(r, {r.key.bytes()}, who);
    } else {
        refuse("tensor ", r.name, ": there is no fill named \"", kind,
               "\"; there are normal, outliers, uniform, levels, constant, integers, arange, values, permutation, "
               "selection, crowded, kv_pages, key_pages, stored");
    }
    p.finish();
}

// entry[key]: [[place, value], ...], where a place covers `width` elements.
void read_patches(FillRecipe& r, const json& entry, const char* key, Index places, Index width) {
    if (!entry.contains(key)) return;
    const std::string who = "tensor " + r.name + ": \"" + key + "\"";
    const json& list = entry[key];
    require(list.is_array(), who, " must be a list of [place, value]; it is ", list.dump());
    for (const json& patch : list) {
        require(patch.is_array() && patch.size() == 2, who, " must be a list of [place, value]; it has ",
                patch.dump());
        const json& place = patch[0];
        require(place.is_number_integer() && place.get<double>() >= 0.0 &&
                    place.get<double>() < static_cast<double>(places),
                who, ": a place must be a whole number from 0 to ", places - 1, "; it is ", place.dump());
        r.patches.push_back({place.get<Index>() * width, width, element_value(patch[1], r.dtype, who)});
    }
}

Shape read_shape(const json& entry, const std::string& name) {
    require(entry.contains("shape") && entry["shape"].is_array(), "tensor ", name,
            " needs a \"shape\", a list of whole numbers");
    Shape shape;
    double size = 1.0;
    for (const json& extent : entry["shape"]) {
        require(extent.is_number_integer() && extent.get<double>() >= 0.0 && extent.get<double>() <= 0x1p40,
                "tensor ", name, ": the shape must be whole numbers from 0 to 2^40; it has ", extent.dump());
        shape.push_back(extent.get<Index>());
        size *= std::max(extent.get<double>(), 1.0);
        require(size <= 0x1p53, "tensor ", name, ": the shape ", entry["shape"].dump(),
                " has more than 2^53 elements");
    }
    return shape;
}

}  // namespace

Fill Fill::from_json(const json& tensor_entry, const std::string& name, std::uint64_t seed) {
    require(tensor_entry.is_object(), "tensor ", name, " must be an object with dtype, shape and fill; it is ",
            tensor_entry.dump());
    for (const auto& [key, value] : tensor_entry.items())
        require(key == "dtype" || key == "shape" || key == "fill" || key == "set_rows" || key == "set", "tensor ",
                name, " has no entry \"", key, "\"; it has dtype, shape, fill, set_rows, set");
    FillRecipe r;
    r.name = name;
    r.random = {seed, tensor_id(name)};
    require(tensor_entry.contains("dtype") && tensor_entry["dtype"].is_string(), "tensor ", name,
            " needs a \"dtype\"");
    r.dtype = dtype_from_name(tensor_entry["dtype"]);
    r.shape = read_shape(tensor_entry, name);
    r.size = element_count(r.shape);
    require(tensor_entry.contains("fill") && tensor_entry["fill"].is_object() && tensor_entry["fill"].size() == 1,
            "tensor ", name, " needs a \"fill\", an object with one entry: the fill's name");
    const auto fill = tensor_entry["fill"].begin();
    read_fill(r, fill.key(), fill.value(), "tensor " + name + ": \"" + fill.key() + "\"");
    read_patches(r, tensor_entry, "set_rows", r.rows(), r.cols());
    read_patches(r, tensor_entry, "set", r.size, 1);
    return Fill(std::make_shared<const FillRecipe>(std::move(r)));
}

const std::string& Fill::name() const { return recipe_->name; }
DType Fill::dtype() const { return recipe_->dtype; }
const Shape& Fill::shape() const { return recipe_->shape; }
bool Fill::lazy() const { return recipe_->kind <= Kind::arange; }

void Fill::read(Index first, Index count, float* out) const {
    const FillRecipe& r = *recipe_;
    require(first >= 0 && count >= 0 && count <= r.size - first, "tensor ", r.name, " has elements 0 to ", r.size - 1,
            "; asked for ", first, " to ", first + count - 1);
    make_segment(r, first, count, out);
    round_into(r.dtype, count, out);
    for (const Patch& patch : r.patches) {
        auto value = static_cast<float>(patch.value);
        round_into(r.dtype, 1, &value);
        const Index begin = std::max(first, patch.first);
        const Index end = std::min(first + count, patch.first + patch.count);
        for (Index i = begin; i < end; ++i) out[i - first] = value;
    }
}

float Fill::element(Index i) const {
    float value = 0.0F;
    read(i, 1, &value);
    return value;
}

Weight Fill::as_weight(Index rows, Index cols, Index base_index) const {
    require(lazy(), "tensor ", name(),
            ": its fill does not make elements one by one, so it cannot be a generated weight");
    require(rows >= 0 && cols >= 0 && base_index >= 0 && base_index + rows * cols <= size(), "tensor ", name(),
            " has ", size(), " elements; a weight of ", rows, " x ", cols, " from element ", base_index,
            " needs more");
    return Weight(name(), rows, cols,
                  [fill = *this, cols, base_index](Index row, Index first, Index count, float* out) {
                      fill.read(base_index + row * cols + first, count, out);
                  });
}

StoredTensor Fill::materialise() const {
    const FillRecipe& r = *recipe_;
    StoredTensor tensor{r.dtype, r.shape, {}};
    const auto append = [&](const StoredTensor& part) {
        tensor.bytes.insert(tensor.bytes.end(), part.bytes.begin(), part.bytes.end());
    };
    tensor.bytes.reserve(static_cast<std::size_t>(r.size) * size_of(r.dtype));
    switch (r.kind) {
        case Kind::values: append(store(Array<double>(r.shape, r.values), r.dtype)); break;
        case Kind::permutation: append(store(make_permutation(r), r.dtype)); break;
        case Kind::selection: append(store(make_selection(r), r.dtype)); break;
        case Kind::crowded: append(store(make_crowded(r), r.dtype)); break;
        case Kind::kv_pages:
        case Kind::key_pages:
            for (Index page = 0; page < r.shape.front(); ++page) append(store(make_page(r, page)));
            break;
        default:
            constexpr Index part = 4096;  // so that the float64 numbers take little room
            for (Index first = 0; first < r.size; first += part) {
                Array<double> numbers({std::min(part, r.size - first)});
                make_segment(r, first, numbers.size(), numbers.data());
                append(store(numbers, r.dtype));
            }
    }
    for (const Patch& patch : r.patches) {
        const StoredTensor value = store(Array<double>({1}, patch.value), r.dtype);
        for (Index i = patch.first; i < patch.first + patch.count; ++i)
            std::copy(value.bytes.begin(), value.bytes.end(),
                      tensor.bytes.begin() + static_cast<std::ptrdiff_t>(i * static_cast<Index>(value.bytes.size())));
    }
    return tensor;
}

}  // namespace dsa
