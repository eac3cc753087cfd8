#include "common/jinja/parser.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/status_macros.h"
#include "common/jinja/catalogue.h"
#include "common/jinja/lexer.h"

namespace chord::jinja {
namespace {

constexpr size_t kMaxTokens = 100'000;
constexpr int kMaxDepth = 150;  // of nested expressions and of nested blocks

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<Body> Run() {
    CHORD_ASSIGN_OR_RETURN(Body body, Statements({}, 0));
    for (const auto& [name, line] : called_) {
      if (!IsFunction(name) && !defined_.contains(name)) {
        return At(line, absl::StrCat("the function \"", name, "\" is not supported"));
      }
    }
    return body;
  }

 private:
  using Ends = std::vector<absl::string_view>;  // names of the tags that end a body

  const Token& Now() const { return tokens_[at_]; }
  const Token& After() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void Next() {
    if (at_ + 1 < tokens_.size()) ++at_;
  }
  bool IsName(absl::string_view name) const {
    return Now().kind == Token::kName && Now().text == name;
  }
  bool IsOp(absl::string_view op) const {
    return Now().kind == Token::kOperator && Now().text == op;
  }
  bool SkipName(absl::string_view name) {
    if (!IsName(name)) return false;
    Next();
    return true;
  }
  bool SkipOp(absl::string_view op) {
    if (!IsOp(op)) return false;
    Next();
    return true;
  }
  static absl::Status At(int line, absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", what));
  }
  absl::Status Fail(absl::string_view what) const { return At(Now().line, what); }
  absl::Status Unexpected(absl::string_view expected) const {
    switch (Now().kind) {
      case Token::kEnd:
        return Fail(absl::StrCat("the template ends where ", expected, " belongs"));
      case Token::kBlockEnd:
      case Token::kVariableEnd:
        return Fail(absl::StrCat("the tag ends where ", expected, " belongs"));
      default:
        return Fail(
            absl::StrCat("\"", Now().text.substr(0, 40), "\" where ", expected, " belongs"));
    }
  }
  absl::Status ExpectOp(absl::string_view op) {
    return SkipOp(op) ? absl::OkStatus() : Unexpected(absl::StrCat("\"", op, "\""));
  }
  absl::Status ExpectName(absl::string_view name) {
    return SkipName(name) ? absl::OkStatus() : Unexpected(absl::StrCat("\"", name, "\""));
  }
  absl::StatusOr<std::string> AnyName() {
    if (Now().kind != Token::kName) return Unexpected("a name");
    std::string name(Now().text);
    Next();
    return name;
  }
  absl::Status ExpectBlockEnd() {
    SkipOp(":");
    if (Now().kind != Token::kBlockEnd) return Unexpected("the end of the tag");
    Next();
    return absl::OkStatus();
  }

  static ExprPtr New(Expr::Kind kind, int line) {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->line = line;
    return expr;
  }
  // Closes a node: its depth is known, and within bounds.
  absl::StatusOr<ExprPtr> Done(ExprPtr expr) {
    const auto count = [&expr](const ExprPtr& child) {
      if (child != nullptr) expr->depth = std::max(expr->depth, child->depth + 1);
    };
    for (const ExprPtr& arg : expr->args) count(arg);
    for (const auto& [name, arg] : expr->named) count(arg);
    if (expr->depth > kMaxDepth) {
      return At(expr->line, absl::StrCat("an expression nests deeper than ", kMaxDepth));
    }
    return expr;
  }
  absl::StatusOr<ExprPtr> Node(Expr::Kind kind, int line, std::string name, ExprPtr a,
                               ExprPtr b = nullptr) {
    ExprPtr expr = New(kind, line);
    expr->name = std::move(name);
    expr->args.push_back(std::move(a));
    if (b != nullptr) expr->args.push_back(std::move(b));
    return Done(std::move(expr));
  }
  absl::StatusOr<ExprPtr> Binary(Expr::Kind kind, std::string op, ExprPtr a, ExprPtr b, int line) {
    if (op == "%" && a->kind == Expr::kConstant && a->value.is(Value::kString)) {
      return At(line, "formatting with \"%\" is not supported; use the filter \"format\"");
    }
    ExprPtr expr = New(kind, line);
    expr->ops.push_back(std::move(op));
    expr->args.push_back(std::move(a));
    expr->args.push_back(std::move(b));
    return Done(std::move(expr));
  }

