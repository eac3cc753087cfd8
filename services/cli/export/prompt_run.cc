#include "services/cli/export/prompt_run.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "chord/v1/grounding.grpc.pb.h"
#include "chord/v1/images.grpc.pb.h"
#include "common/api/answer_json.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/status_map.h"
#include "services/cli/client.h"
#include "services/cli/command_line.h"
#include "services/cli/files.h"
#include "services/cli/ground/answer_output.h"
#include "services/cli/upload.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Answers = std::vector<absl::StatusOr<v1::GroundResponse>>;  // of one image, by prompt

constexpr int kAttempts = 6;

// The status of `call`, which is repeated as long as the server refuses with a time to wait that
// ends before `deadline`.
template <typename Call>
absl::Status Retrying(absl::Time deadline, const Call& call) {
  for (int attempt = 1;; ++attempt) {
    const absl::Status status = call();
    const absl::Duration wait = RetryAfter(status);
    if (status.ok() || wait <= absl::ZeroDuration() || attempt == kAttempts ||
        absl::Now() + wait >= deadline) {
      return status;
    }
    absl::SleepFor(wait);
  }
}

// The calls about one image. Thread-safe.
class ImageCalls {
 public:
  explicit ImageCalls(const PromptRun& run)
      : run_(run),
        channel_(rpc::MakeChannel(run.server)),
        grounding_(v1::Grounding::NewStub(channel_)),
        images_(v1::Images::NewStub(channel_)) {}

  // All prompts about the image at `path`, each with its own status.
  Answers GroundAll(const std::string& path) {
    const absl::StatusOr<std::string> image_id = Upload(path);
    Answers out;
    for (const ListedPrompt& listed : run_.prompts) {
      if (image_id.ok()) {
        out.push_back(Ground(*image_id, listed));
      } else {
        out.push_back(image_id.status());
      }
    }
    if (image_id.ok()) Delete(*image_id);
    return out;
  }

 private:
  absl::StatusOr<std::string> Upload(const std::string& path) {
    CHORD_ASSIGN_OR_RETURN(const std::string bytes, ReadWhole(path, limits::kCeilingImageBytes));
    const absl::Time deadline = absl::Now() + run_.timeout;
    std::string image_id;
    CHORD_RETURN_IF_ERROR(Retrying(deadline, [&]() -> absl::Status {
      CHORD_ASSIGN_OR_RETURN(image_id, UploadImage(*images_, bytes, deadline));
      return absl::OkStatus();
    }));
    return image_id;
  }

  absl::StatusOr<v1::GroundResponse> Ground(const std::string& image_id,
                                            const ListedPrompt& listed) {
    v1::GroundRequest request;
    request.set_image_id(image_id);
    request.set_prompt(listed.prompt);
    request.mutable_labels()->Assign(listed.labels.begin(), listed.labels.end());
    request.set_grammar(run_.grammar);
    if (run_.max_new_tokens > 0) request.set_max_new_tokens(run_.max_new_tokens);
    const absl::Time deadline = absl::Now() + run_.timeout;
    v1::GroundResponse answer;
    CHORD_RETURN_IF_ERROR(Retrying(deadline, [&] {
      grpc::ClientContext context;
      rpc::SetDeadline(context, deadline);
      return rpc::FromGrpc(grounding_->Ground(&context, request, &answer));
    }));
    return answer;
  }

  // The server forgets the image by itself too; this gives its room back now.
  void Delete(const std::string& image_id) {
    grpc::ClientContext context;
    rpc::SetDeadline(context, absl::Now() + absl::Seconds(5));
    v1::ImageRef ref;
    ref.set_image_id(image_id);
    v1::DeleteImageResponse ignored;
    (void)images_->Delete(&context, ref, &ignored);
  }

  const PromptRun& run_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Grounding::Stub> grounding_;
  const std::unique_ptr<v1::Images::Stub> images_;
};

std::string FileName(const std::string& path) { return fs::path(path).filename().string(); }

// Takes the answers of the images in their order, whichever is ready first.
class InOrder {
 public:
  explicit InOrder(const PromptRun& run) : run_(run) {}

  void Add(size_t image, Answers answers) {
    absl::MutexLock lock(&mu_);
    ready_.emplace(image, std::move(answers));
    while (!ready_.empty() && ready_.begin()->first == next_) {
      Take(run_.images[next_], ready_.begin()->second);
      ready_.erase(ready_.begin());
      ++next_;
    }
  }

  size_t failed() {
    absl::MutexLock lock(&mu_);
    return failed_;
  }
  size_t truncated() {
    absl::MutexLock lock(&mu_);
    return truncated_;
  }
  AnnotationDataset TakeDataset() {
    absl::MutexLock lock(&mu_);
    return std::move(dataset_);
  }

