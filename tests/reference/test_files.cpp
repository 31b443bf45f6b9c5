// The readers must take what NumPy and the safetensors library write, and refuse a file that lies by one
// sentence that says what is wrong.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "reference/files/json_file.h"
#include "reference/files/npy.h"
#include "reference/files/safetensors.h"
#include "reference/refusal.h"

namespace {

using namespace dsa;
namespace fs = std::filesystem;
using nlohmann::json;

const fs::path corpus = fs::path(SOURCE_DIR) / "tests/fuzz/corpus";

// An empty folder for one test, gone after it.
struct Folder {
    fs::path path = fs::path(BINARY_DIR) / "test_files_scratch";
    Folder() {
        fs::remove_all(path);
        fs::create_directories(path);
    }
    ~Folder() { fs::remove_all(path); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
};

std::string content_of(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    REQUIRE_MESSAGE(in.good(), path.string());
    return {std::istreambuf_iterator<char>(in), {}};
}

void write(const fs::path& path, const std::string& content) { std::ofstream(path, std::ios::binary) << content; }

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

template <class T>
StoredTensor tensor_of(DType dtype, Shape shape, const std::vector<T>& values) {
    StoredTensor tensor{dtype, std::move(shape), std::vector<std::byte>(values.size() * sizeof(T))};
    if (!values.empty()) std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
    return tensor;
}

std::vector<double> numbers(const StoredTensor& tensor) {
    std::vector<double> all;
    for (Index i = 0; i < tensor.size(); ++i) all.push_back(tensor.number(i));
    return all;
}

void check_same(const StoredTensor& a, const StoredTensor& b) {
    CHECK(a.dtype == b.dtype);
    CHECK(a.shape == b.shape);
    CHECK(a.bytes == b.bytes);
}

// The sentence with which `act` refuses; "" if it does not.
std::string sentence(const std::function<void()>& act) {
    try {
        act();
    } catch (const Refusal& refusal) {
        return refusal.what();
    }
    return "";
}

void check_refused(const std::function<void()>& act, const std::vector<std::string>& parts) {
    const std::string said = sentence(act);
    for (const std::string& part : parts) {
        INFO("said: \"", said, "\"");
        CHECK_MESSAGE(said.find(part) != std::string::npos, "should say: \"", part, "\"");
    }
    CHECK(std::all_of(said.begin(), said.end(), [](char c) { return c >= ' ' && c <= '~'; }));
}

std::string npy_file(const std::string& header, const std::string& data = "", char major = 1) {
    std::string file = "\x93NUMPY";
    file += {major, 0, static_cast<char>(header.size() & 255), static_cast<char>(header.size() >> 8)};
    if (major > 1) file += {0, 0};
    return file + header + data;
}

std::string npy_dict(const std::string& descr, const std::string& order, const std::string& shape) {
    return "{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }";
}

std::string npy_of(const std::string& descr, const std::string& shape, std::size_t data_bytes) {
    return npy_file(npy_dict("'" + descr + "'", "False", shape), std::string(data_bytes, '\0'));
}

std::string safetensors_of(const std::string& header, std::size_t data_bytes = 0) {
    std::string file(8, '\0');
    for (std::size_t i = 0; i < 4; ++i) file[i] = static_cast<char>((header.size() >> (8 * i)) & 255);
    return file + header + std::string(data_bytes, '\0');
}

void npy_refused(const std::string& file, std::optional<DType> logical, const std::vector<std::string>& parts) {
    check_refused([&] { parse_npy(bytes_of(file), "x.npy", logical); }, parts);
}

void safetensors_refused(const std::string& file, const std::vector<std::string>& parts) {
    check_refused([&] { parse_safetensors(bytes_of(file), "w.safetensors"); }, parts);
}

void json_refused(const std::string& text, const std::vector<std::string>& parts) {
    check_refused([&] { parse_json(text, "c.json"); }, parts);
}

// Every kept file: good_* must be taken, bad_* refused by a sentence that has the file's name.
void replay(const std::string& reader,
            const std::function<void(const std::string& bytes, const std::string& source)>& parse) {
    int files = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(corpus / reader)) {
        const std::string name = entry.path().filename().string();
        const std::string content = content_of(entry.path());
        const std::string said = sentence([&] { parse(content, name); });
        CHECK_MESSAGE(said.empty() == name.starts_with("good_"), name, ": ", said);
        CHECK_MESSAGE((said.empty() || said.find(name) != std::string::npos), name, ": ", said);
        ++files;
    }
    CHECK(files >= 20);
}

}  // namespace

