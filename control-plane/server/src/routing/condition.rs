//! Conditions: CEL expressions over an event, compiled once and bounded in what they may cost.
//!
//! The library evaluates; what bounds it is put into the expression when it is compiled: each turn of a loop takes from a
//! budget, sums of texts have a length, patterns are compiled ahead. Invariant: an expression that was compiled ends, without a
//! panic, after at most [`STEPS_MAX`] steps in loops and [`TIME_MAX`].

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use cel::common::types::{CelBool, CelDouble, CelInt, CelString, CelUInt, DYN_TYPE, INT_TYPE, STRING_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::context::VariableResolver;
use cel::parser::PrattParser;
use cel::{Context, Env, ExecutionError, IdedExpr};
use mindos_core::route::CONDITION_MAX;
use regex::Regex;

mod check;

/// How deep an expression may nest.
const DEPTH_MAX: u16 = 32;
/// Steps that an expression may take in its loops, counted in nodes of its tree.
pub const STEPS_MAX: u64 = 500_000;
/// How long an evaluation with loops may take.
pub const TIME_MAX: Duration = Duration::from_millis(100);
/// Steps and time that all conditions of one event may take where others wait for the thread.
const QUICK: (u64, Duration) = (10_000, Duration::from_millis(10));
/// The same on a thread where nobody waits.
const FULL: (u64, Duration) = (2_000_000, Duration::from_millis(250));
/// Steps that nobody is asked the time for.
const STEPS_FREE: u64 = 5_000;
/// The longest text that a pattern is held against, in bytes.
const MATCHED_MAX: usize = 64 << 10;
/// Bytes of a text that cost no steps with a pattern that costs little.
const MATCHED_FREE: usize = 256;
/// The longest text that `+` makes, in bytes.
const TEXT_MAX: usize = 4096;

/// Why an expression is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    #[error("has {len} bytes: expected 1 to {CONDITION_MAX}")]
    Length { len: usize },
    #[error("{message} (line {line}, column {column})")]
    Syntax { line: usize, column: usize, message: String },
    #[error("`{name}` is not known: expected one of {}", check::VARIABLES.join(", "))]
    Variable { name: String },
    #[error("function `{name}` is not known: expected one of {}", check::FUNCTIONS.join(", "))]
    Function { name: String },
    #[error("nests deeper than {DEPTH_MAX}")]
    Depth,
    #[error("has more than {} parts", check::NODES_MAX)]
    Nodes,
    #[error("`matches` wants its pattern as a text in quotes, so that it can be checked ahead")]
    PatternNotLiteral,
    #[error("pattern `{pattern}` is not accepted: {reason}")]
    Pattern { pattern: String, reason: String },
    #[error("lists and maps may hold constants only")]
    NotConstant,
}

/// An expression that was checked.
#[derive(Debug)]
pub struct Condition {
    tree: IdedExpr,
    patterns: Vec<Pattern>,
    /// Fields of the payload that it reads, as paths.
    paths: Vec<Vec<String>>,
}

/// What an expression came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Holds,
    DoesNot,
    /// It could not be evaluated, and so does not hold. Data: never trusted.
    Failed(String),
}

/// What the conditions of one event may take together.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    steps: u64,
    taken: u64,
    until: Instant,
    /// One could not be evaluated to its end within it.
    pub(super) used_up: bool,
}

impl Budget {
    fn new((steps, time): (u64, Duration)) -> Budget {
        Budget { steps, taken: 0, until: Instant::now() + time, used_up: false }
    }

    /// For a thread that others wait for.
    pub(super) fn quick() -> Budget {
        Budget::new(QUICK)
    }

    /// For a thread that nobody waits for.
    pub(super) fn full() -> Budget {
        Budget::new(FULL)
    }

    /// Does something that takes nothing of it.
    pub(super) fn without<T>(&mut self, read: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let value = read();
        self.until += began.elapsed();
        value
    }
}

/// A pattern that was compiled ahead.
#[derive(Clone, Debug)]
struct Pattern {
    regex: Regex,
    /// Bytes of text that cost a step. Small patterns become tables and pass over text; for large ones a thousand states may have to be
    /// looked at for each byte, which was measured to take 4 us.
    bytes_a_step: f64,
}

