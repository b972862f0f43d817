//! The operator's commands: each asks a server, through the same APIs that everybody uses, and prints
//! the answer.

pub(crate) mod app;
pub(crate) mod business;
pub(crate) mod device;
pub(crate) mod group;
pub(crate) mod inbox;
pub(crate) mod node;
pub(crate) mod push;
pub(crate) mod router;
pub(crate) mod signing_key;
pub(crate) mod ticket_key;
pub(crate) mod token;

use crate::cli::{AppArg, ControlArgs, PushArgs};
use crate::control_api::ControlApi;
use crate::credentials::Credentials;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::push_api::{self, PushApi};
use std::path::PathBuf;

/// What every command works with.
pub(crate) struct Desk {
    /// Where results go.
    pub(crate) output: Output,
    /// Where the credentials file is.
    pub(crate) data_dir: PathBuf,
    /// What was in it.
    pub(crate) credentials: Credentials,
}

impl Desk {
    /// Opens the credentials file, if there is one.
    pub(crate) fn open(output: Output, data_dir: PathBuf) -> Outcome<Self> {
        let credentials = Credentials::load(&data_dir)?;
        Ok(Self { output, data_dir, credentials })
    }

    /// Control, with the credential that reaches furthest.
    pub(crate) fn control(&self, args: &ControlArgs, app: Option<&str>) -> Outcome<ControlApi> {
        let stored = || {
            let owner = app.and_then(|app| self.credentials.apps.get(app)?.owner_key.as_deref());
            self.credentials.admin_token.as_deref().or(owner)
        };
        let token = args.token.as_deref().or_else(stored).ok_or_else(|| {
            self.nothing_known("admin token or owner key", "--token or HAWSER_TOKEN")
        })?;
        ControlApi::new(self.control_address(args)?, args.ca.as_deref(), Some(token))
    }

    /// Where control is.
    pub(crate) fn control_address<'a>(&'a self, args: &'a ControlArgs) -> Outcome<&'a str> {
        let stored = self.credentials.control.as_deref();
        args.control
            .as_deref()
            .or(stored)
            .ok_or_else(|| self.nothing_known("address of control", "--control or HAWSER_CONTROL"))
    }

    /// The push API, as the business that the arguments name.
    pub(crate) fn push(&self, args: &PushArgs) -> Outcome<PushApi> {
        let address =
            args.push.as_deref().or(self.credentials.push.as_deref()).ok_or_else(|| {
                self.nothing_known("address of the push API", "--push or HAWSER_PUSH")
            })?;
        let ca = args.ca.as_deref();
        if let Some(key) = &args.key {
            return push_api::connect(address, ca, key);
        }
        if self.credentials.apps.is_empty() {
            return Err(self.nothing_known("business key", "--key or HAWSER_KEY"));
        }
        let app = self.credentials.app(args.app.as_deref())?;
        let business = self.credentials.business(&app, args.business.as_deref())?;
        let stored = self.credentials.key(&app, &business).ok_or_else(|| {
            let create = format!("hawser business key create {business} --app {app} --save");
            Failure::usage(format!("no key of {app}/{business} is stored; `{create}` makes one"))
        })?;
        push_api::connect(address, ca, &stored.key)
    }

    /// The app that the arguments name, or the only one.
    pub(crate) fn app(&self, arg: &AppArg) -> Outcome<String> {
        self.credentials.app(arg.app.as_deref())
    }

    /// Changes the credentials file.
    pub(crate) fn keep(&mut self, change: impl FnOnce(&mut Credentials)) -> Outcome {
        change(&mut self.credentials);
        self.credentials.save(&self.data_dir)
    }

    fn nothing_known(&self, what: &str, how: &str) -> Failure {
        Failure::usage(format!(
            "no {what}: give {how}, or run `hawser dev` first (looked in {})",
            crate::credentials::path(&self.data_dir).display()
        ))
    }
}

/// What cannot be undone is asked for twice.
fn confirmed(yes: bool, what: &str) -> Outcome {
    if yes {
        return Ok(());
    }
    Err(Failure::usage(format!("this deletes {what}; say --yes if you mean it")))
}