TEST_CASE("the kept corpus: good files are taken, bad ones refused by name") {
    replay("npy", [](const std::string& bytes, const std::string& source) {
        // Uint16 needs its logical dtype; the others have their own.
        const bool is_bfloat16 = source.find("bfloat16") != std::string::npos;
        parse_npy(bytes_of(bytes), source, is_bfloat16 ? std::optional(DType::bfloat16) : std::nullopt);
    });
    replay("safetensors",
           [](const std::string& bytes, const std::string& source) { parse_safetensors(bytes_of(bytes), source); });
    replay("json", [](const std::string& bytes, const std::string& source) { parse_json(bytes, source); });
}

TEST_CASE("npy: what NumPy saved is read") {
    const auto read = [](const std::string& name, std::optional<DType> logical = std::nullopt) {
        return read_npy(corpus / "npy" / ("good_" + name + ".npy"), logical);
    };
    for (const char* name : {"float32", "float32_fortran", "version_2", "version_3"}) {
        CAPTURE(name);
        const StoredTensor six = read(name);
        CHECK(six.dtype == DType::float32);
        CHECK(six.shape == Shape{2, 3});
        CHECK(numbers(six) == std::vector<double>{0, 1, 2, 3, 4, 5});
    }
    const StoredTensor scalar = read("float64_scalar");
    CHECK(scalar.shape.empty());
    CHECK(numbers(scalar) == std::vector<double>{1.5});
    CHECK(read("empty").shape == Shape{0, 7});
    CHECK(read("bool").dtype == DType::boolean);
    CHECK(numbers(read("bool")) == std::vector<double>{1, 0});

    const StoredTensor bf16 = read("uint16_as_bfloat16", DType::bfloat16);
    CHECK(bf16.dtype == DType::bfloat16);
    CHECK(bf16.number(0) == 1.0);
    CHECK(bf16.number(1) == -2.0);
    CHECK(std::isnan(bf16.number(2)));
    CHECK(read("uint8").dtype == DType::uint8);
    CHECK(read("uint8", DType::float8_e4m3).dtype == DType::float8_e4m3);

    CHECK(read("int64").dtype == DType::int64);
    const StoredTensor narrow = read("int64", DType::int32);
    CHECK(narrow.dtype == DType::int32);
    CHECK(numbers(narrow) == std::vector<double>{1, -2, 2147483647.0, -2147483648.0});
    // A float32 or float64 array is taken as it is, whatever floating dtype is asked for.
    for (const DType asked : {DType::float64, DType::float32, DType::bfloat16, DType::float8_e4m3}) {
        CHECK(read("float32", asked).dtype == DType::float32);
        CHECK(read("float64_scalar", asked).dtype == DType::float64);
    }
}

