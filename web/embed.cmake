# cmake -DSOURCE_DIR=web -DOUT=web_assets_data.cc -P embed.cmake
#
# Compiles the web page into the gateway: every file under SOURCE_DIR that a browser can ask for becomes
# one entry of EmbeddedAssets() (services/gateway/http/web_assets.h). Bytes are written as escapes, so that
# images are embedded like text. The entity tag is the beginning of the file's SHA-256.
file(GLOB_RECURSE files RELATIVE "${SOURCE_DIR}"
  "${SOURCE_DIR}/*.html" "${SOURCE_DIR}/*.css" "${SOURCE_DIR}/*.js" "${SOURCE_DIR}/*.svg"
  "${SOURCE_DIR}/*.webp" "${SOURCE_DIR}/*.png" "${SOURCE_DIR}/*.json")
list(REMOVE_ITEM files openapi.json)  # a route of its own
list(SORT files)

set(table "")
foreach(file IN LISTS files)
  file(READ "${SOURCE_DIR}/${file}" content HEX)
  string(LENGTH "${content}" digits)
  math(EXPR size "${digits} / 2")
  # A line for every 32 bytes: compilers and editors dislike very long ones.
  string(REGEX REPLACE "(................................................................)" "\\1\"\n\"" content "${content}")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "\\\\x\\1" content "${content}")
  file(SHA256 "${SOURCE_DIR}/${file}" hash)
  string(SUBSTRING "${hash}" 0 32 hash)
  string(APPEND table "    {\"/${file}\", \"\\\"${hash}\\\"\",\n     absl::string_view(\"${content}\", ${size})},\n")
endforeach()

file(WRITE "${OUT}" "// Made from web/ by web/embed.cmake.
#include \"services/gateway/http/web_assets.h\"

namespace chord::gateway {
namespace {

constexpr WebAsset kAssets[] = {
${table}};

}  // namespace

absl::Span<const WebAsset> EmbeddedAssets() { return kAssets; }

}  // namespace chord::gateway
")
