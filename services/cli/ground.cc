// `chord ground`: asks a running Chord about a picture, or about every picture of a folder.
#include <grpcpp/client_context.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "chord/v1/grounding.grpc.pb.h"
#include "chord/v1/images.grpc.pb.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/image/annotate.h"
#include "common/image/image.h"
#include "common/model/unicode.h"
#include "common/rpc/answer_json.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/status_map.h"
#include "services/cli/args.h"
#include "services/cli/client.h"
#include "services/cli/commands.h"
#include "services/cli/export/dataset_run.h"
#include "services/cli/files.h"
#include "services/cli/upload.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kHelp[] =
    "chord ground IMAGE|DIR \"sentence\" [--server ADDR] [--annotate OUT] [--json]\n"
    "chord ground IMAGE|DIR \"sentence\" | --prompts FILE  --format F --out OUT\n"
    "  Where is it? Boxes are in pixels of the upright original.\n"
    "  --server ADDR        HOST:PORT or unix:PATH of the gateway's gRPC (default "
    "127.0.0.1:50051)\n"
    "  --annotate OUT       write the picture with boxes as PNG; for a DIR, OUT is a folder\n"
    "  --json               the whole answer as JSON; for a DIR one line a picture\n"
    "  --prompts FILE       many prompts, one a line, instead of the sentence; with --format or "
    "--json.\n"
    "                       \"CATEGORY<tab>PROMPT\" names the category of the boxes as well\n"
    "  --format F           write a data set: coco, yolo, labelstudio or cvat\n"
    "  --out OUT            its file; for yolo a folder\n"
    "  --max-new-tokens N   longest answer, 1 to 4096\n"
    "  --timeout SECONDS    for each picture (default 60)\n"
    "  --grammar G          auto (boxes are decoded under the box grammar) or off\n"
    "  --parallel N         pictures of a DIR asked at once, 1 to 16 (default 4)\n"
    "Exit code: 0 when every picture was answered, 1 otherwise, 2 for a wrong command line.\n";

struct Options {
  std::string sentence;
  std::string annotate;
  bool json = false;
  int max_new_tokens = 0;
  absl::Duration timeout;
  v1::Grammar grammar = v1::GRAMMAR_AUTO;
};

absl::StatusOr<std::string> ReadPicture(const std::string& path) {
  return ReadWhole(path, limits::kCeilingImageBytes);
}

absl::Status WriteAnnotated(const std::string& bytes, const v1::GroundResponse& answer,
                            const std::string& path) {
  image::DecodeOptions decode;
  decode.limits.max_pixels = limits::kCeilingImagePixels;
  decode.limits.max_bytes = limits::kCeilingImageBytes;
  CHORD_ASSIGN_OR_RETURN(const image::Picture picture, image::Decode(bytes, decode));
  std::vector<image::AnnotatedBox> boxes;
  for (const auto& object : answer.objects()) {
    boxes.push_back(
        {image::Box{object.box().x1(), object.box().y1(), object.box().x2(), object.box().y2()},
         object.label()});
  }
  CHORD_ASSIGN_OR_RETURN(const std::vector<uint8_t> png,
                         image::EncodePng(image::Annotate(picture, boxes)));
  return WriteWhole(path, {reinterpret_cast<const char*>(png.data()), png.size()});
}

std::string HumanAnswer(const v1::GroundResponse& answer) {
  std::string out;
  if (answer.objects_size() == 0) {
    out = absl::StrFormat("not there (confidence %.2f)\n", answer.confidence());
  }
  for (const auto& object : answer.objects()) {
    absl::StrAppendFormat(&out, "%d %d %d %d  %.2f  %s%s\n", object.box().x1(), object.box().y1(),
                          object.box().x2(), object.box().y2(), object.confidence(), object.label(),
                          object.needs_review() ? "  (review)" : "");
  }
  if (!answer.advice().empty()) absl::StrAppend(&out, answer.advice(), "\n");
  return out;
}

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json ErrorJson(const absl::Status& status) {
  return {{"error", {{"code", ErrorReason(status)}, {"detail", std::string(status.message())}}}};
}

