#include "common/model/tokenizer_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/model/model_folder.h"
#include "common/model/pretokenize.h"
#include "common/text/unicode.h"

namespace chord::model {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 32;
constexpr int kMaxProcessorDepth = 8;        // of post-processors in each other
constexpr size_t kMaxTreeNodes = 1'000'000;  // everything but vocabulary and merges

absl::Status Bad(absl::string_view what) {
  return errors::CheckpointInvalid(absl::StrCat("tokenizer.json: ", what));
}

// Receives the parser's events. The vocabulary and the merges, which are 99 % of the file, go into
// compact tables; the rest becomes a small tree.
class Reader {
 public:
  json tree;
  absl::flat_hash_map<std::string, int32_t> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
  std::string error;  // why parsing stopped

  bool has_tables() const { return seen_vocab_ && seen_merges_; }

  bool null() { return Value(nullptr); }
  bool boolean(bool v) { return Value(v); }
  bool number_integer(int64_t v) { return where_ == kVocab ? Id(v) : Value(v); }
  bool number_unsigned(uint64_t v) {
    return where_ == kVocab ? Id(v <= INT64_MAX ? static_cast<int64_t>(v) : -1) : Value(v);
  }
  bool number_float(double v, const std::string&) { return Value(v); }
  bool binary(std::vector<uint8_t>&) { return Fail("binary value"); }

  bool string(std::string& v) {
    if (where_ == kMerges) return MergeLine(v);
    if (where_ != kMergePair) return Value(std::move(v));
    if (pair_.size() == 2) return Fail("model.merges: an entry has more than two parts");
    pair_.push_back(std::move(v));
    return true;
  }

  bool start_object(size_t) {
    if (where_ == kTree && AtModelKey("vocab")) {
      if (seen_vocab_) return Fail("model.vocab appears twice");
      seen_vocab_ = true;
      where_ = kVocab;
      return true;
    }
    return Open(json::object());
  }
  bool start_array(size_t) {
    if (where_ == kTree && AtModelKey("merges")) {
      if (seen_merges_) return Fail("model.merges appears twice");
      seen_merges_ = true;
      where_ = kMerges;
      return true;
    }
    if (where_ == kMerges) {
      where_ = kMergePair;
      pair_.clear();
      return true;
    }
    return Open(json::array());
  }
  bool key(std::string& v) {
    key_ = std::move(v);
    if (where_ == kTree && open_.back()->contains(key_)) return Fail("a key appears twice");
    return true;
  }
  bool end_object() {
    if (where_ == kVocab) {
      where_ = kTree;
    } else {
      Close();
    }
    return true;
  }
  bool end_array() {
    if (where_ == kMergePair) {
      if (pair_.size() != 2) return Fail("model.merges: an entry has fewer than two parts");
      where_ = kMerges;
      return AddMerge(std::move(pair_[0]), std::move(pair_[1]));
    }
    if (where_ == kMerges) {
      where_ = kTree;
    } else {
      Close();
    }
    return true;
  }
  bool parse_error(size_t position, const std::string&, const json::exception&) {
    return Fail(absl::StrCat("not valid JSON at byte ", position));
  }

 private:
  enum Where { kTree, kVocab, kMerges, kMergePair };

  bool Fail(std::string why) {
    if (error.empty()) error = std::move(why);
    return false;
  }
  bool AtModelKey(absl::string_view name) const {
    return open_.size() == 2 && key_ == name && names_[1] == "model";
  }

  json* Put(json v) {
    if (++nodes_ > kMaxTreeNodes) return nullptr;
    if (open_.empty()) return &(tree = std::move(v));
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(v));
      return &parent.back();
    }
    return &(parent[key_] = std::move(v));
  }
  bool Value(json v) {
    if (where_ == kVocab) return Fail("model.vocab: an id is not an integer");
    if (where_ != kTree) return Fail("model.merges: an entry is neither a string nor a pair");
    return Put(std::move(v)) != nullptr || Fail("too many values");
  }
  bool Open(json container) {
    if (where_ == kVocab) return Fail("model.vocab: an id is not an integer");
    if (where_ != kTree) return Fail("model.merges: an entry is neither a string nor a pair");
    if (open_.size() >= kMaxDepth) return Fail("nested too deeply");
    json* node = Put(std::move(container));
    if (node == nullptr) return Fail("too many values");
    names_.push_back(key_);
    open_.push_back(node);
    return true;
  }
  void Close() {
    open_.pop_back();
    names_.pop_back();
  }

  bool Id(int64_t id) {
    if (id < 0 || id >= limits::kMaxVocabularyIds)
      return Fail("model.vocab: an id is out of range");
    if (!vocab.emplace(std::move(key_), static_cast<int32_t>(id)).second) {
      return Fail("model.vocab: a token appears twice");
    }
    return vocab.size() <= static_cast<size_t>(limits::kMaxVocabularyIds) ||
           Fail("model.vocab: too many tokens");
  }
  bool MergeLine(const std::string& line) {
    const std::vector<std::string> parts = absl::StrSplit(line, ' ');
    if (parts.size() != 2) return Fail("model.merges: an entry does not have two parts");
    return AddMerge(parts[0], parts[1]);
  }
  bool AddMerge(std::string left, std::string right) {
    merges.emplace_back(std::move(left), std::move(right));
    return merges.size() <= static_cast<size_t>(limits::kMaxVocabularyIds) ||
           Fail("model.merges: too many entries");
  }

  Where where_ = kTree;
  std::string key_;
  std::vector<json*> open_;         // containers from the root to here; their parents do not grow
  std::vector<std::string> names_;  // the key under which each was opened
  std::vector<std::string> pair_;
  size_t nodes_ = 0;
  bool seen_vocab_ = false, seen_merges_ = false;
};

