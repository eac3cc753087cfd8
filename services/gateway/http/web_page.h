// The routes of the web page: its files, and what it must know of this server.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/http/message.h"

namespace chord::gateway {

// What the page tells its user before anything is sent.
struct PageConfig {
  std::string model;             // name of the model that answers
  std::string grpc_address;      // host:port or unix:path, as listened on
  int64_t max_image_bytes = 0;   // of one file
  int64_t max_image_pixels = 0;  // stored width × height
  int64_t max_prompt_bytes = 0;  // UTF-8
  double review_threshold = 0;   // an object under it needs review
  double advice_threshold = 0;   // an answer under it comes with advice
};

// "/" and every file of web/, with entity tags and a Content-Security-Policy that admits nothing
// from elsewhere, and "/page.json" with `config`. All are quick handlers without state.
std::vector<http::Route> WebPageRoutes(const PageConfig& config);

}  // namespace chord::gateway