// Text for stdout.
absl::StatusOr<std::string> Shown(const v1::GroundResponse& answer, const std::string& bytes,
                                  const Options& options, const std::string& annotate, int indent) {
  if (!annotate.empty()) CHORD_RETURN_IF_ERROR(WriteAnnotated(bytes, answer, annotate));
  return options.json ? rpc::AnswerJson(answer, indent) + "\n" : HumanAnswer(answer);
}

void Fill(const Options& options, v1::GroundRequest& request) {
  request.set_prompt(options.sentence);
  request.set_grammar(options.grammar);
  if (options.max_new_tokens > 0) request.set_max_new_tokens(options.max_new_tokens);
}

bool IsLost(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable && !IsCatalogued(status);
}

absl::StatusOr<std::string> AskOne(const std::string& server, const std::string& path,
                                   const Options& options) {
  CHORD_ASSIGN_OR_RETURN(const std::string bytes, ReadPicture(path));
  CHORD_ASSIGN_OR_RETURN(const v1::GroundResponse answer,
                         MakeGrpcClient(server)->Ask({.picture = bytes,
                                                      .prompt = options.sentence,
                                                      .max_new_tokens = options.max_new_tokens,
                                                      .grammar = options.grammar,
                                                      .timeout = options.timeout}));
  return Shown(answer, bytes, options, options.annotate, options.json ? 2 : -1);
}

struct Folder {
  std::vector<std::string> pictures;  // sorted
  size_t passed_over = 0;             // files that are no pictures
};

absl::StatusOr<Folder> PicturesOf(const std::string& dir) {
  Folder out;
  std::error_code error;
  fs::directory_iterator entries(dir, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    std::error_code ignored;
    if (!entries->is_regular_file(ignored)) continue;
    const std::string path = entries->path().string();
    std::ifstream file(path, std::ios::binary);
    char head[64] = {};
    file.read(head, sizeof(head));
    // Told by bytes; other files of the folder are passed over. What cannot be opened may be a
    // picture: it is asked about, and fails with the reason.
    const bool opened = file.is_open() && !file.bad();
    if (!opened || image::Sniff(absl::string_view(head, static_cast<size_t>(file.gcount()))).ok()) {
      out.pictures.push_back(path);
    } else {
      ++out.passed_over;
    }
  }
  if (error) {
    return errors::ConfigInvalid(
        absl::StrCat("The folder ", dir, " cannot be read: ", error.message(), "."));
  }
  std::sort(out.pictures.begin(), out.pictures.end());
  return out;
}

// Answers go to stdout and the bar to stderr; when both are one terminal, the bar makes room.
class Progress {
 public:
  explicit Progress(size_t all) : all_(all), terminal_(isatty(STDERR_FILENO) != 0) {}

  void Print(const std::string& text) {
    if (terminal_) std::fputs("\r\033[K", stderr);
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);  // who reads along, or interrupts us, has what is answered
  }
  void Show(size_t done, size_t failed) {
    if (!terminal_) return;
    constexpr size_t kWidth = 30;
    const size_t filled = done * kWidth / all_;
    std::fprintf(stderr, "\r[%s%s] %zu/%zu%s", std::string(filled, '#').c_str(),
                 std::string(kWidth - filled, '.').c_str(), done, all_,
                 failed == 0 ? "" : absl::StrCat(", ", failed, " failed").c_str());
    std::fflush(stderr);
  }
  void End(size_t failed, size_t passed_over) {
    if (terminal_) std::fputs("\r\033[K", stderr);
    std::string more;
    if (passed_over > 0) {
      more = absl::StrCat("; ", passed_over, passed_over == 1 ? " file is" : " files are",
                          " neither JPEG, PNG nor WebP and passed over");
    }
    std::fprintf(stderr, "%zu of %zu pictures answered, %zu failed%s\n", all_ - failed, all_,
                 failed, more.c_str());
  }

 private:
  const size_t all_;
  const bool terminal_;
};

// All pictures of a folder over one stream of the server (GroundBatch), a few at a time. What is
// refused because the server is busy is asked again after the time it gave.
class FolderAsker {
 public:
  // Called once for each file, from one thread at a time.
  using OnAnswer = std::function<void(size_t file, const absl::StatusOr<v1::GroundResponse>&)>;

