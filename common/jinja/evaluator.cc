#include "common/jinja/evaluator.h"

#include <cmath>
#include <limits>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "common/base/status_macros.h"
#include "common/jinja/catalogue.h"
#include "common/jinja/loop.h"
#include "common/jinja/runtime.h"
#include "common/jinja/string_ops.h"

namespace chord::jinja {
namespace {

constexpr int kMaxDepth = 500;  // of evaluation, calls of macros included

// Names and their values. A block reads the names around it and sets its own.
struct Scope {
  explicit Scope(std::shared_ptr<const Scope> outer) : parent(std::move(outer)) {}
  const Value* Find(absl::string_view name) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
      const auto found = scope->values.find(name);
      if (found != scope->values.end()) return &found->second;
    }
    return nullptr;
  }
  absl::flat_hash_map<std::string, Value> values;
  const std::shared_ptr<const Scope> parent;
};

struct MacroObject : Object {
  MacroObject(std::shared_ptr<const Macro> m, const std::shared_ptr<Scope>& s)
      : Object(kMacro), macro(std::move(m)), scope(s) {}
  const std::shared_ptr<const Macro> macro;
  const std::weak_ptr<Scope> scope;  // which holds this object
};

struct FunctionObject : Object {
  explicit FunctionObject(std::string n) : Object(kFunction), name(std::move(n)) {}
  const std::string name;
};

enum class Flow { kNext, kBreak, kContinue };

class Evaluator {
 public:
  Evaluator(const std::vector<std::pair<std::string, Value>>& variables,
            const RenderOptions& options)
      : rt_(options.max_steps, options.now), scope_(std::make_shared<Scope>(nullptr)) {
    for (const auto& [name, value] : variables) scope_->values[name] = value;
  }

  absl::StatusOr<Text> Run(const Body& body) {
    CHORD_RETURN_IF_ERROR(Execute(body).status());
    return std::move(root_);
  }

 private:
  // Restores what a block changes about where the evaluation is.
  class Inside {
   public:
    Inside(Evaluator* evaluator, std::shared_ptr<Scope> scope, Text* out)
        : evaluator_(evaluator),
          scope_(std::exchange(evaluator->scope_, std::move(scope))),
          out_(std::exchange(evaluator->out_, out)) {}
    ~Inside() {
      evaluator_->scope_ = std::move(scope_);
      evaluator_->out_ = out_;
    }
    Inside(const Inside&) = delete;

   private:
    Evaluator* evaluator_;
    std::shared_ptr<Scope> scope_;
    Text* out_;
  };
  class Deeper {
   public:
    explicit Deeper(int* depth) : depth_(depth) { ++*depth_; }
    ~Deeper() { --*depth_; }
    Deeper(const Deeper&) = delete;

   private:
    int* depth_;
  };

  std::shared_ptr<Scope> NewScope() const { return std::make_shared<Scope>(scope_); }

  absl::Status Enter(int line) {
    rt_.line = line;
    if (depth_ > kMaxDepth) return rt_.Fail("calls of macros and blocks nest too deeply");
    return rt_.Charge(1);
  }

