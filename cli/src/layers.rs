//! A role's settings from their layers: command line over environment over file over default, each value
//! with its origin. It decides nothing about a value; the role does, and gets the origin added to its refusal.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::argv;
use crate::config_file::{self, FileKeys, FileLists, FileValues};
use crate::exit::{BAD_COMMAND_LINE, FAILED, Failure};

/// A parsed command line of one role, and where each value came from.
#[derive(Debug)]
pub(crate) struct Layers {
    /// What clap made of it.
    pub(crate) matches: ArgMatches,
    /// Where each value came from.
    pub(crate) origins: Origins,
}

/// Knows where each setting's value came from.
#[derive(Debug)]
pub(crate) struct Origins {
    role: String,
    settings: Vec<Setting>,
}

#[derive(Debug)]
struct Setting {
    flag: String,
    values: Vec<String>,
    /// What stands between two values in one text.
    between: String,
    secret: bool,
    origin: String,
}

/// Why there are no settings: one line of ours, or clap's own text.
#[derive(Debug)]
pub(crate) enum Unparsed {
    /// A value that cannot be used, or an unusable file.
    Refused(Failure),
    /// Help, version, or a command line that clap cannot read, and the exit status.
    Clap(Box<clap::Error>, u8),
}

impl Origins {
    /// `<role>: <setting>: <problem> (<origin>)`.
    pub(crate) fn refusal(&self, setting: &str, problem: &str) -> Failure {
        let known = self.settings.iter().find(|known| known.flag == setting);
        let origin = known.map(|known| format!(" ({})", known.origin)).unwrap_or_default();
        Failure { status: FAILED, line: format!("a8 {}: {setting}: {problem}{origin}", self.role) }
    }

    /// Every setting with its value and origin, one per line; secrets are not shown.
    pub(crate) fn listing(&self) -> String {
        let value = |setting: &Setting| match setting {
            Setting { secret: true, values, .. } if values.iter().any(|value| !value.is_empty()) => {
                "***".to_owned()
            }
            other => other.values.join(&other.between),
        };
        self.settings
            .iter()
            .map(|setting| format!("{} = {} ({})\n", setting.flag, value(setting), setting.origin))
            .collect()
    }
}

/// Parses the command line of role `role` (the verb of a normalised `argv`).
pub(crate) fn parse(
    command: &Command,
    role: &str,
    argv: &[OsString],
    keys: FileKeys,
    lists: FileLists,
) -> Result<Layers, Unparsed> {
    let command = command.clone().mut_subcommand(role, |sub| sub.mut_args(unset_when_empty));
    let sub = command.find_subcommand(role).unwrap_or(&command).clone();
    let first = attempt(&command, &sub, role, argv, None)?;
    let file: Option<PathBuf> = try_one(&first, "config");
    let Some(file) = file else {
        let origins = origins(&sub, role, &first, None);
        return Ok(Layers { matches: first, origins });
    };
    let flags: Vec<String> = settings_of(&sub).map(|arg| arg.get_id().to_string()).collect();
    let refused =
        |problem: String| Unparsed::Refused(origins(&sub, role, &first, None).refusal("config", &problem));
    let values = config_file::read(&file, keys, lists, &flags).map_err(refused)?;
    let (argv, used) = beneath(argv, &sub, &first, values).map_err(refused)?;
    let from_file = FromFile { path: file, used };
    let matches = attempt(&command, &sub, role, &argv, Some(&from_file))?;
    let origins = origins(&sub, role, &matches, Some(&from_file));
    Ok(Layers { matches, origins })
}

struct FromFile {
    path: PathBuf,
    used: BTreeSet<String>,
}

/// An empty variable counts as unset: compose files pass empty ones for what nobody has set.
fn unset_when_empty(arg: Arg) -> Arg {
    let empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    if empty { arg.env(Resettable::Reset) } else { arg }
}

/// The flags of a role that are settings; clap's own and the file itself are not.
fn settings_of(sub: &Command) -> impl Iterator<Item = &Arg> {
    let own = ["help", "version", "config", "show_settings", "until_stdin_closes"];
    sub.get_arguments().filter(move |arg| !own.contains(&arg.get_id().as_str()))
}