// The member `name` of `object`, or null when absent, null, or `object` is no object.
const json& Member(const json& object, const char* name) {
  static const json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(name);
  return found == object.end() ? kNull : *found;
}
std::string TextOf(const json& v) { return v.is_string() ? v.get<std::string>() : ""; }
std::string TypeOf(const json& v) { return TextOf(Member(v, "type")); }
// Absent, null, false, 0 or "": all the ways in which a switch is written as off.
bool IsOff(const json& v) {
  return v.is_null() || (v.is_boolean() && !v.get<bool>()) ||
         (v.is_number() && v.get<double>() == 0) || (v.is_string() && TextOf(v).empty());
}

// A list of one stands for its item.
const json& Unwrapped(const json& v, const char* list_name) {
  const json& list = Member(v, list_name);
  return TypeOf(v) == "Sequence" && list.is_array() && list.size() == 1 ? list[0] : v;
}

// Absent, null, or an empty list.
bool IsNone(const json& v, const char* list_name) {
  const json& list = Member(v, list_name);
  return v.is_null() || (TypeOf(v) == "Sequence" && list.is_array() && list.empty());
}

// What a template adds to one sequence: nothing but the sequence itself, once.
absl::Status CheckTemplate(const json& post) {
  const json& single = Member(post, "single");
  if (!single.is_array()) return Bad("post_processor: TemplateProcessing has no list \"single\"");
  int sequences = 0;
  for (const json& piece : single) {
    if (const json& token = Member(piece, "SpecialToken"); !token.is_null()) {
      return Bad(absl::StrCat("post_processor: TemplateProcessing adds the token \"",
                              Printable(TextOf(Member(token, "id"))),
                              "\" to every text, which is not supported"));
    }
    if (Member(piece, "Sequence").is_null()) {
      return Bad("post_processor: TemplateProcessing has a piece of an unknown kind");
    }
    ++sequences;
  }
  if (sequences == 1) return absl::OkStatus();
  return Bad("post_processor: TemplateProcessing does not keep the text once");
}

// Chord encodes as the processor does without special tokens; what would add one to a plain
// encoding is refused by name, what adds none loads, in whatever order and nesting.
absl::Status CheckPostProcessor(const json& post, int depth) {
  if (post.is_null()) return absl::OkStatus();
  const std::string type = TypeOf(post);
  if (type == "ByteLevel") return absl::OkStatus();  // moves offsets only
  if (type == "TemplateProcessing") return CheckTemplate(post);
  if (type != "Sequence") {
    return Bad(absl::StrCat("post_processor: \"", Printable(type),
                            "\" adds tokens to every text, which is not supported"));
  }
  const json& list = Member(post, "processors");
  if (!list.is_array() || depth > kMaxProcessorDepth) {
    return Bad("post_processor: a Sequence has no list of processors, or nests too deeply");
  }
  for (const json& one : list) {
    CHORD_RETURN_IF_ERROR(CheckPostProcessor(one, depth + 1));
  }
  return absl::OkStatus();
}

