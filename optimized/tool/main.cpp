// dsa-optimized (on a GPU) and dsa-simulated (on the simulator): one op on the files of a folder, as the oracle calls
// a plug-in. docs/case-format.md.
#include <CLI/CLI.hpp>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "optimized/support/arguments.h"
#include "optimized/support/ladder.h"
#include "optimized/tool/fields.h"
#include "optimized/tool/graph.h"
#include "optimized/tool/memory.h"
#include "optimized/tool/npy.h"

namespace {

using namespace dsa;
namespace fs = std::filesystem;
using nlohmann::json;

constexpr int wrong_use = 2;

struct Format {
    dsa_dtype dtype;
    const char* descr;
    int bytes;
};

Format format_of(const std::string& dtype) {
    static const std::map<std::string, Format> formats{
        {"float64", {dsa_float64, "<f8", 8}},   {"float32", {dsa_float32, "<f4", 4}},
        {"bfloat16", {dsa_bfloat16, "<u2", 2}}, {"float8_e4m3", {dsa_float8_e4m3, "|u1", 1}},
        {"uint8", {dsa_uint8, "|u1", 1}},       {"int32", {dsa_int32, "<i4", 4}},
        {"int64", {dsa_int64, "<i8", 8}},       {"bool", {dsa_bool, "|b1", 1}}};
    const auto found = formats.find(dtype);
    require(found != formats.end(), "case.json names a dtype \"", dtype, "\"; docs/case-format.md lists them");
    return found->second;
}

// One call's struct, with its tensors in memory that kernels can reach.
class Call {
   public:
    Call(const OpFields& op, const fs::path& in_dir) : op_(op), struct_(op.bytes) {
        std::ifstream file(in_dir / "case.json");
        const json description = json::parse(file, nullptr, false);
        require(description.is_object() && description.value("tensors", json()).is_object(),
                (in_dir / "case.json").string(),
                " must be a JSON object with \"tensors\", as docs/case-format.md describes it");
        case_json_ = description.dump();
        const json parameters = description.value("parameters", json::object());
        for (const auto& [name, value] : parameters.items())
            if (value.is_number_integer()) sizes_[name] = value;
        for (const auto& [name, tensor] : description["tensors"].items()) read(name, tensor, in_dir);
        for (const Field& field : op.fields)
            require(field.kind != FieldKind::input || field.optional || inputs_.contains(field.name), "the op ",
                    op.name, " needs a tensor named ", field.name, "; case.json has none");
        for (const auto& [name, value] :
             {std::pair<const char*, std::int64_t>{"block", 128}, {"R_kv", 512}, {"active", 8}})
            sizes_.emplace(name, value);
        if (sizes_.contains("d")) sizes_.emplace("d_v", std::min<std::int64_t>(512, sizes_["d"]));
        sizes_.emplace("k_or_S", sizes_.contains("k") ? sizes_["k"] : sizes_["S"]);
        fill(parameters);
        const bool quantises = quantiser_of(description) != "none";
        for (const Field& field : op.fields)
            if (field.kind == FieldKind::output)
                put_output(field, field.dtype != "quantised" ? field.dtype : quantises ? "float8_e4m3" : "bfloat16");
        at<const char*>(op.case_json) = case_json_.c_str();
        const std::int64_t bytes = op.workspace_of(struct_.data());
        if (bytes < 0) refuse(static_cast<Status>(-bytes), dsa_last_error());
        workspace_ = std::make_unique<DeviceMemory>(static_cast<std::size_t>(bytes));
        at<void*>(op.workspace) = workspace_->data();
        at<std::int64_t>(op.workspace_bytes) = bytes;
    }

    // Poisons the outputs, runs, and looks after every guard. `start` is what runs the function.
    void run() {
        run([this] { start(nullptr); });
    }
    template <class Start>
    void run(const Start& start) {
        for (auto& [name, tensor] : outputs_) tensor.memory->fill_with_poison();
        workspace_->fill_with_poison();
        start();
        synchronise();
        for (const auto* tensors : {&inputs_, &outputs_})
            for (const auto& [name, tensor] : *tensors)
                if (!tensor.memory->guards_are_whole())
                    refuse(Status::launch_failed, "the op ", op_.name, " wrote beyond ", name);
        if (!workspace_->guards_are_whole())
            refuse(Status::launch_failed, "the op ", op_.name, " wrote beyond its workspace");
        refuse_told_nan();
    }
    // The function itself, on a stream.
    void start(Stream stream) {
        at<void*>(op_.stream) = stream;
        const int status = op_.run(struct_.data());
        if (status != 0) refuse(static_cast<Status>(status), dsa_last_error());
    }
    std::map<std::string, std::vector<std::byte>> results() const {
        std::map<std::string, std::vector<std::byte>> all;
        for (const auto& [name, tensor] : outputs_) all.emplace(name, tensor.memory->read());
        return all;
    }
    void write(const fs::path& out_dir) const {
        for (const auto& [name, tensor] : outputs_)
            write_npy(out_dir / (name + ".npy"), {tensor.descr, tensor.shape, tensor.memory->read()});
    }