static PATTERN_TYPE: Type = Type::new_unspecified_type("mindos.pattern");

impl Val for Pattern {
    fn get_type(&self) -> &Type {
        &PATTERN_TYPE
    }

    fn cel_type() -> &'static Type {
        &PATTERN_TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }
}

impl StaticVal for Pattern {}

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
    static NOT_COUNTED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Does something whose time no condition is to answer for: reading the payload, which is bounded by its size.
pub(super) fn not_counted<T>(read: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let value = read();
    let took = began.elapsed();
    NOT_COUNTED.set(NOT_COUNTED.get() + took);
    UNTIL.set(UNTIL.get().map(|until| until + took));
    value
}

const SPEND: &str = "@spend";
const ADD: &str = "@add";
const MATCHES: &str = "@matches";

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    let declared = "the library declares no names that begin with @ and are ours";
    env.add_overload(SPEND, "mindos_spend", vec![INT_TYPE], spend).expect(declared);
    env.add_overload(ADD, "mindos_add", vec![DYN_TYPE, DYN_TYPE], add).expect(declared);
    env.add_overload(MATCHES, "mindos_matches", vec![STRING_TYPE, DYN_TYPE], matches).expect(declared);
    Arc::new(env)
});

/// Takes the steps of one turn from the budget; false once it is used up.
fn spend<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let asked = arguments.first().and_then(|steps| steps.downcast_ref::<CelInt>()).map_or(0, |steps| *steps.inner());
    let left = STEPS.get().saturating_sub(asked.unsigned_abs().max(1));
    let late = UNTIL.get().is_some_and(|until| Instant::now() > until);
    STEPS.set(if late { 0 } else { left });
    Ok(CowVal::owned(CelBool::from(left > 0 && !late)))
}

fn add<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [left, right] = arguments.as_slice() else { return Err(ExecutionError::missing_argument_or_target()) };
    let overflow = || ExecutionError::function_error("+", "the sum is out of range");
    if let (Some(left), Some(right)) = (left.downcast_ref::<CelInt>(), right.downcast_ref::<CelInt>()) {
        return Ok(CowVal::owned(CelInt::from(left.inner().checked_add(*right.inner()).ok_or_else(overflow)?)));
    }
    if let (Some(left), Some(right)) = (left.downcast_ref::<CelUInt>(), right.downcast_ref::<CelUInt>()) {
        return Ok(CowVal::owned(CelUInt::from(left.inner().checked_add(*right.inner()).ok_or_else(overflow)?)));
    }
    if let (Some(left), Some(right)) = (left.downcast_ref::<CelDouble>(), right.downcast_ref::<CelDouble>()) {
        return Ok(CowVal::owned(CelDouble::from(left.inner() + right.inner())));
    }
    if let (Some(left), Some(right)) = (left.downcast_ref::<CelString>(), right.downcast_ref::<CelString>()) {
        let (left, right) = (left.inner(), right.inner());
        if left.len() + right.len() > TEXT_MAX {
            return Err(ExecutionError::function_error("+", format!("the text has more than {TEXT_MAX} bytes")));
        }
        return Ok(CowVal::owned(CelString::from(format!("{left}{right}"))));
    }
    let names = [left, right].map(|value| value.get_type().name().to_owned());
    Err(ExecutionError::no_such_overload("+", names.into()))
}

fn matches<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let text = arguments.first().and_then(|text| text.downcast_ref::<CelString>());
    let pattern = arguments.get(1).and_then(|pattern| pattern.downcast_ref::<Pattern>());
    let (Some(text), Some(Pattern { regex, bytes_a_step })) = (text, pattern) else {
        return Err(ExecutionError::missing_argument_or_target());
    };
    let text = text.inner();
    if text.len() > MATCHED_MAX {
        return Err(ExecutionError::function_error("matches", format!("the text has more than {MATCHED_MAX} bytes")));
    }
    // Names and titles are free with patterns that cost little.
    let counted = if *bytes_a_step < 1.0 { text.len() } else { text.len().saturating_sub(MATCHED_FREE) };
    let steps = (counted as f64 / bytes_a_step) as u64;
    STEPS.set(STEPS.get().saturating_sub(steps));
    if STEPS.get() == 0 {
        return Err(ExecutionError::function_error("matches", "the steps are used up"));
    }
    Ok(CowVal::owned(CelBool::from(regex.is_match(text))))
}

