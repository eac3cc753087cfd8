#include "services/cli/install_paths.h"

#include <filesystem>

namespace chord::cli {

namespace fs = std::filesystem;

std::string ProgramDir() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path().string();
}

std::string Sibling(const std::string& name) { return (fs::path(ProgramDir()) / name).string(); }

std::string DefaultModelDir() {
  const fs::path program = ProgramDir();
  for (const fs::path& candidate :
       {program / "../../models/chord-nano", program / "../share/chord/models/chord-nano"}) {
    std::error_code error;
    if (fs::exists(candidate / "config.json", error)) return fs::canonical(candidate, error);
  }
  return "";
}

}  // namespace chord::cli
