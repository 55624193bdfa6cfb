//! What the engines do differently on purpose, each with its reason, and nothing else: a test that depends on one asks
//! here. What only differs in bytes is the business of the differential test.

use crate::chosen::ENGINE;

/// Whether an answer is read while a piece of the request's body waits for the instance to take it. Pingora does one
/// or the other: with an instance that takes nothing before it got rid of what it says, both wait until their time ends.
pub(crate) fn reads_the_answer_while_the_body_is_stuck() -> bool {
    ENGINE == "lane"
}
