#include "common/obs/exposition.h"

#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace chord::obs {
namespace {

struct FamilyText {
  std::string head;     // HELP and TYPE
  std::string samples;  // lines
};

struct Page {
  std::vector<std::string> order;
  std::map<std::string, FamilyText> families;

  FamilyText& Family(absl::string_view name) {
    const auto [found, added] = families.try_emplace(std::string(name));
    if (added) order.emplace_back(name);
    return found->second;
  }
};

std::string Escaped(absl::string_view value) {
  std::string out;
  for (char c : value) {
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

// "name 1" and "name{a="b"} 1" with one more label in front.
std::string WithLabel(absl::string_view sample, absl::string_view label) {
  const size_t end = sample.find_first_of("{ ");
  if (end == absl::string_view::npos) return std::string(sample);
  if (sample[end] == ' ') {
    return absl::StrCat(sample.substr(0, end), "{", label, "}", sample.substr(end));
  }
  const absl::string_view rest = sample.substr(end + 1);
  return absl::StrCat(sample.substr(0, end), "{", label, absl::StartsWith(rest, "}") ? "" : ",",
                      rest);
}

void Add(absl::string_view text, absl::string_view label, Page* page) {
  FamilyText* family = nullptr;
  bool first = false;  // of this family: its head counts
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "# HELP ") || absl::StartsWith(line, "# TYPE ")) {
      const bool help = absl::StartsWith(line, "# HELP ");
      const absl::string_view rest = line.substr(7);
      if (help) {
        family = &page->Family(rest.substr(0, rest.find(' ')));
        first = family->head.empty();
      }
      if (family != nullptr && first) absl::StrAppend(&family->head, line, "\n");
    } else if (!absl::StartsWith(line, "#") && family != nullptr) {
      absl::StrAppend(&family->samples, label.empty() ? std::string(line) : WithLabel(line, label),
                      "\n");
    }
  }
}

}  // namespace

std::string MergeExpositions(absl::string_view own, const std::vector<OtherExposition>& others) {
  Page page;
  Add(own, "", &page);
  for (const OtherExposition& other : others) {
    Add(other.text, absl::StrCat("worker=\"", Escaped(other.worker), "\""), &page);
  }
  std::string out;
  for (const std::string& name : page.order) {
    const FamilyText& family = page.families[name];
    absl::StrAppend(&out, family.head, family.samples);
  }
  return out;
}

}  // namespace chord::obs
