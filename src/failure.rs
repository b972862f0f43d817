//! How a command fails: one clear sentence, the published code where a server gave one, and an exit
//! code that a script can tell apart.

use serde_json::json;
use std::fmt;
use std::process::ExitCode;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    /// A name of WIRE.md, "Errors", when the server gave one.
    code: Option<String>,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A server said no, or an outcome was not the wished one.
    Refused = 1,
    /// The command line, a file it names or the environment is wrong.
    Usage = 2,
    /// A server cannot be reached, or a service cannot start.
    Unreachable = 3,
}

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A server said no.
    pub(crate) fn refused(code: &str, message: impl fmt::Display) -> Self {
        Self { kind: Kind::Refused, code: Some(code.to_owned()), message: message.to_string() }
    }

    /// The outcome was printed, and it is not the wished one.
    pub(crate) fn not_done(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Refused, code: None, message: message.to_string() }
    }

    /// The command line, a file or the environment is wrong.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Usage, code: None, message: message.to_string() }
    }

    /// A server cannot be reached, or a service cannot start.
    pub(crate) fn unreachable(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Unreachable, code: None, message: message.to_string() }
    }

    /// The published name a server gave.
    pub(crate) fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// The sentence alone.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Prints it to standard error and says what the process exits with.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        if json {
            eprintln!("{}", json!({"error": {"code": self.code, "message": self.message}}));
        } else {
            eprintln!("hawser: {self}");
        }
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{} ({code})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        // Some libraries print their source themselves.
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        source = error.source();
    }
    line
}