TEST_CASE("npy: column-major order of three axes becomes row-major") {
    // Element (i, j, k) of shape [2, 3, 2] lies at i + 2 j + 6 k in the file; its number says where it belongs.
    std::string data;
    for (int k = 0; k < 2; ++k)
        for (int j = 0; j < 3; ++j)
            for (int i = 0; i < 2; ++i) data += static_cast<char>(i * 6 + j * 2 + k);
    const std::string file = npy_file(npy_dict("'|u1'", "True", "(2, 3, 2)"), data);
    const StoredTensor tensor = parse_npy(bytes_of(file), "x.npy");
    CHECK(numbers(tensor) == std::vector<double>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
}

TEST_CASE("npy: what is written has NumPy's bytes") {
    const Folder folder;
    const fs::path path = folder.path / "x.npy";
    const auto check_bytes = [&](const StoredTensor& tensor, const std::string& name) {
        write_npy(path, tensor);
        CHECK_MESSAGE(content_of(path) == content_of(corpus / "npy" / ("good_" + name + ".npy")), name);
    };
    check_bytes(tensor_of<float>(DType::float32, {2, 3}, {0, 1, 2, 3, 4, 5}), "float32");
    check_bytes(tensor_of<double>(DType::float64, {}, {1.5}), "float64_scalar");
    check_bytes(tensor_of<std::int64_t>(DType::int64, {1}, {std::int64_t{1} << 31}), "int64_beyond_int32");
    check_bytes(tensor_of<std::uint16_t>(DType::bfloat16, {3}, {0x3F80, 0xC000, 0x7FC0}), "uint16_as_bfloat16");
    check_bytes(tensor_of<std::uint8_t>(DType::float8_e4m3, {5}, {0, 1, 2, 3, 4}), "uint8");
    check_bytes(tensor_of<std::uint8_t>(DType::uint8, {5}, {0, 1, 2, 3, 4}), "uint8");
    check_bytes(tensor_of<std::uint8_t>(DType::boolean, {2}, {1, 0}), "bool");
    check_bytes(tensor_of<std::int32_t>(DType::int32, {0, 7}, {}), "empty");
    CHECK_FALSE(fs::exists(path.string() + ".unfinished"));
}

TEST_CASE("npy: the header is padded as NumPy pads it") {
    // numpy.save of np.zeros((0, 1, ..., 1, last), 'u1'), 14 axes: text, growth space and newline end one byte
    // before 128 with last = 10, on it with 100, and NumPy adds 1 to 64 spaces, never none.
    const Folder folder;
    const fs::path path = folder.path / "x.npy";
    for (const auto& [last, expected] : {std::pair{Index{10}, 128U}, {100, 192U}, {1000, 192U}}) {
        CAPTURE(last);
        Shape shape(14, 1);
        shape.front() = 0;
        shape.back() = last;
        write_npy(path, {DType::uint8, shape, {}});
        CHECK(fs::file_size(path) == expected);
    }
}

TEST_CASE("npy: every dtype comes back as it was written") {
    const Folder folder;
    const fs::path path = folder.path / "x.npy";
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const StoredTensor& tensor :
         {tensor_of<double>(DType::float64, {2, 1}, {-0.0, 5e-324}),
          tensor_of<float>(DType::float32, {2}, {nan, 1e-45F}),
          tensor_of<std::uint16_t>(DType::bfloat16, {1, 1, 2}, {0x8000, 0xFFC1}),
          tensor_of<std::uint8_t>(DType::float8_e4m3, {3}, {0x7F, 0x80, 0xFF}),
          tensor_of<std::uint8_t>(DType::uint8, {0}, {}), tensor_of<std::int32_t>(DType::int32, {}, {-1}),
          tensor_of<std::int64_t>(DType::int64, {1}, {std::numeric_limits<std::int64_t>::min()}),
          tensor_of<std::uint8_t>(DType::boolean, {2}, {0, 1})}) {
        write_npy(path, tensor);
        check_same(read_npy(path, tensor.dtype), tensor);
    }
}

