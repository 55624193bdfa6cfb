//! The command line before clap sees it: dashes for underscores, one dash for two, and the operator's
//! addresses before the verb, as users of the earlier clients write them. It knows no setting's meaning.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use clap::Command;

/// Rewrites known long flags to their one spelling, and moves options that stand before the verb behind it.
pub(crate) fn normalise(argv: Vec<OsString>, command: &Command) -> Vec<OsString> {
    let known = long_names(command);
    let mut argv: Vec<OsString> = argv.into_iter().collect();
    let plain = argv.iter().position(|word| word == "--").unwrap_or(argv.len());
    for word in argv.iter_mut().take(plain).skip(1) {
        if let Some(flag) = word.to_str().and_then(|word| canonical(word, &known)) {
            *word = flag.into();
        }
    }
    verb_first(argv, command)
}

/// The verb of a normalised command line, when it is one of `command`'s.
pub(crate) fn verb<'a>(argv: &'a [OsString], command: &Command) -> Option<&'a str> {
    argv.get(1)?.to_str().filter(|word| command.find_subcommand(word).is_some())
}

/// Whether a normalised command line gives this flag.
pub(crate) fn gives(argv: &[OsString], flag: &str) -> bool {
    let long = format!("--{flag}");
    let assigned = format!("--{flag}=");
    argv.iter()
        .skip(1)
        .take_while(|word| *word != "--")
        .filter_map(|word| word.to_str())
        .any(|word| word == long || word.starts_with(&assigned))
}

fn long_names(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(clap::Arg::get_long).map(str::to_owned);
    own.chain(command.get_subcommands().flat_map(long_names)).collect()
}

fn canonical(word: &str, known: &BTreeSet<String>) -> Option<String> {
    let dashes = word.len() - word.trim_start_matches('-').len();
    if dashes == 0 || dashes > 2 {
        return None;
    }
    let (name, value) = match word[dashes..].split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (&word[dashes..], None),
    };
    let underscored = name.replace('-', "_");
    let name = [name, &underscored].into_iter().find(|name| name.len() > 1 && known.contains(*name))?;
    Some(match value {
        Some(value) => format!("--{name}={value}"),
        None => format!("--{name}"),
    })
}

/// `a8 --controller_url URL rule list` means `a8 rule list --controller_url URL`.
fn verb_first(argv: Vec<OsString>, command: &Command) -> Vec<OsString> {
    let is_verb = |word: &OsStr| word.to_str().is_some_and(|word| command.find_subcommand(word).is_some());
    let Some(at) = argv.iter().skip(1).position(|word| is_verb(word)).map(|at| at + 1) else { return argv };
    let only_client_options = argv[1..at].iter().enumerate().all(|(i, word)| {
        let word = word.to_string_lossy();
        CLIENT_OPTIONS.iter().any(|flag| word.starts_with(flag)) || (i > 0 && !word.starts_with('-'))
    });
    if !only_client_options {
        return argv;
    }
    let mut moved = vec![argv[0].clone()];
    moved.extend_from_slice(&argv[at..]);
    let end = moved.iter().position(|word| word == "--").unwrap_or(moved.len());
    moved.splice(end..end, argv[1..at].iter().cloned());
    moved
}

const CLIENT_OPTIONS: [&str; 5] =
    ["--controller_url", "--controller_token", "--registry_url", "--registry_token", "--admin_url"];

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, Command};

    fn command() -> Command {
        let port = Arg::new("api_port").long("api_port");
        let rule = Command::new("rule").subcommand(Command::new("list"));
        let url = Arg::new("controller_url").long("controller_url").global(true);
        Command::new("a8").subcommand(Command::new("registry").arg(port)).subcommand(rule.arg(url))
    }

    #[test]
    fn every_accepted_spelling_becomes_the_one_of_the_spec() {
        for (written, meant) in [
            ("registry --api-port 1", "registry --api_port 1"),
            ("registry -api_port 1", "registry --api_port 1"),
            ("registry -api-port=1", "registry --api_port=1"),
            ("registry --api-port=a-b", "registry --api_port=a-b"),
            ("registry --un-known 1", "registry --un-known 1"),
            ("registry -x 1", "registry -x 1"),
            ("registry -- --api-port", "registry -- --api-port"),
            ("--controller-url http://h rule list", "rule list --controller_url http://h"),
            ("-controller_url=http://h rule list", "rule list --controller_url=http://h"),
            ("--help rule", "--help rule"),
            ("rule list", "rule list"),
        ] {
            let argv = format!("a8 {written}").split(' ').map(OsString::from).collect();
            let words: Vec<_> = normalise(argv, &command());
            let words: Vec<_> = words.iter().skip(1).map(|word| word.to_str().unwrap()).collect();
            assert_eq!(words.join(" "), meant, "{written}");
        }
    }

    #[test]
    fn a_flag_counts_as_given_in_both_forms_and_only_before_the_separator() {
        for (line, given) in
            [("a8 x --p 1", true), ("a8 x --p=1", true), ("a8 x -- --p", false), ("a8 x --pp 1", false)]
        {
            let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(gives(&argv, "p"), given, "{line}");
        }
    }
}