  // Counts how deep the parser itself is in, for input such as "((((".
  class Nesting {
   public:
    explicit Nesting(int* depth) : depth_(depth) { ++*depth_; }
    ~Nesting() { --*depth_; }
    bool TooDeep() const { return *depth_ > kMaxDepth; }

   private:
    int* depth_;
  };

  // Expressions, from the loosest binding to the tightest.

  absl::StatusOr<ExprPtr> Expression(bool conditional = true) {
    const Nesting nesting(&expression_depth_);
    if (nesting.TooDeep()) {
      return Fail(absl::StrCat("an expression nests deeper than ", kMaxDepth));
    }
    const int line = Now().line;
    CHORD_ASSIGN_OR_RETURN(ExprPtr expr, Or());
    while (conditional && SkipName("if")) {
      ExprPtr choice = New(Expr::kConditional, line);
      CHORD_ASSIGN_OR_RETURN(ExprPtr condition, Or());
      ExprPtr other;
      if (SkipName("else")) {
        CHORD_ASSIGN_OR_RETURN(other, Expression());
      }
      choice->args.push_back(std::move(condition));
      choice->args.push_back(std::move(expr));
      choice->args.push_back(std::move(other));
      CHORD_ASSIGN_OR_RETURN(expr, Done(std::move(choice)));
    }
    return expr;
  }

  // a OP b OP c in one node.
  template <typename Operand>
  absl::StatusOr<ExprPtr> Chain(Expr::Kind kind, Operand operand, bool (Parser::*skip)()) {
    const int line = Now().line;
    CHORD_ASSIGN_OR_RETURN(ExprPtr first, (this->*operand)());
    if (!(this->*skip)()) return first;
    ExprPtr chain = New(kind, line);
    chain->args.push_back(std::move(first));
    do {
      CHORD_ASSIGN_OR_RETURN(ExprPtr next, (this->*operand)());
      chain->args.push_back(std::move(next));
    } while ((this->*skip)());
    return Done(std::move(chain));
  }
  bool SkipOr() { return SkipName("or"); }
  bool SkipAnd() { return SkipName("and"); }
  bool SkipTilde() { return SkipOp("~"); }
  absl::StatusOr<ExprPtr> Or() { return Chain(Expr::kOr, &Parser::And, &Parser::SkipOr); }
  absl::StatusOr<ExprPtr> And() { return Chain(Expr::kAnd, &Parser::Not, &Parser::SkipAnd); }
  absl::StatusOr<ExprPtr> Not() {
    const int line = Now().line;
    if (!SkipName("not")) return Comparison();
    const Nesting nesting(&expression_depth_);
    if (nesting.TooDeep()) return Fail("too many \"not\" in a row");
    CHORD_ASSIGN_OR_RETURN(ExprPtr inner, Not());
    return Node(Expr::kNot, line, "", std::move(inner));
  }

  // The comparison operator here, or "".
  std::string SkipComparison() {
    for (const absl::string_view op : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (SkipOp(op)) return std::string(op);
    }
    if (SkipName("in")) return "in";
    if (IsName("not") && After().kind == Token::kName && After().text == "in") {
      Next();
      Next();
      return "not in";
    }
    return "";
  }
  absl::StatusOr<ExprPtr> Comparison() {
    const int line = Now().line;
    CHORD_ASSIGN_OR_RETURN(ExprPtr first, Sum());
    std::string op = SkipComparison();
    if (op.empty()) return first;
    ExprPtr chain = New(Expr::kCompare, line);
    chain->args.push_back(std::move(first));
    while (!op.empty()) {
      chain->ops.push_back(std::move(op));
      CHORD_ASSIGN_OR_RETURN(ExprPtr next, Sum());
      chain->args.push_back(std::move(next));
      op = SkipComparison();
    }
    return Done(std::move(chain));
  }

