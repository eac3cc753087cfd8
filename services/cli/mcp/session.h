// One connection of the Model Context Protocol (https://modelcontextprotocol.io), server side.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/cli/mcp/json_rpc.h"

namespace chord::cli::mcp {

// Protocol versions 2024-11-05, 2025-03-26, 2025-06-18 and 2025-11-25: initialize, ping,
// tools/list, tools/call, notifications/cancelled. Tool calls run beside each other; everything
// else is answered at once.
class Session {
 public:
  using CallTool = std::function<Json(const std::string& name, const Json& arguments)>;
  // Runs a task now or later, on any thread; false: it was dropped.
  using Run = std::function<bool(std::function<void()>)>;
  // Takes a message to the client. Called from any thread.
  using Send = std::function<void(const Json&)>;

  struct Options {
    std::string version;  // of Chord
    Json tools;           // for tools/list
    std::function<bool(const std::string&)> has_tool;
    CallTool call_tool;
    Run run;
    Send send;
  };
  explicit Session(Options options) : options_(std::move(options)) {}

  // A message of the client; called from one thread at a time. Its answer goes to `send`, when it
  // has one: notifications have none, and cancelled calls do not have theirs.
  void Handle(const Json& message);

 private:
  using Reply = std::function<void(Json)>;  // once; null: there is no answer

  void HandleBatch(const Json& batch);
  void HandleOne(const Json& message, const Reply& reply);
  Json Initialize(const Json& id, const Json& params);
  Json ListTools() const;
  void StartCall(const Json& id, const Json& params, const Reply& reply);
  void Cancel(const Json& params);

  const Options options_;
  std::string protocol_;  // empty until initialize
  absl::Mutex mu_;
  // Calls under way, by the text of their id; true: cancelled.
  std::map<std::string, std::shared_ptr<std::atomic<bool>>> calls_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord::cli::mcp
