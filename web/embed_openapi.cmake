# cmake -DFILE=openapi.json -DOUT=openapi_text.cc -P embed_openapi.cmake: the document as a constant.
file(READ "${FILE}" content)
if(content MATCHES "\\)chord\"")
  message(FATAL_ERROR "${FILE} cannot be embedded as it is")
endif()
file(WRITE "${OUT}" "// Made from web/openapi.json by web/embed_openapi.cmake.
#include \"services/gateway/openapi.h\"

namespace chord::gateway {

const absl::string_view kOpenApi = R\"chord(${content})chord\";

}  // namespace chord::gateway
")
