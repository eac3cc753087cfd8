// Where the pieces of an installation lie, found from the running program.
#pragma once

#include <string>

namespace chord::cli {

std::string ProgramDir();                      // folder of the running `chord`
std::string Sibling(const std::string& name);  // a program beside it
// models/chord-nano of the source tree or of the installation (share/chord/models); "" if neither.
std::string DefaultModelDir();

}  // namespace chord::cli
