// `chord keys new NAME`: an API key, and its entry for the file of keys.
#include <sys/random.h>

#include <array>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "services/cli/command_line.h"
#include "services/cli/commands.h"

namespace chord::cli {
namespace {

// 256 random bits, recognisable in a file that should not have them.
std::optional<std::string> NewKey() {
  std::array<char, 32> bytes;
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return std::nullopt;
  }
  return absl::StrCat("chord_",
                      absl::WebSafeBase64Escape(absl::string_view(bytes.data(), bytes.size())));
}

int New(const std::vector<std::string>& args) {
  std::string name;
  double pace = 0;
  CommandLine line(
      "chord keys new",
      "Makes an API key. The key goes to standard output and is kept nowhere; its entry "
      "for the file\nof gateway.api_keys_file, which has only its hash, goes to standard "
      "error.");
  line.Positional("NAME", &name, "Whose key it is: [a-zA-Z0-9._-], in every log line of a request");
  line.Number("requests-per-second", &pace, 0.001, 1e6, "R", "Its pace (default: no limit)");
  if (const std::optional<int> code = line.Parse(args)) return *code;
  if (name.empty() || name.size() > 64 ||
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") !=
          std::string::npos) {
    return line.Fail("NAME must be 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-'.", kExitUsage);
  }
  const std::optional<std::string> key = NewKey();
  if (!key) return line.Fail("The system gives no random bytes.", kExitFailed);
  Sha256 hash;
  hash.Update(*key);
  std::fprintf(stderr, "keys:\n  - name: %s\n    sha256: %s\n", name.c_str(),
               hash.HexDigest().c_str());
  if (pace > 0) std::fprintf(stderr, "    requests_per_second: %g\n", pace);
  std::puts(key->c_str());
  return kExitOk;
}

}  // namespace

int RunKeys(const std::vector<std::string>& args) {
  if (!args.empty() && args[0] == "new") return New({args.begin() + 1, args.end()});
  const bool help = !args.empty() && (args[0] == "--help" || args[0] == "-h");
  std::fputs(
      "chord keys: API keys of the gateway (gateway.api_keys_file)\n"
      "\n"
      "  chord keys new NAME   make a key and the entry for the file\n",
      help ? stdout : stderr);
  return help ? kExitOk : kExitUsage;
}

}  // namespace chord::cli