  absl::StatusOr<Flow> Execute(const Body& body) {
    const Deeper deeper(&depth_);
    for (const auto& stmt : body) {
      CHORD_RETURN_IF_ERROR(Enter(stmt->line));
      CHORD_ASSIGN_OR_RETURN(const Flow flow, Execute(*stmt));
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  absl::StatusOr<Flow> Execute(const Stmt& stmt) {
    switch (stmt.kind) {
      case Stmt::kText:
        CHORD_RETURN_IF_ERROR(Write(*stmt.text));
        return Flow::kNext;
      case Stmt::kOutput: {
        CHORD_ASSIGN_OR_RETURN(const Value value, Eval(*stmt.expr));
        CHORD_ASSIGN_OR_RETURN(const Text text, rt_.ToText(value));
        CHORD_RETURN_IF_ERROR(Write(text));
        return Flow::kNext;
      }
      case Stmt::kIf:
        return If(stmt);
      case Stmt::kFor:
        return For(stmt);
      case Stmt::kSet: {
        CHORD_ASSIGN_OR_RETURN(Value value, Eval(*stmt.expr));
        CHORD_RETURN_IF_ERROR(Assign(stmt.target, std::move(value)));
        return Flow::kNext;
      }
      case Stmt::kSetBlock:
      case Stmt::kFilterBlock:
        return Captured(stmt);
      case Stmt::kWith:
        return With(stmt);
      case Stmt::kScope: {
        const Inside inside(this, NewScope(), out_);
        return Execute(stmt.body);
      }
      case Stmt::kMacro:
        scope_->values[stmt.macro->name] =
            Value::Of(std::make_shared<MacroObject>(stmt.macro, scope_));
        return Flow::kNext;
      case Stmt::kBreak:
        return Flow::kBreak;
      case Stmt::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNext;
  }

  absl::Status Write(const Text& text) {
    CHORD_RETURN_IF_ERROR(rt_.ChargeBytes(text.size()));
    out_->Append(text);
    return absl::OkStatus();
  }

  absl::StatusOr<Flow> If(const Stmt& stmt) {
    for (const auto& [condition, body] : stmt.branches) {
      if (condition != nullptr) {
        CHORD_ASSIGN_OR_RETURN(const Value value, Eval(*condition));
        if (!value.IsTrue()) continue;
      }
      return Execute(body);  // in the scope around the "if"
    }
    return Flow::kNext;
  }

  // What the loop goes over: the items that pass its filter.
  absl::StatusOr<std::vector<Value>> LoopItems(const Stmt& stmt) {
    CHORD_ASSIGN_OR_RETURN(const Value all, Eval(*stmt.expr));
    CHORD_ASSIGN_OR_RETURN(std::vector<Value> items, rt_.Iterate(all));
    if (stmt.filter == nullptr) return items;
    std::vector<Value> passed;
    for (Value& item : items) {
      const Inside inside(this, NewScope(), out_);
      CHORD_RETURN_IF_ERROR(Assign(stmt.target, item));
      CHORD_ASSIGN_OR_RETURN(const Value holds, Eval(*stmt.filter));
      if (holds.IsTrue()) passed.push_back(std::move(item));
    }
    return passed;
  }

  absl::StatusOr<Flow> For(const Stmt& stmt) {
    CHORD_ASSIGN_OR_RETURN(std::vector<Value> items, LoopItems(stmt));
    if (items.empty()) {
      const Inside inside(this, NewScope(), out_);
      return Execute(stmt.otherwise);
    }
    const auto loop = std::make_shared<Loop>(std::move(items), loops_ + 1);
    const Deeper nested(&loops_);
    for (; loop->index < loop->items.size(); ++loop->index) {
      const Inside inside(this, NewScope(), out_);
      scope_->values["loop"] = Value::Of(loop);
      CHORD_RETURN_IF_ERROR(Assign(stmt.target, loop->items[loop->index]));
      CHORD_ASSIGN_OR_RETURN(const Flow flow, Execute(stmt.body));
      if (flow == Flow::kBreak) break;
    }
    return Flow::kNext;
  }

  // A block whose text becomes a variable, or goes on after its filters.
  absl::StatusOr<Flow> Captured(const Stmt& stmt) {
    Text text;
    {
      const Inside inside(this, NewScope(), &text);
      CHORD_RETURN_IF_ERROR(Execute(stmt.body).status());
    }
    CHORD_ASSIGN_OR_RETURN(Value value, rt_.NewString(std::move(text)));
    if (stmt.expr != nullptr) {
      CHORD_ASSIGN_OR_RETURN(value, FilterChain(*stmt.expr, value));
    }
    if (stmt.kind == Stmt::kSetBlock) {
      CHORD_RETURN_IF_ERROR(Assign(stmt.target, std::move(value)));
      return Flow::kNext;
    }
    CHORD_ASSIGN_OR_RETURN(const Text filtered, rt_.ToText(value));
    CHORD_RETURN_IF_ERROR(Write(filtered));
    return Flow::kNext;
  }

  absl::StatusOr<Flow> With(const Stmt& stmt) {
    const std::shared_ptr<Scope> inner = NewScope();
    std::vector<Value> values;  // of the scope around, all before any is set
    for (const auto& [target, expr] : stmt.assignments) {
      CHORD_ASSIGN_OR_RETURN(Value value, Eval(*expr));
      values.push_back(std::move(value));
    }
    const Inside inside(this, inner, out_);
    for (size_t i = 0; i < values.size(); ++i) {
      CHORD_RETURN_IF_ERROR(Assign(stmt.assignments[i].first, std::move(values[i])));
    }
    return Execute(stmt.body);
  }

  absl::Status Assign(const Target& target, Value value) {
    if (!target.parts.empty()) {
      CHORD_ASSIGN_OR_RETURN(std::vector<Value> items, rt_.Iterate(value));
      if (items.size() != target.parts.size()) {
        return rt_.Fail(items.size(), " values cannot be assigned to ", target.parts.size(),
                        " names");
      }
      for (size_t i = 0; i < items.size(); ++i) {
        CHORD_RETURN_IF_ERROR(Assign(target.parts[i], std::move(items[i])));
      }
      return absl::OkStatus();
    }
    if (target.attribute.empty()) {
      scope_->values[target.name] = std::move(value);
      return absl::OkStatus();
    }
    const Value* object = scope_->Find(target.name);
    if (object == nullptr || !object->IsObject(Object::kNamespace)) {
      return rt_.Fail("\"", target.name, "\" is not a namespace, so no attribute can be set");
    }
    static_cast<Namespace&>(*object->object()).attributes[target.attribute] = std::move(value);
    return absl::OkStatus();
  }

  absl::StatusOr<Value> Eval(const Expr& expr) {
    const Deeper deeper(&depth_);
    CHORD_RETURN_IF_ERROR(Enter(expr.line));
    switch (expr.kind) {
      case Expr::kConstant:
        return expr.value;
      case Expr::kName:
        return Name(expr.name);
      case Expr::kListOf:
      case Expr::kTupleOf:
        return Sequence(expr);
      case Expr::kDictOf:
        return DictOf(expr);
      case Expr::kAttribute:
      case Expr::kItem:
      case Expr::kSlice:
        return Access(expr);
      case Expr::kCall:
        return Call(expr);
      case Expr::kMethod:
        return Method(expr);
      case Expr::kFilter:
        return FilterChain(expr, Value());
      case Expr::kTest:
        return Test(expr);
      case Expr::kNot: {
        CHORD_ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0]));
        return Value::Bool(!value.IsTrue());
      }
      case Expr::kNegate:
      case Expr::kPlus:
        return Sign(expr);
      case Expr::kAnd:
      case Expr::kOr:
        return Junction(expr);
      case Expr::kCompare:
        return Comparison(expr);
      case Expr::kConcat:
        return Concat(expr);
      case Expr::kArithmetic:
        return Arithmetic(expr);
      case Expr::kConditional:
        return Conditional(expr);
    }
    return Value();
  }

