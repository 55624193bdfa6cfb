//! What the law tells while it decides. Nobody listens on the path of a request: [`Silent`] compiles to
//! nothing, so that the explanation comes from the very code that decides.

use control_api::{Action, Draw, Key, Rule};

use crate::explain::AddressedBy;
use crate::fault::Fate;
use crate::matching::Miss;
use crate::service::{RouteRule, Silenced};

/// Hears what the law does, in its order.
pub(crate) trait Recorder {
    /// Whether it is told about every rule that was asked, or only the one that holds needs to be found.
    const HEARS: bool = true;
    /// A rule that captures by path, whose condition holds, was asked. Not in order of precedence.
    fn captures(&mut self, _rule: &Rule, _found: Result<(), Miss<'_>>) {}
    /// The service was named; these rules of it take no part in the lookup.
    fn named(&mut self, _by: AddressedBy, _routes: &[RouteRule], _silenced: &[Silenced]) {}
    /// A route rule of the service was asked.
    fn route(&mut self, _rule: &Rule, _found: Result<(), Miss<'_>>) {}
    /// A backend was kept by this key, or drawn because the request does not carry it.
    fn sticky(&mut self, _key: &Key, _found: bool) {}
    /// A backend was drawn.
    fn split(&mut self, _draw: Draw) {}
    /// The search for an action rule begins; these rules of the service take no part.
    fn actions(&mut self, _silenced: &[Silenced]) {}
    /// An action rule was asked.
    fn action_rule(&mut self, _rule: &Rule, _found: Result<(), Miss<'_>>) {}
    /// An action of the rule found was judged.
    fn action(&mut self, _action: &Action, _fate: Fate) {}
}

/// Hears nothing.
pub(crate) struct Silent;

impl Recorder for Silent {
    const HEARS: bool = false;
}