  FolderAsker(const std::string& server, const Options& options,
              const std::vector<std::string>& files, int parallel, OnAnswer on_answer)
      : channel_(rpc::MakeChannel(server)),
        grounding_(v1::Grounding::NewStub(channel_)),
        images_(v1::Images::NewStub(channel_)),
        options_(options),
        files_(files),
        parallel_(parallel),
        on_answer_(std::move(on_answer)) {
    for (size_t i = 0; i < files.size(); ++i) waiting_.push_back({i, 0, absl::InfinitePast()});
  }

  // OK when every file had its answer; else why the server could not be asked for the others,
  // which have that as theirs.
  absl::Status Run() {
    // A server that has answered and goes away is being restarted, most likely: what is left is
    // asked again when it is back, as long as streams get somewhere.
    absl::Status status;
    for (int fruitless = 0; fruitless < kFruitless; ++fruitless) {
      const size_t before = answered_;
      status = OneStream();
      if (answered_ == files_.size()) return absl::OkStatus();
      if (status.code() != absl::StatusCode::kUnavailable || answered_ == 0) break;
      if (answered_ > before) fruitless = -1;
      const absl::Time patience = absl::Now() + kComingBack;
      if (!channel_->WaitForConnected(absl::ToChronoTime(patience))) break;
    }
    if (status.ok()) status = errors::WorkerLost("language");
    if (IsLost(status)) status = NoServer();
    for (const auto& [file, flight] : flying_) on_answer_(file, status);
    for (const Waiting& one : waiting_) on_answer_(one.file, status);
    return status;
  }

 private:
  static constexpr int kAttempts = 6;
  static constexpr int kFruitless = 3;  // streams in a row without an answer
  static constexpr absl::Duration kComingBack = absl::Seconds(15);
  // Bigger files go up in chunks and are asked about by their handle, so that no message meets the
  // server's limit.
  static constexpr size_t kInline = 4 << 20;

  struct Waiting {
    size_t file;
    int attempts;
    absl::Time not_before;
  };
  struct Flight {
    int attempts = 0;
    absl::Time deadline;
    std::string image_id;  // uploaded for this question
  };
  using Stream = grpc::ClientReaderWriter<v1::GroundBatchRequest, v1::GroundBatchResponse>;

  absl::Status OneStream() {
    grpc::ClientContext context;
    std::unique_ptr<Stream> stream = grounding_->GroundBatch(&context);
    {
      absl::MutexLock lock(&mu_);
      for (auto& [file, flight] : flying_) {  // of a stream that broke
        waiting_.push_front({file, flight.attempts, absl::InfinitePast()});
      }
      flying_.clear();
      broken_ = false;
    }
    std::thread sender([&] { Send(context, *stream); });
    v1::GroundBatchResponse response;
    while (stream->Read(&response)) Take(response);
    {
      absl::MutexLock lock(&mu_);
      broken_ = true;
      changed_.SignalAll();
    }
    sender.join();
    const absl::Status status = rpc::FromGrpc(stream->Finish());
    absl::MutexLock lock(&mu_);
    return gave_up_ && absl::IsCancelled(status) ? absl::OkStatus() : status;
  }

  // Sends what may go now, and gives up what takes too long.
  void Send(grpc::ClientContext& context, Stream& stream) {
    absl::MutexLock lock(&mu_);
    while (!broken_) {
      const absl::Time now = absl::Now();
      absl::Time next = now + absl::Seconds(60);
      for (auto at = flying_.begin(); at != flying_.end();) {
        const auto flight = at++;
        next = std::min(next, flight->second.deadline);
        if (now < flight->second.deadline) continue;
        const size_t file = flight->first;
        flying_.erase(flight);
        gave_up_ = true;
        Answer(file, errors::DeadlineExceeded());
      }
      if (answered_ == files_.size()) break;
      const auto ready = std::find_if(waiting_.begin(), waiting_.end(),
                                      [&](const Waiting& one) { return one.not_before <= now; });
      if (static_cast<int>(flying_.size()) < parallel_ && ready != waiting_.end()) {
        const Waiting one = *ready;
        waiting_.erase(ready);
        flying_[one.file] = {one.attempts + 1, now + options_.timeout, ""};
        mu_.Unlock();
        const absl::Status sent = SendOne(one.file, stream);
        mu_.Lock();
        if (!sent.ok() && flying_.erase(one.file) > 0) Answer(one.file, sent);
        continue;
      }
      for (const Waiting& one : waiting_) next = std::min(next, std::max(one.not_before, now));
      if (static_cast<int>(flying_.size()) >= parallel_) next = now + absl::Milliseconds(500);
      changed_.WaitWithDeadline(&mu_, next);
    }
    const bool late = gave_up_ && !broken_;
    mu_.Unlock();
    if (late) {
      context.TryCancel();  // answers nobody waits for
    } else {
      stream.WritesDone();
    }
    mu_.Lock();
  }