absl::Status CheckPipeline(const json& root) {
  const json& normalizer = Member(root, "normalizer");
  if (!IsNone(normalizer, "normalizers") && TypeOf(Unwrapped(normalizer, "normalizers")) != "NFC") {
    return Bad("normalizer: only NFC, or none, is supported");
  }
  if (TypeOf(Unwrapped(Member(root, "decoder"), "decoders")) != "ByteLevel") {
    return Bad("decoder: only ByteLevel is supported");
  }
  CHORD_RETURN_IF_ERROR(CheckPostProcessor(Member(root, "post_processor"), 0));
  const json& pre = Member(root, "pre_tokenizer");
  const json& steps = Member(pre, "pretokenizers");
  if (TypeOf(pre) != "Sequence" || !steps.is_array() || steps.size() != 2 ||
      TypeOf(steps[0]) != "Split" || TypeOf(steps[1]) != "ByteLevel") {
    return Bad("pre_tokenizer: only Split followed by ByteLevel is supported");
  }
  if (!IsKnownSplitRegex(TextOf(Member(Member(steps[0], "pattern"), "Regex")))) {
    return Bad("pre_tokenizer: the pattern is not the one of the Qwen2 family");
  }
  if (TextOf(Member(steps[0], "behavior")) != "Isolated" || !IsOff(Member(steps[0], "invert"))) {
    return Bad("pre_tokenizer: Split must isolate its matches");
  }
  const json& use_regex = Member(steps[1], "use_regex");  // on when it is absent
  if (!use_regex.is_boolean() || use_regex.get<bool>() ||
      !IsOff(Member(steps[1], "add_prefix_space"))) {
    return Bad("pre_tokenizer: ByteLevel must neither split again nor add a space");
  }
  return absl::OkStatus();
}

absl::Status CheckModel(const json& model) {
  const std::string type = TypeOf(model);
  if (type != "BPE" && !(type.empty() && Member(model, "type").is_null())) {
    return Bad("model: only BPE is supported");
  }
  for (const char* name : {"dropout", "continuing_subword_prefix", "end_of_word_suffix",
                           "byte_fallback", "ignore_merges"}) {
    if (!IsOff(Member(model, name))) return Bad(absl::StrCat("model.", name, " is not supported"));
  }
  return absl::OkStatus();
}

// The byte <-> character map of spec §5.3.
constexpr int32_t kMappedCharacters = 0x144;

struct ByteMap {
  std::array<int32_t, 256> character{};       // byte -> code point
  std::array<int, kMappedCharacters> byte{};  // code point -> byte, or -1
};
const ByteMap& Bytes() {
  static const ByteMap kMap = [] {
    ByteMap map;
    map.byte.fill(-1);
    int32_t next = 0x100;
    for (int32_t b = 0; b < 256; ++b) {
      const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      const int32_t c = itself ? b : next++;
      map.character[static_cast<size_t>(b)] = c;
      map.byte[static_cast<size_t>(c)] = b;
    }
    return map;
  }();
  return kMap;
}

// What a token decodes to: its bytes when every character stands for one, else its own text.
std::string TokenBytes(const std::string& token) {
  std::string out;
  out.reserve(token.size());
  for (absl::string_view rest = token; !rest.empty();) {
    const text::Rune rune = text::FirstRune(rest);
    const int b = rune.code_point < kMappedCharacters
                      ? Bytes().byte[static_cast<size_t>(rune.code_point)]
                      : -1;
    if (b < 0) return token;
    out.push_back(static_cast<char>(b));
    rest.remove_prefix(rune.bytes);
  }
  return out;
}

std::string ByteCharacter(int byte) {
  const int32_t c = Bytes().character[static_cast<size_t>(byte)];
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
}

absl::Status FillVocabulary(const Reader& reader, TokenizerFile& file, std::vector<bool>& used) {
  int32_t last = -1;
  for (const auto& [token, id] : reader.vocab) last = std::max(last, id);
  file.tokens.resize(static_cast<size_t>(last + 1));
  used.assign(file.tokens.size(), false);
  for (const auto& [token, id] : reader.vocab) {
    const auto i = static_cast<size_t>(id);
    if (used[i]) return Bad(absl::StrCat("model.vocab: id ", id, " appears twice"));
    used[i] = true;
    file.tokens[i] = TokenBytes(token);
  }
  for (int b = 0; b < 256; ++b) {
    const auto found = reader.vocab.find(ByteCharacter(b));
    if (found == reader.vocab.end()) {
      return Bad(absl::StrCat("model.vocab: no token for byte ", b));
    }
    file.byte_ids[static_cast<size_t>(b)] = found->second;
  }
  return absl::OkStatus();
}

absl::Status FillMerges(const Reader& reader, TokenizerFile& file) {
  file.merges.reserve(reader.merges.size());
  std::string merged;
  for (const auto& [left, right] : reader.merges) {
    merged.assign(left).append(right);
    const auto a = reader.vocab.find(left), b = reader.vocab.find(right),
               c = reader.vocab.find(merged);
    if (a == reader.vocab.end() || b == reader.vocab.end() || c == reader.vocab.end()) {
      return Bad(absl::StrCat("model.merges: entry ", file.merges.size(),
                              " names a token outside the vocabulary"));
    }
    file.merges.push_back({a->second, b->second, c->second});
  }
  return absl::OkStatus();
}