  absl::StatusOr<Value> Name(const std::string& name) {
    if (const Value* found = scope_->Find(name)) return *found;
    if (IsFunction(name)) return Value::Of(std::make_shared<FunctionObject>(name));
    return Value::Undefined(name);
  }

  absl::StatusOr<Value> Sequence(const Expr& expr) {
    std::vector<Value> items;
    for (const ExprPtr& arg : expr.args) {
      CHORD_ASSIGN_OR_RETURN(Value item, Eval(*arg));
      items.push_back(std::move(item));
    }
    return rt_.NewList(std::move(items), expr.kind == Expr::kTupleOf ? List::kTuple : List::kList);
  }

  absl::StatusOr<Value> DictOf(const Expr& expr) {
    Dict dict;
    for (size_t i = 0; i < expr.args.size(); i += 2) {
      CHORD_ASSIGN_OR_RETURN(const Value key, Eval(*expr.args[i]));
      if (!key.is(Value::kString)) return rt_.Fail("only strings are supported as keys");
      CHORD_ASSIGN_OR_RETURN(Value value, Eval(*expr.args[i + 1]));
      dict.Set(key.text(), std::move(value));
    }
    return rt_.NewDict(std::move(dict));
  }

  absl::StatusOr<Value> Access(const Expr& expr) {
    CHORD_ASSIGN_OR_RETURN(const Value object, Eval(*expr.args[0]));
    rt_.line = expr.line;
    if (expr.kind == Expr::kAttribute) return rt_.GetAttribute(object, expr.name);
    Value parts[3];
    for (size_t i = 1; i < expr.args.size(); ++i) {
      parts[i - 1] = Value::None();
      if (expr.args[i] == nullptr) continue;
      CHORD_ASSIGN_OR_RETURN(parts[i - 1], Eval(*expr.args[i]));
    }
    if (expr.kind == Expr::kItem) return rt_.GetItem(object, parts[0]);
    return rt_.GetSlice(object, parts[0], parts[1], parts[2]);
  }