   private:
    struct Held {
        std::string descr;
        std::vector<std::int64_t> shape;
        std::unique_ptr<DeviceMemory> memory;
    };

    template <class T>
    T& at(std::size_t offset) {
        return *reinterpret_cast<T*>(struct_.data() + offset);
    }

    // A selection tells a row's first NaN score in its first slot: optimized/top_k/op.h.
    void refuse_told_nan() const {
        const auto found = outputs_.find("indices");
        if (found == outputs_.end()) return;
        const std::vector<std::byte> bytes = found->second.memory->read();
        const std::int64_t k = found->second.shape[1];
        for (std::int64_t t = 0; t < found->second.shape[0]; ++t) {
            std::int32_t first = 0;
            std::memcpy(&first, bytes.data() + t * k * static_cast<std::int64_t>(sizeof first), sizeof first);
            require(first >= -1, "logits[", t, ", ", -2 - std::int64_t{first}, "] is NaN: a score must be a number");
        }
    }

    static std::string quantiser_of(const json& description) {
        const json conventions = description.value("conventions", json("deepseek-v3.2-exp"));
        if (conventions.is_string()) return conventions == "transformers" ? "none" : "some";
        return conventions.value("quantizer", conventions.value("preset", "") == "transformers" ? "none" : "some");
    }

    void read(const std::string& name, const json& description, const fs::path& in_dir) {
        const Field* field = nullptr;
        for (const Field& one : op_.fields)
            if (one.kind == FieldKind::input && one.name == name) field = &one;
        require(field != nullptr, "the op ", op_.name, " has no tensor named ", name);
        const fs::path path = in_dir / (name + ".npy");
        if (!fs::exists(path))
            refuse(Status::not_implemented, "this program reads every tensor from a file; there is no ",
                   path.string());
        const Format format = format_of(description.value("dtype", ""));
        NpyArray array = read_npy(path);
        require(array.descr == format.descr, path.string(), " must hold ", format.descr, ", as ",
                description.value("dtype", ""), " is stored; it holds ", array.descr);
        require(json(array.shape) == description.value("shape", json()), path.string(),
                " must have the shape that case.json says, ", description.value("shape", json()).dump(), "; it has ",
                json(array.shape).dump());
        std::size_t begin = 0;
        for (const std::int64_t extent : array.shape) {
            const std::size_t end = std::min(field->axes.find(',', begin), field->axes.size());
            if (begin <= field->axes.size()) sizes_.emplace(field->axes.substr(begin, end - begin), extent);
            begin = end + 1;
        }
        Held held{array.descr, array.shape, std::make_unique<DeviceMemory>(array.bytes.size())};
        held.memory->write(array.bytes);
        at<dsa_tensor>(field->offset) = described(held, format.dtype);
        inputs_.emplace(name, std::move(held));
    }

    void put_output(const Field& field, const std::string& dtype) {
        const Format format = format_of(dtype);
        Held held{format.descr, output_shape(field, sizes_), nullptr};
        std::int64_t bytes = format.bytes;
        for (const std::int64_t extent : held.shape) bytes *= extent;
        held.memory = std::make_unique<DeviceMemory>(static_cast<std::size_t>(bytes));
        at<dsa_tensor>(field.offset) = described(held, format.dtype);
        outputs_.emplace(field.name, std::move(held));
    }

    static dsa_tensor described(const Held& held, dsa_dtype dtype) {
        dsa_tensor tensor{held.memory->data(), dtype, static_cast<std::int32_t>(held.shape.size()), {}, {}};
        require(held.shape.size() <= 4, "a tensor has at most 4 axes");
        std::int64_t stride = 1;
        for (std::size_t i = held.shape.size(); i-- > 0;) {
            tensor.shape[i] = held.shape[i];
            tensor.stride[i] = stride;
            stride *= held.shape[i];
        }
        return tensor;
    }

    void fill(const json& parameters) {
        for (const Field& field : op_.fields) {
            if (field.kind == FieldKind::real && parameters.contains(field.name) &&
                parameters[field.name].is_number())
                at<double>(field.offset) = parameters[field.name];
            if (field.kind == FieldKind::whole) {
                if (parameters.contains(field.name) && parameters[field.name].is_boolean())
                    at<std::int64_t>(field.offset) = parameters[field.name].get<bool>() ? 1 : 0;
                else if (sizes_.contains(field.name))
                    at<std::int64_t>(field.offset) = sizes_[field.name];
            }
        }
    }

