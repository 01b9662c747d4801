//! Routes: which events concern which generals, by which strategy, under which policies.
//!
//! Invariant: a table in force ends with a route that matches everything, so every routed event finds one.

use std::sync::Arc;
use std::time::Duration;

use mindos_model::{ClusterName, GeneralName, GeneralType, Priority, Region, RouteName, Strategy, limits};

use crate::guard::{self, Guards, TrustRules};
pub use crate::policy::{
    DEGRADE_MAX, DELAY_MAX, Degrade, NoGeneral, Policy, Retry, SHADOW_TTL, THERE_GRACE, Version, Weight,
};

/// The rules of a tenant, in order: the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTable {
    pub routes: Vec<Route>,
    /// Unset where the table says nothing of trust.
    pub trust: Option<Arc<TrustRules>>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub name: RouteName,
    pub matches: Match,
    pub targets: Targets,
    pub strategy: Strategy,
    /// Generals per event under `load_balanced`; 1 otherwise.
    pub count: u32,
    pub coalesce: Coalesce,
    /// Of events that ask for none.
    pub priority: Priority,
    /// Attempts before a delivery is parked.
    pub attempts_max: u32,
    /// How long a general may work without progress.
    pub deadline: Duration,
    /// How long a lane's head may hold it up while not leased.
    pub block_max: Duration,
    /// What it asks of an event's origin, where that differs from what the table asks.
    pub guards: Option<Box<Guards>>,
    pub policy: Policy,
}

impl Route {
    /// A route with the stock policies.
    #[must_use]
    pub fn new(name: RouteName, matches: Match, targets: Targets, strategy: Strategy) -> Route {
        Route {
            name,
            matches,
            targets,
            strategy,
            count: if strategy == Strategy::LoadBalanced { LOAD_BALANCED_COUNT } else { 1 },
            coalesce: Coalesce::Every,
            priority: Priority::Normal,
            attempts_max: limits::ATTEMPTS_MAX,
            deadline: limits::DEADLINE,
            block_max: limits::BLOCK_MAX,
            guards: None,
            policy: Policy::default(),
        }
    }
}

/// Generals per event of the stock table's `load_balanced` routes.
pub const LOAD_BALANCED_COUNT: u32 = 3;
/// Routes of one table.
pub const ROUTES_MAX: usize = 1000;
/// The longest condition, in bytes.
pub const CONDITION_MAX: usize = 4096;

/// Which events: every list that is not empty must have a pattern that fits, and the condition must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Fit the event's kind, or else its type.
    pub kinds: Vec<Pattern>,
    pub subjects: Vec<Pattern>,
    /// An expression over the event. Only its text is known here: whether it holds is judged before an event is offered.
    pub condition: Option<Arc<str>>,
}

impl Match {
    /// Whether every event fits.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.kinds.is_empty() && self.subjects.is_empty() && self.condition.is_none()
    }

    /// Whether an event of this kind, type and subject fits, if the condition holds.
    #[must_use]
    pub fn fits(&self, kind: &str, ty: &str, subject: Option<&str>) -> bool {
        let any = |patterns: &[Pattern], texts: &[&str]| {
            patterns.is_empty() || patterns.iter().any(|pattern| texts.iter().any(|text| pattern.fits(text)))
        };
        any(&self.kinds, &[kind, ty]) && self.fits_subject(subject)
    }

    /// Whether an event of this subject fits, if its kind does and the condition holds.
    pub(crate) fn fits_subject(&self, subject: Option<&str>) -> bool {
        let subject = subject.unwrap_or_default();
        self.subjects.is_empty() || self.subjects.iter().any(|pattern| pattern.fits(subject))
    }
}

/// A text, or the beginning of one when it ends in `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Takes a pattern with at most one `*`, as its last character.
    ///
    /// # Errors
    /// Says what is accepted.
    pub fn new(text: &str) -> Result<Pattern, RouteError> {
        let inner = text.strip_suffix('*').unwrap_or(text);
        if text.is_empty() || text.len() > limits::ATTRIBUTE_MAX || inner.contains('*') {
            return Err(RouteError::Pattern { text: text.chars().take(80).collect() });
        }
        Ok(Pattern(Arc::from(text)))
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a text fits.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => text.starts_with(beginning),
            None => *self.0 == *text,
        }
    }
}

/// Which generals: every list that is not empty must name the general's value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    pub types: Vec<GeneralType>,
    pub clusters: Vec<ClusterName>,
    pub regions: Vec<Region>,
    pub names: Vec<GeneralName>,
    /// All of them must stand on the general.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Shares under `split`; empty otherwise.
    pub weights: Vec<Weight>,
}