/// The command line with the file's values where nothing stronger is given, and which flags those are.
fn beneath(
    argv: &[OsString],
    sub: &Command,
    matches: &ArgMatches,
    values: FileValues,
) -> Result<(Vec<OsString>, BTreeSet<String>), String> {
    let mut words = argv[..2].to_vec();
    let mut used = BTreeSet::new();
    for (flag, values) in values {
        if matches.value_source(&flag).is_some_and(|source| source != ValueSource::DefaultValue) {
            continue;
        }
        let takes_many = sub
            .get_arguments()
            .any(|arg| arg.get_id() == flag.as_str() && matches!(arg.get_action(), ArgAction::Append));
        if values.len() > 1 && !takes_many {
            return Err(format!("`{flag}` takes one value"));
        }
        words.extend(values.iter().map(|value| format!("--{flag}={value}").into()));
        used.insert(flag);
    }
    words.extend_from_slice(&argv[2..]);
    Ok((words, used))
}

fn attempt(
    command: &Command,
    sub: &Command,
    role: &str,
    argv: &[OsString],
    file: Option<&FromFile>,
) -> Result<ArgMatches, Unparsed> {
    let matches = command.clone().try_get_matches_from(argv).map_err(|error| {
        let value_is_wrong = matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation);
        let arg = wrong_argument(&error, sub).filter(|_| value_is_wrong);
        match arg {
            Some(arg) => Unparsed::Refused(wrong_value(role, arg, &error, argv, file)),
            None => Unparsed::Clap(Box::new(error), BAD_COMMAND_LINE),
        }
    })?;
    matches
        .subcommand_matches(role)
        .cloned()
        .ok_or_else(|| Unparsed::Refused(Failure::new(format!("a8 {role}: the verb comes first"))))
}

fn wrong_argument<'a>(error: &clap::Error, sub: &'a Command) -> Option<&'a Arg> {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = shown.trim_start_matches('-').split([' ', '=', '[']).next()?;
    sub.get_arguments().find(|arg| arg.get_long() == Some(flag))
}

fn wrong_value(
    role: &str,
    arg: &Arg,
    error: &clap::Error,
    argv: &[OsString],
    file: Option<&FromFile>,
) -> Failure {
    let flag = arg.get_id().as_str();
    let origin = match file {
        Some(file) if file.used.contains(flag) => format!("from the file {}", file.path.display()),
        _ if argv::gives(argv, flag) => "from the command line".to_owned(),
        _ => from_environment(arg),
    };
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) if arg.is_hide_env_values_set() => "*".repeat(value.len().min(3)),
        Some(ContextValue::String(value)) => value.clone(),
        _ => String::new(),
    };
    let problem = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(cause), _) => cause.to_string(),
        (None, Some(ContextValue::Strings(valid))) if !valid.is_empty() => {
            format!("expected one of {}", valid.join(", "))
        }
        _ => "a value is missing".to_owned(),
    };
    Failure { status: FAILED, line: format!("a8 {role}: {flag}: `{value}`: {problem} ({origin})") }
}

fn from_environment(arg: &Arg) -> String {
    let name = arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!("from the environment variable {name}")
}

fn origins(sub: &Command, role: &str, matches: &ArgMatches, file: Option<&FromFile>) -> Origins {
    let setting = |arg: &Arg| {
        let flag = arg.get_id().to_string();
        let origin = match matches.value_source(&flag) {
            Some(ValueSource::CommandLine) => match file {
                Some(file) if file.used.contains(&flag) => format!("from the file {}", file.path.display()),
                _ => "from the command line".to_owned(),
            },
            Some(ValueSource::EnvVariable) => from_environment(arg),
            _ => "default".to_owned(),
        };
        let raw = matches.try_get_raw(&flag).ok().flatten().into_iter().flatten();
        let values = raw.map(|value| value.to_string_lossy().into_owned()).collect();
        let between = arg.get_value_delimiter().unwrap_or(',').to_string();
        Setting { flag, values, between, secret: arg.is_hide_env_values_set(), origin }
    };
    let config = sub.get_arguments().filter(|arg| arg.get_id() == "config");
    Origins { role: role.to_owned(), settings: settings_of(sub).chain(config).map(setting).collect() }
}

fn try_one(matches: &ArgMatches, id: &str) -> Option<PathBuf> {
    matches.try_get_one::<PathBuf>(id).ok().flatten().cloned()
}
