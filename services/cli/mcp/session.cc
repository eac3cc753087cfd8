#include "services/cli/mcp/session.h"

#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/string_view.h"

namespace chord::cli::mcp {
namespace {

constexpr absl::string_view kVersions[] = {"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"};
constexpr absl::string_view kLatest = "2025-11-25";
constexpr absl::string_view kWithBatches = "2025-03-26";      // the only one
constexpr absl::string_view kWithAnnotations = "2025-03-26";  // and later
constexpr absl::string_view kWithStructure = "2025-06-18";    // and later: titles, output schemas
constexpr size_t kMaxBatch = 16;

constexpr char kInstructions[] =
    "Chord finds things in images. Use locate for boxes, annotate to see boxes on the image, zoom "
    "for a "
    "closer look at a part. Coordinates are pixels of the upright original image.";

bool IsId(const Json& id) { return id.is_string() || id.is_number_integer(); }

std::string TextOf(const Json& object, const char* name) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

// Whether the version is `since` or later; versions are dates.
bool Since(const std::string& version, absl::string_view since) {
  return absl::string_view(version) >= since;
}

}  // namespace

void Session::Handle(const Json& message) {
  if (message.is_array()) return HandleBatch(message);
  HandleOne(message, [this](const Json& answer) {
    if (!answer.is_null()) options_.send(answer);
  });
}

void Session::HandleBatch(const Json& batch) {
  if (protocol_ != kWithBatches || batch.empty() || batch.size() > kMaxBatch) {
    return options_.send(
        ErrorMessage(nullptr, RpcError::kInvalidRequest, "Send one message at a time on a line."));
  }
  struct Answers {
    absl::Mutex mu;
    size_t open = 0;
    Json list = Json::array();
  };
  auto answers = std::make_shared<Answers>();
  answers->open = batch.size();
  for (const Json& message : batch) {
    HandleOne(message, [answers, send = options_.send](Json answer) {
      absl::MutexLock lock(&answers->mu);
      if (!answer.is_null()) answers->list.push_back(std::move(answer));
      if (--answers->open == 0 && !answers->list.empty()) send(answers->list);
    });
  }
}

void Session::HandleOne(const Json& message, const Reply& reply) {
  const bool is_call = message.is_object() && message.contains("method");
  if (message.is_object() && !is_call &&
      (message.contains("result") || message.contains("error"))) {
    return reply(nullptr);  // a response, though this side sends no requests
  }
  const std::string method = TextOf(message, "method");
  const Json id = message.is_object() ? message.value("id", Json()) : Json();
  const bool is_notification = is_call && !message.contains("id");
  if (TextOf(message, "jsonrpc") != "2.0" || method.empty() || !(is_notification || IsId(id))) {
    return reply(
        ErrorMessage(IsId(id) ? id : Json(), RpcError::kInvalidRequest,
                     "This is not a request of JSON-RPC 2.0 with a string or integer id."));
  }
  const Json params = message.value("params", Json::object());
  if (is_notification) {
    if (method == "notifications/cancelled") Cancel(params);
    return reply(nullptr);
  }
  if (method == "initialize") return reply(Initialize(id, params));
  if (method == "ping") return reply(ResultMessage(id, Json::object()));
  if (method != "tools/list" && method != "tools/call") {
    return reply(ErrorMessage(id, RpcError::kMethodNotFound, "There is no such method."));
  }
  if (protocol_.empty()) {
    return reply(ErrorMessage(id, RpcError::kNotInitialized, "Send initialize first."));
  }
  if (method == "tools/list") return reply(ResultMessage(id, ListTools()));
  StartCall(id, params, reply);
}

Json Session::Initialize(const Json& id, const Json& params) {
  const std::string wanted = TextOf(params, "protocolVersion");
  if (wanted.empty()) {
    return ErrorMessage(id, RpcError::kInvalidParams, "protocolVersion must be a string.");
  }
  // A version that is not known is answered with ours; the client goes on or leaves.
  protocol_ = std::string(absl::c_linear_search(kVersions, wanted) ? wanted : kLatest);
  Json server = {{"name", "chord"}, {"version", options_.version}};
  if (Since(protocol_, kWithStructure)) server["title"] = "Chord visual grounding";
  return ResultMessage(id, {{"protocolVersion", protocol_},
                            {"capabilities", {{"tools", {{"listChanged", false}}}}},
                            {"serverInfo", std::move(server)},
                            {"instructions", kInstructions}});
}

Json Session::ListTools() const {
  Json tools = options_.tools;
  for (Json& tool : tools) {
    if (!Since(protocol_, kWithAnnotations)) tool.erase("annotations");
    if (!Since(protocol_, kWithStructure)) {
      tool.erase("title");
      tool.erase("outputSchema");
    }
  }
  return {{"tools", std::move(tools)}};
}

void Session::StartCall(const Json& id, const Json& params, const Reply& reply) {
  const std::string name = TextOf(params, "name");
  if (!options_.has_tool(name)) {
    return reply(ErrorMessage(id, RpcError::kInvalidParams, "There is no tool of that name."));
  }
  auto cancelled = std::make_shared<std::atomic<bool>>(false);
  const std::string key = id.dump();
  {
    absl::MutexLock lock(&mu_);
    if (!calls_.emplace(key, cancelled).second) {
      return reply(
          ErrorMessage(id, RpcError::kInvalidRequest, "A call with this id is still under way."));
    }
  }
  const bool structured = Since(protocol_, kWithStructure);
  const bool started = options_.run([this, id, key, name, cancelled, structured, reply,
                                     arguments = params.value("arguments", Json::object())] {
    Json result = Json::object();
    if (!*cancelled) result = options_.call_tool(name, arguments);
    if (!structured) result.erase("structuredContent");
    {
      absl::MutexLock lock(&mu_);
      calls_.erase(key);
    }
    reply(*cancelled ? Json() : ResultMessage(id, std::move(result)));
  });
  if (started) return;
  {
    absl::MutexLock lock(&mu_);
    calls_.erase(key);
  }
  reply(ErrorMessage(id, RpcError::kBusy, "Too many calls are under way; wait for one to end."));
}

void Session::Cancel(const Json& params) {
  const Json id = params.is_object() ? params.value("requestId", Json()) : Json();
  absl::MutexLock lock(&mu_);
  if (const auto call = calls_.find(id.dump()); call != calls_.end()) *call->second = true;
}

}  // namespace chord::cli::mcp