TEST_CASE("npy: each refusal has its sentence") {
    npy_refused("PK\3\4 a zip archive", {}, {"x.npy must be a .npy file", "save it with numpy.save"});
    npy_refused("\x93NUMPY\4", {}, {"must be a .npy file"});
    npy_refused(npy_file("{}", "", 4), {}, {"version 1.0, 2.0 or 3.0; it is of version 4.0"});
    npy_refused(npy_of("<f4", "(2,)", 8).substr(0, 30), {}, {"is cut short inside its header", "save it again"});
    npy_refused(std::string("\x93NUMPY\2\0\1\0", 10), {}, {"is cut short inside its header"});
    npy_refused(npy_file(std::string(65535, ' ') + "{", "", 2), {}, {"malformed header"});
    std::string long_header = npy_file("", std::string(70000, ' '), 2);
    long_header[10] = 1;  // 65536 + 0, then one more
    long_header[8] = 1;
    npy_refused(long_header, {}, {"must have a header of at most 65536 bytes; it has 65537"});

    npy_refused(npy_of(">f4", "(2,)", 8), {}, {"must be little-endian", "'>f4'", "array.astype('<f4')"});
    npy_refused(npy_of("<f2", "(2,)", 4), {}, {"must hold float64, float32, uint16", "'<f2'", "array.astype"});
    npy_refused(npy_of("<V2", "(2,)", 4), DType::bfloat16, {"must hold bfloat16 as uint16", "array.view('uint16')"});
    npy_refused(npy_of("|V1", "(2,)", 2), DType::float8_e4m3,
                {"must hold float8_e4m3 as uint8", "array.view('uint8')"});
    npy_refused(npy_of("", "(2,)", 2), {}, {"its dtype is ''"});
    npy_refused(npy_file(npy_dict("[('a', '<f4')]", "False", "(2,)"), std::string(8, '\0')), {}, {"is a structure"});
    npy_refused(npy_of("<u2", "(2,)", 4), {}, {"holds uint16", "name its logical dtype"});
    npy_refused(npy_of("<u2", "(2,)", 4), DType::float32,
                {"must hold float32 or float64 to be read as float32; it holds uint16"});
    npy_refused(npy_of("<u2", "(2,)", 4), DType::float8_e4m3,
                {"must hold uint8 (the bits of e4m3)", "it holds uint16"});
    npy_refused(npy_of("|u1", "(2,)", 2), DType::bfloat16,
                {"must hold uint16 (the bits of bfloat16)", "it holds uint8"});
    npy_refused(npy_of("<f4", "(2,)", 8), DType::int32, {"must hold int32 to be read as int32; it holds float32"});
    npy_refused(npy_of("<i4", "(2,)", 8), DType::int64, {"must hold int64 to be read as int64; it holds int32"});
    npy_refused(npy_of("<i4", "(2,)", 8), DType::float32, {"must hold float32 or float64", "it holds int32"});
    npy_refused(npy_of("|u1", "(2,)", 2), DType::boolean, {"must hold bool to be read as bool; it holds uint8"});
    check_refused([] { read_npy(corpus / "npy/good_int64_beyond_int32.npy", DType::int32); },
                  {"must hold numbers that fit int32; element 0 (counted flat) is 2147483648"});
    npy_refused(npy_file(npy_dict("'|b1'", "False", "(2,)"), "\1\2"), {}, {"must hold 0 or 1 as bool; it holds 2"});

    npy_refused(npy_of("<f4", "(2,)", 7), {},
                {"must hold 8 bytes of data for its shape [2]; it holds 7", "save it again"});
    npy_refused(npy_of("<f4", "(2,)", 9), {}, {"must hold 8 bytes of data for its shape [2]; it holds 9"});
    npy_refused(npy_of("<f4", "(0, 2)", 8), {}, {"must hold 0 bytes of data"});
    npy_refused(npy_of("<f8", "(4611686018427387904,)", 0), {}, {"shape beyond any memory"});
    npy_refused(npy_of("<f8", "(18446744073709551616,)", 0), {}, {"shape beyond any memory"});
    npy_refused(npy_of("<f8", "(1073741824, 1073741824, 1073741824)", 0), {},
                {"shape beyond any memory, [1073741824"});
    // 2^64 elements, which wrap to 0.
    npy_refused(npy_of("<f4", "(4294967296, 4294967296)", 0), {}, {"shape beyond any memory"});
    npy_refused(npy_of("<f4", "(-2,)", 8), {}, {"a shape must be whole numbers, none below 0"});
    npy_refused(npy_of("<f4", "(2.0,)", 8), {}, {"malformed header: expected ','"});
    npy_refused(npy_of("<f4", "(2 2)", 16), {}, {"malformed header: expected ','"});
    npy_refused(npy_of("<f4", "(2)", 8), {}, {"a shape of one axis is written (N,)"});
    npy_refused(npy_of("<f4", "(,)", 4), {}, {"a shape must be whole numbers"});
    npy_refused(npy_of("<f4", "[2]", 8), {}, {"malformed header: expected '('"});
    std::string axes;
    for (int i = 0; i < 65; ++i) axes += "1,";
    npy_refused(npy_of("|u1", "(" + axes + ")", 1), {}, {"must have at most 64 axes"});

    npy_refused(npy_file("{'descr': '<f4', 'shape': ()}", std::string(4, '\0')), {}, {"one is missing"});
    npy_refused(npy_file("{'descr': '<f4', 'descr': '<f4'}"), {}, {"it has 'descr' twice"});
    npy_refused(npy_file("{'a\nb': 1}"), {}, {"it also has 'a?b'"});
    npy_refused(npy_file("{'descr': '<f4"), {}, {"a quote is not closed"});
    npy_refused(npy_file("{descr: '<f4'}"), {}, {"expected a quoted word"});
    npy_refused(npy_file("{'fortran_order': 1}"), {}, {"fortran_order must be True or False"});
    npy_refused(npy_file(npy_dict("'<f4'", "False", "()") + "; x", std::string(4, '\0')), {},
                {"nothing after", "'; x'"});
    npy_refused(npy_file(""), {}, {"malformed header: expected '{'"});
    npy_refused(npy_file("{'descr'"), {}, {"malformed header: expected ':'"});

    check_refused([] { read_npy(corpus / "npy/none.npy"); }, {"none.npy does not exist", "check the path"});
    check_refused([] { read_npy(corpus / "npy"); }, {"must be a file"});
    const Folder folder;
    check_refused([&] { write_npy(folder.path / "none" / "x.npy", store(Array<float>({1}), DType::float32)); },
                  {"cannot write", "check that its folder exists"});
    check_refused(
        [&] {
            write_npy(folder.path / "x.npy", {DType::float32, {2}, std::vector<std::byte>(7)});
        },
        {"its shape [2] of float32 does not fit its 7 bytes"});
    check_refused(
        [&] {
            write_npy(folder.path / "x.npy", {DType::uint8, Shape(65, 1), std::vector<std::byte>(1)});
        },
        {"must have at most 64 axes; it has 65"});
    CHECK(fs::is_empty(folder.path));
}

