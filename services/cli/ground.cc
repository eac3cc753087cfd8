// `chord ground`: asks a running Chord about a picture, or about every picture of a folder.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "chord/v1/grounding.pb.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/image/annotate.h"
#include "common/image/image.h"
#include "common/rpc/answer_json.h"
#include "services/cli/args.h"
#include "services/cli/client.h"
#include "services/cli/commands.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kHelp[] =
    "chord ground IMAGE|DIR \"sentence\" [--server ADDR] [--annotate OUT] [--json]\n"
    "  Where is it? Boxes are in pixels of the upright original.\n"
    "  --server ADDR        HOST:PORT or unix:PATH of the gateway's gRPC (default "
    "127.0.0.1:50051)\n"
    "  --annotate OUT       write the picture with boxes as PNG; for a DIR, OUT is a folder\n"
    "  --json               the whole answer as JSON; for a DIR one line a picture\n"
    "  --max-new-tokens N   longest answer, 1 to 4096\n"
    "  --timeout SECONDS    for each picture (default 60)\n"
    "  --parallel N         pictures of a DIR asked at once, 1 to 16 (default 2)\n"
    "Exit code: 0 when every picture was answered, 1 otherwise, 2 for a wrong command line.\n";

struct Options {
  std::string sentence;
  std::string annotate;
  bool json = false;
  int max_new_tokens = 0;
  absl::Duration timeout;
};

absl::StatusOr<std::string> ReadPicture(const std::string& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    return errors::ConfigInvalid(absl::StrCat(path, " is not a file."));
  }
  const auto size = static_cast<int64_t>(fs::file_size(path, error));
  if (error || size > limits::kCeilingImageBytes) {
    return errors::ImageBytesLimit(error ? 0 : size, limits::kCeilingImageBytes);
  }
  std::ifstream file(path, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file) return errors::ConfigInvalid(absl::StrCat(path, " cannot be read."));
  return bytes;
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
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(png.data()), static_cast<std::streamsize>(png.size()));
  file.close();
  if (!file) return errors::ConfigInvalid(absl::StrCat("Cannot write ", path, "."));
  return absl::OkStatus();
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

class Asker {
 public:
  Asker(const std::string& server, Options options)
      : client_(MakeGrpcClient(server)), options_(std::move(options)) {}

  // Text for stdout, or why there is none.
  absl::StatusOr<std::string> Ask(const std::string& path, const std::string& annotate,
                                  int indent) {
    CHORD_ASSIGN_OR_RETURN(const std::string bytes, ReadPicture(path));
    CHORD_ASSIGN_OR_RETURN(const v1::GroundResponse answer,
                           client_->Ask({.picture = bytes,
                                         .prompt = options_.sentence,
                                         .max_new_tokens = options_.max_new_tokens,
                                         .timeout = options_.timeout}));
    if (!annotate.empty()) CHORD_RETURN_IF_ERROR(WriteAnnotated(bytes, answer, annotate));
    return options_.json ? rpc::AnswerJson(answer, indent) + "\n" : HumanAnswer(answer);
  }

 private:
  const std::unique_ptr<Client> client_;
  const Options options_;
};

std::vector<std::string> PicturesOf(const std::string& dir) {
  std::vector<std::string> out;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(dir, error)) {
    if (!entry.is_regular_file(error)) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    char head[64] = {};
    file.read(head, sizeof(head));
    // Told by bytes; other files of the folder are passed over.
    if (image::Sniff(absl::string_view(head, static_cast<size_t>(file.gcount()))).ok()) {
      out.push_back(entry.path().string());
    }
  }
  std::sort(out.begin(), out.end());
  return out;
}

