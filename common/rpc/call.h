// The life of one server call of the callback API, once for all reactors: a call stays alive until
// gRPC and all its holders have released it, ends exactly once, and ends by itself when its client
// cancels, its deadline passes, a token fires or its peer stalls.
//
//   class Upload final : public rpc::ServerCall<grpc::ServerReadReactor<Chunk>> {
//     void Begin() override { Read(&chunk_, stall_timeout, errors::RequestTimeout()); }
//     void OnReadDone(bool ok) override { … }
//     void OnEnd(const absl::Status& status) override { Finish(rpc::ToGrpc(status, id_)); }
//   };
//   return rpc::StartCall<Upload>(&registry, context, …);
#pragma once

#include <grpcpp/server_context.h>

#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/cancel.h"
#include "common/base/ids.h"
#include "common/obs/log.h"
#include "common/obs/metrics.h"
#include "common/rpc/status_map.h"

namespace chord::rpc {

// The part of a call that does not depend on the kind of reactor. Thread-safe. Always owned by a
// shared_ptr.
//
// Two moments must be told apart. A call *has ended* when its outcome is decided; that happens once
// and runs OnEnd. It *is finished* when gRPC was told, which OnEnd does, or starts: a call that is
// still writing finishes when the write under way is done.
class OpenCall : public std::enable_shared_from_this<OpenCall> {
 public:
  // `deadline`: of the client, on this machine's clock (rpc::DeadlineOf). A call without one, or
  // with a later one, ends `longest` after its arrival.
  OpenCall(absl::Time deadline, absl::Duration longest);
  virtual ~OpenCall() = default;
  OpenCall(const OpenCall&) = delete;
  OpenCall& operator=(const OpenCall&) = delete;

  absl::Time received() const { return received_; }
  absl::Time deadline() const { return source_.token().deadline(); }
  // Fires when the client cancels the call or the deadline passes.
  CancelToken token() const { return source_.token(); }

  // Decides the outcome and runs OnEnd on this thread, without a lock. False, and nothing happens,
  // when the call has ended before.
  bool End(const absl::Status& status);
  bool ended() const;

  // Ends the call when the peer was expected to send something before `now`.
  void CheckStall(absl::Time now);
  // The process shuts down. The default ends the call with `reason`.
  virtual void OnShutdown(const absl::Status& reason) { End(reason); }

 protected:
  // Starts the first operation, or ends the call. Runs before the call is returned to gRPC.
  virtual void Begin() = 0;
  // Runs exactly once. Releases what the call holds, reports, and sees to it that the reactor is
  // finished. The operation under way, if any, completes later and finds ended().
  virtual void OnEnd(const absl::Status& status) = 0;
  // The client has cancelled, or its deadline has passed; the token has fired. The default ends the
  // call with `reason`.
  virtual void OnClientCancel(const absl::Status& reason) { End(reason); }
  // What a cancelled call ends with. The default is CANCELLED.
  virtual absl::Status CancelReason() const;

  // Runs `start`, which starts an operation of the reactor, unless the call has ended: gRPC forbids
  // operations after Finish. `start` must not call back into this object.
  bool StartUnlessEnded(absl::FunctionRef<void()> start);
  // From now on CheckStall ends the call with `reason` once `at` has passed. InfiniteFuture: never.
  void SetStall(absl::Time at, const absl::Status& reason = absl::OkStatus());
  // Ends the call with the token's status when the token is cancelled.
  void EndWith(const CancelToken& token);
  // Tells the work that was started for the call to stop. `reason` must not be OK.
  void CancelWork(const absl::Status& reason) { source_.Cancel(reason); }
  CancelSource source() const { return source_; }

  // For callbacks that keep the call alive, or must not.
  template <typename Call>
  static std::shared_ptr<Call> Shared(Call* call) {
    return std::static_pointer_cast<Call>(call->shared_from_this());
  }
  template <typename Call>
  static std::weak_ptr<Call> Weak(Call* call) {
    return Shared(call);
  }

  void HandleCancel();  // of the reactor's OnCancel
  void HandleDone();    // of the reactor's OnDone: gRPC will not touch the call again

 private:
  template <typename Call, typename... Args>
  friend Call* StartCall(class CallRegistry* registry, Args&&... args);

  const absl::Time received_;
  CancelSource source_;