TEST_CASE("safetensors: what the library saved is read") {
    const SafetensorsFile file(corpus / "safetensors/good_saved_by_library.safetensors");
    CHECK(file.names() == std::vector<std::string>{"a.bias", "b.weight", "bytes", "mask"});
    CHECK(file.contains("mask"));
    CHECK_FALSE(file.contains("__metadata__"));
    CHECK(file.info("b.weight").dtype == DType::float32);
    CHECK(file.info("b.weight").shape == Shape{2, 3});
    CHECK(file.bytes("bytes").size() == 3);
    CHECK(numbers(file.tensor("b.weight")) == std::vector<double>{0, 1, 2, 3, 4, 5});
    CHECK(numbers(file.tensor("a.bias")) == std::vector<double>{7, -8});
    CHECK(numbers(file.tensor("bytes")) == std::vector<double>{0, 1, 2});
    CHECK(file.tensor("mask").dtype == DType::boolean);
    check_refused([&] { file.tensor("b.weigth"); },
                  {"must have a tensor named b.weigth", "of its 4 tensors none is, the nearest being b.weight, "});
}

TEST_CASE("safetensors: every dtype comes back as it was written") {
    const Folder folder;
    const fs::path path = folder.path / "w.safetensors";
    const std::map<std::string, StoredTensor> tensors = {
        {"a", tensor_of<std::uint8_t>(DType::uint8, {3}, {1, 2, 3})},
        {"b", tensor_of<double>(DType::float64, {1}, {0.1})},
        {"c", tensor_of<std::uint8_t>(DType::float8_e4m3, {1, 2}, {0x7F, 0x80})},
        {"d", tensor_of<std::uint16_t>(DType::bfloat16, {2}, {0x3F80, 0x8000})},
        {"e", tensor_of<float>(DType::float32, {0, 4}, {})},
        {"f", tensor_of<std::int32_t>(DType::int32, {}, {-5})},
        {"g", tensor_of<std::int64_t>(DType::int64, {1}, {-6})},
        {"\xC3\xA9 \"quoted\"", tensor_of<std::uint8_t>(DType::boolean, {1}, {1})}};
    write_safetensors(path, tensors, {{"format", "pt"}});
    const SafetensorsFile file(path);
    CHECK(file.names().size() == tensors.size());
    for (const auto& [name, tensor] : tensors) {
        CAPTURE(name);
        check_same(file.tensor(name), tensor);
        CHECK(file.info(name).begin % size_of(tensor.dtype) == 0);  // aligned
    }
    const std::string content = content_of(path);
    CHECK(static_cast<unsigned char>(content[0]) % 8 == 0);
    CHECK(content.find(R"("__metadata__":{"format":"pt"})") != std::string::npos);
    CHECK_FALSE(fs::exists(path.string() + ".unfinished"));
}

