#include "services/gateway/openai/json.h"

#include <utility>
#include <vector>

namespace chord::gateway::openai {
namespace {

// Builds the tree as the parser reads. Returning false ends the parse.
class BoundedTree final : public nlohmann::json_sax<Json> {
 public:
  explicit BoundedTree(const JsonLimits& limits) : limits_(limits) {}
  Json root;

  bool null() override { return Add(nullptr) != nullptr; }
  bool boolean(bool value) override { return Add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return Add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override {
    return Add(value) != nullptr;
  }
  bool string(string_t& value) override { return Add(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return Open(Json::object()); }
  bool start_array(size_t) override { return Open(Json::array()); }
  bool key(string_t& value) override {
    Json& object = *open_.back();
    if (object.contains(value)) return false;
    place_ = &object[std::move(value)];
    return true;
  }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  Json* Add(Json value) {
    if (++values_ > limits_.max_values) return nullptr;
    if (open_.empty()) return &(root = std::move(value));
    Json& parent = *open_.back();
    if (parent.is_object()) return &(*place_ = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }
  // A container's address is stable while it is open: nothing is added beside it meanwhile.
  bool Open(Json container) {
    if (open_.size() == limits_.max_depth) return false;
    Json* const added = Add(std::move(container));
    if (added == nullptr) return false;
    open_.push_back(added);
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  const JsonLimits limits_;
  std::vector<Json*> open_;
  Json* place_ = nullptr;  // of the value whose key was read last
  size_t values_ = 0;
};

}  // namespace

std::optional<Json> ParseJson(const std::string& body, const JsonLimits& limits) {
  // The parser takes a NUL for the end of the text.
  if (body.find('\0') != std::string::npos) return std::nullopt;
  BoundedTree tree(limits);
  try {
    if (!Json::sax_parse(body, &tree)) return std::nullopt;
  } catch (const Json::exception&) {  // a number beyond its type
    return std::nullopt;
  }
  return std::move(tree.root);
}

std::string Dump(const OrderedJson& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, OrderedJson::error_handler_t::replace);
}

}  // namespace chord::gateway::openai