  // Left-associative operators of one rank.
  template <typename Operand>
  absl::StatusOr<ExprPtr> Arithmetic(Operand operand,
                                     std::initializer_list<absl::string_view> ops) {
    int line = Now().line;
    CHORD_ASSIGN_OR_RETURN(ExprPtr left, (this->*operand)());
    while (true) {
      const auto op =
          std::find_if(ops.begin(), ops.end(), [this](absl::string_view o) { return IsOp(o); });
      if (op == ops.end()) return left;
      Next();
      CHORD_ASSIGN_OR_RETURN(ExprPtr right, (this->*operand)());
      CHORD_ASSIGN_OR_RETURN(left, Binary(Expr::kArithmetic, std::string(*op), std::move(left),
                                          std::move(right), line));
      line = Now().line;
    }
  }
  absl::StatusOr<ExprPtr> Sum() { return Arithmetic(&Parser::Concatenation, {"+", "-"}); }
  absl::StatusOr<ExprPtr> Concatenation() {
    return Chain(Expr::kConcat, &Parser::Product, &Parser::SkipTilde);
  }
  absl::StatusOr<ExprPtr> Product() { return Arithmetic(&Parser::Power, {"*", "/", "//", "%"}); }
  absl::StatusOr<ExprPtr> Power() { return Arithmetic(&Parser::UnaryAndFilters, {"**"}); }
  absl::StatusOr<ExprPtr> UnaryAndFilters() { return Unary(/*filters=*/true); }

  absl::StatusOr<ExprPtr> Unary(bool filters) {
    const Nesting nesting(&expression_depth_);
    if (nesting.TooDeep()) {
      return Fail(absl::StrCat("an expression nests deeper than ", kMaxDepth));
    }
    const int line = Now().line;
    ExprPtr expr;
    if (IsOp("-") || IsOp("+")) {
      const Expr::Kind kind = IsOp("-") ? Expr::kNegate : Expr::kPlus;
      Next();
      CHORD_ASSIGN_OR_RETURN(ExprPtr inner, Unary(/*filters=*/false));
      CHORD_ASSIGN_OR_RETURN(expr, Node(kind, line, "", std::move(inner)));
    } else {
      CHORD_ASSIGN_OR_RETURN(expr, Primary());
    }
    CHORD_ASSIGN_OR_RETURN(expr, Postfix(std::move(expr)));
    if (!filters) return expr;
    while (true) {
      if (IsOp("|")) {
        CHORD_ASSIGN_OR_RETURN(expr, Filter(std::move(expr)));
      } else if (IsName("is")) {
        CHORD_ASSIGN_OR_RETURN(expr, Test(std::move(expr)));
      } else {
        return expr;
      }
    }
  }

  absl::StatusOr<ExprPtr> Constant(Value value, int line) {
    ExprPtr expr = New(Expr::kConstant, line);
    expr->value = std::move(value);
    Next();
    return expr;
  }
  absl::StatusOr<ExprPtr> Primary() {
    const Token token = Now();
    switch (token.kind) {
      case Token::kName:
        return NameOrConstant(token);
      case Token::kString:
        return Strings();
      case Token::kInteger: {
        int64_t value = 0;
        if (!absl::SimpleAtoi(absl::StrReplaceAll(token.text, {{"_", ""}}), &value)) {
          return Fail(absl::StrCat("the number ", token.text.substr(0, 40), " is too large"));
        }
        return Constant(Value::Integer(value), token.line);
      }
      case Token::kFloat: {
        double value = 0;
        if (!absl::SimpleAtod(absl::StrReplaceAll(token.text, {{"_", ""}}), &value)) {
          return Unexpected("a number");
        }
        return Constant(Value::Float(value), token.line);
      }
      default:
        break;
    }
    if (SkipOp("(")) {
      CHORD_ASSIGN_OR_RETURN(ExprPtr expr, Tuple(/*conditional=*/true, {}, /*parentheses=*/true));
      CHORD_RETURN_IF_ERROR(ExpectOp(")"));
      return expr;
    }
    if (IsOp("[")) return ListOf();
    if (IsOp("{")) return DictOf();
    return Unexpected("an expression");
  }
  absl::StatusOr<ExprPtr> NameOrConstant(const Token& token) {
    const absl::string_view name = token.text;
    if (name == "true" || name == "True") return Constant(Value::Bool(true), token.line);
    if (name == "false" || name == "False") return Constant(Value::Bool(false), token.line);
    if (name == "none" || name == "None") return Constant(Value::None(), token.line);
    if (name == "self" || name == "super" || name == "caller" ||
        (in_macro_ && (name == "varargs" || name == "kwargs"))) {
      return Fail(absl::StrCat("the name \"", name, "\" is not supported"));
    }
    ExprPtr expr = New(Expr::kName, token.line);
    expr->name = std::string(name);
    Next();
    return expr;
  }
  absl::StatusOr<ExprPtr> Strings() {  // adjacent ones are one
    const int line = Now().line;
    std::string bytes;
    while (Now().kind == Token::kString) {
      CHORD_ASSIGN_OR_RETURN(const std::string part, StringValue(Now()));
      bytes += part;
      Next();
    }
    ExprPtr expr = New(Expr::kConstant, line);
    expr->value = Value::String(Text(std::move(bytes)));
    return expr;
  }

