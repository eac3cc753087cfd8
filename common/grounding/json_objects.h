// Internal to common/grounding: objects written as JSON or nearly so.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/grounding/answer_scan.h"

namespace chord::grounding::internal {

// Takes a list or a single object, trailing commas, numbers as strings, variants of keys, single
// quotes, quotes inside labels, forgotten brackets, and text that is cut anywhere.
class JsonObjects {
 public:
  // Writes what it finds to `scan`; both outlive this.
  JsonObjects(absl::string_view text, Scan* scan)
      : text_(text), scan_(scan), fuel_(8 * text.size() + 65536) {}

  // Reads from the bracket at `begin`, to its closing bracket, to something that is no JSON, or to
  // the end of the text. Returns where to go on. A failed attempt is given up for the next
  // character as long as there is fuel for reading again what it has read, so the work stays linear
  // in the length of the text.
  size_t Read(size_t begin);

 private:
  static constexpr size_t kNone = absl::string_view::npos;
  enum class Key { kOther, kBox, kLabel };
  struct Container {
    size_t begin;
    bool object;
    bool empty = true;
    // Of objects only:
    bool wants_value = false;  // after "key:"
    Key key = Key::kOther;     // of the value that comes
    bool has_label = false;
    std::string label;
    std::vector<Number> numbers;      // under a box key
    std::vector<size_t> groups;       // sizes of the lists of numbers, in order
    bool spoiled = false;             // the box key held something that is no coordinate
    size_t outer_numbers_in = kNone;  // to restore when this one closes
  };
  enum class Outcome { kDone, kFailed, kEnd };

  static Key KindOfKey(absl::string_view key);

  Outcome ReadJson();
  Outcome ReadKey();
  Outcome ReadValue(char c);
  Outcome ReadWord();
  size_t ClosingQuote(size_t open, bool is_value) const;
  bool EndsValue(size_t i) const;

  void Open(bool object);
  bool Close(bool object);
  void Pop(size_t end);
  void Emit(Container& object, size_t end);

  bool InBox() const;
  Container& Owner() { return numbers_in_ != kNone ? stack_[numbers_in_] : stack_.back(); }
  void Spoil();
  void NumberValue(const Number& number);
  void StringValue(size_t begin, size_t end);
  void SetLabel(absl::string_view label);
  void ValueDone();

  const absl::string_view text_;
  Scan* const scan_;
  size_t fuel_;
  size_t at_ = 0;
  std::vector<Container> stack_;
  size_t numbers_in_ = kNone;  // index in stack_ of the object whose box lists are open
  size_t emitted_until_ = 0;
};

}  // namespace chord::grounding::internal
