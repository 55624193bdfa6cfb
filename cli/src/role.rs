//! Running a role: settings from their layers, messages, the line that says where it listens, and the end.
//! What a role does is its library's.

use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Command, FromArgMatches};
use registry_api::setting::BadSetting;

use crate::allocator;
use crate::config_file::{FileKeys, FileLists};
use crate::exit::{BAD_COMMAND_LINE, Failure};
use crate::layers::{self, Origins, Unparsed};
use crate::logging::{self, Level, LogFormat};
use crate::output;

/// One long-running verb of the program.
pub(crate) trait Role {
    /// The verb, and the role in `listening role=..`.
    const NAME: &'static str;
    /// One line for the help.
    const ABOUT: &'static str;
    /// What the help says at its end.
    const HELP: &'static str = LAYERS_HELP;
    /// Further names of flags in the file.
    const FILE_KEYS: FileKeys;
    /// What in the file may be a list of mappings.
    const FILE_LISTS: FileLists = &[];
    /// The flags.
    type Settings: Args + 'static;

    /// Runs until the process is told to end.
    fn run(settings: Self::Settings) -> Result<(), NotStarted>;
}

/// Why a role did not start.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// Because of a setting.
    Setting(BadSetting),
    /// Because of the machine.
    Machine(String),
}

impl From<BadSetting> for NotStarted {
    fn from(bad: BadSetting) -> Self {
        Self::Setting(bad)
    }
}

/// What every role takes beside its own settings.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProgramOptions {
    /// A YAML file of settings, weaker than the environment.
    #[arg(long, env = "A8_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The least severe message: debug, info, warn, error, fatal or panic.
    #[arg(long = "log_level", env = "A8_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: Level,
    /// The form of messages on standard error.
    #[arg(long = "log_format", env = "A8_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Print every setting with its value and where it came from, and end.
    #[arg(long = "show_settings")]
    show_settings: bool,
    /// End when standard input closes: a child that outlives its parent ends by itself.
    #[arg(long = "until_stdin_closes", hide = true)]
    until_stdin_closes: bool,
}

#[derive(Debug, Args)]
struct RoleArgs<S: Args> {
    #[command(flatten)]
    settings: S,
    #[command(flatten)]
    program: ProgramOptions,
}

const LAYERS_HELP: &str = "Every setting is a flag, a variable (A8_ and the flag in upper case; empty counts as \
unset) and a key of the file given by --config. A flag beats the environment, the environment beats the file, \
the file beats the default. Exit status: 1 when a value cannot be used or the start fails, 2 for a command line \
that cannot be read.";

/// The command of a role, as the program's help shows it.
pub(crate) fn command<R: Role>() -> Command {
    // The description last: flattened arguments bring their own.
    RoleArgs::<R::Settings>::augment_args(Command::new(R::NAME)).about(R::ABOUT).after_help(R::HELP)
}

/// A role and its settings.
pub(crate) struct Ready<R: Role> {
    args: RoleArgs<R::Settings>,
    origins: Origins,
}

/// Reads the settings of a role.
pub(crate) fn read<R: Role>(program: &Command, argv: &[OsString]) -> Result<Ready<R>, Unparsed> {
    let layers = layers::parse(program, R::NAME, argv, R::FILE_KEYS, R::FILE_LISTS)?;
    let args = RoleArgs::<R::Settings>::from_arg_matches(&layers.matches)
        .map_err(|error| Unparsed::Clap(Box::new(error), BAD_COMMAND_LINE))?;
    Ok(Ready { args, origins: layers.origins })
}

impl<R: Role> Ready<R> {
    /// Runs it to its end.
    pub(crate) fn run(self) -> Result<(), Unparsed> {
        let Self { args, origins } = self;
        if args.program.show_settings {
            return output::raw(&origins.listing()).map_err(Unparsed::Refused);
        }
        let _written = logging::start(args.program.log_level, args.program.log_format);
        raise_open_files();
        allocator::look_after();
        if args.program.until_stdin_closes {
            end_with_parent();
        }
        R::run(args.settings).map_err(|error| {
            Unparsed::Refused(match error {
                NotStarted::Setting(bad) => origins.refusal(bad.setting, &bad.problem),
                NotStarted::Machine(problem) => Failure::new(format!("a8 {}: {problem}", R::NAME)),
            })
        })
    }
}

/// Prints where the role listens; whoever started it waits for this line.
pub(crate) fn announce<N: Display>(
    role: &'static str,
) -> impl FnOnce(&[(N, SocketAddr)]) + Send + use<N> + 'static {
    move |listeners| {
        let pairs: String = listeners.iter().map(|(name, address)| format!(" {name}={address}")).collect();
        // Nobody may be listening any more; the role serves all the same.
        let _ = output::line(&format!("listening role={role}{pairs}"));
    }
}

/// Every role holds thousands of connections; the usual soft limit on open files is 1,024.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_err() {
        tracing::warn!(limit = ?limit.current, "the limit on open files could not be raised");
    }
}

/// Turns the end of standard input into the signal that every role ends on.
fn end_with_parent() {
    std::thread::spawn(|| {
        // An unreadable standard input is as good as a closed one.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
    });
}

/// The runtime of roles that do not bring their own, and the end of all.
pub(crate) mod lifecycle {
    use std::future::Future;
    use std::io;

    use tokio::runtime::Builder;
    use tokio::signal::unix::{Signal, SignalKind, signal};

    use super::NotStarted;

    /// A runtime with one worker per core.
    #[cfg(any(feature = "registry", feature = "control"))]
    pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, NotStarted> {
        let built = Builder::new_multi_thread().enable_all().build();
        built.map_err(|error| NotStarted::Machine(format!("cannot start the runtime: {error}")))
    }

    /// Ends when the process is told to end. Counts signals from the call on, not from the first poll.
    #[cfg(any(feature = "registry", feature = "control"))]
    pub(crate) fn told_to_end() -> Result<impl Future<Output = ()> + Send + 'static, NotStarted> {
        listen().map_err(cannot_listen)
    }

    /// The same for a role that is not yet inside a runtime when it says that it is ready.
    #[cfg(feature = "proxy")]
    pub(crate) fn told_to_end_outside() -> Result<impl Future<Output = ()> + Send + 'static, NotStarted> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let (report, installed) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let listening = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
                let end = runtime.block_on(async { listen() })?;
                Ok((runtime, end))
            });
            match listening {
                Ok((runtime, end)) => {
                    // Whoever asked is gone only when the process is.
                    let _ = report.send(Ok(()));
                    runtime.block_on(end);
                    let _ = tell.send(());
                }
                Err(error) => drop(report.send(Err(error))),
            }
        });
        let installed = installed.recv().unwrap_or_else(|_| Err(io::Error::other("the thread is gone")));
        installed.map_err(cannot_listen)?;
        Ok(async { drop(told.await) })
    }

    fn cannot_listen(error: io::Error) -> NotStarted {
        NotStarted::Machine(format!("cannot listen for signals: {error}"))
    }

    fn listen() -> io::Result<impl Future<Output = ()> + Send + 'static> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(either(terminate, interrupt))
    }

    async fn either(mut terminate: Signal, mut interrupt: Signal) {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}
