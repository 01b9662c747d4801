//! What an expression may say, and where its bounds are put in.

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, ListExpr, LiteralValue, operators};
use cel::common::types::CelInt;
use regex::RegexBuilder;

use super::{ADD, ConditionError, DEPTH_MAX, MATCHES, Pattern, SPEND};

/// Names an expression may use.
pub(super) const VARIABLES: [&str; 10] =
    ["type", "source", "subject", "kind", "actor", "repository", "lane", "id", "attributes", "data"];
/// Functions an expression may call, those that are macros of the language among them.
pub(super) const FUNCTIONS: [&str; 15] = [
    "has",
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "exists",
    "exists_one",
    "all",
    "filter",
    "map",
    "int",
    "uint",
    "double",
    "string",
];
const OPERATORS: [&str; 17] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::NOT_STRICTLY_FALSE,
    operators::IN,
];
/// Nodes of an expression's tree.
pub(super) const NODES_MAX: usize = 600;
/// How deep the tree may be once macros stand expanded in it.
const TREE_DEPTH_MAX: usize = 3 * DEPTH_MAX as usize;
/// What names a pattern that was compiled ahead; no expression can write it.
pub(super) const PATTERN: &str = "@pattern";
/// Bytes that a compiled pattern may take.
const PATTERN_SIZE_MAX: usize = 1 << 18;
/// Bytes that a pattern takes at most which costs little.
const PATTERN_SIZE_SMALL: usize = 1 << 14;
/// Bytes of text for a step, with a pattern that costs little and with others.
const BYTES_A_STEP_SMALL: f64 = 1.0;
const BYTES_A_STEP: f64 = 0.25;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) patterns: Vec<Pattern>,
    /// Fields of the payload that are read, as paths.
    pub(super) paths: Vec<Vec<String>>,
}

#[derive(Debug, Default)]
struct Walk {
    found: Checked,
    nodes: usize,
    /// Names that loops around here bind.
    bound: Vec<String>,
}

/// Checks a tree and puts its bounds in.
pub(super) fn check(tree: &mut IdedExpr) -> Result<Checked, ConditionError> {
    let mut walk = Walk::default();
    walk.expression(tree, 0)?;
    Ok(walk.found)
}

fn node(expr: Expr) -> IdedExpr {
    IdedExpr { id: 0, expr }
}

fn call(name: &str, args: Vec<IdedExpr>) -> Expr {
    Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args })
}

/// The text of a literal.
fn literal(expr: &IdedExpr) -> Option<String> {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_owned()),
        _ => None,
    }
}

