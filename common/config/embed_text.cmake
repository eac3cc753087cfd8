# cmake -DFILE=config.proto -DOUT=config_text.cc -P embed_text.cmake: the settings' own words, for --help.
file(READ "${FILE}" content)
string(LENGTH "${content}" length)
if(content MATCHES "\\)chord\"" OR length GREATER 60000)
  message(FATAL_ERROR "${FILE} cannot be embedded as it is")
endif()
file(WRITE "${OUT}" "// Made from config.proto by common/config/embed_text.cmake.
#include \"common/config/config_text.h\"

namespace chord::config {

const absl::string_view kConfigText = R\"chord(${content})chord\";

}  // namespace chord::config
")