impl Condition {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Says what is wrong and what is accepted.
    pub fn compile(text: &str) -> Result<Condition, ConditionError> {
        if !(1..=CONDITION_MAX).contains(&text.len()) {
            return Err(ConditionError::Length { len: text.len() });
        }
        let parser = PrattParser::new()
            .max_recursion_depth(DEPTH_MAX)
            .max_expression_node_count(check::NODES_MAX)
            .error_recovery_limit(2)
            .enable_ident_escape_syntax(true);
        let unreadable = |message: String| ConditionError::Syntax { line: 1, column: 1, message };
        // The parser is not ours; what it cannot do must not end the process.
        let parsed = catch_unwind(AssertUnwindSafe(|| parser.parse(text)));
        let mut tree = match parsed {
            Ok(Ok(tree)) => tree,
            Ok(Err(errors)) => {
                let Some(first) = errors.errors.into_iter().next() else {
                    return Err(unreadable("is not an expression".to_owned()));
                };
                let place = |number: isize| usize::try_from(number).unwrap_or(1).max(1);
                let (line, column) = (place(first.pos.0), place(first.pos.1));
                let message = first.msg.chars().take(200).collect();
                return Err(ConditionError::Syntax { line, column, message });
            }
            Err(_) => return Err(unreadable("is not an expression".to_owned())),
        };
        let check::Checked { patterns, paths } = check::check(&mut tree)?;
        Ok(Condition { tree, patterns, paths })
    }

    pub(super) fn paths(&self) -> &[Vec<String>] {
        &self.paths
    }

    /// Evaluates it. `variables` has the event's; what it takes comes out of the event's budget.
    pub(super) fn holds(&self, variables: &dyn VariableResolver, budget: &mut Budget) -> Verdict {
        let began = Instant::now();
        let steps = STEPS_MAX.min(budget.steps);
        // Conditions that take no steps are as long as they are written; a large table of them is nobody's trick.
        if steps == 0 || (budget.taken > STEPS_FREE && began > budget.until) {
            budget.used_up = true;
            return Verdict::Failed("the conditions of the event took too long together".to_owned());
        }
        STEPS.set(steps);
        UNTIL.set(Some((began + TIME_MAX).min(budget.until)));
        let resolver = Resolver { variables, patterns: &self.patterns };
        let evaluated = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(Arc::clone(&ENV));
            context.set_variable_resolver(&resolver);
            let value = cel::Value::resolve_val(&self.tree, &context).map_err(|error| error.to_string())?;
            match value.downcast_ref::<CelBool>() {
                Some(truth) => Ok(*truth.inner()),
                None => Err(format!("expected a bool, found {}", value.get_type().name())),
            }
        }));
        let short = |text: String| Verdict::Failed(text.chars().take(200).collect());
        let left = STEPS.get();
        let taken = steps.saturating_sub(left).min(budget.steps);
        budget.steps -= taken;
        budget.taken += taken;
        budget.until += NOT_COUNTED.replace(Duration::ZERO);
        budget.used_up |= left == 0;
        match evaluated {
            _ if STEPS.get() == 0 => short(format!("took more than {STEPS_MAX} steps or {} ms", TIME_MAX.as_millis())),
            Ok(Ok(true)) => Verdict::Holds,
            Ok(Ok(false)) => Verdict::DoesNot,
            Ok(Err(error)) => short(error),
            Err(_) => short("the evaluation panicked".to_owned()),
        }
    }
}

/// An event's variables and the expression's own patterns.
struct Resolver<'a> {
    variables: &'a dyn VariableResolver,
    patterns: &'a [Pattern],
}

impl VariableResolver for Resolver<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        match variable.strip_prefix(check::PATTERN) {
            Some(number) => self.patterns.get(number.parse::<usize>().ok()?).map(|pattern| CowVal::Borrowed(pattern)),
            None => self.variables.resolve(variable),
        }
    }
}

#[cfg(test)]
#[path = "condition_tests.rs"]
mod tests;
