// Any answer under the grammar. The input is: width and height (two bytes each), a line that is the
// prompt, then the answer, which is given token by token. An id that is not allowed is replaced
// by one that is, so that every answer stays in the form once it has begun it; then it must be read
// whole when it is closed, and jump-forward and draft tokens must be allowed.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/grounding/answer_parser.h"
#include "common/model/tokenizer.h"
#include "common/text/unicode.h"
#include "services/llm_worker/grammar/box_grammar.h"

namespace {

namespace grammar = chord::grammar;

void Require(bool condition) {
  if (!condition) std::abort();
}

bool Has(absl::Span<const uint64_t> mask, int32_t id) {
  const auto i = static_cast<size_t>(id);
  return i / 64 < mask.size() && (mask[i / 64] >> (i % 64) & 1) != 0;
}

// The first allowed id from `from` on, around the end.
int32_t NextAllowed(absl::Span<const uint64_t> mask, int32_t from) {
  const auto n = static_cast<int32_t>(64 * mask.size());
  for (int32_t i = 0; i < n; ++i) {
    const int32_t id = (from + i) % n;
    if (Has(mask, id)) return id;
  }
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using chord::model::Tokenizer;
  static const Tokenizer* const kTokenizer = new Tokenizer(
      *Tokenizer::Load(std::string(CHORD_SOURCE_DIR) + "/models/chord-nano/tokenizer.json"));
  static const auto* const kGrammar = new std::shared_ptr<const grammar::BoxGrammar>(
      *grammar::BoxGrammar::Compile(*kTokenizer, 4096, {4084, 4082}));
  if (size < 5 || size > 4096) return 0;
  grammar::BoxRequest prompt{data[0] | data[1] << 8, data[2] | data[3] << 8, ""};
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 4, size - 4);
  const size_t line = rest.find('\n');
  prompt.text = std::string(rest.substr(0, line));
  const absl::string_view answer =
      line == absl::string_view::npos ? absl::string_view() : rest.substr(line + 1);

  grammar::BoxCursor cursor(kGrammar->get(), prompt);
  std::string text;
  for (int32_t id : kTokenizer->EncodeText(answer)) {
    if (cursor.inside()) {
      for (const auto& ids : {cursor.JumpForward(), cursor.Draft()}) {
        Require(ids.size() <= 512);
        grammar::BoxCursor ahead = cursor;
        for (const int32_t next : ids) {
          Require(Has(ahead.Sets()->allowed, next));
          ahead.Accept(next);
        }
      }
      const auto sets = cursor.Sets();
      const absl::Span<const uint64_t> mask = sets->allowed;
      if (!Has(mask, id)) id = NextAllowed(mask, id);
      if (id == 4084 || id == 4082) {
        Require(cursor.may_end());
        break;
      }
    }
    const bool was_inside = cursor.inside();
    cursor.Accept(id);
    const absl::string_view bytes = kTokenizer->TokenBytes(id);
    text.append(bytes.data(), bytes.size());
    Require(cursor.inside() || !was_inside);
  }
  if (!cursor.inside()) return 0;
  if (!cursor.complete()) {
    const auto closing = cursor.CloseTruncated();
    if (!closing) return 0;  // no box yet: the text stays as it is
    Require(closing->keep_bytes <= text.size());
    text = text.substr(0, closing->keep_bytes) + closing->text;
  }
  const chord::grounding::ParsedAnswer parsed = chord::grounding::ParseAnswer(text);
  Require(!parsed.truncated && chord::text::ToValidUtf8(text) == text);
  Require(text.empty() || parsed.explicit_empty == parsed.objects.empty());
  for (const auto& o : parsed.objects) {
    Require(0 <= o.box.x1 && o.box.x1 < o.box.x2 && o.box.x2 <= prompt.width);
    Require(0 <= o.box.y1 && o.box.y1 < o.box.y2 && o.box.y2 <= prompt.height);
  }
  return 0;
}