    const OpFields& op_;
    std::vector<std::byte> struct_;
    std::string case_json_;
    std::map<std::string, std::int64_t> sizes_;
    std::map<std::string, Held> inputs_;
    std::map<std::string, Held> outputs_;
    std::unique_ptr<DeviceMemory> workspace_;
};

// Keeps the stages that a call shows: all of them, or its choices only, which whoever judges what follows needs.
class Stages {
   public:
    explicit Stages(bool all) : all_(all) { dsa_show(&Stages::listen, this); }
    ~Stages() { dsa_show(nullptr, nullptr); }
    Stages(const Stages&) = delete;
    Stages& operator=(const Stages&) = delete;

    void write(const fs::path& out_dir) const {
        for (const auto& [name, array] : shown_) write_npy(out_dir / (name + ".npy"), array);
    }

   private:
    static void listen(void* self, const char* name, const dsa_tensor* tensor, void*) {
        auto& stages = *static_cast<Stages*>(self);
        if (!stages.all_ && tensor->dtype != dsa_int32) return;
        const Format format = format_of(name_of(static_cast<dsa_dtype>(tensor->dtype)));
        NpyArray array{format.descr, {tensor->shape, tensor->shape + tensor->rank}, {}};
        std::size_t bytes = static_cast<std::size_t>(format.bytes);
        for (const std::int64_t extent : array.shape) bytes *= static_cast<std::size_t>(extent);
        array.bytes.resize(bytes);
        synchronise();
        detail::copy(array.bytes.data(), tensor->data, bytes);
        stages.shown_[name] = std::move(array);
    }

    bool all_;
    std::map<std::string, NpyArray> shown_;
};

struct HowToRun {
    int runs = 1;         // compared bit for bit
    bool graph = false;   // and once more as a CUDA graph's replay
    bool stages = false;  // shows all stages, not the choices alone
};

void require_same(const std::string& op, const Call& call, const std::map<std::string, std::vector<std::byte>>& first,
                  const std::string& run) {
    for (const auto& [output, bytes] : call.results())
        if (bytes != first.at(output))
            refuse(Status::launch_failed, output, " of ", op, " has other bits in ", run, " than in the first run");
}

void run_op(const std::string& name, const fs::path& in_dir, const fs::path& out_dir, const HowToRun& how) {
    require_device();
    const OpFields* op = fields_of(name);
    if (op == nullptr) refuse(Status::not_implemented, "there is no op named \"", name, "\" here; `ops` lists them");
    Call call(*op, in_dir);
    std::unique_ptr<Stages> stages;
    if (op->is_staged() || how.stages) stages = std::make_unique<Stages>(how.stages);
    call.run();
    const auto first = call.results();
    fs::create_directories(out_dir);
    if (stages) stages->write(out_dir);
    stages.reset();
    for (int i = 1; i < how.runs; ++i) {
        call.run();
        require_same(name, call, first, "run " + std::to_string(i + 1));
    }
    if (how.graph) {
        const Graph graph([&](Stream stream) { call.start(stream); });
        for (int i = 0; i < 2; ++i) {
            call.run([&] { graph.replay(); });
            require_same(name, call, first, "the graph's replay " + std::to_string(i + 1));
        }
    }
    call.write(out_dir);
}

void list_ops() {
    for (const std::string& op : op_names())
        for (const LadderEntry& ladder : all_ladders())
            if (ladder.op == op) {
                std::cout << op << '\n';
                for (const LevelTitle& level : ladder.levels)
                    std::cout << "  level " << level.number << "  " << level.title << '\n';
            }
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{"DeepSeek Sparse Attention on Hopper: each op of the contract, on files."};
    app.require_subcommand(1);
    std::string op;
    fs::path in_dir, out_dir;
    int level = 0;
    HowToRun how;
    auto* run = app.add_subcommand("op", "one op on a folder of inputs; exits 77 for what is not implemented");
    run->add_option("OP", op, "its name in the contract")->required();
    run->add_option("IN_DIR", in_dir, "case.json and one .npy a tensor")->required();
    run->add_option("OUT_DIR", out_dir, "where the outputs go")->required();
    run->add_option("--level", level, "a level of its ladder; without it the highest that takes the inputs");
    run->add_option("--runs", how.runs, "run it so often, and compare the bits")->check(CLI::Range(1, 1000000));
    run->add_flag("--graph", how.graph, "capture it into a CUDA graph too, replay that twice, and compare the bits");
    run->add_flag("--stages", how.stages,
                  "write every stage that it shows; without this only the choices of whole layers");
    auto* list = app.add_subcommand("ops", "the ops and their levels");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        const int code = app.exit(error);
        return code == 0 ? 0 : wrong_use;
    }
    try {
        if (*list) list_ops();
        if (level != 0) choose_level(level);
        if (*run) run_op(op, in_dir, out_dir, how);
        return 0;
    } catch (const Refusal& refusal) {
        std::cerr << refusal.what() << '\n';
        return refusal.status() == Status::not_implemented ? static_cast<int>(Status::not_implemented)
               : refusal.status() == Status::bad_argument  ? wrong_use
                                                           : 1;
    } catch (const std::exception& error) {
        std::cerr << error.what() << '\n';
        return wrong_use;
    }
}
