//! The command line: what can be typed, and the help that teaches it.

use crate::certificates::CertificatesCommand;
use crate::dev::DevArgs;
use crate::operate::app::AppCommand;
use crate::operate::business::BusinessCommand;
use crate::operate::device::DeviceCommand;
use crate::operate::group::GroupCommand;
use crate::operate::inbox::InboxCommand;
use crate::operate::node::NodeCommand;
use crate::operate::push::PushCommand;
use crate::operate::signing_key::SigningKeyCommand;
use crate::operate::ticket_key::TicketKeyCommand;
use crate::operate::token::TokenCommand;
use crate::role::{ConfigCommand, RoleArgs, RouterArgs};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Where data lies when nothing else is said.
pub(crate) const DATA_DIR_DEFAULT: &str = "./hawser-data";

/// One long connection per app instance, shared by every business inside the app.
///
/// Begin with `hawser dev`: it starts everything in one process, with a demo app and a page that is a
/// device. Then, in another terminal:
///
///   hawser push unicast --device web-1 "hello"
///   hawser push unicast --device web-1 --stored "it waits for you"
///   hawser push multicast --group lobby "hello everyone"
///   hawser device show web-1
///   hawser business list
///
/// Commands find addresses and keys in the data directory that `hawser dev` filled; flags and
/// environment variables win over it.
///
/// Exit codes: 0 done; 1 refused by a server, or not every push was written or stored; 2 a mistake in the command
/// or in a file; 3 a server cannot be reached, or a service cannot start.
#[derive(Debug, Parser)]
#[command(name = "hawser", version, verbatim_doc_comment, propagate_version = true)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(crate) struct Cli {
    /// Print JSON instead of text; errors too, on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Where `hawser dev` keeps its data, and where commands find addresses and keys
    #[arg(
        long,
        global = true,
        env = "HAWSER_DATA",
        default_value = DATA_DIR_DEFAULT,
        value_name = "DIR"
    )]
    pub(crate) data_dir: PathBuf,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Everything this binary can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run all three services in this process, with a demo app, business and page
    ///
    /// On loopback, with a development certificate; the demo app `demo` takes devices without proof.
    /// Everything is kept in the data directory: start again and it is all there.
    ///
    /// The demo business `chat` knows two methods: `echo` answers the body; `say` multicasts it to the
    /// group named in the metadata `room`, or to `lobby`.
    ///
    /// Examples:
    ///   hawser dev
    ///   hawser dev --control-port 18080 --page-port 18081
    ///   hawser dev --data-dir /tmp/try --ports random --json
    ///   hawser dev --store redis://127.0.0.1:6379
    #[command(verbatim_doc_comment)]
    Dev(DevArgs),
    /// Run control: catalogue, tokens and access points
    ///
    /// Begin with: hawser config example control > control.toml
    #[command(verbatim_doc_comment)]
    Control(RoleArgs),
    /// Run an access node: holds the connections of devices
    ///
    /// Begin with: hawser config example access > access.toml
    /// SIGTERM drains it; SIGHUP reads the certificates again.
    #[command(verbatim_doc_comment)]
    Access(RoleArgs),
    /// Run a router: who is where, and the push API; or list routers
    ///
    /// Begin with: hawser config example router > router.toml
    /// Routes, inboxes and histories are kept in the embedded store, unless the file, HAWSER_STORE or
    /// --store names another: hawser config example router --store redis-cluster
    #[command(verbatim_doc_comment)]
    Router(RouterArgs),
    /// Check a service's configuration file, or print an example
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make or show the certificates that services show each other
    #[command(subcommand)]
    Certificates(CertificatesCommand),
    /// Push to a device, many devices, a group or everyone
    #[command(subcommand)]
    Push(PushCommand),
    /// Create, list and change groups, and who is in them
    #[command(subcommand)]
    Group(GroupCommand),
    /// Look at what waits for a device, or remove it
    #[command(subcommand)]
    Inbox(InboxCommand),
    /// Look at devices, or end their sessions
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Create, list and change apps and their secrets
    #[command(subcommand)]
    App(AppCommand),
    /// Create, list and change businesses and their keys
    #[command(subcommand)]
    Business(BusinessCommand),
    /// Issue or revoke device tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Look at access nodes, and drain them
    #[command(subcommand)]
    Node(NodeCommand),
    /// Rotate the key that signs device tokens
    #[command(subcommand)]
    SigningKey(SigningKeyCommand),
    /// Rotate the key that resume tickets are made with
    #[command(subcommand)]
    TicketKey(TicketKeyCommand),
}

/// How to reach control.
#[derive(Debug, Args)]
pub(crate) struct ControlArgs {
    /// Control's HTTP API, as https://host:port or http://host:port [default: from the data directory]
    #[arg(long, env = "HAWSER_CONTROL", value_name = "URL")]
    pub(crate) control: Option<String>,

    /// Admin token, or owner key of an app [default: from the data directory]
    #[arg(long, env = "HAWSER_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) token: Option<String>,

    /// PEM file of the CAs to trust at an https address, beside those of this machine
    #[arg(long, env = "HAWSER_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// Which app.
#[derive(Debug, Args)]
pub(crate) struct AppArg {
    /// App [default: the only one in the data directory]
    #[arg(long, env = "HAWSER_APP", value_name = "NAME")]
    pub(crate) app: Option<String>,
}

/// How to reach the push API, and as which business.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Push API, as https://host:port or http://host:port [default: from the data directory]
    #[arg(long, env = "HAWSER_PUSH", value_name = "URL")]
    pub(crate) push: Option<String>,

    /// Business key; it alone says for which app and business [default: from the data directory]
    #[arg(long, env = "HAWSER_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) key: Option<String>,

    /// PEM file of the CAs to trust at an https address, beside those of this machine
    #[arg(long, env = "HAWSER_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// App whose stored key is used [default: the only one in the data directory]
    #[arg(long, env = "HAWSER_APP", value_name = "NAME")]
    pub(crate) app: Option<String>,

    /// Business whose stored key is used [default: the app's only one]
    #[arg(long, env = "HAWSER_BUSINESS", value_name = "NAME")]
    pub(crate) business: Option<String>,
}
