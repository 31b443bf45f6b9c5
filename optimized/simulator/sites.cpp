#include "optimized/simulator/sites.h"

#include <dlfcn.h>

#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <tuple>
#include <unordered_map>

namespace dsa::simulator {
namespace {

struct Place {
    const void* address = nullptr;
    const char* what = nullptr;
    Where where;
};

struct Table {
    std::mutex mutex;
    std::deque<Place> places{Place{}};  // 0 is no site
    std::unordered_map<std::uint64_t, Site> of_address;
    std::map<std::tuple<const char*, const char*, unsigned>, Site> of_where;  // instruction, file, line

    Site add(const Place& place) {
        if (places.size() > most_sites) throw Fault("the simulator tells at most 1048575 places apart");
        places.push_back(place);
        return static_cast<Site>(places.size() - 1);
    }
};

Table& table() {
    static Table all;
    return all;
}

std::string name_of(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

std::string output_of(const std::string& command) {
    const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
    std::string text;
    char part[512];
    while (pipe && std::fgets(part, sizeof part, pipe.get()) != nullptr) text += part;
    return text;
}

// The innermost line that is a kernel's own: not the model's headers, not the standard library's.
std::string line_of(const void* return_address) {
    Dl_info info{};
    if (dladdr(return_address, &info) == 0 || info.dli_fname == nullptr) return "an unknown place";
    // The call ends before the address that it returns to.
    const auto offset = static_cast<std::uint64_t>(static_cast<const char*>(return_address) -
                                                   static_cast<const char*>(info.dli_fbase)) -
                        1;
    std::ostringstream hex;
    hex << "0x" << std::hex << offset;
    const std::string module = info.dli_fname;
    const std::string unknown = name_of(module) + "+" + hex.str();
    if (module.find('\'') != std::string::npos) return unknown;
    // A position-dependent program has its addresses as they are; here all are independent.
    std::istringstream lines(output_of("addr2line -i -e '" + module + "' " + hex.str() + " 2>/dev/null"));
    std::string line, first;
    while (std::getline(lines, line)) {
        line = line.substr(0, line.find(" (discriminator"));
        if (line.find("??") != std::string::npos || line.ends_with(":0") || line.ends_with(":?")) continue;
        if (first.empty()) first = name_of(line);
        if (line.find("/simulator/") == std::string::npos && !line.starts_with("/usr/")) return name_of(line);
    }
    return first.empty() ? unknown : first;
}

}  // namespace

Site site_of(const void* return_address) {
    Table& all = table();
    const std::lock_guard lock(all.mutex);
    Site& site = all.of_address[reinterpret_cast<std::uint64_t>(return_address)];
    if (site == 0) site = all.add({return_address, nullptr, {}});
    return site;
}

Site site_of(const char* what, Where where) {
    Table& all = table();
    const std::lock_guard lock(all.mutex);
    Site& site = all.of_where[{what, where.file_name(), where.line()}];
    if (site == 0) site = all.add({nullptr, what, where});
    return site;
}

std::string text_of_site(Site site) {
    Table& all = table();
    Place place;
    {
        const std::lock_guard lock(all.mutex);
        place = all.places[site];
    }
    if (place.address != nullptr) return line_of(place.address);
    if (place.what == nullptr) return "an unknown place";
    return (*place.what == '\0' ? "" : std::string(place.what) + " at ") + text_of(place.where);
}

}  // namespace dsa::simulator