/// What a newer event of the same lane and kind does to an older one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coalesce {
    /// Nothing: every event is worked on.
    #[default]
    Every,
    /// Takes its place: cancels it where it waits and where it is leased.
    Latest,
    /// Takes the place of one that has not begun, and waits until nothing came for `quiet`, at most for `longest` from the first.
    Debounce { quiet: Duration, longest: Duration },
}

/// Why a table is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("routes: there are {count}: expected 1 to {max}", max = ROUTES_MAX)]
    Count { count: usize },
    #[error("routes[{index}].name: `{name}` stands twice")]
    Duplicate { index: usize, name: RouteName },
    #[error("routes: the last one must match everything: leave the match of `{name}` empty")]
    NoDefault { name: RouteName },
    #[error("routes[{index}]: `{name}` is never reached, because `{earlier}` before it matches everything")]
    Unreachable { index: usize, name: RouteName, earlier: RouteName },
    #[error("routes[{index}].{field}: {value} is out of range: expected {expected}")]
    Range { index: usize, field: &'static str, value: u64, expected: &'static str },
    #[error("routes[{index}].{field}: {span:?} is out of range: expected {expected}")]
    Span { index: usize, field: &'static str, span: Duration, expected: &'static str },
    #[error("routes[{index}].{field}: {reason}")]
    Policy { index: usize, field: &'static str, reason: &'static str },
    #[error(
        "routes[{index}].degrade[{place}].{word}: `{text}` is not accepted: expected the name or type of a general"
    )]
    Degrade { index: usize, place: usize, word: &'static str, text: String },
    #[error("routes[{index}].{field}: {reason}")]
    Affinity { index: usize, field: String, reason: String },
    #[error("pattern `{text}`: expected 1 to 1024 bytes with at most one `*`, at the end")]
    Pattern { text: String },
    #[error("routes[{index}].match.expr: has {len} bytes: expected 1 to {CONDITION_MAX}")]
    Condition { index: usize, len: usize },
    #[error("{field}: {text} is not accepted: expected {expected}")]
    Guards { field: String, text: String, expected: String },
    #[error("routes[{index}].name: `{name}` begins as the names of routes that publishers ask for: expected another than `{prefix}..`", prefix = crate::asked::ASKED_PREFIX)]
    Reserved { index: usize, name: RouteName },
    #[error("route `{name}` may not be asked for: expected a name that begins with `{prefix}` and no match", prefix = crate::asked::ASKED_PREFIX)]
    NotAsked { name: RouteName },
    #[error("routes[{index}].targets: names nothing: expected a type, name, label, cluster or region")]
    NoTargets { index: usize },
}

impl RouteTable {
    /// Checks a whole table.
    ///
    /// # Errors
    /// Names the first route and field that is not accepted.
    pub fn check(&self) -> Result<(), RouteError> {
        if self.routes.is_empty() || self.routes.len() > ROUTES_MAX {
            return Err(RouteError::Count { count: self.routes.len() });
        }
        let mut earlier_default: Option<&Route> = None;
        for (index, route) in self.routes.iter().enumerate() {
            if self.routes[..index].iter().any(|earlier| earlier.name == route.name) {
                return Err(RouteError::Duplicate { index, name: route.name.clone() });
            }
            if route.name.as_str().starts_with(crate::asked::ASKED_PREFIX) {
                return Err(RouteError::Reserved { index, name: route.name.clone() });
            }
            if let Some(earlier) = earlier_default {
                let (name, earlier) = (route.name.clone(), earlier.name.clone());
                return Err(RouteError::Unreachable { index, name, earlier });
            }
            if route.matches.is_everything() {
                earlier_default = Some(route);
            }
            route.check(index)?;
        }
        if let Some(trust) = &self.trust {
            check_guards(&trust.guards, "guards")?;
            let is_login = |login: &Arc<str>| (1..=100).contains(&login.len());
            let logins = &trust.own_logins;
            if logins.len() > guard::OWN_LOGINS_MAX || !logins.iter().all(is_login) {
                let expected = format!("at most {} of 1 to 100 bytes", guard::OWN_LOGINS_MAX);
                let text = format!("a list of {}", logins.len());
                return Err(RouteError::Guards { field: "own_logins".to_owned(), text, expected });
            }
        }
        crate::policy::check_fall_backs(&self.routes)?;
        match (earlier_default, self.routes.last()) {
            (None, Some(last)) => Err(RouteError::NoDefault { name: last.name.clone() }),
            _ => Ok(()),
        }
    }