 private:
  void Take(const std::string& path, const Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const std::string name = FileName(path);
    for (size_t i = 0; i < answers.size(); ++i) {
      const ListedPrompt& listed = run_.prompts[i];
      absl::Status status = answers[i].status();
      if (status.ok()) status = dataset_.Add(name, listed.prompt, listed.category, *answers[i]);
      if (!status.ok()) ++failed_;
      if (status.ok() && IsTruncated(*answers[i])) ++truncated_;
      if (run_.json) {
        Json line = {{"file", name}};
        if (listed.labels.empty()) line["prompt"] = listed.prompt;
        line.update(
            Json::parse(status.ok() ? api::AnswerJson(*answers[i]) : ErrorJson(status, -1)));
        std::puts(line.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
        std::fflush(stdout);  // an interrupted run has shown what was answered
      } else if (!status.ok() && !IsNoServer(status)) {
        const std::string asked =
            listed.labels.empty() ? listed.prompt : absl::StrJoin(listed.labels, ", ");
        std::fprintf(stderr, "%s: \"%s\": %s\n", name.c_str(), asked.c_str(),
                     std::string(status.message()).c_str());
      }
    }
  }

  const PromptRun& run_;
  absl::Mutex mu_;
  std::map<size_t, Answers> ready_ ABSL_GUARDED_BY(mu_);
  size_t next_ ABSL_GUARDED_BY(mu_) = 0;
  size_t failed_ ABSL_GUARDED_BY(mu_) = 0;
  size_t truncated_ ABSL_GUARDED_BY(mu_) = 0;
  AnnotationDataset dataset_ ABSL_GUARDED_BY(mu_);
};

// Whether the result could be written, before the work for it is done.
absl::Status CheckOut(const PromptRun& run) {
  if (!run.format) return absl::OkStatus();
  std::vector<std::string> names;
  for (const std::string& path : run.images) names.push_back(FileName(path));
  CHORD_RETURN_IF_ERROR(CheckExportNames(*run.format, names));
  std::string probe = run.out;
  if (*run.format == ExportFormat::kYolo) {
    std::error_code error;
    fs::create_directories(fs::path(run.out) / "labels", error);
    if (error) {
      return errors::FileNotWritten(
          absl::StrCat("Cannot make the folder ", run.out, ": ", error.message(), "."));
    }
    probe = (fs::path(run.out) / "data.yaml").string();
  }
  return CheckWritable(probe);
}

absl::Status WriteExport(const PromptRun& run, const AnnotationDataset& dataset) {
  CHORD_ASSIGN_OR_RETURN(const std::vector<ExportFile> files, RenderExport(*run.format, dataset));
  for (const ExportFile& file : files) {
    const std::string path = file.path.empty() ? run.out : (fs::path(run.out) / file.path).string();
    CHORD_RETURN_IF_ERROR(WriteWhole(path, file.content));
  }
  return absl::OkStatus();
}

// The images from `*next` on, until there are none or the server cannot be reached.
void Work(const PromptRun& run, ImageCalls& calls, InOrder& results, absl::Mutex& mu, size_t* next,
          absl::Status* unreachable) {
  while (true) {
    size_t image = 0;
    absl::Status lost;
    {
      absl::MutexLock lock(&mu);
      if (*next == run.images.size()) return;
      image = (*next)++;
      lost = *unreachable;
    }
    Answers answers = lost.ok()
                          ? calls.GroundAll(run.images[image])
                          : Answers(run.prompts.size(), absl::StatusOr<v1::GroundResponse>(lost));
    for (const auto& answer : answers) {
      if (!IsNoServer(answer.status())) continue;
      absl::MutexLock lock(&mu);
      *unreachable = NoServer();
    }
    results.Add(image, std::move(answers));
  }
}

}  // namespace

absl::StatusOr<int> RunPrompts(const PromptRun& run) {
  CHORD_RETURN_IF_ERROR(CheckOut(run));
  ImageCalls calls(run);
  InOrder results(run);
  absl::Mutex mu;
  size_t next = 0;
  absl::Status unreachable;
  std::vector<std::thread> threads;
  const size_t count = std::min(static_cast<size_t>(run.parallel), run.images.size());
  for (size_t i = 0; i < count; ++i) {
    threads.emplace_back([&] { Work(run, calls, results, mu, &next, &unreachable); });
  }
  for (std::thread& thread : threads) thread.join();
  if (!unreachable.ok()) {
    std::fprintf(stderr, "chord ground: %s\n", std::string(unreachable.message()).c_str());
  }
  const size_t all = run.images.size() * run.prompts.size(), failed = results.failed();
  const std::string truncated = results.truncated() == 0 ? ""
                                                         : absl::StrCat(", ", results.truncated(),
                                                                        " cut at --max-new-tokens");
  std::fprintf(stderr, "%zu of %zu prompts answered about %zu images, %zu failed%s\n", all - failed,
               all, run.images.size(), failed, truncated.c_str());
  // An empty data set would replace an earlier one for nothing.
  if (run.format && failed < all) {
    CHORD_RETURN_IF_ERROR(WriteExport(run, results.TakeDataset()));
  }
  if (failed > 0) return kExitFailed;
  return results.truncated() > 0 ? kExitTruncated : kExitOk;
}

}  // namespace chord::cli
