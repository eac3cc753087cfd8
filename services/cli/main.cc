#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "services/cli/commands.h"
#include "services/cli/install_paths.h"
#include "services/cli/mcp/mcp_command.h"
#include "services/cli/tokenize.h"

namespace {

constexpr char kHelp[] =
    "chord: where in this image is the thing I describe?\n"
    "\n"
    "  chord serve      run gateway, vision worker and language worker on this host\n"
    "  chord ground     find what a prompt describes in an image or a folder of images\n"
    "  chord mcp        offer locate, annotate and zoom to agents (Model Context Protocol)\n"
    "  chord eval       measure a running server on a data set with known boxes\n"
    "  chord calibrate  fit a model's confidences on such a data set\n"
    "  chord bench      offer a load to a running server and measure how it answers\n"
    "  chord config     show, check and describe the settings\n"
    "  chord keys       make an API key\n"
    "  chord doctor     check this installation and say how to fix it\n"
    "  chord inspect    write the engine's own values (pixels, embeddings, logits, tokens)\n"
    "  chord tokenize   turn texts into token ids\n"
    "  chord version    print the version\n"
    "\n"
    "chord COMMAND --help says more.\n";

// The one command that needs libtorch is a program of its own, so that the others start at once.
int ExecInspect(char** argv) {
  const std::string program = chord::cli::Sibling("chord-inspect");
  execv(program.c_str(), argv + 1);
  std::fprintf(stderr, "chord inspect: the program chord-inspect is not beside chord.\n");
  return 1;
}

// A closed standard descriptor would be given to the next file or socket, which would then receive
// what we print.
void HoldStandardStreams() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) < 0) return;
  }
}

int Run(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  const std::vector<std::string> args(argv + (argc > 1 ? 2 : 1), argv + argc);
  if (command == "serve") return chord::cli::RunServe(args);
  if (command == "ground") return chord::cli::RunGround(args);
  if (command == "mcp") return chord::cli::RunMcp(args, CHORD_VERSION);
  if (command == "eval") return chord::cli::RunEval(args);
  if (command == "calibrate") return chord::cli::RunCalibrate(args);
  if (command == "bench") return chord::cli::RunBenchCommand(args);
  if (command == "config") return chord::cli::RunConfig(args);
  if (command == "keys") return chord::cli::RunKeys(args);
  if (command == "doctor") return chord::cli::RunDoctor(args);
  if (command == "inspect") return ExecInspect(argv);
  if (command == "tokenize") return chord::cli::RunTokenize(args);
  if (command == "version" || command == "--version") {
    std::puts("chord " CHORD_VERSION);
    return 0;
  }
  if (command.empty() || command == "help" || command == "--help" || command == "-h") {
    std::fputs(kHelp, command.empty() ? stderr : stdout);
    return command.empty() ? 2 : 0;
  }
  std::fprintf(stderr, "chord: there is no command \"%s\"; see chord --help.\n", command.c_str());
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  HoldStandardStreams();
  const int code = Run(argc, argv);
  // An exit code of 0 promises that the output was written.
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  std::fprintf(stderr, "chord: cannot write standard output: %s.\n", std::strerror(errno));
  return code == 0 ? 1 : code;
}