  absl::StatusOr<Arguments> EvalArguments(const Expr& expr, size_t first) {
    Arguments out;
    for (size_t i = first; i < expr.args.size(); ++i) {
      CHORD_ASSIGN_OR_RETURN(Value value, Eval(*expr.args[i]));
      out.positional.push_back(std::move(value));
    }
    for (const auto& [name, arg] : expr.named) {
      CHORD_ASSIGN_OR_RETURN(Value value, Eval(*arg));
      out.named.emplace_back(name, std::move(value));
    }
    rt_.line = expr.line;
    return out;
  }

  absl::StatusOr<Value> Call(const Expr& expr) {
    CHORD_ASSIGN_OR_RETURN(Arguments arguments, EvalArguments(expr, 0));
    CHORD_ASSIGN_OR_RETURN(const Value callee, Name(expr.name));
    return CallValue(callee, expr.name, std::move(arguments));
  }
  absl::StatusOr<Value> CallValue(const Value& callee, absl::string_view name,
                                  Arguments arguments) {
    if (callee.IsObject(Object::kMacro)) {
      return CallMacro(static_cast<const MacroObject&>(*callee.object()), std::move(arguments));
    }
    if (callee.IsObject(Object::kFunction)) {
      return CallFunction(rt_, static_cast<const FunctionObject&>(*callee.object()).name,
                          std::move(arguments));
    }
    return rt_.Fail("\"", name, "\" is ", callee.TypeName(), " and cannot be called");
  }

  absl::StatusOr<Value> CallMacro(const MacroObject& object, Arguments arguments) {
    const Macro& macro = *object.macro;
    const std::shared_ptr<Scope> outer = object.scope.lock();
    if (outer == nullptr) return rt_.Fail("the macro \"", macro.name, "\" is out of its scope");
    const auto inner = std::make_shared<Scope>(outer);
    const size_t count = macro.parameters.size();
    if (arguments.positional.size() > count) {
      return rt_.Fail("the macro \"", macro.name, "\" takes at most ", count, " arguments");
    }
    for (size_t i = 0; i < arguments.positional.size(); ++i) {
      inner->values[macro.parameters[i]] = std::move(arguments.positional[i]);
    }
    for (auto& [name, value] : arguments.named) {
      const bool known = std::find(macro.parameters.begin(), macro.parameters.end(), name) !=
                         macro.parameters.end();
      if (!known || !inner->values.emplace(name, std::move(value)).second) {
        return rt_.Fail("the macro \"", macro.name, "\" cannot take the argument \"", name, "\"");
      }
    }
    Text text;
    const Inside inside(this, inner, &text);
    for (size_t i = 0; i < count; ++i) {
      if (inner->values.contains(macro.parameters[i])) continue;
      const size_t without = count - macro.defaults.size();
      Value value = Value::Undefined(macro.parameters[i]);
      if (i >= without) {
        CHORD_ASSIGN_OR_RETURN(value, Eval(*macro.defaults[i - without]));
      }
      inner->values[macro.parameters[i]] = std::move(value);
    }
    CHORD_RETURN_IF_ERROR(Execute(macro.body).status());
    return rt_.NewString(std::move(text));
  }

