// `chord ground`: sends an image, or every image of a folder, with a prompt to a running server.
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/api/answer_json.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/text/utf8.h"
#include "services/cli/client.h"
#include "services/cli/command_line.h"
#include "services/cli/commands.h"
#include "services/cli/export/prompt_run.h"
#include "services/cli/files.h"
#include "services/cli/ground/answer_output.h"
#include "services/cli/ground/batch_client.h"
#include "services/cli/ground/image_folder.h"
#include "services/cli/ground/progress.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kSummary[] =
    "Where in the image is the thing that the prompt describes? Boxes are in pixels of the "
    "upright\n"
    "original.";
constexpr char kEpilog[] =
    "Exit code: 0 every image was answered in full; 1 an image failed; 2 wrong command line;\n"
    "3 an answer was cut at --max-new-tokens (what was complete is printed).";

struct Options {
  std::string target;  // an image or a folder
  std::string prompt;
  std::string label_list;           // as given
  std::vector<std::string> labels;  // of label_list
  std::string server = kDefaultGrpcAddress;
  std::string annotate;
  std::string prompts;  // a file, instead of `prompt`
  std::string format;
  std::string out;
  bool json = false;
  int max_new_tokens = 0;
  double timeout_seconds = 60;
  std::string grammar = "auto";
  int parallel = 4;

  absl::Duration timeout() const { return absl::Seconds(timeout_seconds); }
  v1::Grammar grammar_value() const {
    return grammar == "off" ? v1::GRAMMAR_OFF : v1::GRAMMAR_AUTO;
  }
};

void Declare(CommandLine& line, Options& options) {
  line.Positional("IMAGE|DIR", &options.target, "An image, or a folder of images");
  line.Positional("PROMPT", &options.prompt, "What to find, in English or Chinese",
                  /*required=*/false);
  line.Text("server", &options.server, "ADDR",
            "HOST:PORT or unix:PATH of the gateway's gRPC (default 127.0.0.1:50051)");
  line.Text("annotate", &options.annotate, "OUT",
            "Write the image with boxes: PNG, or JPEG for .jpg; for a DIR, OUT is a folder");
  line.Switch("json", &options.json, "The whole answer as JSON; for a DIR one line an image");
  line.Text("labels", &options.label_list, "A,B,…",
            "Classes to look for, separated by commas, instead of PROMPT");
  line.Text("prompts", &options.prompts, "FILE",
            "Many prompts, one a line, instead of PROMPT; with --format or --json. "
            "CATEGORY<tab>PROMPT names the category of the boxes");
  line.Choice("format", &options.format, {"coco", "yolo", "labelstudio", "cvat"},
              "Write a data set for annotation tools");
  line.Text("out", &options.out, "OUT", "The data set's file; for yolo a folder");
  line.Integer("max-new-tokens", &options.max_new_tokens, 1, limits::kCeilingNewTokens,
               "Longest answer, 1 to 4096");
  line.Number("timeout", &options.timeout_seconds, 1e-3, 3600, "SECONDS",
              "For each image (default 60)");
  line.Choice("grammar", &options.grammar, {"auto", "off"},
              "Whether boxes are decoded under the box grammar (default auto)");
  line.Integer("parallel", &options.parallel, 1, 16,
               "Images of a DIR in flight, 1 to 16 (default 4)");
}

// Without blanks around them and without empty ones; a full-width comma separates too.
std::vector<std::string> SplitLabels(const std::string& list) {
  std::vector<std::string> out;
  for (absl::string_view label :
       absl::StrSplit(absl::StrReplaceAll(list, {{"，", ","}, {"、", ","}}), ',')) {
    label = absl::StripAsciiWhitespace(label);
    if (!label.empty()) out.emplace_back(label);
  }
  return out;
}

// Whether a data set is written, or several prompts are answered: RunPrompts.
bool IsPromptRun(const Options& options) {
  return !options.format.empty() || !options.prompts.empty();
}

absl::Status Validate(const CommandLine& line, const Options& options) {
  CHORD_RETURN_IF_ERROR(CheckGrpcAddress(options.server));
  if (!text::IsUtf8(options.prompt)) return errors::PromptNotUtf8();
  const int given = line.Has("PROMPT") + line.Has("labels") + line.Has("prompts");
  if (given != 1) {
    return errors::ConfigInvalid(
        "Give one of a prompt, --labels A,B and --prompts FILE; see --help.");
  }
  if (line.Has("labels") && options.labels.empty()) {
    return errors::ConfigInvalid("--labels must be classes separated by commas, as in cup,plate.");
  }
  if (options.format.empty() != options.out.empty()) {
    return errors::ConfigInvalid("--format and --out go together; see --help.");
  }
  if (!options.prompts.empty() && options.format.empty() && !options.json) {
    return errors::ConfigInvalid("--prompts needs --format or --json; see --help.");
  }
  if (IsPromptRun(options) && !options.annotate.empty()) {
    return errors::ConfigInvalid("--annotate does not go with --format or --prompts.");
  }
  return absl::OkStatus();
}