impl Walk {
    fn expression(&mut self, node: &mut IdedExpr, depth: usize) -> Result<(), ConditionError> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(ConditionError::Nodes);
        }
        if depth > TREE_DEPTH_MAX {
            return Err(ConditionError::Depth);
        }
        if let Some(path) = self.path(node) {
            if path.len() > usize::from(DEPTH_MAX) {
                return Err(ConditionError::Depth);
            }
            self.found.paths.push(path);
            return Ok(());
        }
        match &mut node.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.expression(&mut select.operand, depth + 1),
            Expr::List(ListExpr { elements, optional_indices: _ }) => match elements.as_mut_slice() {
                // One element alone multiplies nothing, and it is what `map` and `filter` collect.
                [element] => self.expression(element, depth + 1),
                elements => self.constants(elements.iter_mut(), depth),
            },
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    match &mut entry.expr {
                        EntryExpr::MapEntry(entry) => self.constants([&mut entry.key, &mut entry.value], depth)?,
                        EntryExpr::StructField(_) => return Err(ConditionError::NotConstant),
                    }
                }
                Ok(())
            }
            Expr::Struct(of) => Err(ConditionError::Function { name: of.type_name.clone() }),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, depth),
            Expr::Call(_) => self.call(node, depth),
            Expr::Unspecified => {
                Err(ConditionError::Syntax { line: 1, column: 1, message: "is not an expression".to_owned() })
            }
        }
    }

    fn name(&mut self, name: &str) -> Result<(), ConditionError> {
        if self.bound.iter().any(|bound| bound == name) {
            return Ok(());
        }
        match VARIABLES.contains(&name) {
            true => Ok(()),
            false => Err(ConditionError::Variable { name: name.chars().take(80).collect() }),
        }
    }

    /// The fields from `data` on, where the node is nothing but such a chain.
    fn path(&self, node: &IdedExpr) -> Option<Vec<String>> {
        match &node.expr {
            Expr::Ident(name) if name == "data" && !self.bound.contains(name) => Some(Vec::new()),
            Expr::Select(select) => {
                let mut path = self.path(&select.operand)?;
                path.push(select.field.clone());
                Some(path)
            }
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let [of, index] = call.args.as_slice() else { return None };
                let field = literal(index)?;
                let mut path = self.path(of)?;
                path.push(field);
                Some(path)
            }
            _ => None,
        }
    }

    fn constants<'a>(
        &mut self,
        nodes: impl IntoIterator<Item = &'a mut IdedExpr>,
        depth: usize,
    ) -> Result<(), ConditionError> {
        for node in nodes {
            let negated = matches!(&node.expr, Expr::Call(call)
                if call.func_name == operators::NEGATE && matches!(call.args.as_slice(), [IdedExpr { expr: Expr::Literal(_), .. }]));
            if !negated && !matches!(node.expr, Expr::Literal(_)) {
                return Err(ConditionError::NotConstant);
            }
            self.expression(node, depth + 1)?;
        }
        Ok(())
    }

    fn call(&mut self, node: &mut IdedExpr, depth: usize) -> Result<(), ConditionError> {
        let Expr::Call(called) = &mut node.expr else { return Ok(()) };
        if called.func_name == "matches" {
            let mut operands: Vec<IdedExpr> = called.target.take().map(|target| *target).into_iter().collect();
            operands.append(&mut called.args);
            let [text, pattern] = operands.as_mut_slice() else {
                return Err(ConditionError::Function { name: "matches".to_owned() });
            };
            let pattern = literal(pattern).ok_or(ConditionError::PatternNotLiteral)?;
            let mut text = std::mem::take(text);
            self.expression(&mut text, depth + 1)?;
            let name = self.pattern(&pattern)?;
            node.expr = call(MATCHES, vec![text, self::node(Expr::Ident(name))]);
            return Ok(());
        }
        let name = called.func_name.as_str();
        if name == operators::ADD {
            called.func_name = ADD.to_owned();
        } else if name != operators::INDEX && !OPERATORS.contains(&name) && !FUNCTIONS.contains(&name) {
            return Err(ConditionError::Function { name: name.chars().take(80).collect() });
        }
        let target = called.target.as_deref_mut();
        for operand in target.into_iter().chain(&mut called.args) {
            self.expression(operand, depth + 1)?;
        }
        Ok(())
    }

    fn pattern(&mut self, text: &str) -> Result<String, ConditionError> {
        let built = RegexBuilder::new(text).size_limit(PATTERN_SIZE_MAX).dfa_size_limit(PATTERN_SIZE_MAX).build();
        let compiled = built.map_err(|error| {
            let reason = match error {
                regex::Error::CompiledTooBig(max) => format!("it takes more than {max} bytes"),
                // The last line says what is wrong, those before it draw the place.
                other => other.to_string().lines().last().unwrap_or_default().trim().chars().take(200).collect(),
            };
            ConditionError::Pattern { pattern: text.chars().take(80).collect(), reason }
        })?;
        let small = RegexBuilder::new(text).size_limit(PATTERN_SIZE_SMALL).build().is_ok();
        let bytes_a_step = if small { BYTES_A_STEP_SMALL } else { BYTES_A_STEP };
        self.found.patterns.push(Pattern { regex: compiled, bytes_a_step });
        Ok(format!("{PATTERN}{}", self.found.patterns.len() - 1))
    }

    fn comprehension(&mut self, of: &mut ComprehensionExpr, depth: usize) -> Result<(), ConditionError> {
        self.expression(&mut of.iter_range, depth + 1)?;
        let before = (self.nodes, self.bound.len());
        self.bound.push(of.iter_var.clone());
        self.bound.extend(of.iter_var2.clone());
        self.bound.push(of.accu_var.clone());
        // What the macros put together adds to what they collect; only what a person wrote is a sum.
        self.step(&mut of.loop_step, &of.accu_var, depth)?;
        self.expression(&mut of.loop_cond, depth + 1)?;
        self.expression(&mut of.result, depth + 1)?;
        if !matches!(of.accu_init.expr, Expr::List(_) | Expr::Literal(_)) {
            return Err(ConditionError::NotConstant);
        }
        self.bound.truncate(before.1);
        let steps = i64::try_from(self.nodes - before.0).unwrap_or(i64::MAX);
        bound(of, steps);
        Ok(())
    }

    /// A loop's step, whose sum with what was collected stays as it is.
    fn step(&mut self, node: &mut IdedExpr, accu: &str, depth: usize) -> Result<(), ConditionError> {
        let is_accu = |node: &IdedExpr| matches!(&node.expr, Expr::Ident(name) if name == accu);
        match &mut node.expr {
            Expr::Call(call) if call.func_name == operators::CONDITIONAL => {
                let [guard, then, otherwise] = call.args.as_mut_slice() else { return Err(ConditionError::Nodes) };
                self.expression(guard, depth + 1)?;
                self.step(then, accu, depth + 1)?;
                self.step(otherwise, accu, depth + 1)
            }
            Expr::Call(call) if call.func_name == operators::ADD && call.args.first().is_some_and(is_accu) => {
                call.args.iter_mut().skip(1).try_for_each(|operand| self.expression(operand, depth + 1))
            }
            _ => self.expression(node, depth + 1),
        }
    }
}

/// Has each turn of a loop take its steps from the budget, in a place where the library still knows the loop for what it is.
fn bound(of: &mut ComprehensionExpr, steps: i64) {
    let spend = || node(call(SPEND, vec![node(Expr::Literal(LiteralValue::Int(CelInt::from(steps))))]));
    let and = |left, right| node(call(operators::LOGICAL_AND, vec![left, right]));
    if !matches!(of.loop_cond.expr, Expr::Literal(_)) {
        of.loop_cond = and(spend(), std::mem::take(&mut of.loop_cond));
        return;
    }
    match &mut of.loop_step.expr {
        Expr::Call(step) if step.func_name == operators::CONDITIONAL && step.args.len() == 3 => {
            step.args[0] = and(spend(), std::mem::take(&mut step.args[0]));
        }
        Expr::Call(step) if step.func_name == operators::ADD && step.args.len() == 2 => {
            if let Expr::List(ListExpr { elements, .. }) = &mut step.args[1].expr {
                for element in elements {
                    let null = node(Expr::Literal(LiteralValue::Null));
                    let args = vec![spend(), std::mem::take(element), null];
                    element.expr = call(operators::CONDITIONAL, args);
                }
            } else {
                of.loop_cond = spend();
            }
        }
        _ => of.loop_cond = spend(),
    }
}