    /// The stock table: that of the GitLens contract, and before its last row the one for tasks.
    ///
    /// # Panics
    /// Never: the table is checked by a test.
    #[must_use]
    pub fn stock() -> RouteTable {
        /// Place of the route for tasks.
        const TASK: usize = 6;
        let stock = |name: &str, kinds: &[&str], types: &[&str], strategy| {
            let kinds = kinds.iter().map(|kind| Pattern(Arc::from(*kind))).collect();
            let types = types.iter().map(|ty| GeneralType::new(ty).expect("stock types are names")).collect();
            let name = RouteName::new(name).expect("stock routes are names");
            let matches = Match { kinds, ..Match::default() };
            Route::new(name, matches, Targets { types, ..Targets::default() }, strategy)
        };
        let mut routes = vec![
            stock(
                "pr-created",
                &["pr_created"],
                &["architecture-general", "security-general", "code-review-general"],
                Strategy::Broadcast,
            ),
            stock(
                "needs-attention",
                &["needs_attention"],
                &["triage-general", "priority-general"],
                Strategy::Broadcast,
            ),
            stock(
                "review-started",
                &["review_started"],
                &["code-review-general", "quality-assurance-general"],
                Strategy::LoadBalanced,
            ),
            stock(
                "review-submitted",
                &["review_submitted"],
                &["code-review-general", "quality-assurance-general"],
                Strategy::LoadBalanced,
            ),
            stock("pr-merged", &["pr_merged"], &["deployment-general", "documentation-general"], Strategy::RoundRobin),
            stock("commit-graph", &["commit_graph"], &["analytics-general", "metrics-general"], Strategy::RoundRobin),
            stock("task", &["task"], &["coding-general"], Strategy::LoadBalanced),
            stock("default", &[], &["general-purpose-general"], Strategy::RoundRobin),
        ];
        // What is asked for is done once.
        routes[TASK].count = 1;
        RouteTable { routes, trust: None }
    }
}

impl Route {
    pub(crate) fn check(&self, index: usize) -> Result<(), RouteError> {
        if self.targets.names_nothing() {
            return Err(RouteError::NoTargets { index });
        }
        if let Some(condition) = &self.matches.condition
            && !(1..=CONDITION_MAX).contains(&condition.len())
        {
            return Err(RouteError::Condition { index, len: condition.len() });
        }
        if let Some(guards) = &self.guards {
            check_guards(guards, &format!("routes[{index}].guards"))?;
        }
        let seconds = |span: Duration| span.as_secs();
        let checks = [
            ("count", u64::from(self.count), 1..=64, "1 to 64"),
            ("attempts_max", u64::from(self.attempts_max), 1..=100, "1 to 100"),
            ("deadline", seconds(self.deadline), 1..=86_400, "1 s to 24 h"),
            ("block_max", seconds(self.block_max), 1..=86_400, "1 s to 24 h"),
        ];
        for (field, value, range, expected) in checks {
            if !range.contains(&value) {
                return Err(RouteError::Range { index, field, value, expected });
            }
        }
        self.check_policy(index)
    }
}

fn check_guards(guards: &Guards, field: &str) -> Result<(), RouteError> {
    let bad = |name: &str, text: String, expected: String| RouteError::Guards {
        field: format!("{field}.{name}"),
        text,
        expected,
    };
    let known = |word: &&Arc<str>| !guard::ASSOCIATIONS.contains(&&***word);
    if let Some(word) = guards.association.iter().find(known) {
        let text = format!("`{}`", word.chars().take(80).collect::<String>());
        return Err(bad("association", text, guard::ASSOCIATIONS.join(", ")));
    }
    if guards.association.len() > guard::ASSOCIATIONS.len() {
        return Err(bad("association", "more than there are".to_owned(), guard::ASSOCIATIONS.join(", ")));
    }
    match guards.hops_max {
        Some(hops) if !(1..=guard::HOPS_MAX).contains(&hops) => {
            Err(bad("hops_max", hops.to_string(), format!("1 to {}", guard::HOPS_MAX)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_table_passes_its_own_check() {
        assert_eq!(RouteTable::stock().check(), Ok(()));
    }

    #[test]
    fn a_table_without_a_default_is_refused() {
        let mut table = RouteTable::stock();
        table.routes.pop();
        assert!(matches!(table.check(), Err(RouteError::NoDefault { .. })));
    }

    #[test]
    fn a_route_behind_the_default_is_refused() {
        let mut table = RouteTable::stock();
        table.routes.swap(6, 7);
        assert!(matches!(table.check(), Err(RouteError::Unreachable { index: 7, .. })));
    }

    #[test]
    fn patterns_fit_whole_texts_or_beginnings() {
        let exact = Pattern::new("pr_created").unwrap();
        assert!(exact.fits("pr_created") && !exact.fits("pr_created2"));
        let beginning = Pattern::new("com.github.*").unwrap();
        assert!(beginning.fits("com.github.push") && !beginning.fits("com.gitlab.push"));
        assert!(Pattern::new("a*b").is_err() && Pattern::new("").is_err());
    }
}