  mutable absl::Mutex mu_;
  std::shared_ptr<OpenCall> self_ ABSL_GUARDED_BY(mu_);  // until OnDone
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  absl::Time stalls_at_ ABSL_GUARDED_BY(mu_) = absl::InfiniteFuture();
  absl::Status stall_reason_ ABSL_GUARDED_BY(mu_);
  std::vector<CancelToken::Registration> registrations_ ABSL_GUARDED_BY(mu_);
};

// `Reactor`: a Server…Reactor of gRPC's callback API.
template <typename Reactor>
class ServerCall : public Reactor, public OpenCall {
 public:
  void OnCancel() override { HandleCancel(); }
  void OnDone() override { HandleDone(); }

 protected:
  using OpenCall::OpenCall;

  // Reads the next message into `message`, which must stay valid until OnReadDone. The call ends
  // with `stalled` when none comes within `stall`.
  template <typename Message>
  bool Read(Message* message, absl::Duration stall, const absl::Status& stalled) {
    SetStall(absl::Now() + stall, stalled);
    return StartUnlessEnded([&] { this->StartRead(message); });
  }
  // Writes `message`, which must stay valid until OnWriteDone. One write at a time.
  template <typename Message>
  bool Write(const Message* message) {
    return StartUnlessEnded([&] { this->StartWrite(message); });
  }
};

// The open calls of one service. Thread-safe. Must outlive neither the calls nor the server.
class CallRegistry {
 public:
  // More than `max_calls` open ones are refused with OVERLOADED.
  explicit CallRegistry(size_t max_calls = std::numeric_limits<size_t>::max())
      : max_calls_(max_calls) {}

  // OVERLOADED, or the reason given to Shutdown; the caller ends the call with it.
  absl::Status Add(const std::shared_ptr<OpenCall>& call);
  // Ends the calls that have stalled. To be called several times a second.
  void Sweep(absl::Time now);
  // Runs OnShutdown(reason) of every open call. Later ones are refused with `reason`.
  void Shutdown(const absl::Status& reason);
  size_t active() const;
  // The calls that are open now.
  std::vector<std::shared_ptr<OpenCall>> Open() const;

 private:
  void Prune() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const size_t max_calls_;
  mutable absl::Mutex mu_;
  absl::Status shutdown_ ABSL_GUARDED_BY(mu_);
  std::vector<std::weak_ptr<OpenCall>> calls_ ABSL_GUARDED_BY(mu_);
  size_t prune_at_ ABSL_GUARDED_BY(mu_) = 64;
};

// Makes a call that keeps itself alive until OnDone, and begins it; the pointer is for gRPC.
// `registry` may be null. A call that the registry refuses ends with the registry's reason and
// never begins.
template <typename Call, typename... Args>
Call* StartCall(CallRegistry* registry, Args&&... args) {
  auto call = std::make_shared<Call>(std::forward<Args>(args)...);
  const std::shared_ptr<OpenCall> open = call;
  {
    absl::MutexLock lock(&open->mu_);
    open->self_ = open;
  }
  const absl::Status status = registry != nullptr ? registry->Add(open) : absl::OkStatus();
  if (status.ok()) {
    open->Begin();
  } else {
    open->End(status);
  }
  return call.get();
}

// A call whose outcome is known when it arrives.
template <typename Reactor>
class EndedCall final : public ServerCall<Reactor> {
 public:
  EndedCall(const absl::Status& status, std::string request_id)
      : ServerCall<Reactor>(absl::InfiniteFuture(), absl::InfiniteDuration()),
        status_(status),
        request_id_(std::move(request_id)) {}

 private:
  void Begin() override { this->End(status_); }
  void OnEnd(const absl::Status& status) override { this->Finish(ToGrpc(status, request_id_)); }

  const absl::Status status_;
  const std::string request_id_;
};

// Ends a call at once; its response, if any, is written already.
template <typename Reactor>
Reactor* EndCall(const absl::Status& status, std::string request_id = NewRequestId()) {
  return StartCall<EndedCall<Reactor>>(nullptr, status, std::move(request_id));
}

// What one call leaves in the metrics and the log. The owner serializes access.
class CallReport {
 public:
  // Counts the call as begun.
  CallReport(obs::Metrics* metrics, obs::Method method, absl::Time received);

  // The log line, to be filled while the call runs; method, status and duration are set by End.
  obs::RequestLog& log() { return log_; }
  // Counts the outcome and writes the log line. `where`: how far the call had come, for the counts
  // of cancelled and late calls. Of an OK call the stages of log() are observed. Call once.
  void End(const absl::Status& status, obs::Point where);

 private:
  obs::Metrics* const metrics_;
  const absl::Time received_;
  obs::RequestLog log_;
};

}  // namespace chord::rpc