  bool IsTupleEnd(const Ends& ends) const {
    if (Now().kind == Token::kVariableEnd || Now().kind == Token::kBlockEnd || IsOp(")"))
      return true;
    return std::any_of(ends.begin(), ends.end(),
                       [this](absl::string_view end) { return IsName(end); });
  }
  absl::StatusOr<ExprPtr> Tuple(bool conditional = true, const Ends& ends = {},
                                bool parentheses = false) {
    ExprPtr tuple = New(Expr::kTupleOf, Now().line);
    bool is_tuple = false;
    while (true) {
      if (!tuple->args.empty()) CHORD_RETURN_IF_ERROR(ExpectOp(","));
      if (IsTupleEnd(ends)) break;
      CHORD_ASSIGN_OR_RETURN(ExprPtr item, Expression(conditional));
      tuple->args.push_back(std::move(item));
      if (!IsOp(",")) break;
      is_tuple = true;
    }
    if (!is_tuple) {
      if (!tuple->args.empty()) return std::move(tuple->args[0]);
      if (!parentheses) return Unexpected("an expression");
    }
    return Done(std::move(tuple));
  }
  absl::StatusOr<ExprPtr> ListOf() {
    ExprPtr list = New(Expr::kListOf, Now().line);
    Next();
    while (!IsOp("]")) {
      if (!list->args.empty()) CHORD_RETURN_IF_ERROR(ExpectOp(","));
      if (IsOp("]")) break;
      CHORD_ASSIGN_OR_RETURN(ExprPtr item, Expression());
      list->args.push_back(std::move(item));
    }
    Next();
    return Done(std::move(list));
  }
  absl::StatusOr<ExprPtr> DictOf() {
    ExprPtr dict = New(Expr::kDictOf, Now().line);
    Next();
    while (!IsOp("}")) {
      if (!dict->args.empty()) CHORD_RETURN_IF_ERROR(ExpectOp(","));
      if (IsOp("}")) break;
      CHORD_ASSIGN_OR_RETURN(ExprPtr key, Expression());
      CHORD_RETURN_IF_ERROR(ExpectOp(":"));
      CHORD_ASSIGN_OR_RETURN(ExprPtr item, Expression());
      dict->args.push_back(std::move(key));
      dict->args.push_back(std::move(item));
    }
    Next();
    return Done(std::move(dict));
  }

