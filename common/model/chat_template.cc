// Recognises the ChatML form of spec §6.1 in a checkpoint's Jinja template. The template is not
// run. It is reduced to what it writes, the skeleton of its literal texts and expressions in order,
// and the skeleton must be the known one: a template that writes anything else is refused.
#include <utf8proc.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/json/strict_json.h"
#include "common/model/prompt.h"

namespace chord::model {
namespace {

using nlohmann::json;

absl::Status Bad(absl::string_view what) {
  return errors::CheckpointInvalid(absl::StrCat("chat template: ", what));
}

// --- Jinja in, nodes out
// ---------------------------------------------------------------------------

struct Node {
  enum Kind { kText, kExpression, kStatement } kind;
  std::string body;
};

// "message['role']" and "message.role" are one spelling; so are both kinds of quotes; blanks go.
std::string Canonical(absl::string_view code) {
  std::string out;
  char quote = 0;
  for (const char c : code) {
    if (quote == 0 && absl::ascii_isspace(static_cast<unsigned char>(c))) {
      if (!out.empty() && out.back() != ' ') out.push_back(' ');
      continue;
    }
    if ((c == '\'' || c == '"') && (quote == 0 || quote == c)) {
      quote = quote == 0 ? c : 0;
      out.push_back('\'');
      continue;
    }
    out.push_back(c);
  }
  absl::StripTrailingAsciiWhitespace(&out);
  for (size_t at; (at = out.find("['")) != std::string::npos;) {
    const size_t end = out.find("']", at + 2);
    if (end == std::string::npos) break;
    out.replace(at, end + 2 - at, "." + out.substr(at + 2, end - at - 2));
  }
  return out;
}

// The character of `digits` hexadecimal digits, as UTF-8; "" when they are none.
std::string CharacterOf(absl::string_view digits, size_t count) {
  uint32_t code = 0;
  if (digits.size() < count || !absl::SimpleHexAtoi(digits.substr(0, count), &code)) return "";
  if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return "";
  utf8proc_uint8_t bytes[4];
  const auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), bytes);
  return {reinterpret_cast<const char*>(bytes), static_cast<size_t>(n)};
}

// The value of a quoted constant, or nullopt when `code` is something else.
std::optional<std::string> Constant(absl::string_view code) {
  if (code.size() < 2 || code.front() != code.back() ||
      (code.front() != '\'' && code.front() != '"')) {
    return std::nullopt;
  }
  const absl::string_view inner = code.substr(1, code.size() - 2);
  static constexpr absl::string_view kLetters = "abfnrtv\\'\"";
  static constexpr absl::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
  std::string out;
  for (size_t i = 0; i < inner.size(); ++i) {
    if (inner[i] == code.front()) return std::nullopt;
    if (inner[i] != '\\') {
      out.push_back(inner[i]);
      continue;
    }
    if (++i == inner.size()) return std::nullopt;
    const char c = inner[i];
    if (const size_t letter = kLetters.find(c); letter != kLetters.npos) {
      out.push_back(kMeanings[letter]);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      const std::string character = CharacterOf(inner.substr(i + 1), digits);
      if (character.empty()) return std::nullopt;
      out += character;
      i += digits;
    } else {  // an escape that is none stands for itself
      out.push_back('\\');
      out.push_back(c);
    }
  }
  return out;
}

// Splits at '+' outside quotes, brackets and parentheses.
std::vector<absl::string_view> Summands(absl::string_view code) {
  std::vector<absl::string_view> out;
  char quote = 0;
  int depth = 0;
  size_t begin = 0;
  for (size_t i = 0; i < code.size(); ++i) {
    const char c = code[i];
    if (quote != 0) {
      if (c == '\\') ++i;
      if (c == quote) quote = 0;
    } else if (c == '\'' || c == '"') {
      quote = c;
    } else if (c == '(' || c == '[') {
      ++depth;
    } else if (c == ')' || c == ']') {
      --depth;
    } else if (c == '+' && depth == 0) {
      out.push_back(code.substr(begin, i - begin));
      begin = i + 1;
    }
  }
  out.push_back(code.substr(begin));
  return out;
}