int ExitCode(size_t failed, size_t truncated) {
  if (failed > 0) return kExitFailed;
  return truncated > 0 ? kExitTruncated : kExitOk;
}

absl::StatusOr<v1::GroundResponse> GroundFile(const Options& options) {
  CHORD_ASSIGN_OR_RETURN(const std::string bytes,
                         ReadWhole(options.target, limits::kCeilingImageBytes));
  CHORD_ASSIGN_OR_RETURN(v1::GroundResponse answer,
                         MakeGrpcClient(options.server)
                             ->Ground({.image = bytes,
                                       .prompt = options.prompt,
                                       .labels = options.labels,
                                       .max_new_tokens = options.max_new_tokens,
                                       .grammar = options.grammar_value(),
                                       .timeout = options.timeout()}));
  if (!options.annotate.empty()) {
    CHORD_RETURN_IF_ERROR(WriteAnnotated(bytes, answer, options.annotate));
  }
  return answer;
}

absl::Status CheckAnnotatePath(const Options& options) {
  if (options.annotate.empty()) return absl::OkStatus();
  std::error_code error;
  if (fs::equivalent(options.target, options.annotate, error)) {
    return errors::ConfigInvalid("--annotate would overwrite the image; name another file.");
  }
  return CheckWritable(options.annotate);
}

int GroundImage(const Options& options, const CommandLine& line) {
  if (const absl::Status status = CheckAnnotatePath(options); !status.ok()) {
    return line.Fail(status.message(), kExitUsage);
  }
  const absl::StatusOr<v1::GroundResponse> answer = GroundFile(options);
  if (!answer.ok()) {
    if (options.json) std::printf("%s\n", ErrorJson(answer.status(), 2).c_str());
    return line.Fail(answer.status().message(), kExitFailed);
  }
  const std::string text = options.json ? api::AnswerJson(*answer, 2) + "\n" : AnswerText(*answer);
  std::fputs(text.c_str(), stdout);
  return ExitCode(0, IsTruncated(*answer));
}

// Prints answers in the order of the files, whichever comes first.
class FolderRun {
 public:
  FolderRun(const Options& options, const ImageFolder& folder)
      : options_(options), folder_(folder), progress_(folder.images.size()) {
    progress_.Show(0, 0);
  }

  void Take(size_t file, const absl::StatusOr<v1::GroundResponse>& response) {
    absl::Status status = response.status();
    if (status.ok() && !options_.annotate.empty()) status = Annotate(file, *response);
    reached_ = reached_ || !IsNoServer(response.status());
    ++done_;
    if (!status.ok()) ++failed_;
    if (status.ok() && IsTruncated(*response)) ++truncated_;
    ready_.emplace(file, status.ok() ? Text(file, *response) : FailureText(file, status));
    // Without a server one sentence at the end says it for all.
    while ((reached_ || options_.json) && !ready_.empty() && ready_.begin()->first == printed_) {
      progress_.Print(ready_.begin()->second);
      ready_.erase(ready_.begin());
      ++printed_;
    }
    progress_.Show(done_, failed_);
  }

  int End() {
    progress_.End(failed_, truncated_, folder_.skipped);
    return ExitCode(failed_, truncated_);
  }

  static std::string AnnotatedPath(const Options& options, const std::string& file) {
    return (fs::path(options.annotate) / (fs::path(file).filename().string() + ".png")).string();
  }

 private:
  std::string Name(size_t file) const { return fs::path(folder_.images[file]).filename().string(); }
  absl::Status Annotate(size_t file, const v1::GroundResponse& answer) const {
    const std::string& path = folder_.images[file];
    CHORD_ASSIGN_OR_RETURN(const std::string bytes, ReadWhole(path, limits::kCeilingImageBytes));
    return WriteAnnotated(bytes, answer, AnnotatedPath(options_, path));
  }
  std::string Text(size_t file, const v1::GroundResponse& answer) const {
    return options_.json ? JsonLine(file, api::AnswerJson(answer))
                         : absl::StrCat(Name(file), "\n", AnswerText(answer));
  }
  std::string FailureText(size_t file, const absl::Status& status) const {
    return options_.json ? JsonLine(file, ErrorJson(status, -1))
                         : absl::StrCat(Name(file), "\n  failed: ", status.message(), "\n");
  }
  std::string JsonLine(size_t file, const std::string& object) const {
    return WithFileName(Name(file), object) + "\n";
  }

