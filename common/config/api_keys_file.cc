#include "common/config/api_keys_file.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord::config {
namespace {

constexpr size_t kMaxKeys = 10'000;
constexpr size_t kMaxNameBytes = 64;

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
         });
}

bool ParseHash(absl::string_view text, std::array<uint8_t, 32>* out) {
  if (text.size() != 2 * out->size() || !std::all_of(text.begin(), text.end(), [](unsigned char c) {
        return absl::ascii_isxdigit(c);
      })) {
    return false;
  }
  const std::string bytes = absl::HexStringToBytes(text);
  std::copy(bytes.begin(), bytes.end(), out->begin());
  return true;
}

bool ParsePositive(absl::string_view text, double* out) {
  return absl::SimpleAtod(text, out) && *out > 0 && *out <= 1e6;
}

// The end of the day that it names.
bool ParseDay(absl::string_view text, absl::Time* out) {
  absl::Time day;
  if (!absl::ParseTime("%Y-%m-%d", text, &day, nullptr)) return false;
  *out = day + absl::Hours(24);
  return true;
}

class Reader {
 public:
  explicit Reader(const std::string& file) : file_(file) {}

  absl::StatusOr<std::vector<ApiKeyEntry>> Read(const YAML::Node& root) {
    if (!root.IsMap() || root.size() != 1 || !root["keys"] || !root["keys"].IsSequence()) {
      return Wrong(root, "the file must be a list of keys under \"keys:\".");
    }
    std::vector<ApiKeyEntry> out;
    std::set<std::string> names;
    for (const YAML::Node& node : root["keys"]) {
      CHORD_ASSIGN_OR_RETURN(ApiKeyEntry entry, Entry(node));
      if (!names.insert(entry.name).second) {
        return Wrong(node, absl::StrCat("the name \"", entry.name, "\" is given twice."));
      }
      if (out.size() >= kMaxKeys) return Wrong(node, "there are too many keys.");
      out.push_back(std::move(entry));
    }
    return out;
  }

 private:
  absl::Status Wrong(const YAML::Node& node, absl::string_view what) const {
    return errors::ConfigInvalid(absl::StrCat(file_, ":", node.Mark().line + 1, ": ", what));
  }

  absl::StatusOr<ApiKeyEntry> Entry(const YAML::Node& node) const {
    if (!node.IsMap()) return Wrong(node, "a key must be {name: …, sha256: …}.");
    ApiKeyEntry out;
    bool hashed = false, paced = false;
    for (const auto& field : node) {
      if (!field.first.IsScalar() || !field.second.IsScalar()) {
        return Wrong(field.first, "a field of a key must be one value.");
      }
      const std::string& name = field.first.Scalar();
      const std::string& value = field.second.Scalar();
      bool good = false;
      if (name == "name") {
        good = IsName(value);
        out.name = value;
      } else if (name == "sha256") {
        good = hashed = ParseHash(value, &out.sha256);
      } else if (name == "requests_per_second") {
        good = ParsePositive(value, &out.requests_per_second);
      } else if (name == "burst") {
        good = paced = ParsePositive(value, &out.burst) && out.burst >= 1;
      } else if (name == "expires") {
        good = ParseDay(value, &out.expires);
      } else {
        return Wrong(field.first, absl::StrCat("a key has no field \"", name, "\"."));
      }
      if (!good) return Wrong(field.second, absl::StrCat(name, " is not valid."));
    }
    if (out.name.empty() || !hashed) return Wrong(node, "a key needs name and sha256.");
    if (!paced) out.burst = std::max(1.0, out.requests_per_second);
    return out;
  }

  const std::string file_;
};

}  // namespace

absl::StatusOr<std::vector<ApiKeyEntry>> ReadApiKeysFile(const std::string& path) {
  try {
    return Reader(path).Read(YAML::LoadFile(path));
  } catch (const YAML::BadFile&) {
    return errors::ConfigInvalid(absl::StrCat("Cannot read the file of API keys ", path, "."));
  } catch (const YAML::Exception& error) {
    return errors::ConfigInvalid(
        absl::StrCat(path, ":", error.mark.line + 1, ": not valid YAML: ", error.msg, "."));
  }
}

}  // namespace chord::config