// Cuts a template into nodes, with the white-space control of the reference: "-" strips all blanks
// on its side; a statement also takes the blanks of its line before it and one newline after it.
absl::StatusOr<std::vector<Node>> Parse(absl::string_view source) {
  std::vector<Node> nodes;
  const auto text = [&nodes](absl::string_view t) {
    if (t.empty()) return;
    if (nodes.empty() || nodes.back().kind != Node::kText) nodes.push_back({Node::kText, ""});
    absl::StrAppend(&nodes.back().body, t);
  };
  absl::ConsumeSuffix(&source, "\n");
  bool strip_left = false, drop_newline = false;
  while (!source.empty()) {
    size_t open = 0;
    while (open < source.size() &&
           !(source[open] == '{' && open + 1 < source.size() &&
             (source[open + 1] == '{' || source[open + 1] == '%' || source[open + 1] == '#'))) {
      ++open;
    }
    absl::string_view literal = source.substr(0, open);
    const bool last = open == source.size();
    const bool output = !last && source[open + 1] == '{';
    if (drop_newline) absl::ConsumePrefix(&literal, "\n");
    if (strip_left) literal = absl::StripLeadingAsciiWhitespace(literal);
    if (last) {
      text(literal);
      break;
    }
    const char kind = output ? '}' : source[open + 1];  // what the closing brace follows
    source.remove_prefix(open + 2);
    const size_t close = source.find(std::string{kind, '}'});
    if (close == absl::string_view::npos) return Bad("an unfinished tag");
    absl::string_view body = source.substr(0, close);
    source.remove_prefix(close + 2);
    const bool strip_before = absl::ConsumePrefix(&body, "-");
    strip_left = absl::ConsumeSuffix(&body, "-");
    drop_newline = !output;
    if (strip_before) {
      literal = absl::StripTrailingAsciiWhitespace(literal);
    } else if (!output) {
      size_t end = literal.size();
      while (end > 0 && (literal[end - 1] == ' ' || literal[end - 1] == '\t')) --end;
      if (end > 0 ? literal[end - 1] == '\n' : nodes.empty()) literal = literal.substr(0, end);
    }
    text(literal);
    body = absl::StripAsciiWhitespace(body);
    if (kind == '%') {
      nodes.push_back({Node::kStatement, Canonical(body)});
    } else if (output) {
      for (const absl::string_view summand : Summands(body)) {
        const absl::string_view part = absl::StripAsciiWhitespace(summand);
        if (const auto constant = Constant(part)) {
          text(*constant);
        } else {
          nodes.push_back({Node::kExpression, Canonical(part)});
        }
      }
    }
  }
  return nodes;
}

// --- nodes in, skeleton out
// ------------------------------------------------------------------------

// Which branches belong to things that Chord never asks for: numbered images and video.
bool OpensUnusedBranch(absl::string_view statement) {
  const bool conditional =
      absl::StartsWith(statement, "if ") || absl::StartsWith(statement, "elif ");
  return conditional &&
         (absl::StrContains(statement, "add_vision_id") || absl::StrContains(statement, "video"));
}

// What the used branches write, in order: text as it is, an expression as \x01 + name + \x02, where
// the name is the last part of a path ("message.role" -> "role").
std::string Skeleton(const std::vector<Node>& nodes) {
  std::string out;
  int depth = 0;      // of if-blocks
  int unused_at = 0;  // depth of the if-block whose current branch is unused; 0: none
  for (const Node& node : nodes) {
    if (node.kind == Node::kStatement) {
      const absl::string_view s = node.body;
      if (absl::StartsWith(s, "if ")) {
        ++depth;
        if (unused_at == 0 && OpensUnusedBranch(s)) unused_at = depth;
      } else if (absl::StartsWith(s, "elif ") || s == "else") {
        if (unused_at == depth) unused_at = 0;
        if (unused_at == 0 && OpensUnusedBranch(s)) unused_at = depth;
      } else if (s == "endif") {
        if (unused_at == depth) unused_at = 0;
        --depth;
      }
    } else if (unused_at == 0) {
      if (node.kind == Node::kText) {
        absl::StrAppend(&out, node.body);
      } else {
        const size_t dot = node.body.rfind('.');
        absl::StrAppend(&out, "\x01", node.body.substr(dot == std::string::npos ? 0 : dot + 1),
                        "\x02");
      }
    }
  }
  return out;
}

bool Mentions(const std::vector<Node>& nodes, absl::string_view text) {
  for (const Node& node : nodes) {
    if (node.kind == Node::kStatement && absl::StrContains(node.body, text)) return true;
  }
  return false;
}

