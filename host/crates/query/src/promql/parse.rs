//! The parser: precedence climbing over the tokens, with Prometheus' type rules checked on the way.

use super::{
    ParseError,
    ast::{AggregateOp, At, BinaryOp, Cardinality, Duration, Expr, Matching, Node, RangeMode, Selector, ValueType},
    function,
    lex::{Spanned, Token, tokens},
};
use model::{MatchOp, Matcher};
use std::ops::Range;

/// Parses one PromQL expression in the grammar of Prometheus 3, with its experimental duration
/// expressions, `fill` modifiers and `anchored`/`smoothed` ranges.
pub fn parse(text: &str) -> Result<Expr, ParseError> {
    if text.len() > model::limits::PROMQL_BYTES_MAX {
        let message = format!("query of {} bytes is over the limit of {}", text.len(), model::limits::PROMQL_BYTES_MAX);
        return Err(ParseError::new("", 0..0, message));
    }
    let mut parser = Parser { text, tokens: tokens(text)?, at: 0, depth: 0, in_info: 0 };
    if parser.peek() == &Token::End {
        return Err(parser.error_here("no expression found in input"));
    }
    let expr = parser.expr(0)?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("in the query")),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Spanned>,
    at: usize,
    depth: u32,
    /// Inside `info(…)`, whose label selector may match everything.
    in_info: u32,
}

type Parsed<T> = Result<T, ParseError>;

const COMPARISON: u8 = 3;
const ADD: u8 = 4;
const MUL: u8 = 5;
const POW: u8 = 6;

