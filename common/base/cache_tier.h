// Where the image's share of a request came from.
#pragma once

#include "absl/strings/string_view.h"

namespace chord {

// Ordered by the work that was saved.
enum class CacheTier {
  kNone,        // the image was encoded for this request
  kEmbeddings,  // embeddings of an earlier request
  kKv,          // KV rows of an earlier request, at least up to the end of the image
  kMaxValue = kKv,
};

// "none", "embeddings", "kv": metric label, log field and the word of the HTTP API.
constexpr absl::string_view Name(CacheTier tier) {
  switch (tier) {
    case CacheTier::kNone:
      return "none";
    case CacheTier::kEmbeddings:
      return "embeddings";
    case CacheTier::kKv:
      return "kv";
  }
  return "none";
}

}  // namespace chord
