//! Guards on trust: what is known of where an event came from, and what a route makes of it before anything is leased.
//!
//! The shell says what it knows ([`Trust`]); a table and its routes say what they make of it ([`Guards`]). Invariant: the
//! first guard that does not let an event pass decides, in the order of [`Guard`], and stands in the event's record.

use std::sync::Arc;

/// What is known of an event's origin. What nobody said is as in `Trust::default()`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// It comes from a fork of the repository.
    pub fork: bool,
    /// A program caused it.
    pub bot: bool,
    /// It carries the mark of an effect of our own.
    pub echo: bool,
    /// What its author is to the repository, in GitHub's word, such as `MEMBER`.
    pub association: Option<Arc<str>>,
    /// How many events of ours led to it.
    pub hops: u32,
}

/// What a guard does with an event that it does not let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuardAction {
    Allow,
    /// Its deliveries are parked as `guarded` until a person redrives them.
    Park,
    /// It is recorded, and nothing follows.
    Drop,
}

impl GuardAction {
    /// The word as it is written everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            GuardAction::Allow => "allow",
            GuardAction::Park => "park",
            GuardAction::Drop => "drop",
        }
    }
}

/// Which guard did not let an event pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// Too many events of ours led to it.
    Hops,
    /// It is an echo of our own doing.
    Echo,
    /// A program caused it.
    Bot,
    /// It comes from a fork.
    Fork,
    /// Its author is not one of those who may.
    Association,
}

impl Guard {
    /// The word as it is written everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Guard::Hops => "hops",
            Guard::Echo => "echo",
            Guard::Bot => "bot",
            Guard::Fork => "fork",
            Guard::Association => "association",
        }
    }
}

/// What stopped an event, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guarded {
    pub guard: Guard,
    /// Never `Allow`.
    pub action: GuardAction,
}

/// What a route asks of an event's origin. What is unset is as the table says, and where that says nothing, all may pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    pub forks: Option<GuardAction>,
    pub bots: Option<GuardAction>,
    pub echoes: Option<GuardAction>,
    /// Associations that may pass, `ANY` for all; others are parked. Empty is unset.
    pub association: Vec<Arc<str>>,
    /// More hops than these are dropped: they run in a circle.
    pub hops_max: Option<u32>,
}

/// What a table says of trust for all its routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustRules {
    pub guards: Guards,
    /// Actors whose events are echoes of our own doing.
    pub own_logins: Vec<Arc<str>>,
}

/// Lets everybody pass as an association.
pub const ANY: &str = "ANY";
/// What GitHub may say that an author is, and [`ANY`].
pub const ASSOCIATIONS: [&str; 9] = [
    "OWNER",
    "MEMBER",
    "COLLABORATOR",
    "CONTRIBUTOR",
    "FIRST_TIME_CONTRIBUTOR",
    "FIRST_TIMER",
    "MANNEQUIN",
    "NONE",
    ANY,
];
/// Most logins of our own.
pub const OWN_LOGINS_MAX: usize = 16;
/// Most hops that may be asked for.
pub const HOPS_MAX: u32 = 1000;