absl::StatusOr<ChatTemplate> Recognise(absl::string_view stored) {
  static constexpr absl::string_view kHead = "<|im_start|>system\n";
  static constexpr absl::string_view kEnd = "<|im_end|>\n";
  static constexpr absl::string_view kTurn = "<|im_start|>\x01role\x02\n";
  static constexpr absl::string_view kImage = "<|vision_start|><|image_pad|><|vision_end|>";
  static constexpr absl::string_view kTail = "<|im_end|>\n<|im_start|>assistant\n";
  // Jinja reads every kind of line end as one newline.
  const std::string source = absl::StrReplaceAll(stored, {{"\r\n", "\n"}, {"\r", "\n"}});
  CHORD_ASSIGN_OR_RETURN(const std::vector<Node> nodes, Parse(source));
  const std::string skeleton = Skeleton(nodes);
  absl::string_view rest = skeleton;
  ChatTemplate chat;
  if (absl::ConsumePrefix(&rest, kHead)) {
    const size_t end = rest.find(absl::StrCat(kEnd, kTurn));
    if (end == absl::string_view::npos) return Bad("no turn of the form role, newline, content");
    const absl::string_view system = rest.substr(0, end);
    if (absl::StrContains(system, "<|") || system.find_first_of("\x01\x02") != system.npos) {
      return Bad("the default system message is not plain text");
    }
    chat.default_system = std::string(system);
    rest.remove_prefix(end + kEnd.size());
  } else {
    chat.default_system = std::nullopt;
  }
  if (!absl::ConsumePrefix(&rest, kTurn)) {
    return Bad("it begins neither with a default system message nor with a turn in ChatML form");
  }
  // A turn's content as one string: closed in its own branch, or together with the list form.
  if (absl::ConsumePrefix(&rest,
                          "\x01"
                          "content\x02"))
    absl::ConsumePrefix(&rest, "<|im_end|>\n");
  if (!absl::ConsumePrefix(&rest, kImage)) return Bad("no image of the form start, pad, end");
  if (!absl::ConsumePrefix(&rest, "\x01text\x02") && !absl::ConsumePrefix(&rest,
                                                                          "\x01"
                                                                          "content\x02")) {
    return Bad("no text beside the image");
  }
  if (rest != kTail) return Bad("it writes something after the content that ChatML does not have");
  if ((chat.default_system && !Mentions(nodes, "system")) ||
      !Mentions(nodes, "add_generation_prompt") || !Mentions(nodes, "for ")) {
    return Bad("its conditions are not those of ChatML");
  }
  return chat;
}

// --- files
// -----------------------------------------------------------------------------------------

// The member chat_template of a JSON file: a string, or several with names of which the one called
// "default" counts. nullopt when there is none. Not as strict as with the settings of the model:
// the rest of these files is none of our business.
absl::StatusOr<std::optional<std::string>> TemplateOf(absl::string_view file,
                                                      absl::string_view content) {
  if (absl::Status bounds = CheckJsonBounds(content, {.depth = 32}); !bounds.ok()) {
    return Bad(absl::StrCat(file, ": ", bounds.message()));
  }
  try {
    const json root = json::parse(content, nullptr, /*allow_exceptions=*/false);
    if (!root.is_object()) return Bad(absl::StrCat(file, " is not a JSON object"));
    const auto found = root.find("chat_template");
    if (found == root.end() || found->is_null()) return std::optional<std::string>();
    const json* chosen = &*found;
    if (found->is_object() && found->contains("default")) {
      chosen = &(*found)["default"];
    } else if (found->is_array()) {
      for (const json& entry : *found) {
        if (entry.is_object() && entry.value("name", json()) == "default" &&
            entry.contains("template")) {
          chosen = &entry["template"];
          break;
        }
      }
    }
    if (chosen->is_string()) return std::optional<std::string>(chosen->get<std::string>());
    return Bad(absl::StrCat(file, ": chat_template is neither a string nor a list with a default"));
  } catch (const std::exception&) {
    return Bad(absl::StrCat(file, " is not valid JSON"));
  }
}

}  // namespace

absl::StatusOr<ChatTemplate> LoadChatTemplate(const std::string& dir) {
  // In the order in which the processor of transformers 5 prefers them; its tokenizer's is the last
  // resort.
  for (const char* file : {"processor_config.json", "chat_template.json", "chat_template.jinja",
                           "tokenizer_config.json"}) {
    CHORD_ASSIGN_OR_RETURN(const auto content,
                           ReadOptionalFile(dir, file, limits::kMaxConfigBytes));
    if (!content.has_value()) continue;
    if (absl::EndsWith(file, ".jinja")) return Recognise(*content);
    CHORD_ASSIGN_OR_RETURN(const auto source, TemplateOf(file, *content));
    if (source.has_value()) return Recognise(*source);
  }
  return Bad(
      "none found; looked for chat_template.json, chat_template.jinja and the chat_template of "
      "processor_config.json and tokenizer_config.json");
}

}  // namespace chord::model