  absl::StatusOr<Value> Method(const Expr& expr) {
    CHORD_ASSIGN_OR_RETURN(const Value object, Eval(*expr.args[0]));
    CHORD_ASSIGN_OR_RETURN(Arguments arguments, EvalArguments(expr, 1));
    if (object.is(Value::kUndefined)) return rt_.GetAttribute(object, expr.name);  // fails
    if (object.IsObject(Object::kNamespace)) {
      CHORD_ASSIGN_OR_RETURN(const Value callee, rt_.GetAttribute(object, expr.name));
      return CallValue(callee, expr.name, std::move(arguments));
    }
    if (object.IsObject(Object::kLoop)) {
      return LoopMethod(static_cast<Loop&>(*object.object()), expr.name, std::move(arguments));
    }
    return CallMethod(rt_, object, expr.name, std::move(arguments));
  }
  absl::StatusOr<Value> LoopMethod(Loop& loop, absl::string_view name, Arguments arguments) {
    if (!arguments.named.empty()) return rt_.Fail("loop.", name, " takes no named arguments");
    std::vector<Value>& values = arguments.positional;
    if (name == "cycle") {
      if (values.empty()) return rt_.Fail("loop.cycle needs arguments");
      return values[loop.index % values.size()];
    }
    if (name != "changed") return rt_.Fail("a loop has no method \"", name, "\"");
    CHORD_ASSIGN_OR_RETURN(Value now, rt_.NewList(std::move(values), List::kTuple));
    const bool known = std::exchange(loop.changed_called, true);
    CHORD_ASSIGN_OR_RETURN(const bool same, rt_.Equal(loop.changed_last, now));
    loop.changed_last = now;
    return Value::Bool(!known || !same);
  }

  // A filter and those before it; the innermost one of a block has `enclosed` as its input.
  absl::StatusOr<Value> FilterChain(const Expr& expr, const Value& enclosed) {
    Value input = enclosed;
    if (expr.args[0] != nullptr && expr.args[0]->kind == Expr::kFilter) {
      const Deeper deeper(&depth_);
      CHORD_RETURN_IF_ERROR(Enter(expr.line));
      CHORD_ASSIGN_OR_RETURN(input, FilterChain(*expr.args[0], enclosed));
    } else if (expr.args[0] != nullptr) {
      CHORD_ASSIGN_OR_RETURN(input, Eval(*expr.args[0]));
    }
    CHORD_ASSIGN_OR_RETURN(Arguments arguments, EvalArguments(expr, 1));
    return ApplyFilter(rt_, expr.name, input, std::move(arguments));
  }

  absl::StatusOr<Value> Test(const Expr& expr) {
    CHORD_ASSIGN_OR_RETURN(const Value subject, Eval(*expr.args[0]));
    CHORD_ASSIGN_OR_RETURN(Arguments arguments, EvalArguments(expr, 1));
    CHORD_ASSIGN_OR_RETURN(const bool holds,
                           ApplyTest(rt_, expr.name, subject, std::move(arguments)));
    return Value::Bool(holds);
  }

  absl::StatusOr<Value> Sign(const Expr& expr) {
    CHORD_ASSIGN_OR_RETURN(const Value value, Eval(*expr.args[0]));
    if (!value.IsNumber()) return rt_.Fail(value.TypeName(), " has no sign");
    const bool negate = expr.kind == Expr::kNegate;
    if (value.is(Value::kFloat)) return Value::Float(negate ? -value.number() : value.number());
    if (value.integer() == std::numeric_limits<int64_t>::min()) return TooLarge();
    return Value::Integer(negate ? -value.integer() : value.integer());
  }