absl::Status FillAddedTokens(const json& list, const Reader& reader, TokenizerFile& file,
                             const std::vector<bool>& used) {
  if (list.is_null()) return absl::OkStatus();
  if (!list.is_array()) return Bad("added_tokens is not a list");
  absl::flat_hash_set<int32_t> ids;
  absl::flat_hash_set<std::string> contents;
  for (const json& entry : list) {
    TokenizerFile::AddedToken token;
    const json& id = Member(entry, "id");
    token.content = TextOf(Member(entry, "content"));
    if (!id.is_number_integer() || token.content.empty()) {
      return Bad("added_tokens: an entry lacks its id or its content");
    }
    const auto value = id.get<int64_t>();  // a huge unsigned one turns negative
    if (value < 0 || value >= limits::kMaxVocabularyIds) {
      return Bad("added_tokens: an id is out of range");
    }
    token.id = static_cast<int32_t>(value);
    token.single_word = !IsOff(Member(entry, "single_word"));
    token.lstrip = !IsOff(Member(entry, "lstrip"));
    token.rstrip = !IsOff(Member(entry, "rstrip"));
    token.special = !IsOff(Member(entry, "special"));
    const json& normalized = Member(entry, "normalized");
    token.normalized = normalized.is_null() ? !token.special : !IsOff(normalized);
    if (!ids.insert(token.id).second || !contents.insert(token.content).second) {
      return Bad(absl::StrCat("added_tokens: id ", token.id, " or its content appears twice"));
    }
    const auto i = static_cast<size_t>(token.id);
    const auto base = reader.vocab.find(token.content);
    if (base != reader.vocab.end() ? base->second != token.id : i < used.size() && used[i]) {
      return Bad(absl::StrCat("added_tokens: id ", token.id, " contradicts model.vocab"));
    }
    file.added_tokens.push_back(std::move(token));
  }
  // transformers numbers what the vocabulary lacks anew, by rising id and without gaps.
  std::sort(file.added_tokens.begin(), file.added_tokens.end(),
            [](const auto& a, const auto& b) { return a.id < b.id; });
  const bool gapless = reader.vocab.size() == used.size();
  auto next = static_cast<int32_t>(used.size());
  for (TokenizerFile::AddedToken& token : file.added_tokens) {
    if (gapless && !reader.vocab.contains(token.content)) token.id = next++;
    const auto i = static_cast<size_t>(token.id);
    if (i >= file.tokens.size()) file.tokens.resize(i + 1);
    file.tokens[i] = TokenBytes(token.content);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadTokenizerFile(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string dir = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const std::string name = path.substr(slash == std::string::npos ? 0 : slash + 1);
  CHORD_ASSIGN_OR_RETURN(std::optional<std::string> content,
                         ReadOptionalFile(dir, name, limits::kMaxTokenizerBytes));
  if (content) return *std::move(content);
  // A folder of the Hugging Face cache has its files one level down.
  if (CheckFolder(dir).ok()) {
    CHORD_ASSIGN_OR_RETURN(const std::string folder, ResolveModelFolder(dir));
    if (folder != dir) return ReadTokenizerFile(folder + "/" + name);
  }
  return errors::CheckpointInvalid(
      absl::StrCat("cannot open ", Printable(path), ": there is no such file"));
}

absl::StatusOr<TokenizerFile> ParseTokenizerFile(absl::string_view text) {
  // The parser would take it for the end of the text.
  if (text.find('\0') != text.npos) return Bad("not valid JSON: a NUL");
  Reader reader;
  try {
    if (!json::sax_parse(text.begin(), text.end(), &reader)) return Bad(reader.error);
  } catch (const std::exception&) {
    return Bad("not valid JSON");
  }
  const json& model = Member(reader.tree, "model");
  if (!reader.has_tables()) return Bad("model.vocab or model.merges is missing");
  CHORD_RETURN_IF_ERROR(CheckModel(model));
  CHORD_RETURN_IF_ERROR(CheckPipeline(reader.tree));
  TokenizerFile file;
  file.nfc = !IsNone(Member(reader.tree, "normalizer"), "normalizers");
  std::vector<bool> used;  // ids that stand for something
  CHORD_RETURN_IF_ERROR(FillVocabulary(reader, file, used));
  CHORD_RETURN_IF_ERROR(FillMerges(reader, file));
  CHORD_RETURN_IF_ERROR(FillAddedTokens(Member(reader.tree, "added_tokens"), reader, file, used));
  return file;
}

}  // namespace chord::model
