#include "reference/files/npy.h"

#include <array>
#include <limits>
#include <string_view>

#include "reference/files/whole_file.h"

namespace dsa {
namespace {

constexpr std::uintmax_t largest_npy = std::uintmax_t{16} << 30;
constexpr std::size_t largest_header = 1 << 16;
constexpr int most_axes = 32;
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
                    " has an unknown header entry '", key, "'");
            require(!seen[which], source_, " has the header entry '", key, "' twice");
            seen[which] = true;
            if (which == 0)
                descr = quoted();
            else if (which == 1)
                fortran_order = truth();
            else
                shape = tuple();
            if (!next_is('}')) take(',');
        }
        take('}');
        skip_space();
        require(rest_.empty(), source_, " has text after its header's dictionary");
        require(seen[0] && seen[1] && seen[2], source_, " must have descr, fortran_order and shape in its header");
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
    Shape tuple() {
        Shape extents;
        take('(');
        while (!next_is(')')) {
            Index extent = 0;
            bool any = false;
            while (!rest_.empty() && rest_.front() >= '0' && rest_.front() <= '9') {
                require(extent < (Index{1} << 50), source_, " has a shape beyond any memory");
                extent = extent * 10 + (rest_.front() - '0');
                rest_.remove_prefix(1);
                any = true;
            }
            require(any, source_, " has a malformed header: a shape must be whole numbers");
            extents.push_back(extent);
            require(extents.size() <= most_axes, source_, " must have at most ", most_axes, " axes");
            if (!next_is(')')) take(',');
        }
        take(')');
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
        require(in_file != DType::bfloat16, source,
                " holds uint16: say which logical dtype it is (bfloat16), or save float32");
        return in_file;
    }
    if (in_file == *logical) return in_file;
    if (*logical == DType::float8_e4m3 && in_file == DType::uint8) return DType::float8_e4m3;
    if (is_floating(*logical) && (in_file == DType::float32 || in_file == DType::float64)) return in_file;
    if ((*logical == DType::int32 || *logical == DType::int64) &&
        (in_file == DType::int64 || in_file == DType::int32))
        return in_file;
    const std::string stored_as = *logical == DType::bfloat16      ? "uint16 (the bf16 bits), float32 or float64"
                                  : *logical == DType::float8_e4m3 ? "uint8 (the e4m3 bits), float32 or float64"
                                                                   : name_of(*logical);
    refuse(source, " must hold ", stored_as, ", to be read as ", name_of(*logical), "; it holds ",
           in_file == DType::bfloat16 ? "uint16" : name_of(in_file));
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

}  // namespace

StoredTensor parse_npy(std::span<const std::byte> bytes, const std::string& source, std::optional<DType> logical) {
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    require(text.size() >= 10 && text.starts_with(magic), source,
            " must be a .npy file, which begins with \\x93NUMPY: save it with numpy.save");
    const auto major = static_cast<unsigned>(bytes[6]);
    require(major >= 1 && major <= 3, source, " must be of .npy version 1, 2 or 3; it is of version ", major);
    const std::size_t length_bytes = major == 1 ? 2 : 4;
    require(text.size() >= 8 + length_bytes, source, " is cut short inside its header: write it again");
    std::size_t header_size = 0;
    for (std::size_t i = 0; i < length_bytes; ++i) header_size |= static_cast<std::size_t>(bytes[8 + i]) << (8 * i);
    const std::size_t header_at = 8 + length_bytes;
    require(header_size <= largest_header && header_at + header_size <= text.size(), source,
            " is cut short inside its header of ", header_size, " bytes: write it again");
    Header header(text.substr(header_at, header_size), source);
    header.parse();

    require(header.descr.empty() || header.descr.front() != '>', source, " must be little-endian; its dtype is ",
            header.descr, ": save it as array.astype('<", header.descr.substr(1), "')");
    const FileType* type = nullptr;
    for (const FileType& known : file_types)
        if (known.descr == header.descr) type = &known;
    require(type != nullptr, source,
            " must hold float64, float32, uint16 (bf16), int32, int64, uint8 or bool; its dtype is '", header.descr,
            "'");

    Index count = 1;
    for (const Index extent : header.shape) {
        require(extent == 0 || count <= (Index{1} << 50) / extent, source, " has a shape beyond any memory, ",
                to_string(header.shape));
        count *= extent;
    }
    const std::size_t expected = static_cast<std::size_t>(count) * size_of(type->dtype);
    const std::size_t data_at = header_at + header_size;
    require(text.size() - data_at == expected, source, " must hold ", expected, " bytes of data for its shape ",
            to_string(header.shape), "; it holds ", text.size() - data_at, ": write it again");
    StoredTensor tensor{
        type->dtype, header.shape, {bytes.begin() + static_cast<std::ptrdiff_t>(data_at), bytes.end()}};
    if (header.fortran_order) tensor.bytes = transposed(tensor);
    tensor.dtype = resolved(type->dtype, logical, source);
    if (logical == DType::int32 && tensor.dtype == DType::int64) {
        StoredTensor narrow{DType::int32, tensor.shape, std::vector<std::byte>(static_cast<std::size_t>(count) * 4)};
        for (Index i = 0; i < count; ++i) {
            const auto wide = tensor.raw<std::int64_t>(i);
            require(
                wide >= std::numeric_limits<std::int32_t>::min() && wide <= std::numeric_limits<std::int32_t>::max(),
                source, " must fit int32; element ", i, " is ", wide);
            const auto value = static_cast<std::int32_t>(wide);
            std::memcpy(narrow.bytes.data() + i * 4, &value, 4);
        }
        return narrow;
    }
    return tensor;
}

StoredTensor read_npy(const std::filesystem::path& path, std::optional<DType> logical) {
    return parse_npy(read_whole_file(path, largest_npy), path.string(), logical);
}

void write_npy(const std::filesystem::path& path, const StoredTensor& tensor) {
    std::string_view descr = "|u1";  // uint8, and the bits of e4m3
    for (const FileType& known : file_types)
        if (known.dtype == tensor.dtype) descr = known.descr;
    std::string shape = "(";
    for (const Index extent : tensor.shape) shape += std::to_string(extent) + ", ";
    if (tensor.shape.size() > 1) shape.resize(shape.size() - 2);
    if (tensor.shape.size() == 1) shape.pop_back();
    std::string header = "{'descr': '" + std::string(descr) + "', 'fortran_order': False, 'shape': " + shape + "), }";
    // The data begin at a multiple of 64 bytes.
    header.append(63 - (magic.size() + 4 + header.size()) % 64, ' ');
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
