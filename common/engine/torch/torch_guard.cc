#include "common/engine/torch/torch_guard.h"

#include <c10/util/Exception.h>

#include <exception>
#include <new>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"

namespace chord::engine {

absl::Status StatusFromCurrentException() {
  try {
    throw;
  } catch (const c10::OutOfMemoryError&) {
    return errors::DeviceMemory();
  } catch (const std::bad_alloc&) {
    return errors::DeviceMemory();
  } catch (const c10::Error& error) {
    return absl::InternalError(absl::StrCat("libtorch: ", error.what_without_backtrace()));
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  } catch (...) {
    return absl::InternalError("an exception of unknown type");
  }
}

}  // namespace chord::engine
