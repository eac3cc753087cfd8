// Many files over one stream of the server (GroundBatch), a few at a time.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "chord/v1/grounding.grpc.pb.h"
#include "chord/v1/images.grpc.pb.h"

namespace chord::cli {

// A file that the server refuses because it is busy is sent again after the time that it gave. A
// server that has answered and goes away is most likely being restarted: what is left is sent again
// when it is back.
class BatchClient {
 public:
  struct Options {
    v1::GroundRequest request;  // everything but the image
    absl::Duration timeout;     // of each file
    int parallel = 4;           // files in flight
  };
  // Called once for each file, from one thread at a time.
  using OnAnswer = std::function<void(size_t file, const absl::StatusOr<v1::GroundResponse>&)>;

  // `files` are paths and must outlive the client.
  BatchClient(const std::string& server, const Options& options,
              const std::vector<std::string>& files, OnAnswer on_answer);

  // OK when every file had an answer of the server's. Otherwise why the server could not be reached
  // for the rest; these files have had that error as their answer.
  absl::Status Run();

 private:
  struct Waiting {
    size_t file;
    int attempts;
    absl::Time not_before;
  };
  struct InFlight {
    int attempts = 0;
    absl::Time deadline;
    std::string image_id;  // of an upload made for this request
  };
  using Stream = grpc::ClientReaderWriter<v1::GroundBatchRequest, v1::GroundBatchResponse>;

  absl::Status RunStream();
  void SendAll(grpc::ClientContext& context, Stream& stream);
  // The next file to send. Waits for one; nullopt when the stream has nothing more to send.
  std::optional<size_t> NextFile();
  void ExpireInFlight(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Time NextEvent(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status SendFile(size_t file, Stream& stream);
  void TakeResponse(const v1::GroundBatchResponse& response);
  void DeleteImage(const std::string& image_id);
  void Answer(size_t file, const absl::StatusOr<v1::GroundResponse>& answer)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Grounding::Stub> grounding_;
  const std::unique_ptr<v1::Images::Stub> images_;
  const Options options_;
  const std::vector<std::string>& files_;
  const OnAnswer on_answer_;

  absl::Mutex mu_;
  absl::CondVar changed_;
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mu_);
  std::map<size_t, InFlight> in_flight_ ABSL_GUARDED_BY(mu_);
  size_t answered_ ABSL_GUARDED_BY(mu_) = 0;
  bool gave_up_ ABSL_GUARDED_BY(mu_) = false;  // on an answer that may still come
  bool broken_ ABSL_GUARDED_BY(mu_) = false;   // the stream has ended
};

}  // namespace chord::cli
