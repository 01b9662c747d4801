//! The analyses: each looks at one side of an event and states what is true of it.
//!
//! An analysis that does not apply to what it is given says nothing. It declares the settings it uses and the codes of the findings it
//! can make, so that a profile can be checked before anything runs.

mod activity;
mod change;
mod delivery;
mod quality;
mod sorting;
mod trust;

pub(crate) use delivery::{SECTION_WORDS, section};

use crate::Profile;
use crate::evidence::Evidence;
use crate::report::Findings;

/// One analysis, by the name profiles use.
pub(crate) struct Analysis {
    pub(crate) name: &'static str,
    /// Thresholds it reads.
    pub(crate) thresholds: &'static [&'static str],
    /// Word lists it reads.
    pub(crate) words: &'static [&'static str],
    /// Findings it can make.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(crate) codes: &'static [&'static str],
    pub(crate) run: fn(&Profile, &Evidence<'_>, &mut Findings),
}

/// Every analysis there is.
pub(crate) const ALL: &[Analysis] = &[
    change::SIZE,
    change::DESCRIPTION,
    change::BRANCH,
    change::SHAPE,
    quality::REVIEW,
    quality::TESTS,
    quality::CHECKS,
    trust::TRUST,
    trust::SECRETS,
    trust::PATHS,
    delivery::READINESS,
    delivery::DEPLOYMENT,
    delivery::RELEASE,
    delivery::DOCS,
    delivery::CHANGELOG,
    activity::COMMITS,
    activity::TIMINGS,
    activity::INVENTORY,
    sorting::LABELS,
    sorting::RELATED,
    sorting::AGE,
    sorting::URGENCY,
];

pub(crate) fn find(name: &str) -> Option<&'static Analysis> {
    ALL.iter().find(|analysis| analysis.name == name)
}
