#include "services/cli/tokenize.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/model/tokenizer.h"
#include "services/cli/command_line.h"

namespace chord::cli {
namespace {

constexpr size_t kMaxLineBytes = size_t{64} << 20;
// The four hex digits after "\u" at line[at], or -1.
int Escaped(absl::string_view line, size_t at) {
  if (at + 6 > line.size() || line[at] != '\\' || line[at + 1] != 'u') return -1;
  int value = 0;
  for (size_t i = at + 2; i < at + 6; ++i) {
    const auto c = static_cast<unsigned char>(line[i]);
    if (!absl::ascii_isxdigit(c)) return -1;
    value = value * 16 + (absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10);
  }
  return value;
}

// JSON allows lone surrogates as escapes, text does not: they become U+FFFD.
std::string ReplaceLoneSurrogates(absl::string_view line) {
  std::string out;
  out.reserve(line.size());
  for (size_t i = 0; i < line.size();) {
    if (line[i] != '\\') {
      out.push_back(line[i++]);
      continue;
    }
    const int unit = Escaped(line, i);
    size_t length = unit < 0 ? 2 : 6;
    if (unit >= 0xD800 && unit < 0xDC00) {
      const int low = Escaped(line, i + 6);
      if (low >= 0xDC00 && low < 0xE000) length = 12;
    }
    if (unit >= 0xD800 && unit < 0xE000 && length == 6) {
      out.append("\\ufffd");
    } else {
      const absl::string_view as_it_is = line.substr(i, length);
      out.append(as_it_is.data(), as_it_is.size());
    }
    i += length;
  }
  return out;
}

bool WriteAll(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

class Session {
 public:
  Session(const model::Tokenizer& tokenizer, bool special)
      : tokenizer_(tokenizer), special_(special) {}

  absl::Status Run() {
    std::string pending;
    std::string block(1 << 16, '\0');
    for (;;) {
      const ssize_t n = read(STDIN_FILENO, block.data(), block.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return absl::DataLossError("cannot read standard input");
      size_t searched = pending.size();
      pending.append(block, 0, static_cast<size_t>(n));
      size_t begin = 0;
      absl::Status status;
      for (size_t end; status.ok() && (end = pending.find('\n', searched)) != std::string::npos;) {
        status = Line(absl::string_view(pending).substr(begin, end - begin));
        begin = searched = end + 1;
      }
      pending.erase(0, begin);
      if (status.ok() && n == 0 && !pending.empty()) status = Line(pending);
      if (status.ok() && pending.size() > kMaxLineBytes) status = Bad("is over 64 MiB");
      if (!WriteAll(std::exchange(answers_, {})) && status.ok()) {
        status = absl::DataLossError("cannot write standard output");
      }
      if (!status.ok() || n == 0) return status;
    }
  }

 private:
  absl::Status Bad(absl::string_view why) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", lines_ + 1, " ", why));
  }

  absl::Status Line(absl::string_view line) {
    const std::string replaced = ReplaceLoneSurrogates(line);
    const auto value = nlohmann::json::parse(replaced, nullptr, /*allow_exceptions=*/false);
    if (!value.is_string()) return Bad("is not a JSON string");
    const auto& text = value.get_ref<const std::string&>();
    const auto ids =
        special_ ? tokenizer_.EncodeWithAddedTokens(text) : tokenizer_.EncodeText(text);
    absl::StrAppend(&answers_, "[", absl::StrJoin(ids, ", "), "]\n");
    ++lines_;
    if (answers_.size() > (1 << 20) && !WriteAll(std::exchange(answers_, {}))) {
      return absl::DataLossError("cannot write standard output");
    }
    return absl::OkStatus();
  }

  const model::Tokenizer& tokenizer_;
  const bool special_;
  int64_t lines_ = 0;
  std::string answers_;
};

}  // namespace

int RunTokenize(const std::vector<std::string>& args) {
  std::string dir;
  bool special = false;
  CommandLine line("chord tokenize",
                   "Reads one JSON string a line on standard input, writes one JSON array of token "
                   "ids a line on\nstandard output.",
                   "Exit code: 0; 1 a line or the tokenizer cannot be read; 2 wrong command line.");
  line.Text("model", &dir, "DIR", "Folder with tokenizer.json");
  line.Switch("special", &special,
              "Find added tokens such as <|im_end|> in the text (default: all text is text)");
  if (const std::optional<int> code = line.Parse(args)) return *code;
  if (dir.empty()) return line.Fail("--model is missing; see --help.", kExitUsage);
  const auto tokenizer = model::Tokenizer::Load(dir + "/tokenizer.json");
  if (!tokenizer.ok()) return line.Fail(tokenizer.status().message(), kExitFailed);
  const absl::Status status = Session(*tokenizer, special).Run();
  return status.ok() ? kExitOk : line.Fail(status.message(), kExitFailed);
}

}  // namespace chord::cli