  absl::StatusOr<Value> Junction(const Expr& expr) {
    Value value;
    for (const ExprPtr& arg : expr.args) {
      CHORD_ASSIGN_OR_RETURN(value, Eval(*arg));
      if (value.IsTrue() == (expr.kind == Expr::kOr)) break;
    }
    return value;
  }

  absl::StatusOr<bool> Holds(absl::string_view op, const Value& a, const Value& b) {
    if (op == "==") return rt_.Equal(a, b);
    if (op == "in") return rt_.Contains(b, a);
    if (op == "!=" || op == "not in") {
      CHORD_ASSIGN_OR_RETURN(const bool holds, op == "!=" ? rt_.Equal(a, b) : rt_.Contains(b, a));
      return !holds;
    }
    CHORD_ASSIGN_OR_RETURN(const int order, rt_.Compare(a, b));
    if (op == "<") return order < 0;
    if (op == "<=") return order <= 0;
    return op == ">" ? order > 0 : order >= 0;
  }
  absl::StatusOr<Value> Comparison(const Expr& expr) {
    CHORD_ASSIGN_OR_RETURN(Value left, Eval(*expr.args[0]));
    for (size_t i = 0; i < expr.ops.size(); ++i) {
      CHORD_ASSIGN_OR_RETURN(Value right, Eval(*expr.args[i + 1]));
      rt_.line = expr.line;
      CHORD_ASSIGN_OR_RETURN(const bool holds, Holds(expr.ops[i], left, right));
      if (!holds) return Value::Bool(false);
      left = std::move(right);
    }
    return Value::Bool(true);
  }

  absl::StatusOr<Value> Concat(const Expr& expr) {
    Text out;
    for (const ExprPtr& arg : expr.args) {
      CHORD_ASSIGN_OR_RETURN(const Value value, Eval(*arg));
      CHORD_ASSIGN_OR_RETURN(const Text text, rt_.ToText(value));
      out.Append(text);
    }
    return rt_.NewString(std::move(out));
  }

  absl::StatusOr<Value> Conditional(const Expr& expr) {
    CHORD_ASSIGN_OR_RETURN(const Value condition, Eval(*expr.args[0]));
    if (condition.IsTrue()) return Eval(*expr.args[1]);
    if (expr.args[2] != nullptr) return Eval(*expr.args[2]);
    return Value::Undefined("an inline if without else");
  }

  absl::Status TooLarge() const { return rt_.Fail("a number is too large"); }

  absl::StatusOr<Value> Arithmetic(const Expr& expr) {
    CHORD_ASSIGN_OR_RETURN(const Value a, Eval(*expr.args[0]));
    CHORD_ASSIGN_OR_RETURN(const Value b, Eval(*expr.args[1]));
    rt_.line = expr.line;
    const char op = expr.ops[0] == "//" ? 'q' : expr.ops[0] == "**" ? 'p' : expr.ops[0][0];
    if (a.IsNumber() && b.IsNumber()) {
      if (a.IsWhole() && b.IsWhole() && op != '/') return Whole(op, a.integer(), b.integer());
      return Floating(op, a.number(), b.number());
    }
    if (op == '+' && a.is(Value::kString) && b.is(Value::kString)) return Add(a.text(), b.text());
    if (op == '+' && a.is(Value::kList) && b.is(Value::kList) && a.list().kind == b.list().kind &&
        (a.list().kind == List::kList || a.list().kind == List::kTuple)) {
      CHORD_RETURN_IF_ERROR(rt_.Charge(a.list().items.size() + b.list().items.size()));
      std::vector<Value> items = a.list().items;
      items.insert(items.end(), b.list().items.begin(), b.list().items.end());
      return rt_.NewList(std::move(items), a.list().kind);
    }
    if (op == '*' && (a.IsWhole() || b.IsWhole())) {
      return a.IsWhole() ? Repeat(b, a.integer()) : Repeat(a, b.integer());
    }
    return rt_.Fail("\"", expr.ops[0], "\" is not supported between ", a.TypeName(), " and ",
                    b.TypeName());
  }

