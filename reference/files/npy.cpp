#include "reference/files/npy.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>

#include "reference/files/json_file.h"
#include "reference/files/whole_file.h"

namespace dsa {
namespace {

constexpr std::uintmax_t largest_npy = std::uintmax_t{16} << 30;
constexpr std::size_t largest_header = 1 << 16;
constexpr std::size_t most_axes = 64;  // NumPy's own limit
constexpr Index largest_extent = Index{1} << 50;
constexpr std::string_view magic("\x93NUMPY", 6);

// A reader of the header, which is a Python dictionary of three known entries.
class Header {
   public:
    Header(std::string_view text, std::string source) : rest_(text), source_(std::move(source)) {}

    std::string descr;
    bool fortran_order = false;
    Shape shape;

    void parse() {
        std::array<bool, 3> seen{};
        take('{');
        while (!next_is('}')) {
            const std::string key = quoted();
            take(':');
            const std::size_t which = key == "descr" ? 0 : key == "fortran_order" ? 1 : 2;
            require(key == "descr" || key == "fortran_order" || key == "shape", source_,
                    " must have descr, fortran_order and shape in its header; it also has '", quotable(key),
                    "': save it with numpy.save");
            require(!seen[which], source_, " must have each header entry once; it has '", key,
                    "' twice: save it with numpy.save");
            seen[which] = true;
            if (which == 0) {
                require(!next_is('['), source_,
                        " must hold plain numbers; its dtype is a structure: save each field by itself");
                descr = quoted();
            } else if (which == 1)
                fortran_order = truth();
            else
                shape = tuple();
            if (!next_is('}')) take(',');
        }
        take('}');
        skip_space();
        require(rest_.empty(), source_, " must have nothing after its header's dictionary; it has '", quotable(rest_),
                "'");
        require(seen[0] && seen[1] && seen[2], source_,
                " must have descr, fortran_order and shape in its header; one is missing: save it with numpy.save");
    }

   private:
    void skip_space() {
        while (!rest_.empty() && (rest_.front() == ' ' || rest_.front() == '\n')) rest_.remove_prefix(1);
    }
    bool next_is(char c) {
        skip_space();
        return !rest_.empty() && rest_.front() == c;
    }
    void take(char c) {
        require(next_is(c), source_, " has a malformed header: expected '", c, "'");
        rest_.remove_prefix(1);
    }
    std::string quoted() {
        skip_space();
        require(!rest_.empty() && (rest_.front() == '\'' || rest_.front() == '"'), source_,
                " has a malformed header: expected a quoted word");
        const std::size_t end = rest_.find(rest_.front(), 1);
        require(end != std::string_view::npos, source_, " has a malformed header: a quote is not closed");
        const std::string word(rest_.substr(1, end - 1));
        rest_.remove_prefix(end + 1);
        return word;
    }
    bool truth() {
        skip_space();
        for (const std::string_view word : {"True", "False"})
            if (rest_.starts_with(word)) {
                rest_.remove_prefix(word.size());
                return word == "True";
            }
        refuse(source_, " has a malformed header: fortran_order must be True or False");
    }
    Index extent() {
        Index value = 0;
        require(!rest_.empty() && rest_.front() >= '0' && rest_.front() <= '9', source_,
                " has a malformed header: a shape must be whole numbers, none below 0");
        while (!rest_.empty() && rest_.front() >= '0' && rest_.front() <= '9') {
            value = value * 10 + (rest_.front() - '0');
            require(value <= largest_extent, source_, " has a shape beyond any memory: save it with numpy.save");
            rest_.remove_prefix(1);
        }
        return value;
    }
    // "()", "(3,)", "(2, 3)"; "(3)" is no tuple in Python.
    Shape tuple() {
        Shape extents;
        bool ends_in_comma = false;
        take('(');
        while (!next_is(')')) {
            require(extents.size() < most_axes, source_, " must have at most ", most_axes, " axes; it has more");
            require(extents.empty() || ends_in_comma, source_, " has a malformed header: expected ',' in the shape");
            extents.push_back(extent());
            ends_in_comma = next_is(',');
            if (ends_in_comma) take(',');
        }
        take(')');
        require(extents.size() != 1 || ends_in_comma, source_,
                " has a malformed header: a shape of one axis is written (N,)");
        return extents;
    }