  const Options& options_;
  const ImageFolder& folder_;
  Progress progress_;
  std::map<size_t, std::string> ready_;  // answered, not printed yet
  size_t printed_ = 0, done_ = 0, failed_ = 0, truncated_ = 0;
  bool reached_ = false;  // the server has answered or refused an image
};

absl::Status PrepareAnnotateFolder(const Options& options, const ImageFolder& folder) {
  if (options.annotate.empty()) return absl::OkStatus();
  std::error_code error;
  fs::create_directories(options.annotate, error);
  // Better now than after every image has been answered.
  if (error) {
    return errors::FileNotWritten(
        absl::StrCat("Cannot make the folder ", options.annotate, ": ", error.message(), "."));
  }
  return CheckWritable(FolderRun::AnnotatedPath(options, folder.images.front()));
}

int GroundFolder(const Options& options, const CommandLine& line) {
  const absl::StatusOr<ImageFolder> folder = ListImages(options.target);
  if (!folder.ok()) return line.Fail(folder.status().message(), kExitUsage);
  if (folder->images.empty()) {
    return line.Fail(absl::StrCat("there is no JPEG, PNG or WebP image in ", options.target, "."),
                     kExitFailed);
  }
  if (const absl::Status status = PrepareAnnotateFolder(options, *folder); !status.ok()) {
    return line.Fail(status.message(), kExitUsage);
  }
  BatchClient::Options batch;
  batch.timeout = options.timeout();
  batch.parallel = options.parallel;
  batch.request.set_prompt(options.prompt);
  batch.request.mutable_labels()->Assign(options.labels.begin(), options.labels.end());
  batch.request.set_grammar(options.grammar_value());
  if (options.max_new_tokens > 0) batch.request.set_max_new_tokens(options.max_new_tokens);
  FolderRun run(options, *folder);
  BatchClient client(options.server, batch, folder->images,
                     [&](size_t file, const auto& response) { run.Take(file, response); });
  const absl::Status status = client.Run();
  const int code = run.End();
  return IsNoServer(status) ? line.Fail(status.message(), kExitFailed) : code;
}

absl::StatusOr<int> GroundPrompts(const Options& options) {
  PromptRun run{.server = options.server,
                .images = {options.target},
                .prompts = {{.prompt = options.prompt, .labels = options.labels}},
                .format = ParseExportFormat(options.format),
                .out = options.out,
                .json = options.json,
                .max_new_tokens = options.max_new_tokens,
                .grammar = options.grammar_value(),
                .timeout = options.timeout(),
                .parallel = options.parallel};
  if (!options.prompts.empty()) {
    CHORD_ASSIGN_OR_RETURN(const std::string text, ReadWhole(options.prompts, kMaxPromptListBytes));
    CHORD_ASSIGN_OR_RETURN(run.prompts, ParsePromptList(text));
  }
  std::error_code error;
  if (fs::is_directory(options.target, error)) {
    CHORD_ASSIGN_OR_RETURN(ImageFolder folder, ListImages(options.target));
    run.images = std::move(folder.images);
    if (run.images.empty()) {
      return errors::ConfigInvalid(
          absl::StrCat("There is no JPEG, PNG or WebP image in ", options.target, "."));
    }
  }
  return RunPrompts(run);
}

}  // namespace

int RunGround(const std::vector<std::string>& args) {
  Options options;
  CommandLine line("chord ground", kSummary, kEpilog);
  Declare(line, options);
  if (const std::optional<int> code = line.Parse(args)) return *code;
  options.labels = SplitLabels(options.label_list);
  if (const absl::Status status = Validate(line, options); !status.ok()) {
    return line.Fail(status.message(), kExitUsage);
  }
  if (IsPromptRun(options)) {
    const absl::StatusOr<int> code = GroundPrompts(options);
    return code.ok() ? *code : line.Fail(code.status().message(), kExitUsage);
  }
  std::error_code error;
  return fs::is_directory(options.target, error) ? GroundFolder(options, line)
                                                 : GroundImage(options, line);
}

}  // namespace chord::cli
