#pragma once

namespace chord {

// What served an image's share of the work of a request.
enum class CacheTier {
  kNone,        // the file's pixels: encoded for this request
  kEmbeddings,  // embeddings of an earlier request: no vision tower
  kKv,          // keys and values of an earlier request: no prefill of the image either
  kMaxValue = kKv,
};

}  // namespace chord
