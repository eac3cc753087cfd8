// Workers that answer by script over real sockets: what the gateway meets, without a model. They
// keep images as real ones do, by the key they are given, and remember what they were asked.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "chord/internal/v1/decode.grpc.pb.h"
#include "chord/internal/v1/encode.grpc.pb.h"
#include "chord/internal/v1/worker_status.grpc.pb.h"
#include "common/rpc/server.h"
#include "common/rpc/status_map.h"

namespace chord::gateway::testing {

namespace v1 = internal::v1;

// Tickets whose rows have arrived.
class Rows {
 public:
  void Push(const std::string& ticket) {
    absl::MutexLock lock(&mu_);
    pushed_.insert(ticket);
  }
  // False when the call was cancelled or nothing came for long.
  bool Await(const std::string& ticket, const grpc::ServerContext& context) {
    for (int i = 0; i < 1000 && !context.IsCancelled(); ++i) {
      absl::MutexLock lock(&mu_);
      const auto here = [&] { return pushed_.count(ticket) > 0; };
      if (mu_.AwaitWithTimeout(absl::Condition(&here), absl::Milliseconds(10))) return true;
    }
    return false;
  }

 private:
  absl::Mutex mu_;
  std::set<std::string> pushed_;
};

class FakeStatus final : public v1::WorkerStatus::Service {
 public:
  explicit FakeStatus(v1::WorkerState::Role role) { state_.set_role(role); }
  grpc::Status Watch(grpc::ServerContext* context, const v1::WatchRequest*,
                     grpc::ServerWriter<v1::WorkerState>* writer) override {
    while (!context->IsCancelled() && !closed_) {
      v1::WorkerState state;
      {
        absl::MutexLock lock(&mu_);
        state = state_;
      }
      state.set_ready(true);
      state.set_model_fingerprint("model");
      state.set_max_sequence_tokens(4096);
      if (!writer->Write(state)) break;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return grpc::Status::OK;
  }
  void SetLoad(int64_t tokens) {
    absl::MutexLock lock(&mu_);
    state_.set_tokens_in_flight(tokens);
  }
  void Close() { closed_ = true; }

 private:
  absl::Mutex mu_;
  v1::WorkerState state_;
  std::atomic<bool> closed_{false};
};

class FakeVision final : public v1::Vision::Service {
 public:
  explicit FakeVision(Rows& rows) : rows_(rows) {}
  grpc::Status Encode(grpc::ServerContext* context, grpc::ServerReader<v1::EncodeRequest>* reader,
                      v1::EncodeResponse* response) override {
    v1::EncodeRequest request;
    std::string bytes;
    v1::EncodeHeader header;
    while (reader->Read(&request)) {
      if (request.has_header()) header = request.header();
      bytes += request.image_chunk();
    }
    std::function<grpc::Status()> script;
    {
      absl::MutexLock lock(&mu_);
      headers_.push_back(header);
      script = script_;
    }
    if (script) {
      if (grpc::Status status = script(); !status.ok()) return status;
    }
    if (static_cast<int64_t>(bytes.size()) != header.image_bytes()) {
      return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "bytes");
    }
    rows_.Push(header.ticket().id());
    response->set_vision_ms(5);
    return grpc::Status::OK;
  }
  std::vector<v1::EncodeHeader> headers() {
    absl::MutexLock lock(&mu_);
    return headers_;
  }
  void SetScript(std::function<grpc::Status()> script) {
    absl::MutexLock lock(&mu_);
    script_ = std::move(script);
  }

 private:
  Rows& rows_;
  absl::Mutex mu_;
  std::vector<v1::EncodeHeader> headers_;
  std::function<grpc::Status()> script_;
};

class FakeLanguage final : public v1::Language::Service {
 public:
  explicit FakeLanguage(Rows& rows) : rows_(rows) {}

  // What the next calls do instead of answering; the call ends with a status that is not OK.
  using Script =
      std::function<grpc::Status(const v1::DecodeRequest&, grpc::ServerWriter<v1::DecodeEvent>&)>;