void ShowProgress(size_t done, size_t failed, size_t all, bool last) {
  if (!isatty(STDERR_FILENO)) {
    if (last)
      std::fprintf(stderr, "%zu of %zu pictures answered, %zu failed\n", done - failed, all,
                   failed);
    return;
  }
  constexpr size_t kWidth = 30;
  const size_t filled = all == 0 ? kWidth : done * kWidth / all;
  std::fprintf(stderr, "\r[%s%s] %zu/%zu%s%s", std::string(filled, '#').c_str(),
               std::string(kWidth - filled, '.').c_str(), done, all,
               failed == 0 ? "" : absl::StrCat(", ", failed, " failed").c_str(), last ? "\n" : "");
  std::fflush(stderr);
}

// Answers are printed in the order of the files, whichever comes first.
int GroundFolder(Asker& asker, const std::string& dir, const Options& options, int parallel) {
  const std::vector<std::string> files = PicturesOf(dir);
  if (files.empty()) {
    std::fprintf(stderr, "chord ground: there is no JPEG, PNG or WebP picture in %s.\n",
                 dir.c_str());
    return 1;
  }
  if (!options.annotate.empty()) {
    std::error_code error;
    fs::create_directories(options.annotate, error);
  }
  std::mutex mu;
  std::atomic<size_t> next{0};
  std::map<size_t, std::string> ready;  // answered, not printed yet
  size_t printed = 0, done = 0, failed = 0;
  auto work = [&] {
    for (size_t i; (i = next++) < files.size();) {
      const fs::path file = files[i];
      const std::string out =
          options.annotate.empty()
              ? ""
              : (fs::path(options.annotate) / (file.filename().string() + ".png")).string();
      const absl::StatusOr<std::string> answer = asker.Ask(files[i], out, -1);
      const std::string name = file.filename().string();
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
      std::lock_guard<std::mutex> lock(mu);
      ++done;
      if (!answer.ok()) ++failed;
      ready.emplace(i, std::move(text));
      while (!ready.empty() && ready.begin()->first == printed) {
        std::fputs(ready.begin()->second.c_str(), stdout);
        ready.erase(ready.begin());
        ++printed;
      }
      ShowProgress(done, failed, files.size(), done == files.size());
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < parallel; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  return failed == 0 ? 0 : 1;
}

absl::StatusOr<int> Ground(const std::vector<std::string>& raw) {
  const std::vector<FlagSpec> specs = {{"server"},         {"annotate"}, {"json", false},
                                       {"max-new-tokens"}, {"timeout"},  {"parallel"},
                                       {"help", false}};
  CHORD_ASSIGN_OR_RETURN(const Args args, ParseArgs(raw, specs));
  if (args.Has("help")) {
    std::fputs(kHelp, stdout);
    return 0;
  }
  if (args.positional.size() != 2) {
    return errors::ConfigInvalid("Give a picture (or a folder) and a sentence; see --help.");
  }
  Options options;
  options.sentence = args.positional[1];
  options.annotate = args.Get("annotate");
  options.json = args.Has("json");
  if (args.Has("max-new-tokens") &&
      (!absl::SimpleAtoi(args.Get("max-new-tokens"), &options.max_new_tokens) ||
       options.max_new_tokens < 1 || options.max_new_tokens > limits::kCeilingNewTokens)) {
    return errors::ParameterInvalid("--max-new-tokens", "an integer from 1 to 4096");
  }
  double seconds = 60;
  if (!absl::SimpleAtod(args.Get("timeout", "60"), &seconds) || !(seconds > 0 && seconds <= 3600)) {
    return errors::ParameterInvalid("--timeout", "a number of seconds up to 3600");
  }
  options.timeout = absl::Seconds(seconds);
  int parallel = 2;
  if (!absl::SimpleAtoi(args.Get("parallel", "2"), &parallel) || parallel < 1 || parallel > 16) {
    return errors::ParameterInvalid("--parallel", "an integer from 1 to 16");
  }
  const std::string server = args.Get("server", "127.0.0.1:50051");
  Asker asker(server, options);
  const std::string& target = args.positional[0];
  std::error_code error;
  if (fs::is_directory(target, error)) return GroundFolder(asker, target, options, parallel);
  const absl::StatusOr<std::string> answer =
      asker.Ask(target, options.annotate, options.json ? 2 : -1);
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