TEST_CASE("safetensors: each refusal has its sentence") {
    const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
        return R"({"w\n":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
    };
    safetensors_refused("1234567", {"w.safetensors must be a .safetensors file", "it has 7 bytes"});
    safetensors_refused(std::string("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10),
                        {"must hold a header of 18446744073709551615 bytes", "the file has 10", "cut short"});
    safetensors_refused(safetensors_of("{}").substr(0, 9), {"must hold a header of 2 bytes", "the file has 9"});
    safetensors_refused(safetensors_of("{" + std::string(100'000'000, ' ')),
                        {"must have a header of at most 100000000 bytes; it has 100000001", "split the tensors"});
    safetensors_refused(safetensors_of(""), {"must begin with {"});
    safetensors_refused(safetensors_of("[1]"), {"must begin with {; it begins with '[1]'"});
    safetensors_refused(safetensors_of("{\"w\":}"),
                        {"the header of w.safetensors must be well-formed JSON; at line 1, column 6"});
    safetensors_refused(safetensors_of(R"({"w":1,"w":1})"),
                        {"must have each key once in an object; it has \"w\" twice"});
    safetensors_refused(safetensors_of(R"({"w":1})"),
                        {"the tensor \"w\" must have dtype, shape and data_offsets", "it has 1"});
    safetensors_refused(safetensors_of(R"({"w":{"dtype":"F32","shape":[]}})"),
                        {"must have dtype, shape and data_offsets"});
    safetensors_refused(safetensors_of(R"({"w":{"dtype":"F32","shape":[],"data_offsets":[0,4],"x":1}})", 4),
                        {"and nothing else"});
    safetensors_refused(safetensors_of(entry("\"F16\"", "[2]", "[0,4]"), 4),
                        {"in w.safetensors the tensor \"w?\" must have dtype F64, F32, BF16, F8_E4M3, U8, I32, I64 "
                         "or BOOL; it has \"F16\""});
    safetensors_refused(safetensors_of(entry("7", "[2]", "[0,4]"), 4), {"it has 7"});
    safetensors_refused(safetensors_of(entry("\"U8\"", "2", "[0,2]"), 2),
                        {"must have a list as its shape; it has 2"});
    for (const char* extent : {"-2", "2.0", "\"2\"", "null", "9223372036854775808", "1e30"})
        safetensors_refused(safetensors_of(entry("\"U8\"", "[" + std::string(extent) + "]", "[0,2]"), 2),
                            {"must have whole numbers as its shape, none below 0 or beyond any memory; it has "});
    safetensors_refused(safetensors_of(entry("\"U8\"", "[4294967296,4294967296]", "[0,0]")),
                        {"shape beyond any memory, [4294967296,"});
    for (const char* offsets : {"3", "[0]", "[0,1,2]", "[-1,1]", "[0,2.0]", "[0,\"2\"]"})
        safetensors_refused(safetensors_of(entry("\"U8\"", "[2]", offsets), 2),
                            {"must have two whole numbers as data_offsets; it has "});
    safetensors_refused(safetensors_of(entry("\"U8\"", "[2]", "[2,0]"), 2),
                        {"must take 2 bytes for its shape [2]; its data_offsets are [2,0]"});
    safetensors_refused(safetensors_of(entry("\"F32\"", "[2]", "[0,4]"), 4), {"must take 8 bytes", "are [0,4]"});
    safetensors_refused(safetensors_of(entry("\"U8\"", "[2]", "[18446744073709551615,1]"), 2), {"must take 2 bytes"});
    safetensors_refused(safetensors_of(entry("\"U8\"", "[2]", "[1,3]"), 3),
                        {"there is a hole in its data at byte 0"});
    const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)";
    const auto b = [](const std::string& shape, const std::string& offsets) {
        return R"("b":{"dtype":"U8","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
    };
    safetensors_refused(safetensors_of("{" + a + b("[4]", "[2,6]"), 6),
                        {"there is an overlap in its data at byte 2"});
    safetensors_refused(safetensors_of("{" + a + b("[4]", "[0,4]"), 4),
                        {"there is an overlap in its data at byte 0"});
    safetensors_refused(safetensors_of("{" + a + b("[0]", "[2,2]"), 4),
                        {"there is an overlap in its data at byte 2"});
    safetensors_refused(safetensors_of("{" + a + b("[1]", "[5,6]"), 6), {"there is a hole in its data at byte 4"});
    safetensors_refused(safetensors_of("{" + a + b("[1]", "[4,5]"), 4),
                        {"must hold 5 bytes of data by its header; it holds 4"});
    safetensors_refused(safetensors_of("{" + a + b("[1]", "[4,5]"), 6),
                        {"must hold 5 bytes of data by its header; it holds 6"});
    safetensors_refused(safetensors_of(R"({"__metadata__":[1]})"), {"must be an object of strings; it is [1]"});
    safetensors_refused(safetensors_of(R"({"__metadata__":{"step":1}})"),
                        {"__metadata__ of w.safetensors must be strings; \"step\" is 1"});

    const Folder folder;
    const fs::path path = folder.path / "w.safetensors";
    check_refused([&] { SafetensorsFile{path}; }, {"w.safetensors does not exist", "check the path"});
    check_refused([&] { SafetensorsFile{folder.path}; }, {"must be a .safetensors file; it is something else"});
    write(path, "");
    check_refused([&] { SafetensorsFile{path}; }, {"it is empty", "write the file again"});
    fs::remove(path);

    const StoredTensor one = tensor_of<std::uint8_t>(DType::uint8, {1}, {1});
    check_refused([&] { write_safetensors(path, {{"__metadata__", one}}); }, {"no tensor may be named __metadata__"});
    const auto write_long_note = [&] {
        write_safetensors(path, {{"w", one}}, {{"note", std::string(100'000'000, 'x')}});
    };
    check_refused(write_long_note,
                  {"its header must have at most 100000000 bytes; it has 100000", "split the tensors"});
    check_refused(
        [&] {
            write_safetensors(path, {{"\xFF", one}});
        },
        {"names of tensors and the metadata must be UTF-8"});
    check_refused(
        [&] {
            write_safetensors(path, {{"w", {DType::float32, {2}, one.bytes}}});
        },
        {"the tensor \"w\" of shape [2] must have 8 bytes; it has 1"});
    CHECK(fs::is_empty(folder.path));
}