    std::string_view rest_;
    std::string source_;
};

struct FileType {
    std::string_view descr;
    DType dtype;  // what it is if nobody says otherwise
};
constexpr std::array<FileType, 7> file_types{{{"<f8", DType::float64},
                                              {"<f4", DType::float32},
                                              {"<u2", DType::bfloat16},
                                              {"<i4", DType::int32},
                                              {"<i8", DType::int64},
                                              {"|u1", DType::uint8},
                                              {"|b1", DType::boolean}}};

bool is_floating(DType d) {
    return d == DType::float64 || d == DType::float32 || d == DType::bfloat16 || d == DType::float8_e4m3;
}

// What the numbers are: the file's own dtype, seen in the light of the logical one.
DType resolved(DType in_file, std::optional<DType> logical, const std::string& source) {
    if (!logical) {
        require(
            in_file != DType::bfloat16, source,
            " holds uint16, which may be bfloat16 or not: name its logical dtype, or save it as array.astype('<f4')");
        return in_file;
    }
    if (in_file == *logical) return in_file;
    if (*logical == DType::float8_e4m3 && in_file == DType::uint8) return DType::float8_e4m3;
    if (*logical == DType::int32 && in_file == DType::int64) return in_file;  // narrowed if all numbers fit
    if (is_floating(*logical) && (in_file == DType::float32 || in_file == DType::float64)) return in_file;
    const std::string stored_as = *logical == DType::bfloat16 ? "uint16 (the bits of bfloat16), float32 or float64"
                                  : *logical == DType::float8_e4m3 ? "uint8 (the bits of e4m3), float32 or float64"
                                  : is_floating(*logical)          ? "float32 or float64"
                                                                   : name_of(*logical);
    refuse(source, " must hold ", stored_as, " to be read as ", name_of(*logical), "; it holds ",
           in_file == DType::bfloat16 ? "uint16" : name_of(in_file), ": convert it with array.astype or array.view");
}

// The dtype of that name in a header.
DType file_dtype(const std::string& descr, const std::string& source) {
    for (const FileType& known : file_types)
        if (known.descr == descr) return known.dtype;
    require(!descr.starts_with('>'), source, " must be little-endian; its dtype is '", quotable(descr),
            "': save it as array.astype('<", quotable(descr.substr(std::min<std::size_t>(1, descr.size()))), "')");
    // What numpy.save makes of the arrays of ml_dtypes.
    require(!descr.ends_with("V2"), source, " must hold bfloat16 as uint16; its dtype is '", quotable(descr),
            "', two bytes without a meaning: save array.view('uint16')");
    require(!descr.ends_with("V1"), source, " must hold float8_e4m3 as uint8; its dtype is '", quotable(descr),
            "', bytes without a meaning: save array.view('uint8')");
    refuse(source, " must hold float64, float32, uint16 (bfloat16), int32, int64, uint8 or bool; its dtype is '",
           quotable(descr), "': convert it, for example with array.astype('<f4')");
}

// NumPy's column-major elements in row-major order.
std::vector<std::byte> transposed(const StoredTensor& tensor) {
    const std::size_t item = size_of(tensor.dtype);
    std::vector<std::byte> out(tensor.bytes.size());
    const std::size_t axes = tensor.shape.size();
    std::vector<Index> at(axes, 0);
    for (Index i = 0; i < tensor.size(); ++i) {
        Index source = 0;
        for (std::size_t a = axes; a-- > 0;) source = source * tensor.shape[a] + at[a];
        std::memcpy(out.data() + static_cast<std::size_t>(i) * item,
                    tensor.bytes.data() + static_cast<std::size_t>(source) * item, item);
        for (std::size_t a = axes; a-- > 0;) {
            if (++at[a] < tensor.shape[a]) break;
            at[a] = 0;
        }
    }
    return out;
}

StoredTensor narrowed_to_int32(const StoredTensor& wide, const std::string& source) {
    StoredTensor narrow{DType::int32, wide.shape, std::vector<std::byte>(wide.bytes.size() / 2)};
    for (Index i = 0; i < wide.size(); ++i) {
        const auto number = wide.raw<std::int64_t>(i);
        const auto value = static_cast<std::int32_t>(number);
        require(value == number, source, " must hold numbers that fit int32; element ", i, " (counted flat) is ",
                number);
        std::memcpy(narrow.bytes.data() + static_cast<std::size_t>(i) * sizeof value, &value, sizeof value);
    }
    return narrow;
}

// All that comes before the data.
struct Preamble {
    DType dtype;  // in the file
    bool fortran_order;
    Shape shape;
    std::size_t size;  // of the preamble, in bytes
};

Preamble parse_preamble(std::span<const std::byte> bytes, const std::string& source) {
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    require(text.size() >= 10 && text.starts_with(magic), source,
            " must be a .npy file, which begins with \\x93NUMPY; it is not: save it with numpy.save");
    const auto major = static_cast<unsigned>(bytes[6]);
    const auto minor = static_cast<unsigned>(bytes[7]);
    require(major >= 1 && major <= 3 && minor == 0, source,
            " must be of .npy version 1.0, 2.0 or 3.0; it is of version ", major, ".", minor,
            ": save it with numpy.save");
    const std::size_t length_bytes = major == 1 ? 2 : 4;
    require(text.size() >= 8 + length_bytes, source, " is cut short inside its header: save it again");
    std::size_t header_size = 0;
    for (std::size_t i = 0; i < length_bytes; ++i) header_size |= static_cast<std::size_t>(bytes[8 + i]) << (8 * i);
    const std::size_t header_at = 8 + length_bytes;
    require(header_size <= text.size() - header_at, source, " is cut short inside its header, which should have ",
            header_size, " bytes: save it again");
    require(header_size <= largest_header, source, " must have a header of at most ", largest_header,
            " bytes; it has ", header_size, ": save it with numpy.save");
    Header header(text.substr(header_at, header_size), source);
    header.parse();
    const DType dtype = file_dtype(header.descr, source);

    Index count = 1;
    for (const Index extent : header.shape) {
        require(extent == 0 || count <= largest_extent / extent, source, " has a shape beyond any memory, ",
                to_string(header.shape), ": save it with numpy.save");
        count *= extent;
    }
    const std::size_t expected = static_cast<std::size_t>(count) * size_of(dtype);
    const std::size_t data_at = header_at + header_size;
    require(text.size() - data_at == expected, source, " must hold ", expected, " bytes of data for its shape ",
            to_string(header.shape), "; it holds ", text.size() - data_at, ": save it again");
    return {dtype, header.fortran_order, std::move(header.shape), data_at};
}

StoredTensor make_tensor(const Preamble& preamble, std::vector<std::byte> data, std::optional<DType> logical,
                         const std::string& source) {
    StoredTensor tensor{preamble.dtype, preamble.shape, std::move(data)};
    if (preamble.fortran_order) tensor.bytes = transposed(tensor);
    tensor.dtype = resolved(preamble.dtype, logical, source);
    if (tensor.dtype == DType::boolean)
        for (const std::byte b : tensor.bytes)
            require(b <= std::byte{1}, source, " must hold 0 or 1 as bool; it holds ", static_cast<int>(b),
                    ": save it as array.astype('bool')");
    if (logical == DType::int32 && tensor.dtype == DType::int64) return narrowed_to_int32(tensor, source);
    return tensor;
}

}  // namespace

StoredTensor parse_npy(std::span<const std::byte> bytes, const std::string& source, std::optional<DType> logical) {
    const Preamble preamble = parse_preamble(bytes, source);
    const auto data = bytes.subspan(preamble.size);
    return make_tensor(preamble, {data.begin(), data.end()}, logical, source);
}

StoredTensor read_npy(const std::filesystem::path& path, std::optional<DType> logical) {
    std::vector<std::byte> bytes = read_whole_file(path, largest_npy);
    const Preamble preamble = parse_preamble(bytes, path.string());
    // Moved within its memory: there is never a second copy of a large tensor.
    bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(preamble.size));
    return make_tensor(preamble, std::move(bytes), logical, path.string());
}