/// What stops an event of this origin and actor; `None` if it may pass.
#[must_use]
pub fn judge(
    table: Option<&TrustRules>,
    route: Option<&Guards>,
    trust: Option<&Trust>,
    actor: Option<&str>,
) -> Option<Guarded> {
    const NOBODY: &Trust = &Trust { fork: false, bot: false, echo: false, association: None, hops: 0 };
    const NOTHING: &Guards = &Guards { forks: None, bots: None, echoes: None, association: Vec::new(), hops_max: None };
    if table.is_none() && route.is_none() {
        return None;
    }
    let (route, default) = (route.unwrap_or(NOTHING), table.map_or(NOTHING, |table| &table.guards));
    let trust = trust.unwrap_or(NOBODY);
    let stopped = |guard, action: Option<GuardAction>| {
        let action = action.filter(|action| *action != GuardAction::Allow)?;
        Some(Guarded { guard, action })
    };
    if route.hops_max.or(default.hops_max).is_some_and(|max| trust.hops > max) {
        return stopped(Guard::Hops, Some(GuardAction::Drop));
    }
    let is_own = |table: &TrustRules| {
        actor.is_some_and(|actor| table.own_logins.iter().any(|own| own.eq_ignore_ascii_case(actor)))
    };
    let asked = [
        (trust.echo || table.is_some_and(is_own), Guard::Echo, route.echoes.or(default.echoes)),
        (trust.bot, Guard::Bot, route.bots.or(default.bots)),
        (trust.fork, Guard::Fork, route.forks.or(default.forks)),
    ];
    if let Some(guarded) = asked.into_iter().filter(|(is_so, ..)| *is_so).find_map(|(_, g, action)| stopped(g, action))
    {
        return Some(guarded);
    }
    let wanted = if route.association.is_empty() { &default.association } else { &route.association };
    // Who does not say what he is, is nobody.
    let found = trust.association.as_deref().unwrap_or("NONE");
    let passes = wanted.is_empty() || wanted.iter().any(|wanted| &**wanted == ANY || &**wanted == found);
    if passes { None } else { stopped(Guard::Association, Some(GuardAction::Park)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards() -> Guards {
        Guards {
            forks: Some(GuardAction::Park),
            bots: Some(GuardAction::Drop),
            echoes: Some(GuardAction::Drop),
            association: vec!["MEMBER".into(), "OWNER".into()],
            hops_max: Some(3),
        }
    }

    fn member() -> Trust {
        Trust { association: Some("MEMBER".into()), ..Trust::default() }
    }

    fn stopped(table: &TrustRules, route: Option<&Guards>, trust: &Trust, actor: &str) -> Option<(Guard, GuardAction)> {
        judge(Some(table), route, Some(trust), Some(actor)).map(|guarded| (guarded.guard, guarded.action))
    }

    #[test]
    fn a_table_without_guards_lets_everything_pass() {
        let suspicious = Trust { fork: true, bot: true, echo: true, association: None, hops: 99 };
        assert_eq!(judge(None, None, Some(&suspicious), Some("x")), None);
        assert_eq!(judge(Some(&TrustRules::default()), None, Some(&suspicious), Some("x")), None);
    }

    #[test]
    fn each_guard_stops_what_it_is_for() {
        let table = TrustRules { guards: guards(), own_logins: vec!["mindos[bot]".into()] };
        use GuardAction::{Drop, Park};
        assert_eq!(stopped(&table, None, &member(), "ada"), None);
        assert_eq!(stopped(&table, None, &Trust { fork: true, ..member() }, "ada"), Some((Guard::Fork, Park)));
        assert_eq!(stopped(&table, None, &Trust { bot: true, ..member() }, "dependabot"), Some((Guard::Bot, Drop)));
        assert_eq!(stopped(&table, None, &Trust { echo: true, ..member() }, "ada"), Some((Guard::Echo, Drop)));
        assert_eq!(stopped(&table, None, &member(), "MindOS[bot]"), Some((Guard::Echo, Drop)));
        assert_eq!(stopped(&table, None, &Trust { hops: 4, ..member() }, "ada"), Some((Guard::Hops, Drop)));
        assert_eq!(stopped(&table, None, &Trust { hops: 3, ..member() }, "ada"), None);
        assert_eq!(stopped(&table, None, &Trust::default(), "ada"), Some((Guard::Association, Park)));
    }

    #[test]
    fn a_route_says_what_differs_and_the_table_the_rest() {
        let table = TrustRules { guards: guards(), own_logins: Vec::new() };
        let route = Guards {
            forks: Some(GuardAction::Allow),
            association: vec![ANY.into()],
            hops_max: Some(9),
            ..Guards::default()
        };
        let stranger = Trust { fork: true, hops: 5, ..Trust::default() };
        assert_eq!(stopped(&table, Some(&route), &stranger, "eve"), None);
        let bot = Trust { bot: true, ..stranger };
        assert_eq!(stopped(&table, Some(&route), &bot, "eve"), Some((Guard::Bot, GuardAction::Drop)));
    }
}