  absl::StatusOr<ExprPtr> Postfix(ExprPtr expr) {
    while (true) {
      if (IsOp(".")) {
        CHORD_ASSIGN_OR_RETURN(expr, Attribute(std::move(expr)));
      } else if (IsOp("[")) {
        CHORD_ASSIGN_OR_RETURN(expr, Subscript(std::move(expr)));
      } else if (IsOp("(")) {
        CHORD_ASSIGN_OR_RETURN(expr, Call(std::move(expr)));
      } else {
        return expr;
      }
    }
  }
  absl::StatusOr<ExprPtr> Attribute(ExprPtr object) {
    const int line = Now().line;
    Next();
    if (Now().kind == Token::kInteger) {
      CHORD_ASSIGN_OR_RETURN(ExprPtr index, Primary());
      return Node(Expr::kItem, line, "", std::move(object), std::move(index));
    }
    CHORD_ASSIGN_OR_RETURN(std::string name, AnyName());
    if (name[0] == '_') {
      return At(line, absl::StrCat("the attribute \"", name, "\" is not supported"));
    }
    return Node(Expr::kAttribute, line, std::move(name), std::move(object));
  }
  absl::StatusOr<ExprPtr> Subscript(ExprPtr object) {
    const int line = Now().line;
    Next();
    ExprPtr parts[3];
    int colons = 0;
    while (!IsOp("]")) {
      if (SkipOp(":")) {
        if (++colons > 2) return Fail("a slice has more than three parts");
      } else if (parts[colons] == nullptr) {
        CHORD_ASSIGN_OR_RETURN(parts[colons], Expression());
      } else {
        return Unexpected("\"]\"");
      }
    }
    Next();
    if (colons == 0) {
      if (parts[0] == nullptr) return At(line, "an empty subscript");
      return Node(Expr::kItem, line, "", std::move(object), std::move(parts[0]));
    }
    ExprPtr slice = New(Expr::kSlice, line);
    slice->args.push_back(std::move(object));
    for (ExprPtr& part : parts) slice->args.push_back(std::move(part));
    return Done(std::move(slice));
  }
  absl::Status Arguments(Expr* call) {
    CHORD_RETURN_IF_ERROR(ExpectOp("("));
    bool first = true;
    while (!IsOp(")")) {
      if (!first) {
        CHORD_RETURN_IF_ERROR(ExpectOp(","));
        if (IsOp(")")) break;
      }
      first = false;
      if (IsOp("*") || IsOp("**")) return Fail("unpacked arguments are not supported");
      if (Now().kind == Token::kName && After().kind == Token::kOperator && After().text == "=") {
        std::string name(Now().text);
        Next();
        Next();
        CHORD_ASSIGN_OR_RETURN(ExprPtr value, Expression());
        call->named.emplace_back(std::move(name), std::move(value));
      } else {
        if (!call->named.empty()) return Fail("an argument without a name after one with a name");
        CHORD_ASSIGN_OR_RETURN(ExprPtr value, Expression());
        call->args.push_back(std::move(value));
      }
    }
    Next();
    return absl::OkStatus();
  }
  absl::StatusOr<ExprPtr> Call(ExprPtr callee) {
    const int line = callee->line;
    ExprPtr call = New(Expr::kCall, line);
    if (callee->kind == Expr::kName) {
      call->name = callee->name;
      called_.emplace_back(call->name, line);
    } else if (callee->kind == Expr::kAttribute) {
      call->kind = Expr::kMethod;
      call->name = callee->name;
      if (!IsMethod(call->name)) {
        return At(line, absl::StrCat("the method \"", call->name, "\" is not supported"));
      }
      call->args.push_back(std::move(callee->args[0]));
    } else {
      return At(line, "only names and methods can be called");
    }
    CHORD_RETURN_IF_ERROR(Arguments(call.get()));
    return Done(std::move(call));
  }
  // A name that map, select and the like take as an argument.
  absl::Status CheckIndirect(const Expr& filter) const {
    const bool tests = filter.name == "select" || filter.name == "reject";
    const bool attribute_tests = filter.name == "selectattr" || filter.name == "rejectattr";
    const size_t at = attribute_tests ? 2 : 1;
    if ((filter.name != "map" && !tests && !attribute_tests) || filter.args.size() <= at) {
      return absl::OkStatus();
    }
    const Expr& name = *filter.args[at];
    if (name.kind != Expr::kConstant || !name.value.is(Value::kString)) {
      return At(filter.line, absl::StrCat("the filter \"", filter.name,
                                          "\" is supported with a constant name only"));
    }
    const std::string& bytes = name.value.text().bytes();
    // A filter that itself takes a name would make calls nest as deeply as a list is long.
    const bool nests = bytes == "map" || bytes == "select" || bytes == "reject" ||
                       bytes == "selectattr" || bytes == "rejectattr";
    if (filter.name == "map" ? IsFilter(bytes) && !nests : IsTest(bytes)) return absl::OkStatus();
    return At(filter.line, absl::StrCat("the ", filter.name == "map" ? "filter" : "test", " \"",
                                        bytes.substr(0, 40), "\" is not supported"));
  }
  absl::StatusOr<ExprPtr> Filter(ExprPtr input) {
    Next();  // the "|"
    return NamedFilter(std::move(input));
  }
  absl::StatusOr<ExprPtr> NamedFilter(ExprPtr input) {
    ExprPtr filter = New(Expr::kFilter, Now().line);
    CHORD_ASSIGN_OR_RETURN(filter->name, AnyName());
    if (!IsFilter(filter->name)) {
      return At(filter->line, absl::StrCat("the filter \"", filter->name, "\" is not supported"));
    }
    filter->args.push_back(std::move(input));
    if (IsOp("(")) CHORD_RETURN_IF_ERROR(Arguments(filter.get()));
    CHORD_RETURN_IF_ERROR(CheckIndirect(*filter));
    return Done(std::move(filter));
  }
  bool StartsTestArgument() const {
    switch (Now().kind) {
      case Token::kName:
        return !IsName("else") && !IsName("or") && !IsName("and") && !IsName("is");
      case Token::kString:
      case Token::kInteger:
      case Token::kFloat:
        return true;
      default:
        return IsOp("[") || IsOp("{");
    }
  }
  absl::StatusOr<ExprPtr> Test(ExprPtr subject) {
    const int line = Now().line;
    Next();  // "is"
    const bool negated = SkipName("not");
    ExprPtr test = New(Expr::kTest, line);
    CHORD_ASSIGN_OR_RETURN(test->name, AnyName());
    if (!IsTest(test->name)) {
      return At(line, absl::StrCat("the test \"", test->name, "\" is not supported"));
    }
    test->args.push_back(std::move(subject));
    if (IsOp("(")) {
      CHORD_RETURN_IF_ERROR(Arguments(test.get()));
    } else if (StartsTestArgument()) {
      CHORD_ASSIGN_OR_RETURN(ExprPtr argument, Primary());
      CHORD_ASSIGN_OR_RETURN(argument, Postfix(std::move(argument)));
      test->args.push_back(std::move(argument));
    }
    CHORD_ASSIGN_OR_RETURN(ExprPtr done, Done(std::move(test)));
    if (!negated) return done;
    return Node(Expr::kNot, line, "", std::move(done));
  }