void write_npy(const std::filesystem::path& path, const StoredTensor& tensor) {
    require(tensor.shape.size() <= most_axes, path.string(), " cannot be written: a tensor must have at most ",
            most_axes, " axes; it has ", tensor.shape.size());
    require(tensor.bytes.size() == static_cast<std::size_t>(tensor.size()) * size_of(tensor.dtype), path.string(),
            " cannot be written: its shape ", to_string(tensor.shape), " of ", name_of(tensor.dtype),
            " does not fit its ", tensor.bytes.size(), " bytes");
    std::string_view descr = "|u1";  // uint8, and the bits of e4m3
    for (const FileType& known : file_types)
        if (known.dtype == tensor.dtype) descr = known.descr;
    std::string shape;
    for (const Index extent : tensor.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(extent);
    if (tensor.shape.size() == 1) shape += ",";
    std::string header =
        "{'descr': '" + std::string(descr) + "', 'fortran_order': False, 'shape': (" + shape + "), }";
    // As NumPy does, room for the first extent to grow to 21 digits; then up to a multiple of 64 bytes with at
    // least one space before the newline. numpy.lib.format, GROWTH_AXIS_MAX_DIGITS and _wrap_header.
    if (!tensor.shape.empty()) header.append(21 - std::to_string(tensor.shape[0]).size(), ' ');
    const std::size_t before = magic.size() + 4 + header.size() + 1;
    header.append(64 - before % 64, ' ');
    header += '\n';
    write_whole_file(path, [&](std::ostream& out) {
        const std::array<char, 4> version_and_size{1, 0, static_cast<char>(header.size() & 255),
                                                   static_cast<char>(header.size() >> 8)};
        out.write(magic.data(), static_cast<std::streamsize>(magic.size()));
        out.write(version_and_size.data(), 4);
        out << header;
        out.write(reinterpret_cast<const char*>(tensor.bytes.data()),
                  static_cast<std::streamsize>(tensor.bytes.size()));
    });
}

}  // namespace dsa