TEST_CASE("checkpoint: one file, a folder of one, shards by an index") {
    const Folder folder;
    const StoredTensor one = tensor_of<float>(DType::float32, {1}, {1});
    const StoredTensor two = tensor_of<float>(DType::float32, {1}, {2});

    const fs::path single = folder.path / "single";
    fs::create_directories(single);
    write_safetensors(single / "model.safetensors", {{"one", one}, {"two", two}});
    for (const fs::path& path : {single, single / "model.safetensors"}) {
        const Checkpoint checkpoint(path);
        CHECK(checkpoint.names() == std::vector<std::string>{"one", "two"});
        CHECK(checkpoint.contains("two"));
        check_same(checkpoint.tensor("two"), two);
    }

    const fs::path sharded = folder.path / "sharded";
    const fs::path index = sharded / "model.safetensors.index.json";
    fs::create_directories(sharded);
    write_safetensors(sharded / "1.safetensors", {{"one", one}});
    write_safetensors(sharded / "2.safetensors", {{"two", two}});
    write_json(index, {{"weight_map",
                        {{"one", "1.safetensors"},
                         {"two", "2.safetensors"},
                         {"three", "3.safetensors"},
                         {"four", "2.safetensors"}}}});
    for (const fs::path& path : {sharded, index}) {
        const Checkpoint checkpoint(path);  // 3.safetensors is missed when it is asked for
        CHECK(checkpoint.names() == std::vector<std::string>{"four", "one", "three", "two"});
        check_same(checkpoint.tensor("one"), one);
        check_same(checkpoint.tensor("two"), two);
        CHECK(checkpoint.info("two").shape == Shape{1});
        CHECK(checkpoint.bytes("two").size() == 4);
        check_refused([&] { checkpoint.info("three"); }, {"3.safetensors does not exist"});
        check_refused([&] { checkpoint.bytes("four"); },
                      {"2.safetensors must have a tensor named four; of its 1 tensors none is"});
        check_refused([&] { checkpoint.tensor("twos"); },
                      {"sharded", "must have a tensor named twos", "the nearest being two, "});
    }

    for (const char* shard : {"../1.safetensors", "/tmp/1.safetensors", "a/1.safetensors", "a\\1.safetensors", "..",
                              ".", "", "1.bin", "./1.safetensors"}) {
        CAPTURE(shard);
        write_json(index, {{"weight_map", {{"one", shard}}}});
        check_refused([&] { Checkpoint{sharded}; },
                      {"must name a .safetensors file beside it, without folders, for tensor \"one\""});
    }
    write_json(index, {{"weight_map", {{"one", std::string("1.bin\0.safetensors", 18)}}}});
    check_refused([&] { Checkpoint{sharded}; }, {"without folders"});
    write_json(index, {{"weight_map", {{"one", 1}}}});
    check_refused([&] { Checkpoint{sharded}; }, {"for tensor \"one\"; it has 1"});
    write_json(index, {{"weight_map", json::array()}});
    check_refused([&] { Checkpoint{sharded}; },
                  {"must hold a \"weight_map\" from tensor names to files; it holds none"});
    fs::remove(index);
    check_refused([&] { Checkpoint{sharded}; },
                  {"must hold model.safetensors or model.safetensors.index.json; it holds neither"});
    check_refused([&] { Checkpoint{folder.path / "nothing"}; }, {"nothing does not exist"});
}