  // Up to one of the tags in `ends`, which stays; without any, up to the end of the template.
  absl::StatusOr<Body> Statements(const Ends& ends, int opened_at) {
    const Nesting nesting(&block_depth_);
    if (nesting.TooDeep()) return Fail(absl::StrCat("blocks nest deeper than ", kMaxDepth));
    Body body;
    while (true) {
      switch (Now().kind) {
        case Token::kData: {
          auto stmt = NewStmt(Stmt::kText);
          stmt->text = std::make_shared<const Text>(std::string(Now().text));
          body.push_back(std::move(stmt));
          Next();
          break;
        }
        case Token::kVariableBegin: {
          auto stmt = NewStmt(Stmt::kOutput);
          Next();
          CHORD_ASSIGN_OR_RETURN(stmt->expr, Tuple());
          if (Now().kind != Token::kVariableEnd) return Unexpected("\"}}\"");
          Next();
          body.push_back(std::move(stmt));
          break;
        }
        case Token::kBlockBegin: {
          Next();
          if (std::any_of(ends.begin(), ends.end(),
                          [this](absl::string_view end) { return IsName(end); })) {
            return body;
          }
          CHORD_ASSIGN_OR_RETURN(auto stmt, Statement());
          body.push_back(std::move(stmt));
          break;
        }
        default:
          if (ends.empty()) return body;
          return At(opened_at, absl::StrCat("the block that begins here has no ", ends.back()));
      }
    }
  }
  std::unique_ptr<Stmt> NewStmt(Stmt::Kind kind) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = Now().line;
    return stmt;
  }
  // A body and its end tag, whose name is taken.
  absl::StatusOr<Body> BodyUntil(const Ends& ends, int opened_at) {
    CHORD_RETURN_IF_ERROR(ExpectBlockEnd());
    return Statements(ends, opened_at);
  }

  using Parse = absl::StatusOr<std::unique_ptr<Stmt>> (Parser::*)();
  absl::StatusOr<std::unique_ptr<Stmt>> Statement() {
    static constexpr std::pair<absl::string_view, Parse> kStatements[] = {
        {"if", &Parser::If},
        {"for", &Parser::For},
        {"set", &Parser::Set},
        {"macro", &Parser::MacroOf},
        {"with", &Parser::With},
        {"filter", &Parser::FilterBlock},
        {"break", &Parser::Jump},
        {"continue", &Parser::Jump},
        {"generation", &Parser::Generation},
    };
    if (Now().kind != Token::kName) return Unexpected("the name of a statement");
    for (const auto& [name, parse] : kStatements) {
      if (!IsName(name)) continue;
      CHORD_ASSIGN_OR_RETURN(auto stmt, (this->*parse)());
      if (Now().kind != Token::kBlockEnd) return Unexpected("the end of the tag");
      Next();
      return stmt;
    }
    return Fail(absl::StrCat("the statement \"", Now().text.substr(0, 40), "\" is not supported"));
  }