impl Parser<'_> {
    // ---- tokens

    fn peek(&self) -> &Token {
        &self.tokens[self.at].token
    }
    fn peek_after(&self, ahead: usize) -> &Token {
        &self.tokens[(self.at + ahead).min(self.tokens.len() - 1)].token
    }
    fn span(&self) -> Range<usize> {
        self.tokens[self.at].span.clone()
    }
    fn end_before(&self) -> usize {
        if self.at == 0 { 0 } else { self.tokens[self.at - 1].span.end }
    }
    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].token.clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }
    fn is(&self, punct: &str) -> bool {
        matches!(self.peek(), Token::Punct(p) if *p == punct)
    }
    fn take(&mut self, punct: &str) -> bool {
        let is = self.is(punct);
        if is {
            self.next();
        }
        is
    }
    fn expect(&mut self, punct: &str, context: &str) -> Parsed<()> {
        if self.take(punct) { Ok(()) } else { Err(self.unexpected(&format!("{context}, expected {punct:?}"))) }
    }
    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(w) if w.eq_ignore_ascii_case(word))
    }
    fn take_word(&mut self, word: &str) -> bool {
        let is = self.is_word(word);
        if is {
            self.next();
        }
        is
    }
    fn error(&self, span: Range<usize>, message: impl Into<String>) -> ParseError {
        ParseError::new(self.text, span, message.into())
    }
    fn error_here(&self, message: impl Into<String>) -> ParseError {
        self.error(self.span(), message)
    }
    fn unexpected(&self, context: &str) -> ParseError {
        let what = match self.peek() {
            Token::End => "unexpected end of input".to_owned(),
            Token::Word(w) => format!("unexpected identifier {w:?}"),
            Token::Number(_) => format!("unexpected number {:?}", &self.text[self.span()]),
            Token::Duration(_) => format!("unexpected duration {:?}", &self.text[self.span()]),
            Token::String(s) => format!("unexpected string {s:?}"),
            Token::Punct(p) => format!("unexpected {p:?}"),
        };
        self.error_here(format!("{what} {context}"))
    }

    fn make(&self, node: Node, span: Range<usize>) -> Parsed<Expr> {
        let mut depth = 0;
        let mut under = |e: &Expr| depth = depth.max(e.depth);
        match &node {
            Node::Number(_) | Node::String(_) | Node::Selector(_) | Node::Matrix { .. } => {}
            Node::Subquery { expr, .. } | Node::Negate(expr) | Node::Plus(expr) | Node::Paren(expr) => under(expr),
            Node::Call { args, .. } => args.iter().for_each(under),
            Node::Aggregate { expr, param, .. } => {
                under(expr);
                if let Some(param) = param {
                    under(param);
                }
            }
            Node::Binary { left, right, .. } => {
                under(left);
                under(right);
            }
        }
        if depth >= model::limits::PROMQL_DEPTH_MAX {
            return Err(self.error(span, format!("expression is nested deeper than {}", model::limits::PROMQL_DEPTH_MAX)));
        }
        Ok(Expr { node, span, depth: depth + 1 })
    }

    // ---- expressions

    fn binary_op(&self) -> Option<(BinaryOp, u8)> {
        Some(match self.peek() {
            Token::Punct(p) => match *p {
                "==" => (BinaryOp::Equal, COMPARISON),
                "!=" => (BinaryOp::NotEqual, COMPARISON),
                "<=" => (BinaryOp::LessEqual, COMPARISON),
                ">=" => (BinaryOp::GreaterEqual, COMPARISON),
                "<" => (BinaryOp::Less, COMPARISON),
                ">" => (BinaryOp::Greater, COMPARISON),
                "+" => (BinaryOp::Add, ADD),
                "-" => (BinaryOp::Sub, ADD),
                "*" => (BinaryOp::Mul, MUL),
                "/" => (BinaryOp::Div, MUL),
                "%" => (BinaryOp::Mod, MUL),
                "^" => (BinaryOp::Pow, POW),
                _ => return None,
            },
            Token::Word(w) => match w.to_ascii_lowercase().as_str() {
                "or" => (BinaryOp::Or, 1),
                "and" => (BinaryOp::And, 2),
                "unless" => (BinaryOp::Unless, 2),
                "atan2" => (BinaryOp::Atan2, MUL),
                _ => return None,
            },
            _ => return None,
        })
    }

    fn expr(&mut self, floor: u8) -> Parsed<Expr> {
        // Nesting costs stack: it is bounded while going down, not only when the node is made.
        self.depth += 1;
        if self.depth > model::limits::PROMQL_DEPTH_MAX {
            return Err(self.error_here(format!("expression is nested deeper than {}", model::limits::PROMQL_DEPTH_MAX)));
        }
        let mut left = self.unary()?;
        while let Some((op, precedence)) = self.binary_op() {
            if precedence < floor {
                break;
            }
            let op_span = self.span();
            self.next();
            let (is_bool, matching, has_matching) = self.matching(op)?;
            let right = self.expr(if op == BinaryOp::Pow { precedence } else { precedence + 1 })?;
            left = self.binary(op, op_span, left, right, is_bool, matching, has_matching)?;
        }
        self.depth -= 1;
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let start = self.span().start;
        let is_minus = self.is("-");
        if !is_minus && !self.is("+") {
            return self.postfix();
        }
        self.next();
        // Binds like `*`: `-2 ^ 2` is `-(2 ^ 2)`.
        let inner = self.expr(POW)?;
        if !matches!(inner.value_type(), ValueType::Scalar | ValueType::Vector) {
            let got = inner.value_type().as_str();
            return Err(self.error(
                inner.span,
                format!("unary expression only allowed on expressions of type scalar or instant vector, got {got:?}"),
            ));
        }
        let span = start..inner.span.end;
        match inner.node {
            Node::Number(v) => self.make(Node::Number(if is_minus { -v } else { v }), span),
            _ if is_minus => self.make(Node::Negate(Box::new(inner)), span),
            _ => self.make(Node::Plus(Box::new(inner)), span),
        }
    }

    fn postfix(&mut self) -> Parsed<Expr> {
        let mut expr = self.primary()?;
        loop {
            let start = expr.span.start;
            if self.take("[") {
                expr = self.brackets(expr)?;
            } else if self.is_word("offset") {
                self.next();
                let offset = self.offset_duration()?;
                let end = self.end_before();
                let slot = match &mut expr.node {
                    Node::Selector(selector) | Node::Matrix { selector, .. } => &mut selector.offset,
                    Node::Subquery { offset, .. } => offset,
                    _ => {
                        let message = "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery";
                        return Err(self.error(start..end, message));
                    }
                };
                if slot.replace(offset).is_some() {
                    return Err(self.error(start..end, "offset may not be set multiple times"));
                }
                expr.span.end = end;
            } else if self.take("@") {
                let at = self.at_modifier()?;
                let end = self.end_before();
                let slot = match &mut expr.node {
                    Node::Selector(selector) | Node::Matrix { selector, .. } => &mut selector.at,
                    Node::Subquery { at, .. } => at,
                    _ => {
                        let message =
                            "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery";
                        return Err(self.error(start..end, message));
                    }
                };
                if slot.replace(at).is_some() {
                    return Err(self.error(start..end, "@ <timestamp> may not be set multiple times"));
                }
                expr.span.end = end;
            } else if self.is_word("anchored") || self.is_word("smoothed") {
                let mode = if self.is_word("anchored") { RangeMode::Anchored } else { RangeMode::Smoothed };
                self.next();
                let end = self.end_before();
                match &mut expr.node {
                    Node::Matrix { selector, .. } if selector.mode == RangeMode::Plain => selector.mode = mode,
                    Node::Selector(selector) if selector.mode == RangeMode::Plain && mode == RangeMode::Smoothed => selector.mode = mode,
                    _ => return Err(self.error(start..end, "anchored and smoothed modifiers apply once, to a range vector selector (smoothed also to an instant one)")),
                }
                expr.span.end = end;
            } else {
                return Ok(expr);
            }
        }
    }

    fn brackets(&mut self, expr: Expr) -> Parsed<Expr> {
        let start = expr.span.start;
        let range = self.duration_expr(0)?;
        self.check_positive(&range, start)?;
        if self.take(":") {
            let step = if self.is("]") { None } else { Some(self.duration_expr(0)?) };
            if let Some(step) = &step {
                self.check_positive(step, start)?;
            }
            self.expect("]", "in subquery")?;
            if expr.value_type() != ValueType::Vector && expr.value_type() != ValueType::Scalar {
                let got = expr.value_type().as_str();
                return Err(self.error(expr.span, format!("subquery is only allowed on instant vector, got {got} instead")));
            }
            let end = self.end_before();
            return self.make(Node::Subquery { expr: Box::new(expr), range, step, offset: None, at: None }, start..end);
        }
        self.expect("]", "in range")?;
        let end = self.end_before();
        match expr.node {
            Node::Selector(selector) => {
                if selector.offset.is_some() {
                    return Err(self.error(start..end, "no offset modifiers allowed before range"));
                }
                if selector.at.is_some() {
                    return Err(self.error(start..end, "no @ modifiers allowed before range"));
                }
                self.make(Node::Matrix { selector, range }, start..end)
            }
            _ => Err(self.error(start..end, "ranges only allowed for vector selectors")),
        }
    }

    fn check_positive(&self, duration: &Duration, start: usize) -> Parsed<()> {
        // What uses step() or range() is known at evaluation only, and checked there.
        let is_fixed = !duration_uses_query(duration);
        if is_fixed && (duration.seconds(0, 0).is_nan() || duration.seconds(0, 0) <= 0.0) {
            return Err(self.error(start..self.end_before(), "duration must be greater than 0"));
        }
        Ok(())
    }

    /// Takes a sign if there is one; whether it was a minus.
    fn sign(&mut self) -> bool {
        let negative = self.take("-");
        if !negative {
            self.take("+");
        }
        negative
    }

    fn at_modifier(&mut self) -> Parsed<At> {
        for (word, at) in [("start", At::Start), ("end", At::End)] {
            if self.take_word(word) {
                self.expect("(", "in @ modifier")?;
                self.expect(")", "in @ modifier")?;
                return Ok(at);
            }
        }
        let negative = self.sign();
        match self.next() {
            Token::Number(v) | Token::Duration(v) if v.is_finite() && v.abs() < 9e15 => {
                Ok(At::Millis((v * 1000.0).round() as i64 * if negative { -1 } else { 1 }))
            }
            _ => {
                self.at -= 1;
                Err(self.unexpected("in @ modifier, expected timestamp, start() or end()"))
            }
        }
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let span = self.span();
        match self.peek().clone() {
            Token::Number(v) | Token::Duration(v) => {
                self.next();
                self.make(Node::Number(v), span)
            }
            Token::String(s) => {
                self.next();
                self.make(Node::String(s), span)
            }
            Token::Punct("(") => {
                self.next();
                let inner = self.expr(0)?;
                self.expect(")", "in parentheses")?;
                let end = self.end_before();
                self.make(Node::Paren(Box::new(inner)), span.start..end)
            }
            Token::Punct("{") => self.selector(None, span.start),
            Token::Word(word) => {
                if let Some(op) = AggregateOp::ALL.into_iter().find(|op| op.as_str().eq_ignore_ascii_case(&word)) {
                    let follows = match self.peek_after(1) {
                        Token::Punct("(") => true,
                        Token::Word(w) => w.eq_ignore_ascii_case("by") || w.eq_ignore_ascii_case("without"),
                        _ => false,
                    };
                    if follows {
                        return self.aggregate(op);
                    }
                }
                if matches!(self.peek_after(1), Token::Punct("(")) {
                    return self.call(&word);
                }
                self.next();
                self.selector(Some(word), span.start)
            }
            _ => Err(self.unexpected("in expression")),
        }
    }

    // ---- selectors

    fn selector(&mut self, name: Option<String>, start: usize) -> Parsed<Expr> {
        let mut matchers = Vec::new();
        let mut has_name = name.is_some();
        if let Some(name) = name {
            matchers.push(Matcher::equal("__name__", name));
        }
        if self.take("{") {
            while !self.is("}") {
                self.matcher(&mut matchers, &mut has_name)?;
                if !self.take(",") {
                    break;
                }
            }
            self.expect("}", "in label matching")?;
        }
        let end = self.end_before();
        if self.in_info == 0 && !matchers.iter().any(|m| !matches_empty(m)) {
            return Err(self.error(start..end, "vector selector must contain at least one non-empty matcher"));
        }
        self.make(Node::Selector(Selector { matchers, ..Selector::default() }), start..end)
    }

    fn matcher(&mut self, matchers: &mut Vec<Matcher>, has_name: &mut bool) -> Parsed<()> {
        let span = self.span();
        let (name, is_quoted) = match self.next() {
            Token::Word(word) => (word, false),
            Token::String(s) => (s, true),
            Token::Number(v) if v.is_infinite() || v.is_nan() => (self.text[span.clone()].to_owned(), false),
            _ => {
                self.at -= 1;
                return Err(self.unexpected("in label matching, expected label name or \"}\""));
            }
        };
        let op = match self.peek() {
            Token::Punct("=") => MatchOp::Equal,
            Token::Punct("!=") => MatchOp::NotEqual,
            Token::Punct("=~") => MatchOp::Regex,
            Token::Punct("!~") => MatchOp::NotRegex,
            Token::Punct("," | "}") if is_quoted => {
                if std::mem::replace(has_name, true) {
                    return Err(self.error(span, format!("metric name must not be set twice: {name:?}")));
                }
                matchers.push(Matcher::equal("__name__", name));
                return Ok(());
            }
            _ => return Err(self.unexpected("in label matching, expected one of \"=\", \"!=\", \"=~\", \"!~\"")),
        };
        self.next();
        let value_span = self.span();
        let Token::String(value) = self.next() else {
            self.at -= 1;
            return Err(self.unexpected("in label matching, expected string"));
        };
        if name == "__name__"
            && op == MatchOp::Equal
            && matchers.iter().any(|m| m.name == "__name__" && m.op == MatchOp::Equal && *has_name)
        {
            return Err(self.error(span, format!("metric name must not be set twice: {value:?}")));
        }
        if matches!(op, MatchOp::Regex | MatchOp::NotRegex)
            && let Err(error) = super::regex(&value)
        {
            return Err(self.error(value_span, format!("bad regular expression: {error}")));
        }
        matchers.push(Matcher::new(name, op, value));
        Ok(())
    }

    // ---- calls and aggregations

    fn call(&mut self, word: &str) -> Parsed<Expr> {
        let start = self.span().start;
        let Some(function) = function::find(word).or_else(|| {
            function::find(&word.to_ascii_lowercase())
                .filter(|f| matches!(f.name, "step" | "range" | "start" | "end" | "min_of" | "max_of"))
        }) else {
            return Err(self.error_here(format!("unknown function with name {word:?}")));
        };
        self.next();
        self.in_info += u32::from(function.name == "info");
        let args = self.arguments()?;
        self.in_info -= u32::from(function.name == "info");
        let span = start..self.end_before();
        let due = function.args.len();
        let least = match function.variadic {
            0 => due,
            -1 => due - 1,
            n => due - n as usize,
        };
        let most = if function.variadic < 0 { usize::MAX } else { due };
        if args.len() < least || args.len() > most {
            let words = match function.variadic {
                0 => format!("expected {due} argument(s)"),
                _ if args.len() < least => format!("expected at least {least} argument(s)"),
                _ => format!("expected at most {due} argument(s)"),
            };
            return Err(self.error(span, format!("{words} in call to {:?}, got {}", function.name, args.len())));
        }
        for (i, arg) in args.iter().enumerate() {
            let want = function.args[i.min(due - 1)];
            if arg.value_type() != want {
                let message = format!(
                    "expected type {} in call to function {:?}, got {}",
                    want.as_str(),
                    function.name,
                    arg.value_type().as_str()
                );
                return Err(self.error(arg.span.clone(), message));
            }
        }
        if function.name == "info" && args.len() == 2 && !matches!(args[1].node, Node::Selector(_)) {
            return Err(self.error(args[1].span.clone(), "expected label selectors only as the second argument of info"));
        }
        self.make(Node::Call { function, args }, span)
    }

    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        self.expect("(", "in call")?;
        let mut args = Vec::new();
        while !self.is(")") {
            args.push(self.expr(0)?);
            if !self.take(",") {
                break;
            }
            if self.is(")") {
                return Err(self.error_here("trailing commas not allowed in function call args"));
            }
        }
        self.expect(")", "in call")?;
        Ok(args)
    }

    fn grouping(&mut self) -> Parsed<Option<(Vec<String>, bool)>> {
        let is_without = self.is_word("without");
        if !is_without && !self.is_word("by") {
            return Ok(None);
        }
        self.next();
        Ok(Some((self.labels("grouping opts")?, is_without)))
    }

    fn labels(&mut self, context: &str) -> Parsed<Vec<String>> {
        self.expect("(", &format!("in {context}"))?;
        let mut labels = Vec::new();
        while !self.is(")") {
            match self.next() {
                Token::Word(w) if !w.contains(':') => labels.push(w),
                Token::String(s) if !s.is_empty() => labels.push(s),
                _ => {
                    self.at -= 1;
                    return Err(self.unexpected(&format!("in {context}, expected label")));
                }
            }
            if !self.take(",") {
                break;
            }
        }
        self.expect(")", &format!("in {context}"))?;
        Ok(labels)
    }

    fn aggregate(&mut self, op: AggregateOp) -> Parsed<Expr> {
        let start = self.span().start;
        self.next();
        let before = self.grouping()?;
        let mut args = self.arguments()?;
        let after = if before.is_none() { self.grouping()? } else { None };
        let span = start..self.end_before();
        let (grouping, is_without) = before.or(after).unwrap_or_default();
        let due = if op.has_param() { 2 } else { 1 };
        if args.len() != due {
            let message = if args.is_empty() {
                "no arguments for aggregate expression provided".to_owned()
            } else {
                format!("wrong number of arguments for aggregate expression provided, expected {due}, got {}", args.len())
            };
            return Err(self.error(span, message));
        }
        let expr = args.pop().expect("counted above");
        let param = args.pop();
        if expr.value_type() != ValueType::Vector {
            let got = expr.value_type().as_str();
            return Err(self.error(expr.span, format!("expected type instant vector in aggregation expression, got {got}")));
        }
        if let Some(param) = &param {
            let want = if op == AggregateOp::CountValues { ValueType::String } else { ValueType::Scalar };
            if param.value_type() != want {
                let message =
                    format!("expected type {} in aggregation parameter, got {}", want.as_str(), param.value_type().as_str());
                return Err(self.error(param.span.clone(), message));
            }
        }
        self.make(Node::Aggregate { op, expr: Box::new(expr), param: param.map(Box::new), grouping, is_without }, span)
    }

    // ---- binary operators

    fn matching(&mut self, op: BinaryOp) -> Parsed<(bool, Matching, bool)> {
        let mut matching = Matching::default();
        let mut has_matching = false;
        let is_bool = self.is_word("bool") && !matches!(self.peek_after(1), Token::Punct("{"));
        if is_bool {
            if !op.is_comparison() {
                return Err(self.error_here("bool modifier can only be used on comparison operators"));
            }
            self.next();
        }
        if matches!(self.peek_after(1), Token::Punct("(")) && (self.is_word("on") || self.is_word("ignoring")) {
            matching.is_on = self.is_word("on");
            has_matching = true;
            self.next();
            matching.labels = self.labels("grouping opts")?;
            let left = self.is_word("group_left");
            if left || self.is_word("group_right") {
                let span = self.span();
                self.next();
                if op.is_set() {
                    return Err(self.error(span, format!("no grouping allowed for {:?} operation", op.as_str())));
                }
                matching.cardinality = if left { Cardinality::ManyToOne } else { Cardinality::OneToMany };
                if self.is("(") {
                    matching.include = self.labels("grouping opts")?;
                }
                if matching.is_on
                    && let Some(label) = matching.include.iter().find(|l| matching.labels.contains(l))
                {
                    return Err(self.error(span, format!("label {label:?} must not occur in ON and GROUP clause at once")));
                }
            }
        }
        loop {
            let (left, right) = match self.peek() {
                Token::Word(w) if !matches!(self.peek_after(1), Token::Punct("(")) || w.is_empty() => break,
                Token::Word(w) if w.eq_ignore_ascii_case("fill") => (true, true),
                Token::Word(w) if w.eq_ignore_ascii_case("fill_left") => (true, false),
                Token::Word(w) if w.eq_ignore_ascii_case("fill_right") => (false, true),
                _ => break,
            };
            let span = self.span();
            if op.is_set() {
                return Err(self.error(span, format!("filling in missing series not allowed for {:?} operation", op.as_str())));
            }
            self.next();
            self.expect("(", "in fill modifier")?;
            let negative = self.sign();
            let (Token::Number(v) | Token::Duration(v)) = self.next() else {
                self.at -= 1;
                return Err(self.unexpected("in fill modifier, expected number"));
            };
            self.expect(")", "in fill modifier")?;
            let v = if negative { -v } else { v };
            if left {
                matching.fill_left = Some(v);
            }
            if right {
                matching.fill_right = Some(v);
            }
            has_matching = true;
        }
        Ok((is_bool, matching, has_matching))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one operator, gathered by one caller")]
    fn binary(
        &self,
        op: BinaryOp,
        op_span: Range<usize>,
        left: Expr,
        right: Expr,
        is_bool: bool,
        matching: Matching,
        has_matching: bool,
    ) -> Parsed<Expr> {
        let (lt, rt) = (left.value_type(), right.value_type());
        for side in [&left, &right] {
            if !matches!(side.value_type(), ValueType::Scalar | ValueType::Vector) {
                return Err(self.error(side.span.clone(), "binary expression must contain only scalar and instant vector types"));
            }
        }
        let both_vectors = lt == ValueType::Vector && rt == ValueType::Vector;
        if op.is_set() && !both_vectors {
            return Err(self.error(op_span, format!("set operator {:?} not allowed in binary scalar expression", op.as_str())));
        }
        if op.is_comparison() && lt == ValueType::Scalar && rt == ValueType::Scalar && !is_bool {
            return Err(self.error(op_span, "comparisons between scalars must use BOOL modifier"));
        }
        if has_matching && !both_vectors {
            return Err(self.error(op_span, "vector matching only allowed between instant vectors"));
        }
        let span = left.span.start..right.span.end;
        self.make(Node::Binary { op, left: Box::new(left), right: Box::new(right), is_bool, matching }, span)
    }

    // ---- duration expressions

    /// What may follow `offset` without parentheses: one signed atom.
    fn offset_duration(&mut self) -> Parsed<Duration> {
        if self.take("-") {
            return Ok(Duration::Negate(Box::new(self.duration_atom()?)));
        }
        self.take("+");
        self.duration_atom()
    }

    fn duration_expr(&mut self, floor: u8) -> Parsed<Duration> {
        self.depth += 1;
        if self.depth > model::limits::PROMQL_DEPTH_MAX {
            return Err(self.error_here(format!("expression is nested deeper than {}", model::limits::PROMQL_DEPTH_MAX)));
        }
        let mut left = if self.take("-") {
            Duration::Negate(Box::new(self.duration_expr(POW)?))
        } else {
            self.take("+");
            self.duration_atom()?
        };
        let mut operators = 0;
        while let Some((op, precedence)) = self.binary_op() {
            if !(ADD..=POW).contains(&precedence) || precedence < floor || op == BinaryOp::Atan2 {
                break;
            }
            operators += 1;
            if operators > model::limits::PROMQL_DEPTH_MAX {
                return Err(self.error_here("duration expression is too long"));
            }
            self.next();
            let right = self.duration_expr(if op == BinaryOp::Pow { precedence } else { precedence + 1 })?;
            if op == BinaryOp::Div && matches!(right, Duration::Seconds(0.0)) {
                return Err(self.error_here("division by zero"));
            }
            if op == BinaryOp::Mod && matches!(right, Duration::Seconds(0.0)) {
                return Err(self.error_here("modulo by zero"));
            }
            left = Duration::Binary(op, Box::new(left), Box::new(right));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn duration_atom(&mut self) -> Parsed<Duration> {
        match self.peek().clone() {
            Token::Number(v) | Token::Duration(v) if v.is_finite() => {
                if v.abs() > 9.2e9 {
                    return Err(self.error_here("duration out of range"));
                }
                self.next();
                Ok(Duration::Seconds(v))
            }
            Token::Punct("(") => {
                self.next();
                let inner = self.duration_expr(0)?;
                self.expect(")", "in duration")?;
                Ok(inner)
            }
            Token::Word(word) => {
                let word = word.to_ascii_lowercase();
                match word.as_str() {
                    "step" | "range" => {
                        self.next();
                        self.expect("(", "in duration")?;
                        self.expect(")", "in duration")?;
                        Ok(if word == "step" { Duration::Step } else { Duration::Range })
                    }
                    "min_of" | "max_of" => {
                        self.next();
                        self.expect("(", "in duration")?;
                        let a = Box::new(self.duration_expr(0)?);
                        self.expect(",", "in duration")?;
                        let b = Box::new(self.duration_expr(0)?);
                        self.expect(")", "in duration")?;
                        Ok(if word == "min_of" { Duration::MinOf(a, b) } else { Duration::MaxOf(a, b) })
                    }
                    _ => Err(self.unexpected("in duration, expected number or duration")),
                }
            }
            _ => Err(self.unexpected("in duration, expected number or duration")),
        }
    }
}

fn duration_uses_query(duration: &Duration) -> bool {
    match duration {
        Duration::Seconds(_) => false,
        Duration::Step | Duration::Range => true,
        Duration::Negate(a) => duration_uses_query(a),
        Duration::Binary(_, a, b) | Duration::MinOf(a, b) | Duration::MaxOf(a, b) => {
            duration_uses_query(a) || duration_uses_query(b)
        }
    }
}

fn matches_empty(matcher: &Matcher) -> bool {
    match matcher.op {
        MatchOp::Equal => matcher.value.is_empty(),
        MatchOp::NotEqual => !matcher.value.is_empty(),
        MatchOp::Regex => super::regex(&matcher.value).is_ok_and(|r| r.is_match("")),
        MatchOp::NotRegex => super::regex(&matcher.value).is_ok_and(|r| !r.is_match("")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, want: &str) {
        let text = match parse(query) {
            Ok(expr) => expr.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(text, want, "{query}");
        if let Ok(expr) = parse(query) {
            assert_eq!(parse(&expr.to_string()).map(|e| e.to_string()), Ok(text), "canonical text of {query}");
        }
    }

    #[test]
    fn operators_bind_as_in_prometheus() {
        fn shape(e: &Expr) -> String {
            match &e.node {
                Node::Binary { op, left, right, .. } => format!("({} {} {})", shape(left), op.as_str(), shape(right)),
                Node::Negate(inner) => format!("(-{})", shape(inner)),
                Node::Paren(inner) => shape(inner),
                _ => e.to_string(),
            }
        }
        for (query, want) in [
            ("a + b * c", "(a + (b * c))"),
            ("a * b + c", "((a * b) + c)"),
            ("a ^ b ^ c", "(a ^ (b ^ c))"),
            ("-a ^ 2", "(-(a ^ 2))"),
            ("-a * b", "((-a) * b)"),
            ("a ^ -b", "(a ^ (-b))"),
            ("a or b and c unless d", "(a or ((b and c) unless d))"),
            ("a == bool b + 1", "(a == (b + 1))"),
            ("a atan2 b * c", "((a atan2 b) * c)"),
            ("a - b - c", "((a - b) - c)"),
        ] {
            assert_eq!(shape(&parse(query).unwrap()), want, "{query}");
        }
    }

    #[test]
    fn selectors_take_names_quoted_names_and_all_matchers() {
        check(r#"http_requests{job="a",code!~"5.."}"#, r#"http_requests{job="a",code!~"5.."}"#);
        check(r#"{"a.b", "x.y"='z'}"#, r#"{"a.b","x.y"="z"}"#);
        check(r#"job:x:rate5m offset 5m @ 10"#, "job:x:rate5m @ 10.000 offset 5m");
        check(r#"sum # a comment"#, "sum");
        check("by{by=\"x\",}", r#"by{by="x"}"#);
        check("{}", "1:1: parse error: vector selector must contain at least one non-empty matcher");
        check(r#"{a=~".*"}"#, "1:1: parse error: vector selector must contain at least one non-empty matcher");
        check(r#"a{"b"}"#, r#"1:3: parse error: metric name must not be set twice: "b""#);
        check(r#"a{b=~"("}"#, &parse(r#"a{b=~"("}"#).unwrap_err().to_string());
    }

    #[test]
    fn ranges_subqueries_offsets_and_duration_expressions_parse() {
        check("rate(a[1h30m])", "rate(a[1h30m])");
        check("rate(a[5m:1m] offset -1w)", "rate(a[5m:1m] offset (-(7d)))");
        check("max_over_time(rate(a[5m])[1h:] @ end())", "max_over_time(rate(a[5m])[1h:] @ end())");
        check("a[step() * 2 + 1m]", "a[((step() * 2s) + 1m)]");
        check("a offset 100 + 2", "a offset 1m40s + 2");
        check("increase(a[1m] smoothed)", "increase(a[1m] smoothed)");
        check("a[0]", "1:1: parse error: duration must be greater than 0");
        check("(a)[5m]", "1:1: parse error: ranges only allowed for vector selectors");
        check(
            "1 offset 5m",
            "1:1: parse error: offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
        );
    }

    #[test]
    fn aggregations_and_matching_keep_their_clauses() {
        check("sum(a) by (x, y)", "sum by (x, y) (a)");
        check("topk without(z)(3, a)", "topk without (z) (3, a)");
        check("SUM BY (job) (a)", "sum by (job) (a)");
        check("a * on(x) group_left(y) b", "a * on (x) group_left (y) b");
        check("a > bool ignoring(x) fill_left(-1) b", "a > bool ignoring (x) fill_left (-1) b");
        check("a * on(x) group_left(x) b", r#"1:11: parse error: label "x" must not occur in ON and GROUP clause at once"#);
    }

    #[test]
    fn wrong_types_are_told_as_prometheus_tells_them() {
        check("rate(a)", r#"1:6: parse error: expected type range vector in call to function "rate", got instant vector"#);
        check("1 > 2", "1:3: parse error: comparisons between scalars must use BOOL modifier");
        check("a and 1", r#"1:3: parse error: set operator "and" not allowed in binary scalar expression"#);
        check("foo(a)", r#"1:1: parse error: unknown function with name "foo""#);
        check("abs()", r#"1:1: parse error: expected 1 argument(s) in call to "abs", got 0"#);
        check("sum(a,)", "1:7: parse error: trailing commas not allowed in function call args");
        check("a[5m] + 1", "1:1: parse error: binary expression must contain only scalar and instant vector types");
        check("a +\n  )", r#"2:3: parse error: unexpected ")" in expression"#);
    }

    #[test]
    fn hostile_text_is_an_error_and_never_a_crash() {
        for text in [
            "",
            "(",
            "a{",
            "a{b",
            "a{b=",
            "a[",
            "a[5m",
            "a[5m:",
            "@",
            "a @",
            "a offset",
            "sum by",
            "sum by (",
            "é",
            "\"",
            "1e",
            "0x",
            "}",
            "a b",
            "a[5m] anchored anchored",
            "fill(1)",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse(&"(".repeat(60_000)).is_err());
        assert!(parse(&"-".repeat(60_000)).is_err());
        assert!(parse(&format!("{}a", "a + ".repeat(10_000))).is_err());
        assert!(parse(&format!("a[{}1]", "1+".repeat(10_000))).is_err());
        assert!(parse(&format!("a offset {}1", "(".repeat(10_000))).is_err());
        assert!(parse(&"a".repeat(1 << 20)).is_err());
        let query = r#"sum by (x) (rate(a{b=~"c.*"}[5m:1m] offset 1h @ start())) > bool on(x) group_left(y) fill(1) b"#;
        for end in 0..query.len() {
            if let Ok(expr) = parse(&query[..end]) {
                assert!(expr.span.end <= end);
            }
        }
    }

    #[test]
    fn metric_names_are_known_unless_a_selector_leaves_them_open() {
        let names = |q: &str| parse(q).unwrap().metric_names().map(|s| s.into_iter().collect::<Vec<_>>());
        assert_eq!(names("rate(a[5m]) / on() sum(b)"), Some(vec!["a".into(), "b".into()]));
        assert_eq!(names("vector(1)"), Some(vec![]));
        assert_eq!(names(r#"a + {job="x"}"#), None);
    }
}
