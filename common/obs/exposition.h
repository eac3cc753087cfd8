// Metrics of several processes as one page.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace chord::obs {

// Another process's page in Prometheus' text format, as Metrics::Serialize writes it.
struct OtherExposition {
  std::string worker;  // value of the label "worker" that its series get
  std::string text;
};

// `own` with the series of the others, family by family: a family has one HELP, one TYPE and all
// its series in one place, as the format asks. Lines that are no sample and belong to no family are
// left out. Pure.
std::string MergeExpositions(absl::string_view own, const std::vector<OtherExposition>& others);

}  // namespace chord::obs