  grpc::Status Decode(grpc::ServerContext* context, const v1::DecodeRequest* request,
                      grpc::ServerWriter<v1::DecodeEvent>* writer) override {
    Script script;
    v1::CacheTier from = v1::CACHE_TIER_NONE;
    bool knows_uses;
    std::string leader;  // ticket of the request that brings the image this one waits for
    const std::string key = request->uses_size() > 0 ? request->uses(0).key() : "";
    {
      absl::MutexLock lock(&mu_);
      requests_.push_back(*request);
      script = script_;
      knows_uses = knows_uses_;
      if (const auto found = kept_.find(key); found != kept_.end()) {
        from = found->second;
      } else if (!key.empty() && request->uses(0).pushed()) {
        coming_[key] = request->ticket().id();
      } else if (const auto coming = coming_.find(key); coming != coming_.end()) {
        leader = coming->second;
      }
    }
    if (script) {
      if (grpc::Status status = script(*request, *writer); !status.ok()) return status;
    }
    if (!leader.empty() && rows_.Await(leader, *context)) from = v1::CACHE_TIER_KV;
    v1::DecodeEvent event;
    event.mutable_accepted()->set_prompt_tokens(50);
    if (knows_uses) {
      event.mutable_accepted()->set_image(from);
      event.mutable_accepted()->set_needs_embeddings(
          from == v1::CACHE_TIER_NONE && !(request->uses_size() > 0 && request->uses(0).pushed()));
    }
    writer->Write(event);
    if (!knows_uses || from == v1::CACHE_TIER_NONE) {
      if (!rows_.Await(request->ticket().id(), *context)) {
        return grpc::Status(grpc::StatusCode::CANCELLED, "no rows");
      }
    }
    const std::string text = AnswerTo(*request);
    event.mutable_delta()->set_text(text.substr(0, text.size() / 2));
    writer->Write(event);
    event.mutable_delta()->set_text(text.substr(text.size() / 2));
    writer->Write(event);
    v1::DecodeDone& done = *event.mutable_done();
    done.set_text(text);
    done.add_token_ends(static_cast<int>(text.size()));
    done.add_log_probabilities(-0.1);
    done.set_prompt_tokens(50);
    done.set_completion_tokens(9);
    done.set_decode_steps(4);
    if (knows_uses) done.set_image(from);
    if (!key.empty()) {
      absl::MutexLock lock(&mu_);
      kept_[key] = v1::CACHE_TIER_KV;
      coming_.erase(key);
    }
    writer->Write(event);
    return grpc::Status::OK;
  }
  grpc::Status DropImage(grpc::ServerContext*, const v1::DropImageRequest* request,
                         v1::DropImageResponse*) override {
    absl::MutexLock lock(&mu_);
    kept_.erase(request->key());
    dropped_.push_back(request->key());
    return grpc::Status::OK;
  }

  std::vector<v1::DecodeRequest> requests() {
    absl::MutexLock lock(&mu_);
    return requests_;
  }
  std::vector<std::string> dropped() {
    absl::MutexLock lock(&mu_);
    return dropped_;
  }
  void SetScript(Script script) {
    absl::MutexLock lock(&mu_);
    script_ = std::move(script);
  }
  // Of all that is kept now.
  void SetKept(v1::CacheTier from) {
    absl::MutexLock lock(&mu_);
    coming_.clear();
    if (from == v1::CACHE_TIER_NONE) return kept_.clear();
    for (auto& [key, kept] : kept_) kept = from;
  }
  // An earlier release: it leaves `image` unset and waits for rows.
  void SetKnowsUses(bool knows) {
    absl::MutexLock lock(&mu_);
    knows_uses_ = knows;
  }
  void SetAnswer(std::string text) {
    absl::MutexLock lock(&mu_);
    answer_ = std::move(text);
  }
  // Of requests whose last message ends with `words`.
  void SetAnswerTo(const std::string& words, std::string text) {
    absl::MutexLock lock(&mu_);
    answers_[words] = std::move(text);
  }

 private:
  std::string AnswerTo(const v1::DecodeRequest& request) {
    absl::MutexLock lock(&mu_);
    const auto& parts = request.turns(request.turns_size() - 1).parts();
    for (const auto& [words, answer] : answers_) {
      if (absl::EndsWith(parts[parts.size() - 1].text(), words)) return answer;
    }
    return answer_;
  }

  Rows& rows_;
  absl::Mutex mu_;
  bool knows_uses_ = true;
  std::map<std::string, std::string> answers_;
  std::map<std::string, std::string> coming_;  // key of an image -> ticket that brings it
  std::string answer_ = R"([{"bbox_2d": [10, 10, 40, 40], "label": "x"}])";
  std::vector<v1::DecodeRequest> requests_;
  std::map<std::string, v1::CacheTier> kept_;
  std::vector<std::string> dropped_;
  Script script_;
};

// One worker process, in this one. Dies with `Stop`.
template <typename Service>
class FakeWorker {
 public:
  FakeWorker(v1::WorkerState::Role role, Rows& rows) : status_(role), service_(rows) { Start(); }
  ~FakeWorker() { Stop(); }
  void Start(const std::string& address = "127.0.0.1:0") {
    auto server = rpc::Server::Start({.address = address}, {&status_, &service_});
    if (!server.ok()) std::abort();
    server_ = *std::move(server);
    port_ = server_->port();
  }
  void Stop() {
    if (server_ == nullptr) return;
    status_.Close();
    server_->Shutdown(absl::Now());
    server_ = nullptr;
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  int port() const { return port_; }
  Service* operator->() { return &service_; }
  FakeStatus& status() { return status_; }

 private:
  FakeStatus status_;
  Service service_;
  std::unique_ptr<rpc::Server> server_;
  int port_ = 0;
};

inline grpc::Status Lost() { return grpc::Status(grpc::StatusCode::UNAVAILABLE, "Socket closed"); }

}  // namespace chord::gateway::testing