  // Markup stays markup: what is added to it is escaped.
  absl::StatusOr<Value> Add(const Text& a, const Text& b) {
    const bool markup = a.markup() || b.markup();
    CHORD_RETURN_IF_ERROR(rt_.ChargeBytes((markup ? 6 : 1) * (a.size() + b.size())));
    Text out = markup ? EscapeHtml(a) : a;
    out.Append(markup ? EscapeHtml(b) : b);
    out.set_markup(markup);
    return Value::String(std::move(out));
  }

  absl::StatusOr<Value> Repeat(const Value& value, int64_t times) {
    const auto count = static_cast<size_t>(std::clamp<int64_t>(times, 0, 1 << 24));
    if (value.is(Value::kString)) {
      CHORD_RETURN_IF_ERROR(rt_.Charge(count * (1 + value.text().size() / 32)));
      Text out;
      for (size_t i = 0; i < count; ++i) out.Append(value.text());
      return rt_.NewString(std::move(out));
    }
    if (value.is(Value::kList) &&
        (value.list().kind == List::kList || value.list().kind == List::kTuple)) {
      CHORD_RETURN_IF_ERROR(rt_.Charge(count * (1 + value.list().items.size())));
      std::vector<Value> items;
      for (size_t i = 0; i < count; ++i) {
        items.insert(items.end(), value.list().items.begin(), value.list().items.end());
      }
      return rt_.NewList(std::move(items), value.list().kind);
    }
    return rt_.Fail(value.TypeName(), " cannot be repeated");
  }

  absl::StatusOr<Value> Whole(char op, int64_t a, int64_t b) {
    int64_t out = 0;
    switch (op) {
      case '+':
        if (__builtin_add_overflow(a, b, &out)) return TooLarge();
        return Value::Integer(out);
      case '-':
        if (__builtin_sub_overflow(a, b, &out)) return TooLarge();
        return Value::Integer(out);
      case '*':
        if (__builtin_mul_overflow(a, b, &out)) return TooLarge();
        return Value::Integer(out);
      case 'p':
        return Power(a, b);
      default:
        break;
    }
    if (b == 0) return rt_.Fail("division by zero");
    if (b == -1) return op == 'q' ? Whole('-', 0, a) : Value::Integer(0);
    const int64_t remainder = a % b;
    const bool below = remainder != 0 && (remainder < 0) != (b < 0);  // Python rounds down
    if (op == 'q') return Value::Integer(a / b - (below ? 1 : 0));
    return Value::Integer(below ? remainder + b : remainder);
  }
  absl::StatusOr<Value> Power(int64_t base, int64_t exponent) {
    if (exponent < 0)
      return Floating('p', static_cast<double>(base), static_cast<double>(exponent));
    if (exponent > 64 && (base > 1 || base < -1)) return TooLarge();
    if (exponent > 64) exponent = 2 + exponent % 2;  // of -1, 0 and 1 only
    int64_t out = 1;
    for (; exponent > 0; --exponent) {
      if (__builtin_mul_overflow(out, base, &out)) return TooLarge();
    }
    return Value::Integer(out);
  }
  absl::StatusOr<Value> Floating(char op, double a, double b) {
    switch (op) {
      case '+':
        return Value::Float(a + b);
      case '-':
        return Value::Float(a - b);
      case '*':
        return Value::Float(a * b);
      case 'p':
        return Value::Float(std::pow(a, b));
      default:
        break;
    }
    if (b == 0) return rt_.Fail("division by zero");
    if (op == '/') return Value::Float(a / b);
    if (op == 'q') return Value::Float(std::floor(a / b));
    const double remainder = std::fmod(a, b);
    return Value::Float(remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder);
  }

  Runtime rt_;
  std::shared_ptr<Scope> scope_;
  Text root_;
  Text* out_ = &root_;
  int depth_ = 0;
  int loops_ = 0;
};

}  // namespace

absl::StatusOr<Text> Evaluate(const Body& body,
                              const std::vector<std::pair<std::string, Value>>& variables,
                              const RenderOptions& options) {
  return Evaluator(variables, options).Run(body);
}

}  // namespace chord::jinja
