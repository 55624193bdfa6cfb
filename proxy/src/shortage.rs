//! What this proxy lacks for a connection to an instance: no failure of the instance. What follows from it is the law's to
//! say.

use std::error::Error;
use std::fmt;

use registry_api::setting::BadSetting;
use rustix::io::Errno;

/// What is lacking, as in the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// A local port for one more connection to this very address.
    Ports,
    /// A descriptor, or memory, for one more connection to anybody.
    Room,
    /// The certificates that instances are verified by.
    Roots,
}

impl Shortage {
    pub(crate) const ALL: [Self; 3] = [Self::Ports, Self::Room, Self::Roots];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ports => "ports",
            Self::Room => "room",
            Self::Roots => "roots",
        }
    }

    /// What an attempt to connect failed of, unless the instance or the way there is to blame.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        if error.is::<NoRoots>() {
            return Some(Self::Roots);
        }
        match error.downcast_ref().and_then(Errno::from_io_error) {
            Some(Errno::ADDRNOTAVAIL) => Some(Self::Ports),
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Some(Self::Room),
            _ => Self::of(error.source()?),
        }
    }

    /// Whether an attempt at another instance may fare better.
    pub(crate) fn is_of_one_instance(self) -> bool {
        self != Self::Room
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ports => "no local port is left",
            Self::Room => "no descriptor or no memory is left",
            Self::Roots => "the certificates to verify instances by cannot be read",
        })
    }
}

/// The system's certificates cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nobody to verify instances by: {0}")]
pub(crate) struct NoRoots(pub(crate) BadSetting);

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_the_proxy_lacks_is_told_from_what_the_instance_does_however_deep_it_is() {
        for (errno, shortage) in [
            (Errno::ADDRNOTAVAIL, Some(Shortage::Ports)),
            (Errno::MFILE, Some(Shortage::Room)),
            (Errno::NFILE, Some(Shortage::Room)),
            (Errno::NOBUFS, Some(Shortage::Room)),
            (Errno::NOMEM, Some(Shortage::Room)),
            (Errno::CONNREFUSED, None),
            (Errno::HOSTUNREACH, None),
            (Errno::TIMEDOUT, None),
        ] {
            let error = io::Error::from(errno);
            assert_eq!(Shortage::of(&error), shortage, "{errno:?}");
            let wrapped = pingora::Error::because(pingora::ErrorType::BindError, "connecting", error);
            let wrapped = pingora::Error::because(pingora::ErrorType::InternalError, "failed", wrapped);
            assert_eq!(Shortage::of(wrapped.root_cause()), shortage, "{errno:?}");
        }
        let bad = BadSetting::new("SSL_CERT_FILE", "is not there".to_owned());
        assert_eq!(Shortage::of(&NoRoots(bad)), Some(Shortage::Roots));
    }

    /// The kernel's own words: there is no address of this machine to speak from.
    #[test]
    fn an_address_that_is_not_available_is_ours() {
        let error = std::net::TcpListener::bind("192.0.2.1:0").unwrap_err();
        assert_eq!(Shortage::of(&error), Some(Shortage::Ports));
    }
}
