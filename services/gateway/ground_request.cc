#include "services/gateway/ground_request.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "services/gateway/label_merge.h"
#include "services/gateway/object_stream.h"
#include "services/gateway/parallel_for.h"
#include "services/gateway/point_answer.h"

namespace chord::gateway {

GroundRequest::~GroundRequest() {
  if (!in_conversation_) return;
  absl::MutexLock lock(&mu_);
  context_.images.sessions().End(input_.session_id, image_.get().id, new_turns_, dropped_turns_,
                                 absl::Now());
}

absl::StatusOr<GroundResult> GroundRequest::Run() {
  CHORD_RETURN_IF_ERROR(Resolve());
  const absl::Status answered = RunPasses();
  {
    absl::MutexLock lock(&mu_);
    context_.metrics.StageTook(obs::Stage::kQueue, waited_);
  }
  CHORD_RETURN_IF_ERROR(answered);
  return Assemble();
}

absl::Status GroundRequest::Resolve() {
  const Grounder::Options& options = context_.options;
  CHORD_ASSIGN_OR_RETURN(prompts_, PlanPrompt(input_, options.style, options.max_prompt_bytes));
  new_tokens_ = input_.max_new_tokens.value_or(options.default_new_tokens);
  if (new_tokens_ < 1 || new_tokens_ > options.max_new_tokens) {
    return errors::ParameterInvalid("max_new_tokens",
                                    absl::StrCat("an integer from 1 to ", options.max_new_tokens));
  }
  if (!input_.session_id.empty() && !IsSessionId(input_.session_id)) {
    return errors::ParameterInvalid("session_id", "1 to 64 characters of A-Z, a-z, 0-9, _ and -");
  }
  CHORD_RETURN_IF_ERROR(ResolveImage());
  CHORD_RETURN_IF_ERROR(input_.cancel.Check());
  return ResolveConversation();
}

void GroundRequest::UseStored(ImageStore::Found found) {
  image_.stored = std::move(found.image);
  affinity_ = std::move(found.affinity);
  image_.bytes = image_.stored->bytes;
  image_.keyed = true;
}

absl::Status GroundRequest::ResolveImage() {
  ImageService& images = context_.images;
  if (!input_.image_id.empty()) {
    if (!input_.image.empty()) return errors::ImageSourceConflict();
    CHORD_ASSIGN_OR_RETURN(auto found, images.Use(input_.image_id));
    UseStored(std::move(found));
    return absl::OkStatus();
  }
  const absl::Time probed = absl::Now();
  CHORD_ASSIGN_OR_RETURN(const image::FramePlan plan, images.Plan(input_.image));
  const auto bytes = static_cast<int64_t>(input_.image.size());
  context_.metrics.StageTook(obs::Stage::kProbe, absl::Now() - probed);
  context_.metrics.ImageReceived(bytes);
  image_.bytes = input_.image;
  const absl::Status room = images.CheckRoom(bytes, /*pin=*/false);
  // A conversation lives with its image.
  if (!room.ok() && !input_.session_id.empty()) return room;
  // Several prompts share the image's rows by its key. Where it cannot be stored afterwards, the
  // worker is told to drop it.
  image_.keyed = room.ok() || prompts_.prompts.size() > 1;
  if (!image_.keyed) {
    image_.fresh.plan = plan;
    return absl::OkStatus();
  }
  image_.fresh = images.Name(input_.image, plan);
  if (input_.session_id.empty()) return absl::OkStatus();
  const std::string id = images.SessionImage(input_.client, input_.session_id, image_.fresh.digest);
  if (id.empty()) return absl::OkStatus();
  if (auto found = images.Use(id); found.ok()) UseStored(*std::move(found));
  return absl::OkStatus();
}

absl::Status GroundRequest::ResolveConversation() {
  if (input_.session_id.empty()) return absl::OkStatus();
  CHORD_ASSIGN_OR_RETURN(auto begun, context_.images.sessions().Begin(
                                         input_.session_id, image_.get().id, absl::Now()));
  in_conversation_ = true;
  turns_ = std::move(begun.turns);
  obs::Metrics& metrics = context_.metrics;
  metrics.Session(begun.created ? obs::SessionEvent::kCreated : obs::SessionEvent::kHit);
  for (int i = 0; i < begun.expired; ++i) metrics.Session(obs::SessionEvent::kExpired);
  for (int i = 0; i < begun.evicted; ++i) metrics.Session(obs::SessionEvent::kEvicted);
  return absl::OkStatus();
}

absl::Status GroundRequest::RunPasses() {
  const size_t count = prompts_.prompts.size();
  PassStream stream(count, input_.on_delta, input_.on_object);
  {
    absl::MutexLock lock(&mu_);
    parts_.resize(count);
  }
  const auto forward = input_.cancel.OnCancel([this] { passes_.Cancel(input_.cancel.Check()); });
  ParallelFor(context_.executor, static_cast<int>(count), kBatchWidth, [&](int i) {
    const auto index = static_cast<size_t>(i);
    const absl::Status status = RunPass(index, stream);
    if (!status.ok()) {
      {
        absl::MutexLock lock(&mu_);
        if (failure_.ok()) failure_ = status;
      }
      passes_.Cancel(status);
    }
    if (index == 0 && !image_shared_.HasBeenNotified()) image_shared_.Notify();
  });
  absl::MutexLock lock(&mu_);
  return failure_;
}

// The first pass waits for no other and ends by the deadline, so this ends too.
absl::Status GroundRequest::FollowFirst() {
  image_shared_.WaitForNotificationWithDeadline(deadline_);
  CHORD_RETURN_IF_ERROR(passes_.token().Check());
  return image_shared_.HasBeenNotified() ? absl::OkStatus() : errors::DeadlineExceeded();
}

// Once: a retry of the first pass may take the image elsewhere while the others are on their way.
void GroundRequest::ShareImage(const WorkerId& language) {
  if (image_shared_.HasBeenNotified()) return;
  affinity_ = {language.name, language.epoch, image_.keyed};
  image_shared_.Notify();
}

PromptPass::Task GroundRequest::MakeTask(size_t index) {
  PromptPass::Task task;
  task.prompt = prompts_.prompts[index];
  task.grammar = prompts_.grammar;
  task.new_tokens = new_tokens_;
  task.turns = turns_;
  task.affinity = affinity_;
  task.deadline = deadline_;
  task.cancel = passes_.token();
  if (index == 0 && prompts_.prompts.size() > 1) {
    task.on_accepted = [this](const WorkerId& language) { ShareImage(language); };
  }
  return task;
}

absl::Status GroundRequest::RunPass(size_t index, PassStream& stream) {
  if (index > 0) CHORD_RETURN_IF_ERROR(FollowFirst());
  PromptPass::Task task = MakeTask(index);
  ObjectStream objects(plan());
  if (stream.wants_text() || stream.wants_objects()) {
    task.on_delta = [&, index](absl::string_view text) {
      stream.Text(index, text);
      if (!stream.wants_objects()) return;
      for (const GroundObject& object : objects.Add(text)) stream.Object(index, object);
    };
  }
  PromptPass pass(context_, input_, image_, std::move(task));
  const absl::StatusOr<WorkerAnswer> answer = pass.Run();
  GroundResult part;
  if (answer.ok()) {
    part = AssemblePart(*answer, pass);
    for (size_t i = objects.told(); i < part.objects.size(); ++i) {
      stream.Object(index, part.objects[i]);
    }
    stream.End(index);
  }
  absl::MutexLock lock(&mu_);
  waited_ = std::max(waited_, pass.waited());
  if (!answer.ok()) return answer.status();
  dropped_turns_ = std::max(dropped_turns_, pass.dropped_turns());
  parts_[index] = std::move(part);
  if (index == 0) {
    // A worker that does not return how it came by the image keeps nothing of it.
    image_at_ = {pass.language().name, pass.language().epoch, answer->tier.has_value()};
  }
  return absl::OkStatus();
}

GroundResult GroundRequest::AssemblePart(const WorkerAnswer& answer, const PromptPass& pass) const {
  const Grounder::Options& options = context_.options;
  const absl::Time parsed = absl::Now();
  GroundResult out;
  FillAnswer(answer.model, plan(), prompts_.chinese, options.thresholds,
             options.confidence_map.get(), out);
  FillPoints(answer.model, plan(), out);
  out.model_text = answer.model.text;
  if (input_.decode.want_tokens) out.tokens = answer.tokens;
  if (input_.want_evidence && out.evidence) {
    out.evidence->model_fingerprint = options.fingerprint;
  } else {
    out.evidence.reset();
  }
  context_.metrics.StageTook(obs::Stage::kParse, absl::Now() - parsed);
  out.usage.prompt_tokens = answer.prompt_tokens;
  out.usage.completion_tokens = answer.completion_tokens;
  out.usage.decode_steps = answer.decode_steps;
  out.usage.cached_tokens = answer.cached_tokens;
  out.usage.image_tokens = static_cast<int>(plan().tokens);
  out.usage.image = answer.encoded ? CacheTier::kNone : answer.tier.value_or(CacheTier::kNone);
  out.language_worker = pass.language().name;
  if (answer.encoded) out.vision_worker = pass.vision().name;
  // The workers' queues overlap, so the longer wait is the one that was felt.
  out.timing.queue = pass.waited() + std::max(answer.decode_queue, answer.encode_queue);
  out.timing.vision = answer.pixels + answer.vision;
  out.timing.prefill = answer.prefill;
  out.timing.first_token = (pass.begun() - input_.received_at) + answer.first_token;
  out.timing.decode = answer.decode;
  return out;
}

GroundResult GroundRequest::Assemble() {
  std::vector<GroundResult> parts;
  {
    absl::MutexLock lock(&mu_);
    parts = std::move(parts_);
  }
  if (in_conversation_) {
    for (size_t i = 0; i < parts.size(); ++i) {
      new_turns_.push_back({prompts_.prompts[i], parts[i].model_text});
    }
  }
  GroundResult out;
  if (prompts_.per_label) {
    out = MergeByLabel(input_.labels, std::move(parts), prompts_.chinese,
                       context_.options.thresholds);
  } else {
    out = std::move(parts.front());
    out.labels = MatchLabels(input_.labels, out.objects);
    // Without any object the answer is about each of them.
    if (out.objects.empty()) {
      for (LabelMatch& match : out.labels) match.confidence = out.confidence;
    }
  }
  context_.metrics.ServedBy(out.usage.image);
  out.frame = plan();
  out.request_id = input_.request_id;
  out.model = context_.options.model_name;
  StoreImage(out);
  out.timing.total = absl::Now() - input_.received_at;
  return out;
}

void GroundRequest::StoreImage(GroundResult& out) {
  ImageAffinity affinity;
  {
    absl::MutexLock lock(&mu_);
    affinity = image_at_;
  }
  ImageService& images = context_.images;
  const std::string& id = image_.get().id;
  if (image_.stored != nullptr) {
    images.SetAffinity(id, affinity);
    out.image_id = id;
  } else if (image_.keyed && images.Store(image_.fresh, image_.bytes, affinity)) {
    out.image_id = id;
    if (!input_.session_id.empty()) {
      images.SetSessionImage(input_.client, input_.session_id, image_.fresh.digest, id);
    }
  }
}

}  // namespace chord::gateway