  absl::Status SendOne(size_t file, Stream& stream) {
    CHORD_ASSIGN_OR_RETURN(std::string bytes, ReadPicture(files_[file]));
    v1::GroundBatchRequest item;
    item.set_tag(absl::StrCat(file));
    Fill(options_, *item.mutable_request());
    if (bytes.size() <= kInline) {
      item.mutable_request()->set_image(std::move(bytes));
    } else {
      CHORD_ASSIGN_OR_RETURN(const std::string id,
                             UploadPicture(*images_, bytes, absl::Now() + options_.timeout));
      item.mutable_request()->set_image_id(id);
      absl::MutexLock lock(&mu_);
      if (const auto flight = flying_.find(file); flight != flying_.end()) {
        flight->second.image_id = id;
      }
    }
    stream.Write(item);  // a stream that broke tells so when it is read
    return absl::OkStatus();
  }

  void Take(const v1::GroundBatchResponse& response) {
    size_t file = 0;
    std::string image_id;
    {
      absl::MutexLock lock(&mu_);
      if (!absl::SimpleAtoi(response.tag(), &file)) return;
      const auto flight = flying_.find(file);
      if (flight == flying_.end()) return;  // given up
      const int attempts = flight->second.attempts;
      image_id = flight->second.image_id;
      flying_.erase(flight);
      if (response.has_error()) {
        const v1::Error& error = response.error();
        const absl::Duration wait = absl::Seconds(error.retry_after_seconds());
        if (wait > absl::ZeroDuration() && attempts < kAttempts) {
          waiting_.push_back({file, attempts, absl::Now() + wait});
        } else {
          Answer(file, MakeCatalogued(static_cast<absl::StatusCode>(error.code()), error.reason(),
                                      error.message()));
        }
      } else {
        Answer(file, response.response());
      }
      changed_.SignalAll();
    }
    if (image_id.empty()) return;
    grpc::ClientContext context;
    rpc::SetDeadline(context, absl::Now() + absl::Seconds(5));
    v1::ImageRef ref;
    ref.set_image_id(image_id);
    v1::DeleteImageResponse ignored;
    (void)images_->Delete(&context, ref, &ignored);
  }

  void Answer(size_t file, const absl::StatusOr<v1::GroundResponse>& answer)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    ++answered_;
    on_answer_(file, answer);
  }

  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Grounding::Stub> grounding_;
  const std::unique_ptr<v1::Images::Stub> images_;
  const Options& options_;
  const std::vector<std::string>& files_;
  const int parallel_;
  const OnAnswer on_answer_;

  absl::Mutex mu_;
  absl::CondVar changed_;
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mu_);
  std::map<size_t, Flight> flying_ ABSL_GUARDED_BY(mu_);
  size_t answered_ ABSL_GUARDED_BY(mu_) = 0;
  bool gave_up_ ABSL_GUARDED_BY(mu_) = false;  // on some answer that may still come
  bool broken_ ABSL_GUARDED_BY(mu_) = false;
};