TEST_CASE("json: read, and each refusal with its place") {
    CHECK(parse_json(R"( {"b": [1, 2.5, "x"], "a": null} )", "c.json") == json{{"b", {1, 2.5, "x"}}, {"a", nullptr}});
    CHECK(parse_json(R"([{"a": 1}, {"a": {"a": 2}}])", "c.json").size() == 2);
    CHECK(parse_json(std::string(64, '[') + std::string(64, ']'), "c.json").is_array());

    json_refused("{\"a\": 1,\n \"b\": }",
                 {"c.json must be well-formed JSON; at line 2, column 7 (byte 16) it is not: ", "unexpected '}'"});
    json_refused("", {"at line 1, column 1 (byte 1)"});
    json_refused("{} {}", {"line 1, column 4"});
    json_refused("[NaN]", {"well-formed JSON", "line 1, column 2"});
    json_refused("[Infinity]", {"well-formed JSON"});
    json_refused("[1e999]", {"must be JSON whose numbers fit float64: number overflow parsing '1e999'"});
    json_refused("[1] // note", {"well-formed JSON"});
    json_refused("[\"\xC3(\"]", {"well-formed JSON", "UTF-8"});
    json_refused("\"" + std::string(100000, 'x'), {"..."});
    CHECK(sentence([] { parse_json("\"" + std::string(100000, 'x'), "c.json"); }).size() < 250);
    json_refused(R"({"a": {"k": 1, "k": 2}})",
                 {"must have each key once in an object; it has \"k\" twice", "remove one"});
    json_refused(R"({"k": 1, "\u006b": 2})", {"it has \"k\" twice"});
    json_refused(std::string(65, '[') + std::string(65, ']'), {"must nest at most 64 levels deep", "flatten it"});
    json_refused(std::string(5'000'000, '['), {"must nest at most 64 levels deep"});

    const Folder folder;
    const fs::path path = folder.path / "c.json";
    check_refused([&] { read_json(path); }, {"c.json does not exist"});
    write(path, "");
    fs::resize_file(path, (std::uintmax_t{64} << 20) + 1);  // takes no room on the disk
    check_refused([&] { read_json(path); }, {"must be at most 67108864 bytes; it has 67108865"});
}

TEST_CASE("json: written with two spaces and a newline, whole or not at all") {
    const Folder folder;
    const fs::path path = folder.path / "c.json";
    const json value{{"b", {1, 2}}, {"a", 0.1}};
    write_json(path, value);
    CHECK(content_of(path) == "{\n  \"a\": 0.1,\n  \"b\": [\n    1,\n    2\n  ]\n}\n");
    CHECK(read_json(path) == value);
    check_refused(
        [&] {
            write_json(path, {{"a", {1.0, std::nan("")}}});
        },
        {"JSON has no word for the number nan", "c.json/a/1"});
    check_refused([&] { write_json(path, -std::numeric_limits<double>::infinity()); },
                  {"no word for the number -inf"});
    check_refused([&] { write_json(path, "\xFF"); }, {"c.json cannot be written: its text must be UTF-8"});
    CHECK(read_json(path) == value);  // refused, and the old file is untouched
    CHECK(std::distance(fs::directory_iterator(folder.path), {}) == 1);
}

TEST_CASE("what a sentence quotes is short and printable") {
    CHECK(quotable("plain") == "plain");
    CHECK(quotable("a\nb\x1B[31m\xFF") == "a?b?[31m?");
    CHECK(quotable(std::string(101, 'x')) == std::string(100, 'x') + "...");
    CHECK(quotable(std::string(100, 'x')) == std::string(100, 'x'));
}
