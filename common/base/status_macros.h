// The two macros newer abseil ships as absl/status/status_macros.h; delete this file with
// Debian 13.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define CHORD_RETURN_IF_ERROR(expr)                         \
  do {                                                      \
    if (auto chord_status_ = (expr); !chord_status_.ok()) { \
      return chord_status_;                                 \
    }                                                       \
  } while (false)

#define CHORD_MACRO_CONCAT_INNER_(a, b) a##b
#define CHORD_MACRO_CONCAT_(a, b) CHORD_MACRO_CONCAT_INNER_(a, b)
#define CHORD_ASSIGN_OR_RETURN(lhs, expr) \
  CHORD_ASSIGN_OR_RETURN_IMPL_(CHORD_MACRO_CONCAT_(chord_statusor_, __LINE__), lhs, expr)
#define CHORD_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                 \
  if (!tmp.ok()) return std::move(tmp).status();     \
  lhs = *std::move(tmp)