// Answers are printed in the order of the files, whichever comes first.
absl::StatusOr<int> GroundFolder(const std::string& server, const std::string& dir,
                                 const Options& options, int parallel) {
  CHORD_ASSIGN_OR_RETURN(const Folder folder, PicturesOf(dir));
  const std::vector<std::string>& files = folder.pictures;
  if (files.empty()) {
    std::fprintf(stderr, "chord ground: there is no JPEG, PNG or WebP picture in %s.\n",
                 dir.c_str());
    return 1;
  }
  const auto annotated = [&](size_t i) -> std::string {
    if (options.annotate.empty()) return "";
    const fs::path name = fs::path(files[i]).filename();
    return (fs::path(options.annotate) / (name.string() + ".png")).string();
  };
  if (!options.annotate.empty()) {
    std::error_code error;
    fs::create_directories(options.annotate, error);
    // Better now than after every picture has been answered.
    if (error) {
      return errors::FileNotWritten(
          absl::StrCat("Cannot make the folder ", options.annotate, ": ", error.message(), "."));
    }
    CHORD_RETURN_IF_ERROR(CheckWritable(annotated(0)));
  }
  std::map<size_t, std::string> ready;  // answered, not printed yet
  size_t printed = 0, done = 0, failed = 0;
  bool any = false;  // the server has said something about a picture
  Progress progress(files.size());
  const auto show =
      [&](size_t i,
          const absl::StatusOr<v1::GroundResponse>& response) -> absl::StatusOr<std::string> {
    CHORD_RETURN_IF_ERROR(response.status());
    if (options.annotate.empty()) return Shown(*response, "", options, "", -1);
    CHORD_ASSIGN_OR_RETURN(const std::string bytes, ReadPicture(files[i]));
    return Shown(*response, bytes, options, annotated(i), -1);
  };
  progress.Show(0, 0);
  FolderAsker asker(
      server, options, files, parallel,
      [&](size_t i, const absl::StatusOr<v1::GroundResponse>& response) {
        const absl::StatusOr<std::string> answer = show(i, response);
        const std::string name = fs::path(files[i]).filename().string();
        std::string text;
        if (options.json) {
          Json line = {{"file", name}};
          line.update(answer.ok() ? Json::parse(*answer) : ErrorJson(answer.status()));
          text = Dump(line, -1);
        } else if (answer.ok()) {
          text = absl::StrCat(name, "\n", *answer);
        } else {
          text = absl::StrCat(name, "\n  failed: ", answer.status().message(), "\n");
        }
        any = any || !IsLost(response.status());
        ++done;
        if (!answer.ok()) ++failed;
        ready.emplace(i, std::move(text));
        // Without a server one sentence says it for all.
        while ((any || options.json) && !ready.empty() && ready.begin()->first == printed) {
          progress.Print(ready.begin()->second);
          ready.erase(ready.begin());
          ++printed;
        }
        progress.Show(done, failed);
      });
  const absl::Status status = asker.Run();
  progress.End(failed, folder.passed_over);
  if (IsLost(status)) {
    std::fprintf(stderr, "chord ground: %s\n", std::string(status.message()).c_str());
  }
  return failed == 0 ? 0 : 1;
}

// --format and --prompts: a data set, or an answer of every prompt about every image.
absl::StatusOr<int> GroundDataset(const Args& args, const Options& options,
                                  const std::string& server, int parallel) {
  DatasetRun run{.server = server,
                 .out = args.Get("out"),
                 .json = options.json,
                 .max_new_tokens = options.max_new_tokens,
                 .grammar = options.grammar,
                 .timeout = options.timeout,
                 .parallel = parallel};
  if (args.Has("format")) {
    run.format = ParseExportFormat(args.Get("format"));
    if (!run.format) {
      return errors::ParameterInvalid("--format", "coco, yolo, labelstudio or cvat");
    }
  }
  if (run.format.has_value() == run.out.empty()) {
    return errors::ConfigInvalid("--format and --out go together; see --help.");
  }
  if (!run.format && !run.json) {
    return errors::ConfigInvalid("--prompts needs --format or --json; see --help.");
  }
  if (!options.annotate.empty()) {
    return errors::ConfigInvalid("--annotate does not go with --format or --prompts.");
  }
  run.prompts = {{"", options.sentence}};
  if (args.Has("prompts")) {
    CHORD_ASSIGN_OR_RETURN(const std::string text, ReadWhole(args.Get("prompts"), 64 << 20));
    CHORD_ASSIGN_OR_RETURN(run.prompts, ParsePromptList(text));
  }
  const std::string& target = args.positional[0];
  run.images = {target};
  std::error_code error;
  if (fs::is_directory(target, error)) {
    CHORD_ASSIGN_OR_RETURN(Folder folder, PicturesOf(target));
    run.images = std::move(folder.pictures);
    if (run.images.empty()) {
      return errors::ConfigInvalid(
          absl::StrCat("There is no JPEG, PNG or WebP image in ", target, "."));
    }
  }
  return RunDataset(run);
}