  absl::StatusOr<std::unique_ptr<Stmt>> If() {
    auto stmt = NewStmt(Stmt::kIf);
    while (true) {
      Next();  // "if", "elif"
      CHORD_ASSIGN_OR_RETURN(ExprPtr condition, Tuple(/*conditional=*/false));
      CHORD_ASSIGN_OR_RETURN(Body body, BodyUntil({"elif", "else", "endif"}, stmt->line));
      stmt->branches.emplace_back(std::move(condition), std::move(body));
      if (!IsName("elif")) break;
    }
    if (SkipName("else")) {
      CHORD_ASSIGN_OR_RETURN(Body body, BodyUntil({"endif"}, stmt->line));
      stmt->branches.emplace_back(nullptr, std::move(body));
    }
    CHORD_RETURN_IF_ERROR(ExpectName("endif"));
    return stmt;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> For() {
    auto stmt = NewStmt(Stmt::kFor);
    Next();
    CHORD_ASSIGN_OR_RETURN(stmt->target, AssignTarget(/*attributes=*/false));
    CHORD_RETURN_IF_ERROR(ExpectName("in"));
    CHORD_ASSIGN_OR_RETURN(stmt->expr, Tuple(/*conditional=*/false, {"recursive"}));
    if (SkipName("if")) {
      CHORD_ASSIGN_OR_RETURN(stmt->filter, Expression());
    }
    if (IsName("recursive")) return Fail("a recursive loop is not supported");
    ++loops_;
    CHORD_ASSIGN_OR_RETURN(stmt->body, BodyUntil({"else", "endfor"}, stmt->line));
    --loops_;
    if (SkipName("else")) {
      CHORD_ASSIGN_OR_RETURN(stmt->otherwise, BodyUntil({"endfor"}, stmt->line));
    }
    CHORD_RETURN_IF_ERROR(ExpectName("endfor"));
    return stmt;
  }

  absl::StatusOr<Target> OneTarget(bool attributes) {
    Target target;
    if (SkipOp("(")) {
      CHORD_ASSIGN_OR_RETURN(target, AssignTarget(attributes));
      CHORD_RETURN_IF_ERROR(ExpectOp(")"));
      return target;
    }
    CHORD_ASSIGN_OR_RETURN(target.name, AnyName());
    for (const absl::string_view reserved :
         {"true", "false", "none", "True", "False", "None", "loop", "self"}) {
      if (target.name == reserved) return Fail(absl::StrCat("\"", reserved, "\" cannot be set"));
    }
    if (attributes && SkipOp(".")) {
      CHORD_ASSIGN_OR_RETURN(target.attribute, AnyName());
    } else {
      defined_.insert(target.name);
    }
    return target;
  }
  absl::StatusOr<Target> AssignTarget(bool attributes) {
    const Nesting nesting(&expression_depth_);
    if (nesting.TooDeep()) return Fail(absl::StrCat("a target nests deeper than ", kMaxDepth));
    CHORD_ASSIGN_OR_RETURN(Target first, OneTarget(attributes));
    if (!IsOp(",")) return first;
    Target tuple;
    tuple.parts.push_back(std::move(first));
    while (SkipOp(",")) {
      if (IsName("in") || IsOp("=") || IsOp(")")) break;
      CHORD_ASSIGN_OR_RETURN(Target next, OneTarget(attributes));
      tuple.parts.push_back(std::move(next));
    }
    return tuple;
  }
  // A body in which "break" and "continue" have no loop.
  absl::StatusOr<Body> Enclosed(const Ends& ends, int opened_at) {
    const int loops = std::exchange(loops_, 0);
    CHORD_ASSIGN_OR_RETURN(Body body, BodyUntil(ends, opened_at));
    loops_ = loops;
    return body;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> Set() {
    auto stmt = NewStmt(Stmt::kSet);
    Next();
    CHORD_ASSIGN_OR_RETURN(stmt->target, AssignTarget(/*attributes=*/true));
    if (SkipOp("=")) {
      CHORD_ASSIGN_OR_RETURN(stmt->expr, Tuple());
      return stmt;
    }
    stmt->kind = Stmt::kSetBlock;
    while (IsOp("|")) {
      CHORD_ASSIGN_OR_RETURN(stmt->expr, Filter(std::move(stmt->expr)));
    }
    CHORD_ASSIGN_OR_RETURN(stmt->body, Enclosed({"endset"}, stmt->line));
    CHORD_RETURN_IF_ERROR(ExpectName("endset"));
    return stmt;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> FilterBlock() {
    auto stmt = NewStmt(Stmt::kFilterBlock);
    Next();
    CHORD_ASSIGN_OR_RETURN(stmt->expr, NamedFilter(nullptr));
    while (IsOp("|")) {
      CHORD_ASSIGN_OR_RETURN(stmt->expr, Filter(std::move(stmt->expr)));
    }
    CHORD_ASSIGN_OR_RETURN(stmt->body, Enclosed({"endfilter"}, stmt->line));
    CHORD_RETURN_IF_ERROR(ExpectName("endfilter"));
    return stmt;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> With() {
    auto stmt = NewStmt(Stmt::kWith);
    Next();
    while (Now().kind != Token::kBlockEnd) {
      if (!stmt->assignments.empty()) CHORD_RETURN_IF_ERROR(ExpectOp(","));
      CHORD_ASSIGN_OR_RETURN(Target target, OneTarget(/*attributes=*/false));
      CHORD_RETURN_IF_ERROR(ExpectOp("="));
      CHORD_ASSIGN_OR_RETURN(ExprPtr value, Expression());
      stmt->assignments.emplace_back(std::move(target), std::move(value));
    }
    CHORD_ASSIGN_OR_RETURN(stmt->body, BodyUntil({"endwith"}, stmt->line));
    CHORD_RETURN_IF_ERROR(ExpectName("endwith"));
    return stmt;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> Generation() {
    auto stmt = NewStmt(Stmt::kScope);
    Next();
    CHORD_ASSIGN_OR_RETURN(stmt->body, Enclosed({"endgeneration"}, stmt->line));
    CHORD_RETURN_IF_ERROR(ExpectName("endgeneration"));
    return stmt;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> MacroOf() {
    auto stmt = NewStmt(Stmt::kMacro);
    auto macro = std::make_shared<Macro>();
    Next();
    CHORD_ASSIGN_OR_RETURN(macro->name, AnyName());
    defined_.insert(macro->name);
    CHORD_RETURN_IF_ERROR(ExpectOp("("));
    while (!IsOp(")")) {
      if (!macro->parameters.empty()) {
        CHORD_RETURN_IF_ERROR(ExpectOp(","));
        if (IsOp(")")) break;
      }
      CHORD_ASSIGN_OR_RETURN(std::string parameter, AnyName());
      defined_.insert(parameter);
      macro->parameters.push_back(std::move(parameter));
      if (SkipOp("=")) {
        CHORD_ASSIGN_OR_RETURN(ExprPtr value, Expression());
        macro->defaults.push_back(std::move(value));
      } else if (!macro->defaults.empty()) {
        return Fail("a parameter without a default after one with a default");
      }
    }
    Next();
    const bool outer = std::exchange(in_macro_, true);
    CHORD_ASSIGN_OR_RETURN(macro->body, Enclosed({"endmacro"}, stmt->line));
    in_macro_ = outer;
    CHORD_RETURN_IF_ERROR(ExpectName("endmacro"));
    stmt->macro = std::move(macro);
    return stmt;
  }

  absl::StatusOr<std::unique_ptr<Stmt>> Jump() {
    auto stmt = NewStmt(IsName("break") ? Stmt::kBreak : Stmt::kContinue);
    if (loops_ == 0) return Fail(absl::StrCat("\"", Now().text, "\" outside a loop"));
    Next();
    return stmt;
  }

  const std::vector<Token> tokens_;
  size_t at_ = 0;
  int expression_depth_ = 0;
  int block_depth_ = 0;
  int loops_ = 0;  // that a "break" could end
  bool in_macro_ = false;
  absl::flat_hash_set<std::string> defined_;         // names that the template gives a value
  std::vector<std::pair<std::string, int>> called_;  // with their lines
};

}  // namespace

absl::StatusOr<Body> ParseTemplate(absl::string_view source) {
  CHORD_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source, kMaxTokens));
  return Parser(std::move(tokens)).Run();
}

}  // namespace chord::jinja