absl::StatusOr<int> Ground(const std::vector<std::string>& raw) {
  const std::vector<FlagSpec> specs = {
      {"server"},  {"annotate"}, {"json", false}, {"max-new-tokens"},
      {"timeout"}, {"parallel"}, {"grammar"},     {"prompts"},
      {"format"},  {"out"},      {"help", false}};
  CHORD_ASSIGN_OR_RETURN(const Args args, ParseArgs(raw, specs));
  if (args.Has("help")) {
    std::fputs(kHelp, stdout);
    return 0;
  }
  if (args.positional.size() != (args.Has("prompts") ? 1 : 2)) {
    return errors::ConfigInvalid("Give a picture (or a folder) and a sentence; see --help.");
  }
  Options options;
  if (!args.Has("prompts")) options.sentence = args.positional[1];
  options.annotate = args.Get("annotate");
  options.json = args.Has("json");
  if (args.Has("max-new-tokens") &&
      (!absl::SimpleAtoi(args.Get("max-new-tokens"), &options.max_new_tokens) ||
       options.max_new_tokens < 1 || options.max_new_tokens > limits::kCeilingNewTokens)) {
    return errors::ParameterInvalid("--max-new-tokens", "an integer from 1 to 4096");
  }
  const std::string grammar = args.Get("grammar", "auto");
  if (grammar != "auto" && grammar != "off") {
    return errors::ParameterInvalid("--grammar", "\"auto\" or \"off\"");
  }
  options.grammar = grammar == "off" ? v1::GRAMMAR_OFF : v1::GRAMMAR_AUTO;
  double seconds = 60;
  if (!absl::SimpleAtod(args.Get("timeout", "60"), &seconds) || !(seconds > 0 && seconds <= 3600)) {
    return errors::ParameterInvalid("--timeout", "a number of seconds up to 3600");
  }
  options.timeout = absl::Seconds(seconds);
  int parallel = 4;
  if (!absl::SimpleAtoi(args.Get("parallel", "4"), &parallel) || parallel < 1 || parallel > 16) {
    return errors::ParameterInvalid("--parallel", "an integer from 1 to 16");
  }
  CHORD_ASSIGN_OR_RETURN(const std::string server, GrpcAddress(args));
  if (model::ToValidUtf8(options.sentence) != options.sentence) return errors::PromptNotUtf8();
  if (args.Has("format") || args.Has("prompts") || args.Has("out")) {
    return GroundDataset(args, options, server, parallel);
  }
  const std::string& target = args.positional[0];
  std::error_code error;
  if (fs::is_directory(target, error)) return GroundFolder(server, target, options, parallel);
  if (!options.annotate.empty()) {
    if (fs::equivalent(target, options.annotate, error)) {
      return errors::ConfigInvalid("--annotate would overwrite the picture; name another file.");
    }
    CHORD_RETURN_IF_ERROR(CheckWritable(options.annotate));
  }
  const absl::StatusOr<std::string> answer = AskOne(server, target, options);
  if (answer.ok()) {
    std::fputs(answer->c_str(), stdout);
    return 0;
  }
  if (options.json) std::fputs(Dump(ErrorJson(answer.status()), 2).c_str(), stdout);
  std::fprintf(stderr, "chord ground: %s\n", std::string(answer.status().message()).c_str());
  return 1;
}

}  // namespace

int RunGround(const std::vector<std::string>& args) {
  const absl::StatusOr<int> code = Ground(args);
  if (code.ok()) return *code;
  std::fprintf(stderr, "chord ground: %s\n", std::string(code.status().message()).c_str());
  return 2;
}

}  // namespace chord::cli
